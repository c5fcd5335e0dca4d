// Whole models through the C interface: text, steps, results and refusals.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "moe4/moe4.h"

namespace moe4::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

struct Destroy {
  void operator()(moe4_model* model) const { moe4_model_destroy(model); }
  void operator()(moe4_generation* generation) const { moe4_generation_destroy(generation); }
  void operator()(char* text) const { moe4_free(text); }
};
using Model = std::unique_ptr<moe4_model, Destroy>;
using Generation = std::unique_ptr<moe4_generation, Destroy>;
using Text = std::unique_ptr<char, Destroy>;

const std::string& folder() {
  static const std::string path = MOE4_EMBEDDED_MODELS "/tiny-qwen3_5-moe-nvfp4";
  return path;
}

// Loaded once for all tests.
moe4_model* model() {
  static const Model loaded = [] {
    const moe4_model_options options{.struct_size = sizeof(moe4_model_options),
                                     .num_threads = 2,
                                     .max_model_len = 256,
                                     .max_num_seqs = 4};
    moe4_model* made = nullptr;
    EXPECT_EQ(moe4_model_load(folder().c_str(), &options, &made), MOE4_OK) << moe4_last_error();
    return Model(made);
  }();
  return loaded.get();
}

Generation begin(const std::string& requests) {
  moe4_generation* generation = nullptr;
  EXPECT_EQ(moe4_generation_begin(model(), requests.c_str(), &generation), MOE4_OK)
      << moe4_last_error();
  return Generation(generation);
}

// What on_text saw of each answer; it ends an answer after `most` bytes.
struct Seen {
  std::vector<std::string> texts;
  size_t most = SIZE_MAX;

  static int on_text(void* user, int64_t index, const char* text, size_t bytes) {
    auto& seen = *static_cast<Seen*>(user);
    seen.texts.resize(std::max(seen.texts.size(), static_cast<size_t>(index + 1)));
    seen.texts[index].append(text, bytes);
    return seen.texts[index].size() < seen.most;
  }
};

json finish(const Generation& generation, Seen& seen) {
  int running = 1;
  while (running) {
    if (moe4_generation_step(generation.get(), Seen::on_text, &seen, &running) != MOE4_OK) {
      ADD_FAILURE() << moe4_last_error();
      return {};
    }
  }
  char* text = nullptr;
  EXPECT_EQ(moe4_generation_results(generation.get(), &text), MOE4_OK) << moe4_last_error();
  return text == nullptr ? json() : json::parse(Text(text).get());
}

constexpr const char* kRequest =
    R"([{"prompt": "The President", "temperature": 0, "max_tokens": 20, "ignore_eos": true}])";

TEST(CApiModel, SaysWhatItIs) {
  const json info = json::parse(moe4_model_info(model()));
  EXPECT_EQ(info["max_model_len"], 256);
  EXPECT_EQ(info["max_num_seqs"], 4);
  EXPECT_EQ(info["plan"][0]["backend"], "cpu");
  EXPECT_GT(info["vocab_size"], 0);
}

TEST(CApiModel, PiecesAddUpToTheTextsOfTheResults) {
  Seen seen;
  const json results =
      finish(begin(R"([{"prompt": "The President", "temperature": 0, "max_tokens": 20, "n": 2},
                {"prompt": [40, 41, 42], "temperature": 0, "max_tokens": 3, "ignore_eos": true}])"),
             seen);
  ASSERT_EQ(results.size(), 2u);
  ASSERT_EQ(results[0]["outputs"].size(), 2u);
  ASSERT_EQ(results[1]["outputs"].size(), 1u);
  EXPECT_EQ(results[1]["prompt_token_ids"], json({40, 41, 42}));
  EXPECT_EQ(results[0]["outputs"][0]["text"], results[0]["outputs"][1]["text"]);
  EXPECT_EQ(results[0]["outputs"][0]["text"], seen.texts[0]);
  EXPECT_EQ(results[1]["outputs"][0]["text"], seen.texts[2]);
  EXPECT_EQ(results[1]["outputs"][0]["token_ids"].size(), 3u);
  EXPECT_EQ(results[1]["outputs"][0]["finish_reason"], "length");
}

TEST(CApiModel, ACallbackEndsAnAnswerAndDestroyEndsAll) {
  Seen whole, cut{.most = 5};
  const json all = finish(begin(kRequest), whole);
  const json ended = finish(begin(kRequest), cut);
  EXPECT_EQ(ended[0]["outputs"][0]["finish_reason"], "cancelled");
  EXPECT_THAT(whole.texts[0], ::testing::StartsWith(cut.texts[0]));
  EXPECT_LT(cut.texts[0].size(), whole.texts[0].size());
  {
    const Generation left = begin(kRequest);
    int running = 0;
    ASSERT_EQ(moe4_generation_step(left.get(), nullptr, nullptr, &running), MOE4_OK);
    EXPECT_EQ(running, 1);
    char* text = nullptr;
    EXPECT_EQ(moe4_generation_results(left.get(), &text), MOE4_USAGE);
    EXPECT_THAT(moe4_last_error(), HasSubstr("steps left"));
  }
  Seen again;
  EXPECT_EQ(finish(begin(kRequest), again)[0]["outputs"][0]["text"], all[0]["outputs"][0]["text"]);
}

TEST(CApiModel, TwoThreadsGenerateTogether) {
  Seen expected;
  finish(begin(kRequest), expected);
  const auto loop = [&] {
    for (int i = 0; i < 3; ++i) {
      Seen seen;
      finish(begin(kRequest), seen);
      EXPECT_EQ(seen.texts, expected.texts);
    }
  };
  std::thread other(loop);
  loop();
  other.join();
}

