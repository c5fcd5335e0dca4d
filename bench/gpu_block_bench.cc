// gpu_block_bench CALLS [JSON]: times what attention to chosen blocks of keys does on GPU 0 with
// the sizes of MiniMax-M3: QkvToCache of the indexer, ChooseBlocks and BlockAttention, beside
// PagedAttention to all keys.
//
//   gpu_block_bench 1x8192,32x8192/16384,2048p8192 blocks.json
//
// CALLS as those of gpu_sparse_bench. A figure is the median of replays of a CUDA graph of
// dependent calls, over caches that are larger together than the L2 for generated tokens. The
// floors are cold reads of all index keys and of the chosen keys and values.
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
#include "ops/attention/paged_attention.h"
#include "ops/block_attention/block_attention.h"
#include "ops/choose_blocks/choose_blocks.h"
#include "ops/experts/bench/cold_read.h"
#include "ops/experts/bench/timed_graph.h"
#include "ops/qkv_to_cache/qkv_to_cache.h"
#include "sparse_call.h"

namespace {

using namespace moe4;
using namespace moe4::bench;

constexpr int64_t kHeads = 64, kKvHeads = 4, kDim = 128, kRotary = 64;
constexpr int64_t kBlock = 128, kMost = 16;
constexpr float kScale = 0.09f;

QkvToCache::Problem index_problem() {
  return {.num_heads = kKvHeads,
          .num_kv_heads = 1,
          .head_dim = kDim,
          .rotary_dim = kRotary,
          .norm = NormSpec{.eps = 1e-6f, .one_plus = true},
          .keys_alone = true};
}
constexpr ChooseBlocks::Problem kChoose{
    .num_heads = kKvHeads, .dim = kDim, .block_size = kBlock, .most = kMost, .local = 1};
constexpr BlockAttention::Problem kChosen{.num_heads = kHeads,
                                          .num_kv_heads = kKvHeads,
                                          .head_dim = kDim,
                                          .scale = kScale,
                                          .block_size = kBlock,
                                          .num_chosen = kMost};
constexpr PagedAttention::Problem kAll{
    .num_heads = kHeads, .num_kv_heads = kKvHeads, .head_dim = kDim, .scale = kScale};

struct Ops {
  std::unique_ptr<Prepared<QkvToCache>> index;
  std::unique_ptr<Prepared<ChooseBlocks>> choose;
  std::unique_ptr<Prepared<BlockAttention>> chosen;
  std::unique_ptr<Prepared<PagedAttention>> all;
};

struct Measured {
  double index_us = 0, choose_us = 0, chosen_us = 0, all_us = 0;
  int64_t index_bytes = 0, chosen_bytes = 0;
};

Measured time_call(const Ops& ops, const Call& call, cudaStream_t stream, const Device& device) {
  const Stream on{.device = device, .handle = stream};
  const int64_t pages = ceil_div(call.keys, kPageTokens), tokens = call.seqs * call.tokens;
  const int64_t index_unit = cache_unit_bytes(kChoose.cache());
  const int64_t key_unit = cache_unit_bytes(kAll.cache());
  const int64_t index_bytes = call.seqs * pages * index_unit;
  const int64_t key_bytes = call.seqs * pages * key_unit;
  const int64_t copies =
      call.is_prompt ? 1 : std::clamp<int64_t>((int64_t{200} << 20) / index_bytes, 2, 64);
  const CalledBatch called(call);
  const Batch& batch = called.batch;
  const std::vector<uint16_t> some = values(int64_t{1} << 22);
  const auto index_cache = cuda::allocate_device<std::byte>(copies * index_bytes);
  const auto key_cache = cuda::allocate_device<std::byte>(copies * key_bytes);
  fill(index_cache.get(), copies * index_bytes, some);
  fill(key_cache.get(), copies * key_bytes, some);
  const DeviceRows index_q(tokens, kKvHeads * kDim, RowFormat::kF32);
  const DeviceRows index_k(tokens, kDim, RowFormat::kF32);
  const DeviceRows index_queries(tokens, kKvHeads * kDim, RowFormat::kF32);
  fill(index_q.memory.get(), tokens * kKvHeads * kDim * 4, some);
  const DeviceRows angles(tokens, kRotary, RowFormat::kF32);
  const DeviceRows queries(tokens, kHeads * kDim, RowFormat::kF32);
  const DeviceRows y(tokens, kHeads * kDim, RowFormat::kBf16);
  const auto chosen = cuda::allocate_device<int32_t>(tokens * kKvHeads * kMost);
  const auto index = [&](int64_t i) {
    ops.index->run({.q = index_q.rows,
                    .k = index_k.rows,
                    .angles = angles.rows,
                    .slots = called.table.slots,
                    .cache = {index_cache.get() + i * index_bytes, index_unit, 0},
                    .queries = index_queries.rows},
                   {}, on);
  };
  ChooseBlocks::Args choose{.q = index_queries.rows,
                            .batch = &batch,
                            .cache = {index_cache.get(), index_unit, 0},
                            .chosen = chosen.get()};
  BlockAttention::Args attend{.queries = queries.rows,
                              .batch = &batch,
                              .cache = {key_cache.get(), key_unit, 0},
                              .chosen = chosen.get(),
                              .y = y.rows};
  PagedAttention::Args attend_to_all{
      .queries = queries.rows, .batch = &batch, .cache = attend.cache, .y = y.rows};
  const size_t bytes =
      std::max({ops.choose->workspace_size(choose), ops.chosen->workspace_size(attend),
                ops.all->workspace_size(attend_to_all)});
  const auto memory = cuda::allocate_device<std::byte>(static_cast<int64_t>(bytes) + 256);
  const std::span<std::byte> workspace{memory.get(), bytes};
  const int calls = call.is_prompt ? 4 : static_cast<int>(std::max<int64_t>(copies, 24));
  const auto time = [&](const std::function<void(int64_t)>& run) {
    cuda::TimedGraph graph(stream, calls, [&](int i) { run(i % copies); });
    return graph.time(9).median;
  };
  Measured m{
      .index_bytes = index_bytes,
      .chosen_bytes = call.seqs * kKvHeads * std::min(call.keys, kBlock * kMost) * kDim * 2 * 2};
  m.index_us = time(index);
  m.choose_us = time([&](int64_t i) {
    choose.cache.data = index_cache.get() + i * index_bytes;
    ops.choose->run(choose, workspace, on);
  });
  m.chosen_us = time([&](int64_t i) {
    attend.cache.data = key_cache.get() + i * key_bytes;
    ops.chosen->run(attend, workspace, on);
  });
  m.all_us = time([&](int64_t i) {
    attend_to_all.cache.data = key_cache.get() + i * key_bytes;
    ops.all->run(attend_to_all, workspace, on);
  });
  return m;
}

int run(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "gpu_block_bench CALLS [JSON]\n");
    return 2;
  }
  const Device device = cuda::describe_device(0);
  if (device.is_cpu()) throw Error(ErrorCode::kUnavailable, "no NVIDIA GPU");
  cudaStream_t stream = nullptr;
  MOE4_CUDA_CHECK(cudaStreamCreate(&stream));
  ThreadPool threads;
  const OpOptions options{.device = device, .threads = &threads};
  const std::vector<float> zeros(static_cast<size_t>(kDim), 0.0f);
  const TensorRef norm{"norm", {.data = zeros.data(), .dtype = DType::kF32, .shape = {kDim}}};
  const Ops ops{prepare<QkvToCache>(index_problem(), {.q_norm = norm, .k_norm = norm}, options),
                prepare<ChooseBlocks>(kChoose, {}, options),
                prepare<BlockAttention>(kChosen, {}, options),
                prepare<PagedAttention>(kAll, {}, options)};
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
