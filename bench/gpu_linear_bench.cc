// gpu_linear_bench SHAPES CALLS [JSON]: times LinearGroup on GPU 0 with the shapes of
// Qwen3.6-35B-A3B.
//
//   gpu_linear_bench in_proj,out_proj 1d,8d,2048p linears.json
//   gpu_linear_bench chain,norms 1d,8d,32d chain.json
//
// CALLS: numbers of tokens, "8d" generated ones, "2048p" those of a prompt. A figure is the median
// of replays of a CUDA graph of dependent calls over copies of the weights larger together than the
// L2, so that every call reads its weights from memory.
//
// `chain` is all linears of a step in its order, each with weights of its own; `norms` has AddNorm
// in front of each mixer, router and head too. What a kernel fetches before the one in front has
// ended shows here, and what it keeps that from doing.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>
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
#include "ops/norm/add_norm.h"

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

using Linears = std::vector<std::unique_ptr<Prepared<LinearGroup>>>;

const Shape& shape_of(const std::string& name) {
  const auto shape =
      std::find_if(kShapes.begin(), kShapes.end(), [&](const Shape& s) { return s.name == name; });
  if (shape == kShapes.end()) throw Error(ErrorCode::kUsage, "unknown shape '" + name + "'");
  return *shape;
}

Linears prepare_copies(const Shape& shape, const Weights& weights, int64_t copies,
                       const OpOptions& options) {
  const std::vector<LinearOptions> plain(shape.members.size());
  const auto problem = LinearGroup::problem_of(weights.group, plain);
  Linears ops;
  for (int64_t i = 0; i < copies; ++i) {
    ops.push_back(prepare<LinearGroup>(problem, weights.group, options));
  }
  return ops;
}

/// Rows that a shape's linears read and write, and the memory that they need.
class Buffers {
 public:
  Buffers(const Shape& shape, const std::string& call) : decodes_(call.back() == 'd') {
    const int64_t tokens = std::stoll(call);
    x_ = cuda::allocate_device<uint16_t>(tokens * shape.k);
    MOE4_CUDA_CHECK(cudaMemset(x_.get(), 0x3c, tokens * shape.k * 2));
    rows_of_x_ = {reinterpret_cast<std::byte*>(x_.get()), RowFormat::kBf16, tokens, shape.k,
                  shape.k};
    int64_t width = 0;
    for (const MemberShape& m : shape.members) width += padded_row(m.rows);
    const bool head = shape.name.starts_with("lm_head");
    const RowFormat format = head ? RowFormat::kF32 : RowFormat::kBf16;
    y_ = cuda::allocate_device<std::byte>(tokens * width * element_bytes(format));
    int64_t at = 0;
    for (const MemberShape& m : shape.members) {
      rows_.push_back({y_.get() + at, format, tokens, m.rows, padded_row(m.rows)});
      at += tokens * padded_row(m.rows) * element_bytes(format);
      gflop_ += 2e-9 * static_cast<double>(tokens * m.rows * shape.k);
    }
  }

  void run(const Prepared<LinearGroup>& op, const Stream& stream) {
    const LinearGroup::Args args{
        .x = rows_of_x_, .y = rows_, .num_decode_tokens = decodes_ ? rows_of_x_.rows : 0};
    if (workspace_.empty()) {
      const size_t bytes = std::max<size_t>(op.workspace_size(args), 1);
      memory_ = cuda::allocate_device<std::byte>(static_cast<int64_t>(bytes));
      workspace_ = {memory_.get(), bytes};
    }
    op.run(args, workspace_, stream);
  }
  double gflop() const { return gflop_; }

 private:
  bool decodes_;
  cuda::DeviceArray<uint16_t> x_;
  cuda::DeviceArray<std::byte> y_, memory_;
  Rows rows_of_x_;
  std::vector<Rows> rows_;
  std::span<std::byte> workspace_;
  double gflop_ = 0;
};

struct Gpu {
  OpOptions options;
  Stream stream;
  cudaStream_t handle = nullptr;
  static constexpr int64_t kReadMemory = int64_t{2} << 30;
  cuda::DeviceArray<std::byte> read_memory;

  double floor(int64_t bytes) const {
    return cuda::time_cold_read(read_memory.get(), kReadMemory, static_cast<size_t>(bytes), handle);
  }
};

std::vector<Measured> time_shape(const Shape& shape, const std::vector<std::string>& calls,
                                 const Gpu& gpu) {
  constexpr int64_t kCold = int64_t{160} << 20;
  const Weights weights(shape);
  const Linears ops = prepare_copies(
      shape, weights, std::clamp<int64_t>(kCold / weights.bytes, 1, 48), gpu.options);
  const double floor = gpu.floor(weights.bytes);
  std::vector<Measured> results;
  for (const std::string& call : calls) {
    Buffers buffers(shape, call);
    buffers.run(*ops[0], gpu.stream);  // takes its memory outside the capture
    MOE4_CUDA_CHECK(cudaStreamSynchronize(gpu.handle));
    const auto copies = static_cast<int>(ops.size());
    const int count = std::stoll(call) > 1024 ? copies : copies * std::max(1, 24 / copies);
    cuda::TimedGraph graph(gpu.handle, count,
                           [&](int i) { buffers.run(*ops[i % copies], gpu.stream); });
    results.push_back({.shape = shape.name,
                       .call = call,
                       .weight_bytes = weights.bytes,
                       .us = graph.time(9).median,
                       .floor_us = floor,
                       .gflop = buffers.gflop()});
  }
  return results;
}

