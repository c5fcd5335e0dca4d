// Times a model's linears by weight format and number of tokens, against memory reads and peaks of
// the same run; prints a Markdown table:
//
//   linears [N K [TOKENS..]]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "base/aligned_buffer.h"
#include "bench/ceilings.h"
#include "ops/linear/linear_group.h"

namespace {

using namespace moe4;

struct Format {
  const char* name;
  QuantScheme scheme;
  LinearOptions options;
  DType float_dtype = DType::kBF16;
};

const Format kFormats[] = {
    {"NVFP4", kW4A4, {}},
    {"NVFP4, FP4 activations", kW4A4, {.activations = ActivationMode::kFp4}},
    {"FP8", {{QuantFormat::kFp8Tensor, false}, QuantKey{QuantFormat::kFp8Tensor, false}}, {}},
    {"BF16", kUnquantized, {}},
    {"F32", kUnquantized, {}, DType::kF32},
    {"Q8_0", {{QuantFormat::kQ8_0, false}, std::nullopt}, {}},
};

// Bytes of ordinary numbers: E4M3 from 2^-4 to 2, BF16 and F32 from 2^-31 to 2, F16 from 2^-3 to 2.
LinearWeights make_weights(const Format& format, int64_t n, int64_t k, AlignedBuffer& memory) {
  const GgmlType* type = ggml_type_of(format.scheme.weight.format);
  const int64_t weight_bytes = type != nullptr ? n * k / type->block_elements * type->block_bytes
                               : format.scheme.is_nvfp4() ? n * k / 2
                               : format.scheme.is_fp8()   ? n * k
                                                          : n * k * size_of(format.float_dtype);
  memory = AlignedBuffer(static_cast<size_t>(weight_bytes + n * k / 16));
  uint32_t state = 1;
  for (size_t i = 0; i < memory.size(); ++i) {
    state = state * 1664525u + 1013904223u;
    memory.data()[i] = static_cast<std::byte>(0x30 | ((state >> 24) & 0x0f));
  }
  LinearWeights w{.name = format.name, .out_features = n, .in_features = k};
  w.scheme = format.scheme;
  w.input_scale = DecodeScale{1.0f};
  w.weight = {.data = memory.data(), .dtype = format.float_dtype, .shape = {n, k}};
  if (type != nullptr) {
    w.weight = {.data = memory.data(), .dtype = DType::kU8, .shape = {n, weight_bytes / n}};
  } else if (format.scheme.is_nvfp4()) {
    w.weight = {.data = memory.data(), .dtype = DType::kU8, .shape = {n, k / 2}};
    w.scale = {.data = memory.data() + weight_bytes, .dtype = DType::kF8E4M3, .shape = {n, k / 16}};
  } else if (format.scheme.is_fp8()) {
    w.weight.dtype = DType::kF8E4M3;
  }
  return w;
}

double median_seconds(const Prepared<LinearGroup>& linear, int64_t tokens, ThreadPool& threads) {
  const int64_t k = linear.problem().in_features;
  const int64_t n = linear.problem().members.front().out_features;
  std::vector<float> x(tokens * padded_row(k), 0.01f), out(tokens * n);
  const Rows in = Rows::padded(x.data(), tokens, k), y = Rows::dense(out.data(), tokens, n);
  const LinearGroup::Args args{.x = in, .y = {&y, 1}};
  AlignedBuffer memory(linear.workspace_size(args) + Arena::kAlignment);
  Arena arena = Arena::within({memory.data(), memory.size()});
  Execution execution{Stream::cpu(threads), arena};
  std::vector<double> times;
  double total = 0;
  while (times.size() < 5 || (total < 0.4 && times.size() < 200)) {
    const auto start = std::chrono::steady_clock::now();
    run(linear, args, execution);
    times.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    total += times.back();
  }
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  const int64_t n = argc > 1 ? std::atoll(argv[1]) : 32768,
                k = argc > 2 ? std::atoll(argv[2]) : 2048;
  std::vector<int64_t> token_counts;
  for (int i = 3; i < argc; ++i) token_counts.push_back(std::atoll(argv[i]));
  if (token_counts.empty()) token_counts = {1, 4, 16, 64, 512};
  ThreadPool threads;
  const Ceilings ceilings = measure_ceilings(threads);
  DramProbe dram(threads);
  std::printf("%lld x %lld; peaks: int8 %.0f, int16 %.0f, FMA %.0f GOP/s\n\n",
              static_cast<long long>(n), static_cast<long long>(k), ceilings.int8_gops,
              ceilings.int16_gops, ceilings.fma_gops);
  std::printf("| weights | tokens | ms | GB/s | read share | GOP/s |\n|---|---|---|---|---|---|\n");
  for (const Format& format : kFormats) {
    AlignedBuffer memory;
    const LinearGroup::Weights weights{{make_weights(format, n, k, memory)}};
    const auto linear =
        prepare<LinearGroup>(LinearGroup::problem_of(weights, std::vector{format.options}), weights,
                             {.threads = &threads});
    for (const int64_t tokens : token_counts) {
      const double before = dram.measure();
      const double seconds = median_seconds(*linear, tokens, threads);
      const double reads = 0.5 * (before + dram.measure());
      const double gbs = static_cast<double>(linear->weight_bytes()) / seconds * 1e-9;
      std::printf("| %s | %lld | %.3f | %.1f | %.0f %% | %.0f |\n", format.name,
                  static_cast<long long>(tokens), seconds * 1e3, gbs, 100 * gbs / reads,
                  2e-9 * static_cast<double>(n * k * tokens) / seconds);
    }
  }
}
