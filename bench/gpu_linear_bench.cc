// gpu_linear_bench SHAPES CALLS [JSON]: times LinearGroup on GPU 0 with the shapes of
// Qwen3.6-35B-A3B.
//
//   gpu_linear_bench in_proj,out_proj 1d,8d,2048p linears.json
//
// CALLS: numbers of tokens, "8d" generated ones, "2048p" those of a prompt. A figure is the median
// of replays of a CUDA graph of dependent calls over copies of the weights larger together than the
// L2, so that every call reads its weights from memory.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "device/cuda/describe_device.h"
#include "device/cuda/device_buffer.h"
#include "ops/experts/bench/cold_read.h"
#include "ops/experts/bench/timed_graph.h"
#include "ops/linear/linear_group.h"

namespace {

using namespace moe4;

constexpr QuantScheme kFp8{{QuantFormat::kFp8Tensor, false}, std::nullopt};
constexpr QuantScheme kFp8Blocks{{QuantFormat::kFp8Block128, false}, std::nullopt};

struct MemberShape {
  int64_t rows;
  QuantScheme scheme;
};
struct Shape {
  std::string name;
  int64_t k;
  std::vector<MemberShape> members;
};

const std::vector<Shape> kShapes = {
    {"in_proj", 2048, {{8192, kFp8}, {4096, kFp8}, {32, kUnquantized}, {32, kUnquantized}}},
    {"in_proj_bf16", 2048, {{12352, kUnquantized}}},
    {"in_proj_blocks", 2048, {{12288, kFp8Blocks}}},
    {"in_proj_nvfp4", 2048, {{12288, kW4A16}}},
    {"out_proj", 4096, {{2048, kFp8}}},
    {"qkv", 2048, {{8192, kFp8}, {512, kFp8}, {512, kFp8}}},
    {"router", 2048, {{256, kUnquantized}, {1, kUnquantized}, {512, kW4A16}, {512, kW4A16}}},
    {"shared_down", 512, {{2048, kW4A16}}},
    {"lm_head", 2048, {{248320, kW4A16}}},
    {"lm_head_bf16", 2048, {{151936, kUnquantized}}},
};

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

/// Bytes of any value, which stay finite in every format.
std::vector<uint8_t> weight_bytes(int64_t count, uint8_t mask) {
  std::vector<uint8_t> bytes(static_cast<size_t>(count));
  uint64_t state = 1;
  for (uint8_t& byte : bytes) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    byte = static_cast<uint8_t>(state >> 56) & mask;
  }
  return bytes;
}

/// Owns the bytes of a shape's weights.
struct Weights {
  explicit Weights(const Shape& shape) {
    for (const MemberShape& m : shape.members) {
      LinearWeights w{
          .name = shape.name, .out_features = m.rows, .in_features = shape.k, .scheme = m.scheme};
      const auto keep = [&](int64_t count, uint8_t mask) {
        storage.push_back(weight_bytes(count, mask));
        return storage.back().data();
      };
      const int64_t n = m.rows * shape.k;
      if (m.scheme.is_nvfp4()) {
        w.weight = {keep(n / 2, 0xff), DType::kU8, {m.rows, shape.k / 2}};
        w.scale = {keep(n / 16, 0x3f), DType::kF8E4M3, {m.rows, shape.k / 16}};
      } else if (m.scheme.is_fp8()) {
        w.weight = {keep(n, 0xb7), DType::kF8E4M3, {m.rows, shape.k}};
        const int64_t blocks = ceil_div(m.rows, int64_t{128}), columns = shape.k / 128;
        if (m.scheme == kFp8Blocks) {
          w.scale = {keep(blocks * columns * 4, 0x3f), DType::kF32, {blocks, columns}};
        }
      } else {
        w.weight = {keep(n * 2, 0x3f), DType::kBF16, {m.rows, shape.k}};
      }
      group.members.push_back(w);
      bytes += w.weight.num_bytes() + (w.scale.empty() ? 0 : w.scale.num_bytes());
    }
  }
  std::vector<std::vector<uint8_t>> storage;
  LinearGroup::Weights group;
  int64_t bytes = 0;
};

struct Measured {
  std::string shape, call;
  int64_t weight_bytes = 0;
  double us = 0, floor_us = 0, gflop = 0;
};

