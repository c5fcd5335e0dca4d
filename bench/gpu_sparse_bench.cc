// gpu_sparse_bench CALLS [JSON]: times what sparse attention does on GPU 0 with the sizes of
// DeepSeek-V3.2: IndexToCache, ChooseKeys and LatentAttention over the chosen keys, beside
// LatentAttention over all keys.
//
//   gpu_sparse_bench 1x8192,32x8192/16384,2048p8192 sparse.json
//
// CALLS: sequences x tokens of their contexts / what a graph would be recorded for; or tokens of a
// prompt's piece, p, keys at its end. A figure is the median of replays of a CUDA graph of
// dependent calls, over caches that are larger together than the L2 for generated tokens. The
// floors are cold reads of all index keys and of the chosen latents.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <functional>
#include <memory>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "device/cuda/describe_device.h"
#include "device_rows.h"
#include "ops/choose_keys/choose_keys.h"
#include "ops/experts/bench/cold_read.h"
#include "ops/experts/bench/timed_graph.h"
#include "ops/index_to_cache/index_to_cache.h"
#include "ops/latent_attention/latent_attention.h"
#include "sparse_call.h"

namespace {

using namespace moe4;
using namespace moe4::bench;

constexpr int64_t kMost = 2048, kRope = 64;
constexpr IndexToCache::Problem kIndex{.dim = 128, .rotary_dim = kRope};
constexpr ChooseKeys::Problem kChoose{
    .num_heads = 64, .dim = 128, .rotary_dim = kRope, .most = kMost};

LatentAttention::Problem attention_problem(int64_t num_chosen) {
  return {.num_heads = 128,
          .nope_dim = 128,
          .rope_dim = kRope,
          .latent_dim = 512,
          .value_dim = 128,
          .scale = 0.07f,
          .num_chosen = num_chosen};
}

struct Ops {
  std::unique_ptr<Prepared<IndexToCache>> index;
  std::unique_ptr<Prepared<ChooseKeys>> choose;
  std::unique_ptr<Prepared<LatentAttention>> chosen, all;
};

struct Measured {
  double index_us = 0, choose_us = 0, chosen_us = 0, all_us = 0;
  int64_t index_bytes = 0, chosen_bytes = 0;
};

Measured time_call(const Ops& ops, const Call& call, cudaStream_t stream, const Device& device) {
  const Stream on{.device = device, .handle = stream};
  const int64_t pages = ceil_div(call.keys, kPageTokens), tokens = call.seqs * call.tokens;
  const int64_t index_unit = cache_unit_bytes(kIndex.cache());
  const int64_t latent_unit = (512 + kRope) * kPageTokens * int64_t{2};
  const int64_t index_bytes = call.seqs * pages * index_unit;
  const int64_t latent_bytes = call.seqs * pages * latent_unit;
  const int64_t copies =
      call.is_prompt ? 1 : std::clamp<int64_t>((int64_t{200} << 20) / index_bytes, 2, 64);
  const CalledBatch called(call);
  const Batch& batch = called.batch;
  const std::vector<uint16_t> some = values(int64_t{1} << 22);
  const auto index_cache = cuda::allocate_device<std::byte>(copies * index_bytes);
  const auto latent_cache = cuda::allocate_device<std::byte>(copies * latent_bytes);
  fill(index_cache.get(), copies * index_bytes, some);
  fill(latent_cache.get(), copies * latent_bytes, some);
  const DeviceRows k(tokens, kIndex.dim, RowFormat::kBf16);
  const DeviceRows q_index(tokens, kChoose.num_heads * kChoose.dim, RowFormat::kBf16);
  fill(q_index.memory.get(), tokens * kChoose.num_heads * kChoose.dim * 2, some);
  const DeviceRows weights(tokens, kChoose.num_heads, RowFormat::kF32);
  const DeviceRows angles(tokens, kRope, RowFormat::kF32);
  const LatentAttention::Problem& problem = ops.all->problem();
  const DeviceRows q(tokens, problem.q_width(), RowFormat::kBf16);
  const DeviceRows y(tokens, problem.y_width(), RowFormat::kBf16);
  const auto chosen = cuda::allocate_device<int32_t>(tokens * kMost);
  ChooseKeys::Args choose{.q = q_index.rows,
                          .weights = weights.rows,
                          .angles = angles.rows,
                          .batch = &batch,
                          .cache = {index_cache.get(), index_unit, 0},
                          .chosen = chosen.get()};
  LatentAttention::Args attend{.q = q.rows,
                               .angles = angles.rows,
                               .batch = &batch,
                               .cache = {latent_cache.get(), latent_unit, 0},
                               .chosen = chosen.get(),
                               .y = y.rows};
  const size_t bytes =
      std::max({ops.choose->workspace_size(choose), ops.chosen->workspace_size(attend),
                ops.all->workspace_size(attend)});
  const auto memory = cuda::allocate_device<std::byte>(static_cast<int64_t>(bytes) + 256);
  const std::span<std::byte> workspace{memory.get(), bytes};
  const int calls = call.is_prompt ? 4 : static_cast<int>(std::max<int64_t>(copies, 24));
  const auto time = [&](const std::function<void(int64_t)>& run) {
    cuda::TimedGraph graph(stream, calls, [&](int i) { run(i % copies); });
    return graph.time(9).median;
  };
  Measured m{.index_bytes = index_bytes,
             .chosen_bytes = call.seqs * std::min(call.keys, kMost) * (512 + kRope) * 2};
  m.index_us = time([&](int64_t i) {
    ops.index->run({.k = k.rows,
                    .angles = angles.rows,
                    .slots = called.table.slots,
                    .cache = {index_cache.get() + i * index_bytes, index_unit, 0}},
                   {}, on);
  });
  fill(index_cache.get(), copies * index_bytes, some);
  m.choose_us = time([&](int64_t i) {
    choose.cache.data = index_cache.get() + i * index_bytes;
    ops.choose->run(choose, workspace, on);
  });
  const auto attention = [&](const Prepared<LatentAttention>& op) {
    return time([&](int64_t i) {
      attend.cache.data = latent_cache.get() + i * latent_bytes;
      op.run(attend, workspace, on);
    });
  };
  m.chosen_us = attention(*ops.chosen);
  m.all_us = attention(*ops.all);
  return m;
}

int run(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "gpu_sparse_bench CALLS [JSON]\n");
    return 2;
  }
  const Device device = cuda::describe_device(0);
  if (device.is_cpu()) throw Error(ErrorCode::kUnavailable, "no NVIDIA GPU");
  cudaStream_t stream = nullptr;
  MOE4_CUDA_CHECK(cudaStreamCreate(&stream));
  ThreadPool threads;
  const OpOptions options{.device = device, .threads = &threads};
  const std::vector<float> ones(static_cast<size_t>(kIndex.dim), 1.0f);
  const TensorRef norm{"norm", {.data = ones.data(), .dtype = DType::kF32, .shape = {kIndex.dim}}};
  const LatentAttention::Problem problem = attention_problem(kMost);
  const int64_t rows = problem.num_heads * (problem.nope_dim + problem.value_dim);
  const std::vector<uint16_t> kv_b = values(rows * problem.latent_dim);
  const LatentAttention::Weights up{.kv_b = {.name = "kv_b_proj",
                                             .out_features = rows,
                                             .in_features = problem.latent_dim,
                                             .weight = {.data = kv_b.data(),
                                                        .dtype = DType::kBF16,
                                                        .shape = {rows, problem.latent_dim}}}};
  const Ops ops{prepare<IndexToCache>(kIndex, {norm, norm}, options),
                prepare<ChooseKeys>(kChoose, {}, options),
                prepare<LatentAttention>(problem, up, options),
                prepare<LatentAttention>(attention_problem(0), up, options)};
  constexpr int64_t kReadMemory = int64_t{2} << 30;
  const auto memory = cuda::allocate_device<std::byte>(kReadMemory);
  const auto floor = [&](int64_t bytes) {
    return cuda::time_cold_read(memory.get(), kReadMemory, static_cast<size_t>(bytes), stream);
  };
  std::string json;
  std::printf(
      "| call | index us | choose us | floor us | chosen us | floor us | all keys us |\n"
      "|---|---|---|---|---|---|---|\n");
  std::istringstream calls(argv[1]);
  for (std::string text; std::getline(calls, text, ',');) {
    const Measured m = time_call(ops, Call(text), stream, device);
    const double index_floor = floor(m.index_bytes), chosen_floor = floor(m.chosen_bytes);
    std::printf("| %s | %.2f | %.2f | %.2f | %.2f | %.2f | %.2f |\n", text.c_str(), m.index_us,
                m.choose_us, index_floor, m.chosen_us, chosen_floor, m.all_us);
    std::fflush(stdout);
    json += fmt::format(
        "{}{{\"call\": \"{}\", \"index_us\": {:.3f}, \"choose_us\": {:.3f}, "
        "\"index_floor_us\": {:.3f}, \"chosen_us\": {:.3f}, \"chosen_floor_us\": {:.3f}, "
        "\"all_us\": {:.3f}}}",
        json.empty() ? "" : ",\n  ", text, m.index_us, m.choose_us, index_floor, m.chosen_us,
        chosen_floor, m.all_us);
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
