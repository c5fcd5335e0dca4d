// Small checkpoints in every dialect, whole model against outputs of the Hugging Face classes in
// float32.
#include <gtest/gtest.h>

#include <algorithm>

#include "engine/layer_experts.h"
#include "models/model.h"
#include "ops/experts/registry.h"
#include "support/golden.h"
#include "support/sequence.h"

namespace moe4 {
namespace {

using testing::LogitsFor;
using testing::Sequence;

using testing::Golden;
using testing::relative_error;
namespace fs = std::filesystem;

struct Case {
  fs::path checkpoint, golden;
  std::string name, mode;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const auto& folder : fs::directory_iterator(fs::path(MOE4_TEST_DATA) / "checkpoints")) {
    if (!folder.is_directory()) continue;
    for (const auto& golden : fs::directory_iterator(folder.path() / "golden")) {
      Case c{.checkpoint = folder.path(),
             .golden = golden.path(),
             .name = folder.path().filename().string() + "_" + golden.path().stem().string(),
             .mode = golden.path().stem().string()};
      std::replace_if(
          c.name.begin(), c.name.end(),
          [](unsigned char letter) { return std::isalnum(letter) == 0; }, '_');
      cases.push_back(std::move(c));
    }
  }
  std::sort(cases.begin(), cases.end(),
            [](const Case& a, const Case& b) { return a.name < b.name; });
  return cases;
}

std::unique_ptr<Model> load(const Case& c, DType dtype, const std::string& backend,
                            ThreadPool& threads) {
  register_builtin_backends();
  const auto checkpoint = Checkpoint::open(c.checkpoint);
  ModelOptions options{.compute_dtype = dtype, .threads = &threads};
  options.moe.backend = backend;
  options.moe.activations = c.mode == "w4a4-static" ? ActivationMode::kFp4Static
                            : c.mode == "w4a4-unit" ? ActivationMode::kFp4
                                                    : ActivationMode::kBf16;
  options.moe.fp8_activations = c.mode == "w4a16-fp8act";
  return Model::load(*checkpoint, options);
}

// Quantised activations can tip on a rounding border once two computations differ in the last bit.
bool quantizes_activations(const Case& c) { return c.mode != "bf16" && c.mode != "w4a16"; }

class Dialect : public ::testing::TestWithParam<Case> {};

TEST_P(Dialect, Float32ReferenceReproducesEveryLayer) {
  ThreadPool threads(2);
  const Golden golden(GetParam().golden);
  const auto model = load(GetParam(), DType::kF32, "reference", threads);
  const std::vector<int32_t> ids = golden.ints("input_ids");
  Sequence sequence(*model, static_cast<int64_t>(ids.size()));
  std::vector<float> logits;
  HiddenStates hidden;
  sequence.forward(ids, LogitsFor::kAllTokens, logits, &hidden);

  EXPECT_EQ(relative_error(hidden.embed, golden.floats("hidden.embed")), 0.0);
  EXPECT_LT(relative_error(hidden.layers[0], golden.floats("hidden.layer0")), 1e-4);
  const double tolerance = quantizes_activations(GetParam()) ? 2e-2 : 1e-4;
  EXPECT_LT(relative_error(hidden.layers[1], golden.floats("hidden.layer1")), tolerance);
  EXPECT_LT(relative_error(hidden.final_norm, golden.floats("hidden.final_norm")), tolerance);
  EXPECT_LT(relative_error(logits, golden.floats("logits")), tolerance);
}

TEST_P(Dialect, RouterAndExpertsReproduceEveryLayer) {
  ThreadPool threads(2);
  const Golden golden(GetParam().golden);
  const auto exact = load(GetParam(), DType::kF32, "reference", threads);
  const auto fast = load(GetParam(), DType::kBF16, "", threads);
  for (const MoeLayerPlan& plan : exact->moe_plan()) {
    const std::string key = "moe.layer" + std::to_string(plan.layer) + ".";
    const std::vector<float> expected = golden.floats(key + "experts_output");
    for (Model* model : {exact.get(), fast.get()}) {
      std::vector<int32_t> ids;
      std::vector<float> weights, y;
      if (model->moe_block(plan.layer)->router().by_token) {
        // Hidden states alone do not say which token it is; logits of whole models do.
        ids = golden.ints(key + "topk_ids");
        weights = golden.floats(key + "topk_weights");
      }
      run_layer_experts(*model, plan.layer, golden.floats(key + "input"), ids, weights, y);
      EXPECT_EQ(ids, golden.ints(key + "topk_ids")) << key;
      EXPECT_LT(relative_error(weights, golden.floats(key + "topk_weights")), 1e-5) << key;
      EXPECT_LT(relative_error(y, expected),
                quantizes_activations(GetParam()) ? 2e-2 : (model == fast.get() ? 1e-3 : 1e-5))
          << key;
    }
  }
}

TEST_P(Dialect, DefaultArithmeticStaysClose) {
  if (quantizes_activations(GetParam())) GTEST_SKIP() << "roundings of activations tip";
  ThreadPool threads(2);
  const Golden golden(GetParam().golden);
  const auto model = load(GetParam(), DType::kBF16, "", threads);
  const std::vector<int32_t> ids = golden.ints("input_ids");
  Sequence sequence(*model, static_cast<int64_t>(ids.size()));
  std::vector<float> logits;
  sequence.forward(ids, LogitsFor::kAllTokens, logits);
  EXPECT_LT(relative_error(logits, golden.floats("logits")), 5e-3);
}

INSTANTIATE_TEST_SUITE_P(All, Dialect, ::testing::ValuesIn(all_cases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace moe4