/// The linears of Qwen3.6-35B-A3B in their order.
std::vector<std::string> linears_of_a_step() {
  std::vector<std::string> names;
  for (int layer = 0; layer < 40; ++layer) {
    names.push_back(layer % 4 == 3 ? "qkv" : "in_proj");
    names.insert(names.end(), {"out_proj", "router", "shared_down"});
  }
  names.push_back("lm_head");
  return names;
}

/// Weights of a step, made once for all its calls.
class Chain {
 public:
  explicit Chain(const Gpu& gpu) : gpu_(gpu), steps_(linears_of_a_step()) {
    for (const std::string& name : steps_) ++kinds_[name].copies;
    for (auto& [name, kind] : kinds_) {
      kind.shape = &shape_of(name);
      const Weights weights(*kind.shape);
      kind.ops = prepare_copies(*kind.shape, weights, kind.copies, gpu.options);
      bytes_ += kind.copies * weights.bytes;
      floor_ += static_cast<double>(kind.copies) * gpu.floor(weights.bytes);
    }
    const AddNorm::Problem problem{.width = kWidth, .norm = {.has_weight = false}};
    norm_ = prepare<AddNorm>(problem, {}, gpu.options);
  }

  Measured time(const std::string& call, bool norms) {
    const int64_t tokens = std::stoll(call);
    Measured m{.shape = norms ? "norms" : "chain",
               .call = call,
               .weight_bytes = bytes_,
               .floor_us = floor_};
    for (auto& [name, kind] : kinds_) {
      kind.buffers = std::make_unique<Buffers>(*kind.shape, call);
      kind.buffers->run(*kind.ops[0], gpu_.stream);
      m.gflop += kind.buffers->gflop() * static_cast<double>(kind.copies);
    }
    const auto memory = cuda::allocate_device<std::byte>(tokens * kWidth * 8);
    MOE4_CUDA_CHECK(cudaMemset(memory.get(), 0, tokens * kWidth * 8));
    const auto rows = [&](int64_t at, RowFormat format) {
      return Rows{memory.get() + at * tokens * kWidth, format, tokens, kWidth, kWidth};
    };
    const AddNorm::Args norm{.residual = rows(0, RowFormat::kF32),
                             .delta = rows(4, RowFormat::kBf16),
                             .y = rows(6, RowFormat::kBf16)};
    MOE4_CUDA_CHECK(cudaStreamSynchronize(gpu_.handle));
    cuda::TimedGraph graph(gpu_.handle, 1, [&](int) {
      for (auto& [name, kind] : kinds_) kind.next = 0;
      for (const std::string& name : steps_) {
        Kind& kind = kinds_.at(name);
        const bool reads_norm = name != "out_proj" && name != "shared_down";
        if (norms && reads_norm) norm_->run(norm, {}, gpu_.stream);
        kind.buffers->run(*kind.ops[kind.next++], gpu_.stream);
      }
    });
    m.us = graph.time(15).median;
    return m;
  }

 private:
  static constexpr int64_t kWidth = 2048;
  struct Kind {
    const Shape* shape = nullptr;
    int64_t copies = 0;
    size_t next = 0;
    Linears ops;
    std::unique_ptr<Buffers> buffers;
  };

  const Gpu& gpu_;
  std::vector<std::string> steps_;
  std::map<std::string, Kind> kinds_;
  std::unique_ptr<Prepared<AddNorm>> norm_;
  int64_t bytes_ = 0;
  double floor_ = 0;
};

int run(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "gpu_linear_bench SHAPES CALLS [JSON]\n");
    return 2;
  }
  const Device device = cuda::describe_device(0);
  if (device.is_cpu()) throw Error(ErrorCode::kUnavailable, "no NVIDIA GPU");
  ThreadPool threads;
  Gpu gpu{.options = {.device = device, .threads = &threads}};
  MOE4_CUDA_CHECK(cudaStreamCreate(&gpu.handle));
  gpu.stream = {.device = device, .handle = gpu.handle};
  gpu.read_memory = cuda::allocate_device<std::byte>(Gpu::kReadMemory);
  std::string json;
  std::printf("| shape | call | us | floor us | TB/s | TFLOP/s |\n|---|---|---|---|---|---|\n");
  const auto report = [&](const Measured& m) {
    std::printf("| %s | %s | %.2f | %.2f | %.2f | %.0f |\n", m.shape.c_str(), m.call.c_str(), m.us,
                m.floor_us, static_cast<double>(m.weight_bytes) / m.us * 1e-6,
                m.gflop / m.us * 1e3);
    std::fflush(stdout);
    json += fmt::format(
        "{}{{\"shape\": \"{}\", \"call\": \"{}\", \"us\": {:.3f}, \"floor_us\": {:.3f}, "
        "\"weight_bytes\": {}, \"gflop\": {:.3f}}}",
        json.empty() ? "" : ",\n  ", m.shape, m.call, m.us, m.floor_us, m.weight_bytes, m.gflop);
  };
  std::unique_ptr<Chain> chain;
  const std::vector<std::string> calls = split(argv[2]);
  for (const std::string& name : split(argv[1])) {
    if (name == "chain" || name == "norms") {
      if (chain == nullptr) chain = std::make_unique<Chain>(gpu);
      for (const std::string& call : calls) report(chain->time(call, name == "norms"));
    } else {
      for (const Measured& m : time_shape(shape_of(name), calls, gpu)) report(m);
    }
  }
  if (argc > 3) std::ofstream(argv[3]) << "[\n  " << json << "\n]\n";
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
