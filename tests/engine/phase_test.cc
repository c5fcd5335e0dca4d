// The experts of every layer are told which tokens of a step were generated.
#include <gtest/gtest.h>

#include <filesystem>
#include <utility>

#include "base/error.h"
#include "engine/engine.h"
#include "ops/experts/registry.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;

// Tokens of a call, and how many of them were generated.
using Calls = std::vector<std::pair<int64_t, int64_t>>;

class RecordingExperts final : public PreparedExperts {
 public:
  RecordingExperts(std::unique_ptr<PreparedExperts> layer, Calls& calls)
      : layer_(std::move(layer)), calls_(calls) {}
  size_t workspace_size(int64_t max_tokens) const override {
    return layer_->workspace_size(max_tokens);
  }
  void apply(const ExpertsArgs& args) const override {
    calls_.emplace_back(args.num_tokens, args.num_decode_tokens);
    layer_->apply(args);
  }
  bool accepts_float32() const override { return layer_->accepts_float32(); }
  BatchInvariance batch_invariant() const override { return layer_->batch_invariant(); }
  int64_t weight_bytes() const override { return layer_->weight_bytes(); }

 private:
  std::unique_ptr<PreparedExperts> layer_;
  Calls& calls_;
};

// Another backend that writes down what it is called with.
class RecordingBackend final : public ExpertsBackend {
 public:
  RecordingBackend(const ExpertsBackend& backend, Calls& calls)
      : backend_(backend), calls_(calls) {}
  std::string_view name() const override { return backend_.name(); }
  Support supports(const ExpertsQuery& query) const override { return backend_.supports(query); }
  Support runnable(const Device& device) const override { return backend_.runnable(device); }
  BatchBehavior batch_behavior(const ExpertsQuery& query) const override {
    asked_about_phases |= query.says_phase;
    return backend_.batch_behavior(query);
  }
  std::unique_ptr<PreparedExperts> prepare(const MoeLayerWeights& weights,
                                           const PrepareOptions& options) const override {
    return std::make_unique<RecordingExperts>(backend_.prepare(weights, options), calls_);
  }

  mutable bool asked_about_phases = false;

 private:
  const ExpertsBackend& backend_;
  Calls& calls_;
};

const ExpertsBackend& cpu_backend() {
  for (const ExpertsBackend* backend : registered_backends()) {
    if (backend->name() == "cpu") return *backend;
  }
  throw Error(ErrorCode::kInternal, "there is no cpu backend");
}

TEST(Phases, EveryCallOfTheExpertsSaysHowManyOfItsTokensWereGenerated) {
  register_builtin_backends();
  const std::vector<const ExpertsBackend*> usual = registered_backends();
  Calls calls;
  const RecordingBackend recording(cpu_backend(), calls);
  set_registered_backends({&recording});
  ThreadPool threads(1);
  const auto checkpoint =
      Checkpoint::open(fs::path(MOE4_TEST_DATA) / "checkpoints/qwen3-modelopt-nvfp4");
  const auto model = Model::load(*checkpoint, {.threads = &threads});
  set_registered_backends(usual);
  EXPECT_TRUE(recording.asked_about_phases);
  const auto layers = static_cast<size_t>(model->config().num_layers);

  Engine engine(*model,
                {.max_tokens = 128, .max_seqs = 4, .max_context = 200, .cache_tokens = 1024});
  const auto submit = [&](int64_t prompt) {
    engine.submit({.prompt = std::vector<int32_t>(prompt, 7),
                   .max_new_tokens = 4,
                   .next_token = [](std::span<float>) { return std::optional<int32_t>(5); }});
  };
  const auto expect_step = [&](int64_t tokens, int64_t generated) {
    calls.clear();
    engine.step();
    EXPECT_EQ(calls, Calls(layers, {tokens, generated}));
  };
  submit(3);
  submit(1);  // one token, and of a prompt all the same
  expect_step(4, 0);
  submit(150);
  expect_step(2 + 64, 2);
  expect_step(2 + 86, 2);
  expect_step(3, 3);
  expect_step(1, 1);
}

}  // namespace
}  // namespace moe4
