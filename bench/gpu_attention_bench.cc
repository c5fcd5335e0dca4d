// gpu_attention_bench CALLS [JSON]: times PagedAttention of generated tokens on GPU 0 with the
// heads of Qwen3.6-35B-A3B.
//
//   gpu_attention_bench 1x1024,32x1088/4096 attention.json
//
// CALLS: sequences x tokens of their contexts / what a graph would be recorded for. A figure is the
// median of replays of a CUDA graph of dependent calls over caches larger together than the L2; "in
// a step" is the same, with QkvToCache, between the projections of a layer. The
// floor is a cold read of as many bytes as the keys and values have.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <numeric>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "between_linears.h"
#include "device/cuda/describe_device.h"
#include "device/cuda/device_buffer.h"
#include "device_rows.h"
#include "ops/attention/paged_attention.h"
#include "ops/experts/bench/cold_read.h"
#include "ops/experts/bench/timed_graph.h"
#include "ops/qkv_to_cache/qkv_to_cache.h"

namespace {

using namespace moe4;

constexpr PagedAttention::Problem kProblem{.num_heads = 16,
                                           .num_kv_heads = 2,
                                           .head_dim = 256,
                                           .scale = 0.0625f,
                                           .output_gate = OutputGate::kSigmoidBesideQuery};
constexpr QkvToCache::Problem kQkvProblem{.num_heads = 16,
                                          .num_kv_heads = 2,
                                          .head_dim = 256,
                                          .rotary_dim = 64,
                                          .output_gate = true,
                                          .norm = NormSpec{}};

struct Measured {
  std::string call;
  int64_t cache_bytes = 0;
  double us = 0, spread = 0, floor_us = 0, in_step_us = 0;
};

Measured time_call(const Prepared<PagedAttention>& op, const Prepared<QkvToCache>& qkv,
                   const std::string& call, cudaStream_t stream, const OpOptions& options) {
  const Stream on{.device = options.device, .handle = stream};
  const size_t x = call.find('x'), bound = call.find('/');
  const int64_t seqs = std::stoll(call), keys = std::stoll(call.substr(x + 1));
  const int64_t longest = bound == std::string::npos ? keys : std::stoll(call.substr(bound + 1));
  const int64_t pages = ceil_div(keys, kPageTokens), unit = cache_unit_bytes(kProblem.cache());
  const int64_t bytes = seqs * pages * unit;
  const int64_t copies = std::clamp<int64_t>((int64_t{200} << 20) / bytes, 2, 64);
  std::vector<int32_t> starts(static_cast<size_t>(seqs + 1));
  std::vector<int32_t> blocks(static_cast<size_t>(seqs * pages));
  std::iota(starts.begin(), starts.end(), 0);
  std::iota(blocks.begin(), blocks.end(), 0);
  const auto query_start = on_device(starts), block = on_device(blocks);
  const auto context =
      on_device(std::vector<int32_t>(static_cast<size_t>(seqs), static_cast<int32_t>(keys)));
  const CacheTable table{.blocks = block.get(), .max_blocks = pages};
  const Batch batch{.num_tokens = seqs,
                    .num_seqs = seqs,
                    .num_decodes = seqs,
                    .max_query = 1,
                    .max_context = longest,
                    .query_start = query_start.get(),
                    .context_len = context.get(),
                    .tables = {&table, 1}};
  const auto cache = cuda::allocate_device<std::byte>(copies * bytes);
  MOE4_CUDA_CHECK(cudaMemset(cache.get(), 0x2c, copies * bytes));
  const DeviceRows queries(seqs, kProblem.num_heads * kProblem.head_dim, RowFormat::kF32);
  const DeviceRows gates(seqs, kProblem.gate_width(), RowFormat::kBf16);
  const DeviceRows y(seqs, kProblem.num_heads * kProblem.value_dim(), RowFormat::kBf16);
  PagedAttention::Args args{.queries = queries.rows,
                            .gates = gates.rows,
                            .batch = &batch,
                            .cache = {cache.get(), unit, 0},
                            .y = y.rows};
  const size_t workspace_bytes = op.workspace_size(args);
  const auto memory = cuda::allocate_device<std::byte>(static_cast<int64_t>(workspace_bytes) + 256);
  const std::span<std::byte> workspace{memory.get(), workspace_bytes};
  const int calls = static_cast<int>(copies) * std::max(1, 24 / static_cast<int>(copies));
  const auto run = [&](int i) {
    args.cache.data = cache.get() + i % copies * bytes;
    op.run(args, workspace, on);
  };
  cuda::TimedGraph graph(stream, calls, run);
  const cuda::GraphTime time = graph.time(9);
  const DeviceRows q(seqs, kQkvProblem.q_width(), RowFormat::kBf16);
  const DeviceRows kv(seqs, kQkvProblem.num_kv_heads * kQkvProblem.head_dim, RowFormat::kBf16);
  const DeviceRows angles(seqs, kQkvProblem.rotary_dim, RowFormat::kF32);
  std::vector<int32_t> slots(static_cast<size_t>(seqs));
  for (int64_t s = 0; s < seqs; ++s) {
    slots[static_cast<size_t>(s)] = static_cast<int32_t>(s * pages * kPageTokens + keys - 1);
  }
  const auto slot = on_device(slots);
  constexpr int64_t kHidden = 2048;
  const double in_step =
      time_between(ColdLinear(kHidden, kQkvProblem.q_width() + 2 * kv.rows.width, seqs, options),
                   ColdLinear(kProblem.num_heads * kProblem.head_dim, kHidden, seqs, options),
                   calls, on, [&](int i) {
                     qkv.run({.q = q.rows,
                              .k = kv.rows,
                              .v = kv.rows,
                              .angles = angles.rows,
                              .slots = slot.get(),
                              .cache = {cache.get() + i % copies * bytes, unit, 0},
                              .queries = queries.rows},
                             {}, on);
                     run(i);
                   });
  return {call, bytes, time.median, time.spread, 0, in_step};
}

int run(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "gpu_attention_bench CALLS [JSON]\n");
    return 2;
  }
  const Device device = cuda::describe_device(0);
  if (device.is_cpu()) throw Error(ErrorCode::kUnavailable, "no NVIDIA GPU");
  cudaStream_t stream = nullptr;
  MOE4_CUDA_CHECK(cudaStreamCreate(&stream));
  ThreadPool threads;
  const OpOptions options{.device = device, .threads = &threads};
  const auto op = prepare<PagedAttention>(kProblem, {}, options);
  const std::vector<float> ones(static_cast<size_t>(kQkvProblem.head_dim), 1.0f);
  const TensorRef norm{
      "norm", {.data = ones.data(), .dtype = DType::kF32, .shape = {kQkvProblem.head_dim}}};
  const auto qkv = prepare<QkvToCache>(kQkvProblem, {norm, norm}, options);
  constexpr int64_t kReadMemory = int64_t{2} << 30;
  const auto memory = cuda::allocate_device<std::byte>(kReadMemory);
  std::string json;
  std::printf(
      "| call | us | spread | in a step us | floor us | TB/s |\n|---|---|---|---|---|---|\n");
  std::istringstream calls(argv[1]);
  for (std::string call; std::getline(calls, call, ',');) {
    Measured m = time_call(*op, *qkv, call, stream, options);
    m.floor_us =
        cuda::time_cold_read(memory.get(), kReadMemory, static_cast<size_t>(m.cache_bytes), stream);
    std::printf("| %s | %.2f | %.3f | %.2f | %.2f | %.2f |\n", call.c_str(), m.us, m.spread,
                m.in_step_us, m.floor_us, static_cast<double>(m.cache_bytes) / m.us * 1e-6);
    std::fflush(stdout);
    json += fmt::format(
        "{}{{\"call\": \"{}\", \"us\": {:.3f}, \"spread\": {:.4f}, \"in_step_us\": {:.3f}, "
        "\"floor_us\": {:.3f}, "
        "\"cache_bytes\": {}}}",
        json.empty() ? "" : ",\n  ", call, m.us, m.spread, m.in_step_us, m.floor_us, m.cache_bytes);
  }
  if (argc > 2) std::ofstream(argv[2]) << "[\n  " << json << "\n]\n";
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
