// gpu_moe_bench SHAPES TOKENS BACKENDS [CEILING_TFLOPS] [JSON] [TUNING...]: times MoE layers on GPU
// 0.
//
//   gpu_moe_bench A,B 1,2,4,8 marlin 789 results.json
//   gpu_moe_bench A 64,96 hopper 789 paths.json hopper.min_tokens=0 hopper.tiles=16
//
// TOKENS: numbers of tokens of a call; "256d" are generated ones, "256p" those of prompts.
// CEILING_TFLOPS: of dense BF16 products; 0, the default, measures it.
// SHAPES: names of moe/layer_presets.h ("nemotron-3-nano", "kimi-k2/32": 32 of its experts) with
// their published weights, or letters with NVFP4 ones: A Qwen3.6-35B-A3B, B Qwen3-30B-A3B, C
// DeepSeek-V3 with 32 experts, G gpt-oss-120b. "A+1": and an expert that every token takes;
// "A-mxfp4": MXFP4 weights.
#include <array>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "device/cuda/describe_device.h"
#include "moe/layer_presets.h"
#include "moe/selector.h"
#include "ops/experts/bench/gpu_moe_bench.h"
#include "ops/experts/registry.h"

namespace {

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

// Layers under letters have NVFP4 weights without biases, whatever is published.
moe4::MoePreset layer_of(const std::string& shape) {
  constexpr std::array<std::pair<const char*, const char*>, 4> kLetters = {{
      {"A", "qwen3.6-35b-a3b"},
      {"B", "qwen3-30b-a3b"},
      {"C", "deepseek-v3/32"},
      {"G", "gpt-oss-120b"},
  }};
  for (const auto& [letter, name] : kLetters) {
    if (shape != letter) continue;
    moe4::MoePreset layer = moe4::moe_preset(name);
    layer.scheme = moe4::kW4A16;
    layer.has_bias = false;
    return layer;
  }
  return moe4::moe_preset(shape);
}

// "A+1-mxfp4": the layer, how many experts every token takes, and the weights.
moe4::MoePreset parse_shape(std::string text) {
  constexpr std::string_view kMxfp4 = "-mxfp4";
  const bool mxfp4 = text.ends_with(kMxfp4);
  if (mxfp4) text.resize(text.size() - kMxfp4.size());
  const size_t plus = text.find('+');
  moe4::MoePreset layer = layer_of(text.substr(0, plus));
  if (mxfp4) layer.scheme = moe4::kMxfp4W4A16;
  if (plus != std::string::npos) {
    layer.problem = moe4::with_shared_experts(layer.problem, std::stoll(text.substr(plus + 1)));
  }
  return layer;
}

int run(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr,
                 "gpu_moe_bench SHAPES TOKENS BACKENDS [CEILING_TFLOPS] [JSON] [TUNING...]\n");
    return 2;
  }
  moe4::register_builtin_backends();
  moe4::ThreadPool threads;
  std::vector<const moe4::ExpertsBackend*> backends;
  for (const std::string& name : split(argv[3])) {
    for (const moe4::ExpertsBackend* backend : moe4::registered_backends()) {
      if (backend->name() == name) backends.push_back(backend);
    }
    if (backends.empty() || backends.back()->name() != name) {
      throw moe4::Error(moe4::ErrorCode::kUsage, "unknown backend '" + name + "'");
    }
  }
  moe4::Tuning tuning;
  if (argc > 6) tuning = moe4::parse_tuning({argv + 6, argv + argc});
  std::vector<int64_t> tokens;
  std::vector<moe4::TokenPhase> phases;
  for (const std::string& t : split(argv[2])) {
    tokens.push_back(std::stoll(t));
    phases.push_back(t.back() == 'd'   ? moe4::TokenPhase::kDecode
                     : t.back() == 'p' ? moe4::TokenPhase::kPrompt
                                       : moe4::TokenPhase::kUnknown);
  }
  moe4::GpuMoeBenchReport all;
  for (const std::string& shape : split(argv[1])) {
    moe4::GpuMoeBenchReport report = moe4::run_gpu_moe_bench({
        .name = shape,
        .layer = parse_shape(shape),
        .tokens = tokens,
        .phases = phases,
        .backends = backends,
        .device = moe4::cuda::describe_device(0),
        .threads = &threads,
        .tuning = tuning,
        .bf16_tflops = argc > 4 ? std::stod(argv[4]) : 0.0,
    });
    std::printf("%s\n", to_markdown(report).c_str());
    std::fflush(stdout);
    all.add(report);
  }
  if (argc > 5) std::ofstream(argv[5]) << to_json(all) << "\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const moe4::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
}