TEST(CApiModel, RequestsThatAreNoneAreRefusedByTheirField) {
  const std::pair<const char*, const char*> refusals[] = {
      {"{}", "expected an array"},
      {"[", "JSON"},
      {"[{}]", "prompt"},
      {R"([{"prompt": ""}])", "prompt is empty"},
      {R"([{"prompt": "a", "temprature": 1}])", "temprature: there is no such field"},
      {R"([{"prompt": "a", "stream": true}])", "stream"},
      {R"([{"prompt": ["a", "b"]}])", "prompt"},
      {R"([{"prompt": [1000000]}])", "there is no token 1000000"},
      {R"([{"prompt": "a"}, {"prompt": "a", "top_p": 2}])", "request 1: top_p"},
      {R"([{"prompt": "a", "max_tokens": 100000}])", "maximum context length"},
  };
  for (const auto& [requests, message] : refusals) {
    moe4_generation* generation = nullptr;
    EXPECT_EQ(moe4_generation_begin(model(), requests, &generation), MOE4_USAGE) << requests;
    EXPECT_THAT(moe4_last_error(), HasSubstr(message));
    EXPECT_EQ(generation, nullptr);
  }
}

TEST(CApiModel, EncodesDecodesAndRendersChats) {
  const std::string text = "The President";
  int32_t* ids = nullptr;
  int64_t count = 0;
  ASSERT_EQ(moe4_model_encode(model(), text.data(), text.size(), &ids, &count), MOE4_OK);
  char* decoded = nullptr;
  ASSERT_EQ(moe4_model_decode(model(), ids, count, 1, &decoded), MOE4_OK);
  EXPECT_EQ(text, Text(decoded).get());
  moe4_free(ids);
  char* prompt = nullptr;
  ASSERT_EQ(moe4_model_chat_prompt(model(), R"({"messages": [{"role": "user", "content": "Hi"}]})",
                                   &prompt),
            MOE4_OK)
      << moe4_last_error();
  const Text with_prompt(prompt);
  EXPECT_THAT(with_prompt.get(), HasSubstr("Hi"));
  ASSERT_EQ(moe4_model_chat_prompt(model(),
                                   R"({"messages": [{"role": "user", "content": "Hi"}],
                                       "add_generation_prompt": false})",
                                   &prompt),
            MOE4_OK);
  EXPECT_LT(std::string(Text(prompt).get()).size(), std::string(with_prompt.get()).size());
  EXPECT_EQ(moe4_model_chat_prompt(model(), "[]", &prompt), MOE4_BAD_INPUT);
}

TEST(CApiModel, EvaluatesPlansAndInspects) {
  const int32_t ids[] = {40, 41, 42, 43, 44};
  const int64_t lengths[] = {3, 2};
  char* text = nullptr;
  ASSERT_EQ(moe4_model_evaluate(model(), ids, lengths, 2, &text), MOE4_OK) << moe4_last_error();
  EXPECT_EQ(json::parse(Text(text).get())["predictions"], 3);
  const int64_t one = 1;
  EXPECT_EQ(moe4_model_evaluate(model(), ids, &one, 1, &text), MOE4_USAGE);

  const moe4_model_options options{.struct_size = sizeof(moe4_model_options), .device = "sm_90"};
  ASSERT_EQ(moe4_plan(folder().c_str(), &options, &text), MOE4_OK) << moe4_last_error();
  EXPECT_EQ(json::parse(Text(text).get())["device"], "sm_90");
  ASSERT_EQ(moe4_inspect(folder().c_str(), 1, &text), MOE4_OK) << moe4_last_error();
  EXPECT_EQ(json::parse(Text(text).get())["linted"], true);
}

TEST(CApiModel, RefusesWhatItCannotLoad) {
  moe4_model* made = nullptr;
  EXPECT_EQ(moe4_model_load("/nowhere", nullptr, &made), MOE4_BAD_INPUT);
  EXPECT_THAT(moe4_last_error(), HasSubstr("/nowhere"));
  EXPECT_EQ(moe4_model_load(nullptr, nullptr, &made), MOE4_USAGE);
  moe4_model_options options{.struct_size = sizeof(moe4_model_options) - 8};
  EXPECT_EQ(moe4_model_load(folder().c_str(), &options, &made), MOE4_USAGE);
  EXPECT_THAT(moe4_last_error(), HasSubstr("struct_size"));
  options = {.struct_size = sizeof(moe4_model_options), .dtype = "int3"};
  EXPECT_EQ(moe4_model_load(folder().c_str(), &options, &made), MOE4_USAGE);
  options = {.struct_size = sizeof(moe4_model_options), .num_threads = -1};
  EXPECT_EQ(moe4_model_load(folder().c_str(), &options, &made), MOE4_USAGE);
  options = {.struct_size = sizeof(moe4_model_options), .backend = "hopper"};
  EXPECT_EQ(moe4_model_load(folder().c_str(), &options, &made), MOE4_UNAVAILABLE);
  options = {.struct_size = sizeof(moe4_model_options), .kv_cache_memory_bytes = 1};
  EXPECT_EQ(moe4_model_load(folder().c_str(), &options, &made), MOE4_UNAVAILABLE);
  EXPECT_EQ(made, nullptr);
  moe4_model_destroy(nullptr);
  moe4_generation_destroy(nullptr);
  moe4_free(nullptr);
}

}  // namespace
}  // namespace moe4::testing
