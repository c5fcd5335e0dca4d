// Generation with the embedded checkpoint.
#include "engine/generator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "ops/experts/registry.h"
#include "support/golden.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;

class Generator : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    register_builtin_backends();
    const fs::path folder = fs::path(MOE4_EMBEDDED_MODELS) / "tiny-qwen3_5-moe-nvfp4";
    threads_ = std::make_unique<ThreadPool>(2);
    const auto checkpoint = Checkpoint::open(folder);
    ModelOptions options{.threads = threads_.get()};
    options.moe.activations = ActivationMode::kBf16;
    model_ = Model::load(*checkpoint, options);
    tokenizer_ = Tokenizer::load(folder);
  }
  static void TearDownTestSuite() {
    model_.reset();
    tokenizer_.reset();
    threads_.reset();
  }

  static GenerateRequest request(const std::string& prompt, int64_t n) {
    GenerateRequest r;
    r.prompt = tokenizer_->encode(prompt);
    r.max_new_tokens = n;
    return r;
  }

  static inline std::unique_ptr<ThreadPool> threads_;
  static inline std::unique_ptr<Model> model_;
  static inline std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(Generator, GreedyTokensAreTheGoldensAtAnyPrefillChunk) {
  const testing::Golden golden(fs::path(MOE4_TEST_DATA) /
                               "golden/tiny-qwen3_5-moe/modelopt-nvfp4.w4a16.safetensors");
  for (int i = 0; i < 4; ++i) {
    const std::string key = "prompt" + std::to_string(i) + ".";
    GenerateRequest r;
    r.prompt = golden.ints(key + "input_ids");
    r.max_new_tokens = 32;
    r.ignore_eos = true;
    r.stop_token_ids = {4095, 4093};
    const std::vector<int32_t> expected = golden.ints(key + "greedy");
    const std::vector<float> margin = golden.floats(key + "greedy_margin");
    size_t clear = 0;  // up to the first close call, past which texts may differ
    while (clear < margin.size() && margin[clear] > 0.01f) ++clear;
    std::vector<int32_t> first;
    for (int64_t chunk : {1, 50, 1000}) {
      r.prefill_chunk = chunk;
      const GenerateResult result = generate(*model_, nullptr, r);
      ASSERT_EQ(result.tokens.size(), 32u);
      EXPECT_EQ(result.reason, StopReason::kLength);
      for (size_t t = 0; t < clear; ++t) EXPECT_EQ(result.tokens[t], expected[t]) << i << " " << t;
      if (first.empty()) first = result.tokens;
      EXPECT_EQ(result.tokens, first);
    }
  }
}

TEST_F(Generator, StreamedPiecesMakeTheText) {
  std::string streamed;
  const GenerateResult result =
      generate(*model_, tokenizer_.get(), request("In the beginning", 24), [&](const auto& piece) {
        streamed += piece;
        return true;
      });
  EXPECT_FALSE(result.text.empty());
  EXPECT_EQ(streamed, result.text);
  EXPECT_EQ(result.text, tokenizer_->decode(result.tokens));
  EXPECT_EQ(result.prompt_tokens,
            static_cast<int64_t>(request("In the beginning", 1).prompt.size()));
}

TEST_F(Generator, StopTokensEndItAndStayOut) {
  const GenerateResult whole = generate(*model_, tokenizer_.get(), request("In the beginning", 16));
  ASSERT_EQ(whole.tokens.size(), 16u);
  GenerateRequest r = request("In the beginning", 16);
  r.stop_token_ids = {whole.tokens[5]};
  const GenerateResult stopped = generate(*model_, tokenizer_.get(), r);
  EXPECT_EQ(stopped.reason, StopReason::kStopToken);
  const auto first = std::find(whole.tokens.begin(), whole.tokens.end(), whole.tokens[5]);
  EXPECT_EQ(stopped.tokens, std::vector<int32_t>(whole.tokens.begin(), first));
  r.ignore_eos = true;
  EXPECT_EQ(generate(*model_, tokenizer_.get(), r).tokens, whole.tokens);
}

