// The memory plan: that limits which fit are found, that errors name limits which do fit, and that
// what is planned is what is allocated.
#include "engine/memory_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <regex>
#include <string>

#include "models/description.h"
#include "ops/experts/registry.h"

namespace moe4 {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr int64_t kMB = 1'000'000, kGB = 1000 * kMB;

// About Qwen3.6-35B-A3B: 40 layers of experts, ten with pages, thirty with states.
ModelNeeds hybrid() {
  return {.device = Device::cuda_sm(90),
          .other_weights = 3 * kGB,
          .experts = std::vector<ModelNeeds::Experts>(40, {.bytes = 450 * kMB}),
          .page_bytes = int64_t{64} * 20480,
          .state_bytes = 64 * kMB,
          .vocab_size = 248320,
          .max_context = 262144,
          .num_layers = 40,
          .workspace = [](const StepLimits& limits) { return limits.max_tokens * 100'000; }};
}

std::string error_of(const std::function<void()>& fn) {
  try {
    fn();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

int64_t number_behind(const std::string& flag, const std::string& text) {
  // The last one: the flags that were given stand before those that would fit.
  int64_t found = -1;
  const std::regex pattern(flag + " ([0-9]+)");
  for (std::sregex_iterator at(text.begin(), text.end(), pattern), end; at != end; ++at) {
    found = std::stoll((*at)[1]);
  }
  return found;
}

TEST(MemoryPlan, ExpertsThatAreLeftToTheCpuAreNotOnTheGpu) {
  ModelNeeds needs = hybrid();
  EXPECT_EQ(needs.device_weights(), 21 * kGB);
  EXPECT_EQ(needs.host_weights(), 0);
  needs.cpu_moe = 10;
  EXPECT_EQ(needs.device_weights(), 16'500 * kMB);
  EXPECT_EQ(needs.host_weights(), 4'500 * kMB);
  needs.experts.back().only_cpu = true;
  EXPECT_EQ(needs.host_weights(), 4'950 * kMB);
  needs.cpu_moe = INT64_MAX;
  EXPECT_EQ(needs.device_weights(), 3 * kGB);
  EXPECT_EQ(needs.host_weights(), 18 * kGB);
  needs.device = Device::cpu();
  EXPECT_EQ(needs.device_weights(), 21 * kGB);
  EXPECT_EQ(needs.host_weights(), 0);
}

TEST(MemoryPlan, WhatFitsIsWithinTheRoomAndUsesIt) {
  const ModelNeeds needs = hybrid();
  for (const int64_t room : {28 * kGB, 40 * kGB, 127 * kGB}) {
    for (const int64_t seqs : {0, 4, 16}) {
      std::vector<std::string> notes;
      const EngineLimits limits =
          fit_engine(needs, {.max_model_len = 8192, .max_num_seqs = seqs}, room, notes);
      const MemoryPlan plan = memory_plan(needs, limits);
      EXPECT_LE(plan.total(), room);
      EXPECT_GE(limits.cache_tokens, limits.max_context);
      // All requests at full length, or the room is full.
      const bool whole = limits.cache_tokens == limits.max_seqs * 8192;
      EXPECT_TRUE(whole || plan.total() > room - needs.state_bytes - needs.page_bytes)
          << plan.total() << " of " << room;
    }
  }
}

TEST(MemoryPlan, WithoutFlagsRequestsAreAsLongAsTheRoomAllowsAndANoteSaysSo) {
  ModelNeeds needs = hybrid();
  std::vector<std::string> notes;
  const EngineLimits limits = fit_engine(needs, {}, 24 * kGB, notes);
  EXPECT_LT(limits.max_context, needs.max_context);
  EXPECT_EQ(limits.max_context % kPageTokens, 0);
  EXPECT_LT(limits.max_seqs, 64);
  ASSERT_EQ(notes.size(), 2u);
  EXPECT_THAT(notes[0], HasSubstr("requests run at once: memory for states"));
  EXPECT_THAT(notes[1], HasSubstr("requests are limited to as many"));
  notes.clear();
  EXPECT_EQ(fit_engine(needs, {}, 127 * kGB, notes).max_context, needs.max_context);
  EXPECT_THAT(notes, IsEmpty());
}

TEST(MemoryPlan, AnErrorNamesFlagsThatFit) {
  const ModelNeeds needs = hybrid();
  const EngineFlags asked{.max_model_len = 40960, .max_num_seqs = 64};
  const int64_t room = 25 * kGB;
  std::vector<std::string> notes;
  const std::string error = error_of([&] { fit_engine(needs, asked, room, notes); });
  EXPECT_THAT(error,
              AllOf(HasSubstr("--max-num-seqs 64 with --max-model-len 40960 needs"),
                    HasSubstr("for caches"), HasSubstr("would fit"), HasSubstr("of weights")));
  EngineFlags fewer = asked, more = asked;
  fewer.max_num_seqs = number_behind("--max-num-seqs", error);
  ASSERT_GT(fewer.max_num_seqs, 0) << error;
  ASSERT_LT(fewer.max_num_seqs, 64) << error;
  EXPECT_EQ(error_of([&] { fit_engine(needs, fewer, room, notes); }), "");
  more.max_num_seqs = fewer.max_num_seqs + 1;
  EXPECT_NE(error_of([&] { fit_engine(needs, more, room, notes); }), "");

  ModelNeeds moved = needs;
  moved.cpu_moe = number_behind("--cpu-moe", error);
  ASSERT_GT(moved.cpu_moe, 0) << error;
  EXPECT_EQ(error_of([&] { fit_engine(moved, asked, room, notes); }), "");
  --moved.cpu_moe;
  EXPECT_NE(error_of([&] { fit_engine(moved, asked, room, notes); }), "");
}

TEST(MemoryPlan, ALengthThatDoesNotFitIsAnsweredWithOneThatDoes) {
  ModelNeeds needs = hybrid();
  needs.state_bytes = 0;
  const EngineFlags asked{.max_model_len = 262144, .max_num_seqs = 4};
  const int64_t room = 24 * kGB;
  std::vector<std::string> notes;
  const std::string error = error_of([&] { fit_engine(needs, asked, room, notes); });
  EngineFlags shorter = asked;
  shorter.max_model_len = number_behind("--max-model-len", error);
  ASSERT_GT(shorter.max_model_len, 0) << error;
  EXPECT_EQ(error_of([&] { fit_engine(needs, shorter, room, notes); }), "");
  shorter.max_model_len += kPageTokens;
  EXPECT_NE(error_of([&] { fit_engine(needs, shorter, room, notes); }), "");
}

TEST(MemoryPlan, WhatCannotFitSaysSo) {
  const ModelNeeds needs = hybrid();
  std::vector<std::string> notes;
  // The weights alone are more.
  const std::string error = error_of([&] { fit_engine(needs, {}, 15 * kGB, notes); });
  EXPECT_THAT(error, HasSubstr("--cpu-moe"));
  EXPECT_THAT(error, Not(HasSubstr("or --max")));
  EXPECT_THAT(error_of([&] { fit_engine(needs, {}, kGB, notes); }),
              HasSubstr("no number of requests or tokens would fit"));
}

TEST(MemoryPlan, BytesForCachesAreTakenByTheirWord) {
  const ModelNeeds needs = hybrid();
  std::vector<std::string> notes;
  const EngineFlags flags{.max_model_len = 4096, .kv_cache_memory_bytes = 2 * kGB};
  const EngineLimits limits = fit_engine(needs, flags, 127 * kGB, notes);
  EXPECT_LE(memory_plan(needs, limits).caches(), 2 * kGB);
  EXPECT_GT(memory_plan(needs, limits).caches(), 2 * kGB - needs.state_bytes);
  // But not beyond the room.
  EXPECT_THAT(error_of([&] { fit_engine(needs, flags, 22 * kGB, notes); }),
              AllOf(HasSubstr("lower --kv-cache-memory-bytes"), HasSubstr("--cpu-moe")));
  const EngineFlags tiny{.max_num_seqs = 8, .kv_cache_memory_bytes = 100 * kMB};
  const std::string error = error_of([&] { fit_engine(needs, tiny, 127 * kGB, notes); });
  EngineFlags enough = tiny;
  enough.kv_cache_memory_bytes = number_behind("--kv-cache-memory-bytes", error);
  EXPECT_EQ(error_of([&] { fit_engine(needs, enough, 127 * kGB, notes); }), "") << error;
}

TEST(MemoryPlan, AnUnknownRoomPlansForWhatWasAsked) {
  const ModelNeeds needs = hybrid();
  std::vector<std::string> notes;
  EXPECT_EQ(fit_engine(needs, {}, std::nullopt, notes).cache_tokens, needs.max_context);
  const EngineLimits limits =
      fit_engine(needs, {.max_model_len = 1000, .max_num_seqs = 3}, std::nullopt, notes);
  EXPECT_EQ(limits.cache_tokens, 3 * 1024);
}

TEST(MemoryPlan, AGivenEngineThatDoesNotFitIsRefusedWithAdvice) {
  const ModelNeeds needs = hybrid();
  const EngineLimits limits{.max_context = 1000, .cache_tokens = 1000, .prefix_cache = false};
  EXPECT_EQ(error_of([&] { check_room(needs, limits, 127 * kGB, "lower -n"); }), "");
  const std::string error = error_of([&] { check_room(needs, limits, 20 * kGB, "lower -n"); });
  EXPECT_THAT(error, AllOf(HasSubstr("not enough memory on sm_90"), HasSubstr("lower -n")));
  const int64_t layers = number_behind("--cpu-moe", error);
  ASSERT_EQ(fitting_cpu_moe(needs, limits, 20 * kGB), layers) << error;
  ModelNeeds moved = needs;
  moved.cpu_moe = layers;
  EXPECT_LE(memory_plan(moved, limits).total(), 20 * kGB);
  moved.cpu_moe = layers - 1;
  EXPECT_GT(memory_plan(moved, limits).total(), 20 * kGB);
  EXPECT_EQ(fitting_cpu_moe(needs, limits, kGB), std::nullopt);
}

TEST(MemoryPlan, AShareOfAGpuIsOfItsCapAndLessWhatIsUsed) {
  EXPECT_EQ(gpu_room(100 * kGB, 5 * kGB, 0.5), 45 * kGB);
  EXPECT_EQ(gpu_room(100 * kGB, 5 * kGB, 0.5, 40 * kGB), 15 * kGB);
  EXPECT_EQ(gpu_room(100 * kGB, 5 * kGB, 0.5, 400 * kGB), 45 * kGB);
  EXPECT_EQ(gpu_room(100 * kGB, 0, 1.0, 1), 1);
}

// Calls fn with every checkpoint below tests/data whose model runs.
template <typename Fn>
void for_each_model(const Fn& fn) {
  namespace fs = std::filesystem;
  register_builtin_backends();
  ThreadPool threads(2);
  for (const auto& entry : fs::directory_iterator(fs::path(MOE4_TEST_DATA) / "checkpoints")) {
    if (!fs::exists(entry.path() / "config.json")) continue;
    const auto checkpoint = Checkpoint::open(entry.path());
    if (checkpoint->is_partial() || !describe(*checkpoint).refusals.empty()) continue;
    SCOPED_TRACE(entry.path().string());
    const auto model = Model::load(*checkpoint, {.threads = &threads});
    fn(*checkpoint, *model);
  }
}

// Of all tensors as a model holds them: MXFP8 (E4M3 beside scales of bytes) is decoded to BF16.
int64_t bytes_held(const Checkpoint& checkpoint) {
  int64_t bytes = checkpoint.total_tensor_bytes();
  for (const std::string& name : checkpoint.tensor_names()) {
    const std::string scale = name + "_scale";
    if (!checkpoint.has_tensor(scale) || checkpoint.tensor(scale).dtype != DType::kU8) continue;
    const TensorView codes = checkpoint.tensor(name);
    if (codes.dtype == DType::kF8E4M3) bytes += codes.num_bytes();
  }
  return bytes;
}

TEST(MemoryPlan, HeadersTellCachesExactlyAndTheWorkspaceFromAbove) {
  int models = 0;
  for_each_model([&](const Checkpoint& checkpoint, const Model& model) {
    ++models;
    const Description description = describe(checkpoint);
    EXPECT_EQ(description.sizes.caches, model.caches());
    const ModelNeeds before = needs_of(description, checkpoint.config(), Device::cpu(), {}, 0);
    const ModelNeeds after = needs_of(model);
    EXPECT_EQ(before.page_bytes, after.page_bytes);
    EXPECT_EQ(before.state_bytes, after.state_bytes);
    EXPECT_EQ(before.experts.size(), model.moe_plan().size());
    const int64_t all = bytes_held(checkpoint);
    EXPECT_LE(before.device_weights(), all);
    EXPECT_GE(before.device_weights(), all * 9 / 10) << "of " << all;
  });
  EXPECT_GT(models, 5);
}

}  // namespace
}  // namespace moe4