Measured time_call(const Shape& shape, const Weights& weights,
                   const std::vector<std::unique_ptr<Prepared<LinearGroup>>>& ops,
                   const std::string& call, cudaStream_t stream, const Device& device) {
  const int64_t tokens = std::stoll(call);
  const auto x = cuda::allocate_device<uint16_t>(tokens * shape.k);
  MOE4_CUDA_CHECK(cudaMemset(x.get(), 0x3c, tokens * shape.k * 2));
  int64_t width = 0;
  for (const MemberShape& m : shape.members) width += padded_row(m.rows);
  const bool head = shape.name.starts_with("lm_head");
  const RowFormat format = head ? RowFormat::kF32 : RowFormat::kBf16;
  const auto y = cuda::allocate_device<std::byte>(tokens * width * element_bytes(format));
  std::vector<Rows> rows;
  int64_t at = 0;
  for (const MemberShape& m : shape.members) {
    rows.push_back({y.get() + at, format, tokens, m.rows, padded_row(m.rows)});
    at += tokens * padded_row(m.rows) * element_bytes(format);
  }
  const LinearGroup::Args args{
      .x = {reinterpret_cast<std::byte*>(x.get()), RowFormat::kBf16, tokens, shape.k, shape.k},
      .y = rows,
      .num_decode_tokens = call.back() == 'd' ? tokens : 0};
  const size_t workspace_bytes = ops[0]->workspace_size(args);
  const auto memory = cuda::allocate_device<std::byte>(static_cast<int64_t>(workspace_bytes));
  const std::span<std::byte> workspace{memory.get(), workspace_bytes};
  const auto copies = static_cast<int>(ops.size());
  const int calls = tokens > 1024 ? copies : copies * std::max(1, 24 / copies);
  cuda::TimedGraph graph(stream, calls, [&](int i) {
    ops[i % copies]->run(args, workspace, {.device = device, .handle = stream});
  });
  Measured m{.shape = shape.name, .call = call, .weight_bytes = weights.bytes};
  m.us = graph.time(9).median;
  for (const MemberShape& member : shape.members) {
    m.gflop += 2e-9 * static_cast<double>(tokens * member.rows * shape.k);
  }
  return m;
}

int run(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "gpu_linear_bench SHAPES CALLS [JSON]\n");
    return 2;
  }
  const Device device = cuda::describe_device(0);
  if (device.is_cpu()) throw Error(ErrorCode::kUnavailable, "no NVIDIA GPU");
  cudaStream_t stream = nullptr;
  MOE4_CUDA_CHECK(cudaStreamCreate(&stream));
  ThreadPool threads;
  constexpr int64_t kCold = int64_t{160} << 20, kReadMemory = int64_t{2} << 30;
  const auto memory = cuda::allocate_device<std::byte>(kReadMemory);
  std::string json;
  std::printf("| shape | call | us | floor us | TB/s | TFLOP/s |\n|---|---|---|---|---|---|\n");
  for (const std::string& name : split(argv[1])) {
    const auto shape = std::find_if(kShapes.begin(), kShapes.end(),
                                    [&](const Shape& s) { return s.name == name; });
    if (shape == kShapes.end()) throw Error(ErrorCode::kUsage, "unknown shape '" + name + "'");
    const Weights weights(*shape);
    const std::vector<LinearOptions> options(shape->members.size());
    const auto problem = LinearGroup::problem_of(weights.group, options);
    std::vector<std::unique_ptr<Prepared<LinearGroup>>> ops;
    const int64_t copies = std::clamp<int64_t>(kCold / weights.bytes, 1, 48);
    for (int64_t i = 0; i < copies; ++i) {
      ops.push_back(
          prepare<LinearGroup>(problem, weights.group, {.device = device, .threads = &threads}));
    }
    const double floor =
        cuda::time_cold_read(memory.get(), kReadMemory, static_cast<size_t>(weights.bytes), stream);
    for (const std::string& call : split(argv[2])) {
      Measured m = time_call(*shape, weights, ops, call, stream, device);
      m.floor_us = floor;
      std::printf("| %s | %s | %.2f | %.2f | %.2f | %.0f |\n", name.c_str(), call.c_str(), m.us,
                  floor, static_cast<double>(m.weight_bytes) / m.us * 1e-6, m.gflop / m.us * 1e3);
      std::fflush(stdout);
      json += fmt::format(
          "{}{{\"shape\": \"{}\", \"call\": \"{}\", \"us\": {:.3f}, \"floor_us\": {:.3f}, "
          "\"weight_bytes\": {}, \"gflop\": {:.3f}}}",
          json.empty() ? "" : ",\n  ", name, call, m.us, floor, m.weight_bytes, m.gflop);
    }
  }
  if (argc > 3) std::ofstream(argv[3]) << "[\n  " << json << "\n]\n";
  cudaStreamDestroy(stream);
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