TEST_F(Generator, StopStringsSpanningTokensAreCutFromTheText) {
  const GenerateResult whole = generate(*model_, tokenizer_.get(), request("In the beginning", 24));
  // Every substring of a few lengths, so that many lie across token borders.
  for (size_t length : {2u, 5u, 9u}) {
    for (size_t at = 1; at + length < whole.text.size(); at += 7) {
      GenerateRequest r = request("In the beginning", 24);
      r.stop_strings = {"never in the text", whole.text.substr(at, length)};
      std::string streamed;
      const GenerateResult result =
          generate(*model_, tokenizer_.get(), r, [&](const std::string& piece) {
            streamed += piece;
            return true;
          });
      EXPECT_EQ(result.reason, StopReason::kStopString);
      EXPECT_EQ(result.text, whole.text.substr(0, whole.text.find(r.stop_strings[1])));
      EXPECT_EQ(streamed, result.text);
    }
  }
}

TEST_F(Generator, TokensAreToldAsTheyAreChosenWithTheLogitsOfTheModel) {
  GenerateRequest r = request("In the beginning", 24);
  const GenerateResult plain = generate(*model_, tokenizer_.get(), r);
  r.stop_token_ids = {plain.tokens[9]};
  const auto first = std::find(plain.tokens.begin(), plain.tokens.end(), plain.tokens[9]);
  std::vector<int32_t> told;
  r.wants_logits = true;
  r.on_token = [&](int32_t token, std::span<const float> logits) {
    told.push_back(token);
    const auto best = std::max_element(logits.begin(), logits.end());
    EXPECT_EQ(best - logits.begin(), token);
  };
  const GenerateResult result = generate(*model_, tokenizer_.get(), r);
  EXPECT_EQ(result.stop_token, plain.tokens[9]);
  EXPECT_EQ(told, std::vector<int32_t>(plain.tokens.begin(), first + 1));
  EXPECT_EQ(result.tokens, std::vector<int32_t>(plain.tokens.begin(), first));
}

TEST_F(Generator, AChoiceIsLeftToTheDeviceUnlessTheLogitsAreWanted) {
  GenerateRequest r = request("In the beginning", 24);
  std::vector<int32_t> told;
  r.on_token = [&](int32_t token, std::span<const float> logits) {
    told.push_back(token);
    EXPECT_TRUE(logits.empty());
  };
  Generation generation(*model_, tokenizer_.get(), r);
  EngineRequest on_device = generation.engine_request();
  DeviceChoice choice;
  EXPECT_TRUE(on_device.device_choice(choice));
  EXPECT_TRUE(choice.mask.empty());
  EXPECT_EQ(on_device.take_token(5), 5);
  EXPECT_EQ(told, std::vector<int32_t>{5});

  r.wants_logits = true;
  Generation with_logits(*model_, tokenizer_.get(), r);
  EXPECT_FALSE(with_logits.engine_request().device_choice(choice));
}

// Whoever wants the logits has them brought to where it chooses itself.
TEST_F(Generator, TokensChosenBesideOthersAreThoseThatTheirLogitsGiveAlone) {
  std::vector<GenerateRequest> requests;
  for (const SamplingParams& sampling :
       {SamplingParams{.temperature = 0}, SamplingParams{.temperature = 1.0f, .seed = 3},
        SamplingParams{.temperature = 1.0f, .seed = 4},
        SamplingParams{.temperature = 1.5f, .top_k = 40, .top_p = 0.95f, .seed = 5},
        SamplingParams{.temperature = 0.8f, .min_p = 0.05f, .seed = 6}}) {
    requests.push_back(request("In the beginning", 24));
    requests.back().sampling = sampling;
  }
  Engine engine(*model_,
                {.max_tokens = 128, .max_seqs = 8, .max_context = 128, .cache_tokens = 1024});
  std::vector<std::unique_ptr<Generation>> together;
  int chosen_by_host = 0;
  for (const GenerateRequest& r : requests) {
    together.push_back(std::make_unique<Generation>(*model_, tokenizer_.get(), r));
    EngineRequest submitted = together.back()->engine_request();
    submitted.next_token = [&, next = submitted.next_token](std::span<float> logits) {
      ++chosen_by_host;
      return next(logits);
    };
    engine.submit(std::move(submitted));
  }
  while (engine.step()) {
  }
  EXPECT_EQ(chosen_by_host, 0);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].wants_logits = true;
    requests[i].on_token = [](int32_t, std::span<const float> logits) {
      EXPECT_FALSE(logits.empty());
    };
    const GenerateResult alone = generate(*model_, tokenizer_.get(), requests[i]);
    EXPECT_EQ(together[i]->take_result().tokens, alone.tokens) << i;
    EXPECT_EQ(alone.tokens.size(), 24u);
  }
}

