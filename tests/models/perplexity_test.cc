// Perplexity of the trained checkpoints on held-out text against figures of the Hugging Face
// implementation in float32.
#include <gtest/gtest.h>

#include "engine/generator.h"
#include "models/model.h"
#include "ops/experts/registry.h"
#include "support/golden.h"
#include "support/shared_models.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;
using testing::shared_models;

struct Case {
  const char* model;
  const char* format;
  ActivationMode activations;
  bool fp8_activations;
  double expected;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.model << " " << c.format << " " << to_string(c.activations)
       << (c.fp8_activations ? " fp8 activations" : "");
}

constexpr ActivationMode kBf16 = ActivationMode::kBf16;
constexpr ActivationMode kUnit = ActivationMode::kFp4;
constexpr ActivationMode kStatic = ActivationMode::kFp4Static;
constexpr char kQwen3[] = "tiny-qwen3-moe";
constexpr char kQwen35[] = "tiny-qwen3_5-moe";

// The table of the trained models' README.
constexpr Case kCases[] = {
    {kQwen3, "bf16", kBf16, false, 14.748},
    {kQwen3, "modelopt-nvfp4", kBf16, false, 15.086},
    {kQwen3, "modelopt-nvfp4", kStatic, false, 15.454},
    {kQwen3, "modelopt-nvfp4", kUnit, false, 15.526},
    {kQwen3, "modelopt-w4a16", kBf16, false, 15.086},
    {kQwen3, "modelopt-mixed", kBf16, false, 15.005},
    {kQwen3, "modelopt-mixed", kBf16, true, 15.000},
    {kQwen3, "compressed-tensors-nvfp4", kBf16, false, 15.101},
    {kQwen3, "compressed-tensors-nvfp4", kStatic, false, 15.460},
    {kQwen3, "compressed-tensors-nvfp4", kUnit, false, 15.487},
    {kQwen3, "compressed-tensors-nvfp4a16", kBf16, false, 15.101},
    {kQwen35, "bf16", kBf16, false, 15.000},
    {kQwen35, "modelopt-nvfp4", kBf16, false, 15.193},
    {kQwen35, "modelopt-nvfp4", kStatic, false, 15.345},
    {kQwen35, "modelopt-nvfp4", kUnit, false, 15.363},
    {kQwen35, "modelopt-w4a16", kBf16, false, 15.193},
    {kQwen35, "compressed-tensors-nvfp4", kBf16, false, 15.199},
    {kQwen35, "compressed-tensors-nvfp4", kStatic, false, 15.358},
    {kQwen35, "compressed-tensors-nvfp4", kUnit, false, 15.368},
    {kQwen35, "compressed-tensors-nvfp4a16", kBf16, false, 15.199},
    {kQwen35, "compressed-tensors-mixed", kBf16, false, 15.113},
    {kQwen35, "compressed-tensors-mixed", kBf16, true, 15.112},
};

class HeldOutText : public ::testing::TestWithParam<Case> {};

TEST_P(HeldOutText, PerplexityIsWithinThreeThousandths) {
  const Case& c = GetParam();
  // The embedded model is one of them and needs no folder.
  fs::path folder = shared_models() / c.model / c.format;
  if (c.model == kQwen35 && std::string(c.format) == "modelopt-nvfp4") {
    folder = fs::path(MOE4_EMBEDDED_MODELS) / "tiny-qwen3_5-moe-nvfp4";
  } else if (shared_models().empty() || !fs::exists(folder)) {
    GTEST_SKIP() << "MOE4_SHARED_MODELS names no folder with this checkpoint";
  }
  register_builtin_backends();
  ThreadPool threads;
  const auto checkpoint = Checkpoint::open(folder);
  ModelOptions options{.threads = &threads};
  options.moe.activations = c.activations;
  options.moe.fp8_activations = c.fp8_activations;
  const auto model = Model::load(*checkpoint, options);

  const testing::Golden text(fs::path(MOE4_EMBEDDED_MODELS) / "heldout_tokens.safetensors");
  const std::vector<int32_t> tokens = text.ints("tokens");
  constexpr size_t kRow = 512;
  std::vector<std::vector<int32_t>> rows;
  for (size_t i = 0; i < tokens.size(); i += kRow) {
    rows.emplace_back(tokens.begin() + static_cast<std::ptrdiff_t>(i),
                      tokens.begin() + static_cast<std::ptrdiff_t>(i + kRow));
  }
  const PerplexityResult result = perplexity(*model, rows);
  RecordProperty("perplexity", std::to_string(result.perplexity));
  EXPECT_EQ(result.predictions, 20951);
  EXPECT_NEAR(result.perplexity / c.expected, 1.0, 3e-3) << result.perplexity;
}

INSTANTIATE_TEST_SUITE_P(All, HeldOutText, ::testing::ValuesIn(kCases));

}  // namespace
}  // namespace moe4
