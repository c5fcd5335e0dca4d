// gpu_moe_bench SHAPES TOKENS BACKENDS [CEILING_TFLOPS] [JSON] [TUNING...]: times MoE layers on GPU
// 0.
//
//   gpu_moe_bench A,B 1,2,4,8 marlin 789 results.json
//   gpu_moe_bench A 64,96 hopper 789 paths.json hopper.min_tokens=0 hopper.tiles=16
//
// TOKENS: numbers of tokens of a call; "256d" are generated ones, "256p" those of prompts.
// CEILING_TFLOPS: of dense BF16 products; 0, the default, measures it.
// Shapes: A Qwen3.6-35B-A3B, B Qwen3-30B-A3B, C a DeepSeek-V3-like slice of 32 experts, G
// gpt-oss-120b; "A+1": and an expert that every token takes. NVFP4 weights; MXFP4 with "-mxfp4" at
// the end.
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "device/cuda/describe_device.h"
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

moe4::MoeProblem problem_of(const std::string& shape) {
  if (shape == "A")
    return {.hidden_size = 2048,
            .intermediate_size = 512,
            .num_experts = 256,
            .num_local_experts = 256,
            .top_k = 8};
  if (shape == "B")
    return {.hidden_size = 2048,
            .intermediate_size = 768,
            .num_experts = 128,
            .num_local_experts = 128,
            .top_k = 8};
  if (shape == "C")
    return {.hidden_size = 7168,
            .intermediate_size = 2048,
            .num_experts = 32,
            .num_local_experts = 32,
            .top_k = 8};
  if (shape == "G")
    return {.hidden_size = 2880,
            .intermediate_size = 2880,
            .num_experts = 128,
            .num_local_experts = 128,
            .top_k = 4,
            .activation = {.kind = moe4::ActivationKind::kSwigluOai, .limit = 7.0f}};
  throw moe4::Error(moe4::ErrorCode::kUsage, "unknown shape '" + shape + "'; use A, B, C or G");
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
    const size_t dash = shape.find('-');
    const bool mxfp4 = dash != std::string::npos && shape.substr(dash) == "-mxfp4";
    const std::string size = mxfp4 ? shape.substr(0, dash) : shape;
    const size_t plus = size.find('+');
    const int64_t shared = plus == std::string::npos ? 0 : std::stoll(size.substr(plus + 1));
    moe4::GpuMoeBenchReport report = moe4::run_gpu_moe_bench({
        .name = shape,
        .problem = moe4::with_shared_experts(problem_of(size.substr(0, plus)), shared),
        .scheme = mxfp4 ? moe4::kMxfp4W4A16 : moe4::kW4A16,
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
    all.device = report.device;
    all.bf16_tflops = report.bf16_tflops;
    all.bf16_sustained_tflops = report.bf16_sustained_tflops;
    all.bf16_tflops_from = report.bf16_tflops_from;
    all.cold_reads.insert(all.cold_reads.end(), report.cold_reads.begin(), report.cold_reads.end());
    all.rows.insert(all.rows.end(), report.rows.begin(), report.rows.end());
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