TEST_F(Generator, ACallbackThatReturnsFalseCancels) {
  int calls = 0;
  const GenerateResult result = generate(*model_, tokenizer_.get(), request("In the beginning", 24),
                                         [&](const std::string&) { return ++calls < 3; });
  EXPECT_EQ(result.reason, StopReason::kCancelled);
  EXPECT_EQ(calls, 3);
  EXPECT_LT(result.tokens.size(), 24u);
}

TEST_F(Generator, TheSeedDecidesFromTheFirstTokenOn) {
  GenerateRequest r = request("The", 12);
  r.sampling = {.temperature = 1.5f, .seed = 5};
  const auto first = generate(*model_, tokenizer_.get(), r).tokens;
  EXPECT_EQ(generate(*model_, tokenizer_.get(), r).tokens, first);
  bool first_token_differs = false;
  for (uint64_t seed = 6; seed < 16; ++seed) {
    r.sampling.seed = seed;
    r.max_new_tokens = 1;
    first_token_differs |= generate(*model_, tokenizer_.get(), r).tokens[0] != first[0];
  }
  EXPECT_TRUE(first_token_differs);
}

TEST_F(Generator, TheContextIsALimit) {
  GenerateRequest r;
  const int64_t context = model_->config().max_position_embeddings;
  r.prompt.assign(static_cast<size_t>(context - 3), 11);
  r.max_new_tokens = 10;
  const GenerateResult result = generate(*model_, nullptr, r);
  EXPECT_EQ(result.reason, StopReason::kContextFull);
  EXPECT_EQ(result.tokens.size(), 3u);
  r.prompt.assign(static_cast<size_t>(context), 11);
  EXPECT_THROW(generate(*model_, nullptr, r), Error);
}

TEST_F(Generator, UnusableRequestsAreUsageErrors) {
  GenerateRequest no_prompt;
  GenerateRequest no_tokenizer = request("a", 1);
  no_tokenizer.stop_strings = {"x"};
  GenerateRequest no_chunk = request("a", 1);
  no_chunk.prefill_chunk = 0;
  for (const GenerateRequest& r : {no_prompt, no_tokenizer, no_chunk}) {
    try {
      generate(*model_, nullptr, r);
      FAIL() << "it ran";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUsage);
    }
  }
}

TEST_F(Generator, PerplexityIsTheMeanOfTheGoldensLogProbabilities) {
  const testing::Golden golden(fs::path(MOE4_TEST_DATA) /
                               "golden/tiny-qwen3_5-moe/modelopt-nvfp4.w4a16.safetensors");
  std::vector<std::vector<int32_t>> rows;
  double sum = 0;
  int64_t predictions = 0;
  for (int i = 0; i < 4; ++i) {
    const std::string key = "prompt" + std::to_string(i) + ".";
    rows.push_back(golden.ints(key + "input_ids"));
    for (float p : golden.floats(key + "logprob_of_next")) sum += p;
    predictions += static_cast<int64_t>(rows.back().size()) - 1;
  }
  int64_t last_done = 0, last_total = 0;
  for (int64_t chunk : {7, 512}) {
    const PerplexityResult result =
        perplexity(*model_, rows, chunk, [&](int64_t done, int64_t total) {
          EXPECT_GE(done, last_done * (total == last_total));
          last_done = done;
          last_total = total;
        });
    EXPECT_EQ(result.predictions, predictions);
    EXPECT_NEAR(result.mean_log_likelihood, sum / static_cast<double>(predictions), 1e-3);
    EXPECT_DOUBLE_EQ(result.perplexity, std::exp(-result.mean_log_likelihood));
    EXPECT_EQ(last_done, last_total);
    last_done = 0;
  }
}

}  // namespace
}  // namespace moe4
