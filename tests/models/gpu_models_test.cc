// Whole models on a GPU: against transformers' goldens, against the CPU layer by layer, and
// against themselves in other company.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "device/cuda/describe_device.h"
#include "engine/hidden_states.h"
#include "engine/runner.h"
#include "models/model.h"
#include "ops/experts/registry.h"
#include "support/cuda_calls.h"
#include "support/golden.h"
#include "support/random_moe.h"
#include "support/sequence.h"
#include "support/shared_models.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;
using testing::Golden;
using testing::LogitsFor;
using testing::Random;
using testing::relative_error;
using testing::Sequence;

std::unique_ptr<Model> load(const std::string& name, const Device& device, ThreadPool& threads) {
  register_builtin_backends();
  const auto checkpoint = Checkpoint::open(testing::test_data() / "checkpoints" / name);
  ModelOptions options{.threads = &threads};
  options.moe.device = device;
  return Model::load(*checkpoint, options);
}

int32_t best_of(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// Folders whose golden has float32 logits and the greedy text of transformers.
std::vector<std::string> folders() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(testing::test_data() / "checkpoints")) {
    if (fs::exists(entry.path() / "golden/w4a16.safetensors")) {
      names.push_back(entry.path().filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

class GpuModels : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (gpu_.is_cpu()) GTEST_SKIP() << "no GPU";
  }
  Device gpu_ = cuda::describe_device(0);
  ThreadPool threads_{4};
};

// BF16 between ops costs 2^-9 a rounding. Where that tips a router, a token takes another expert
// and is another token from there on, so it is the median token that is held.
constexpr double kHiddenBound = 5e-2, kLogitsBound = 5e-2;

// Relative errors of rows of `width`, in rising order.
std::vector<double> row_errors(const std::vector<float>& found, const std::vector<float>& expected,
                               int64_t width) {
  std::vector<double> errors;
  const auto w = static_cast<size_t>(width);
  for (size_t at = 0; at + w <= expected.size(); at += w) {
    errors.push_back(
        relative_error(std::span(found).subspan(at, w), std::span(expected).subspan(at, w)));
  }
  std::sort(errors.begin(), errors.end());
  return errors;
}

std::string text(const std::vector<double>& values) {
  std::string all;
  for (const double value : values) all += std::to_string(value) + " ";
  return all;
}

TEST_P(GpuModels, EveryLayerIsTheCpusUpToBf16) {
  const auto cpu = load(GetParam(), Device::cpu(), threads_);
  const auto gpu = load(GetParam(), gpu_, threads_);
  const Golden golden(testing::test_data() / "checkpoints" / GetParam() /
                      "golden/w4a16.safetensors");
  const std::vector<int32_t> ids = golden.ints("input_ids");
  HiddenStates expected, found;
  std::vector<float> exact, logits;
  const auto run = [&](const Model& model, HiddenStates& hidden, std::vector<float>& to) {
    Sequence sequence(model, static_cast<int64_t>(ids.size()));
    sequence.forward(ids, LogitsFor::kAllTokens, to, &hidden);
  };
  run(*cpu, expected, exact);
  run(*gpu, found, logits);
  EXPECT_LT(relative_error(found.embed, expected.embed), 1e-6);
  const ModelConfig& config = gpu->config();
  for (size_t i = 0; i < expected.layers.size(); ++i) {
    const auto errors = row_errors(found.layers[i], expected.layers[i], config.hidden_size);
    EXPECT_LT(errors[errors.size() / 2], kHiddenBound) << "layer " << i << ": " << text(errors);
  }
  const auto errors = row_errors(logits, exact, config.vocab_size);
  EXPECT_LT(errors[errors.size() / 2], kLogitsBound) << "logits: " << text(errors);
}

TEST_P(GpuModels, GreedyTextIsThatOfTransformersWhereItIsClear) {
  const Golden golden(testing::test_data() / "checkpoints" / GetParam() /
                      "golden/w4a16.safetensors");
  if (!golden.has("greedy")) GTEST_SKIP() << "no greedy text in this golden";
  const auto cpu = load(GetParam(), Device::cpu(), threads_);
  const auto gpu = load(GetParam(), gpu_, threads_);
  const std::vector<int32_t> ids = golden.ints("input_ids"), greedy = golden.ints("greedy");
  const auto length = static_cast<int64_t>(ids.size() + greedy.size());
  Sequence there(*gpu, length), here(*cpu, length);
  std::vector<float> logits, exact;
  there.forward(ids, LogitsFor::kLastToken, logits);
  here.forward(ids, LogitsFor::kLastToken, exact);
  int clear = 0;
  for (const int32_t expected : greedy) {
    std::vector<float> sorted = exact;
    std::nth_element(sorted.begin(), sorted.begin() + 1, sorted.end(), std::greater<>());
    const float lead = *std::max_element(exact.begin(), exact.end()) - sorted[1];
    double spread = 0;
    for (size_t i = 0; i < exact.size(); ++i) {
      spread = std::max(spread, std::abs(static_cast<double>(exact[i]) - logits[i]));
    }
    // Clear: the lead is above what the logits of this token are off.
    if (lead > 2 * spread) {
      ++clear;
      EXPECT_EQ(best_of(logits), expected);
    }
    EXPECT_GE(exact[best_of(logits)] + 2 * spread, exact[best_of(exact)]);
    there.forward({&expected, 1}, LogitsFor::kLastToken, logits);
    here.forward({&expected, 1}, LogitsFor::kLastToken, exact);
  }
  EXPECT_GT(clear, 0);
}

// A request, its tokens, and the logits of its prompt's end and of what is fed to it.
struct Request {
  std::vector<int32_t> prompt, fed;
  std::vector<int32_t> pages;
  int32_t slot = 0;
  std::vector<std::vector<float>> logits;
};

constexpr int64_t kPrompt = 200, kFed = 5;

std::vector<Request> make_requests(int64_t count, int64_t vocab) {
  Random random(3);
  std::vector<Request> requests(static_cast<size_t>(count));
  int32_t page = 0, slot = 0;
  for (Request& r : requests) {
    for (int64_t i = 0; i < kPrompt; ++i)
      r.prompt.push_back(static_cast<int32_t>(random.below(vocab)));
    for (int64_t i = 0; i < kFed; ++i) r.fed.push_back(static_cast<int32_t>(random.below(vocab)));
    for (int64_t i = 0; i < ceil_div(kPrompt + kFed, kPageTokens); ++i) r.pages.push_back(page++);
    r.slot = slot++;
  }
  return requests;
}

RunnerLimits limits_for(int64_t requests) {
  return {.step = {.max_tokens = std::max<int64_t>(512, requests + kPageTokens),
                   .max_seqs = requests,
                   .max_context = kPrompt + kFed,
                   .max_logits = requests},
          .num_pages = requests * ceil_div(kPrompt + kFed, kPageTokens),
          .num_state_slots = requests};
}

// Prompts in pieces of `cut` tokens, then all requests together.
void run_all(Runner& runner, std::vector<Request>& requests, int64_t cut, Observer* observer) {
  const int64_t vocab = runner.model().config().vocab_size;
  for (Request& r : requests) {
    for (int64_t at = 0; at < kPrompt; at += cut) {
      const int64_t n = std::min(cut, kPrompt - at);
      const SequencePiece piece{.token_ids = std::span(r.prompt).subspan(at, n),
                                .context = at,
                                .pages = r.pages,
                                .state_slot = r.slot,
                                .num_logits = at + n == kPrompt ? 1 : 0};
      const StepResult result = runner.run({&piece, 1}, observer);
      if (piece.num_logits > 0) {
        r.logits.emplace_back(result.logits.row(0), result.logits.row(0) + vocab);
      }
    }
  }
  for (int64_t i = 0; i < kFed; ++i) {
    std::vector<SequencePiece> pieces;
    for (const Request& r : requests) {
      pieces.push_back({.token_ids = std::span(r.fed).subspan(i, 1),
                        .context = kPrompt + i,
                        .pages = r.pages,
                        .state_slot = r.slot,
                        .is_decode = true,
                        .num_logits = 1});
    }
    const StepResult result = runner.run(pieces, observer);
    for (size_t s = 0; s < requests.size(); ++s) {
      const float* row = result.logits.row(static_cast<int64_t>(s));
      requests[s].logits.emplace_back(row, row + vocab);
    }
  }
}

// Looks, and so keeps a step from being a graph.
class Nobody final : public Observer {
 public:
  void see(Point, int64_t, const Rows&) override {}
};

TEST_P(GpuModels, ARequestHasTheSameBitsAloneAmongOthersCutAndCaptured) {
  const auto model = load(GetParam(), gpu_, threads_);
  const int64_t vocab = model->config().vocab_size;
  std::vector<Request> alone = make_requests(1, vocab);
  Runner single(*model, limits_for(1));
  run_all(single, alone, kPrompt, nullptr);
  for (const int64_t company : {7, 63, 255}) {
    std::vector<Request> all = make_requests(company + 1, vocab);
    Runner runner(*model, limits_for(company + 1));
    run_all(runner, all, 64, nullptr);
    EXPECT_EQ(all[0].logits, alone[0].logits) << company << " others";
  }
  Nobody nobody;
  std::vector<Request> eager = make_requests(1, vocab);
  run_all(single, eager, 128, &nobody);
  EXPECT_EQ(eager[0].logits, alone[0].logits) << "eager, and cut at 128";
}

TEST_P(GpuModels, AStepAllocatesNothingAndWaitsOnce) {
  const auto model = load(GetParam(), gpu_, threads_);
  std::vector<Request> requests = make_requests(3, model->config().vocab_size);
  Runner runner(*model, limits_for(3));
  run_all(runner, requests, 64, nullptr);
  const SampleRow greedy;
  for (const bool is_decode : {true, false}) {
    std::vector<SequencePiece> pieces;
    for (const Request& r : requests) {
      pieces.push_back({.token_ids = std::span(r.prompt).subspan(0, is_decode ? 1 : 64),
                        .context = is_decode ? kPrompt : 0,
                        .pages = r.pages,
                        .state_slot = r.slot,
                        .is_decode = is_decode,
                        .num_logits = 1,
                        .sample = &greedy});
    }
    const testing::CudaCalls before = testing::cuda_calls();
    runner.run(pieces);
    const testing::CudaCalls after = testing::cuda_calls();
    EXPECT_EQ(after.host_allocations - before.host_allocations, 0);
    EXPECT_EQ(after.allocations - before.allocations, 0);
    EXPECT_EQ(after.frees - before.frees, 0);
    EXPECT_EQ(after.synchronisations - before.synchronisations, 1) << "for the tokens";
  }
}

INSTANTIATE_TEST_SUITE_P(All, GpuModels, ::testing::ValuesIn(folders()), [](const auto& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

}  // namespace
}  // namespace moe4
