// ChooseKeys on NVIDIA GPUs: scores of some tokens side by side, then the largest of each.
#include "ops/choose_keys/choose_keys.h"

#include <algorithm>

#include "ops/choose_keys/cuda/kernels.h"
#include "ops/cuda/device_values.h"
#include "ops/cuda/implementation.h"

namespace moe4 {
namespace {

using namespace cuda;

// What scores may take: those of 1024 tokens with 32768 keys. Not part of the arithmetic.
constexpr int64_t kRankBytes = int64_t{128} << 20;
// Keys of a block: as many as leave every processor two blocks, since each puts the queries of its
// token into shared memory first, which takes as long as some hundred keys.
constexpr int64_t kMostKeys = 4096, kBlocksOfProcessor = 2;

class CudaChooseKeys final : public Prepared<ChooseKeys> {
 public:
  CudaChooseKeys(const ChooseKeys::Problem& problem, const ChooseKeys::Weights&,
                 const OpOptions& options)
      : Prepared(problem), dependent_(options.device.sm >= 90) {
    const DeviceGuard guard(options.device.index);
    MOE4_CUDA_CHECK(cudaDeviceGetAttribute(&num_processors_, cudaDevAttrMultiProcessorCount,
                                           options.device.index));
    prepare_ranks(static_cast<int>(problem.num_heads));
  }

  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return 0; }
  // For a bound and all that is smaller.
  size_t workspace_size(const ChooseKeys::Args& bound) const override {
    const Batch& batch = *bound.batch;
    if (max_keys(batch) <= problem().most) return 0;
    const int64_t of_token = rank_stride(batch) * int64_t{sizeof(uint32_t)};
    Arena arena = Arena::measuring();
    arena.bytes(std::max(of_token, std::min(batch.num_tokens * of_token, kRankBytes)));
    return arena.peak();
  }

  void run(const ChooseKeys::Args& args, std::span<std::byte> workspace,
           const Stream& stream) const override {
    const Batch& batch = *args.batch;
    if (batch.num_tokens == 0 || batch.num_seqs == 0) return;
    MOE4_CHECK(args.angles.format == RowFormat::kF32);
    ChooseParams params = make_params(args);
    ChooseLaunch how{.num_tokens = static_cast<int>(batch.num_tokens),
                     .stream = static_cast<cudaStream_t>(stream.handle),
                     .dependent = dependent_};
    if (max_keys(batch) <= problem().most) return take_largest(params, how);  // all keys
    params.rank_stride = rank_stride(batch);
    const int64_t of_token = params.rank_stride * int64_t{sizeof(uint32_t)};
    const int64_t most = std::clamp<int64_t>(kRankBytes / of_token, 1, batch.num_tokens);
    Arena arena(workspace);
    params.ranks = arena.take<uint32_t>(most * params.rank_stride);
    for (int64_t first = 0; first < batch.num_tokens; first += most) {
      params.first_token = static_cast<int>(first);
      how.num_tokens = static_cast<int>(std::min(most, batch.num_tokens - first));
      rank_keys(params, span_of(how.num_tokens, max_keys(batch)), max_keys(batch), how);
      take_largest(params, how);
    }
  }

 private:
  int64_t max_keys(const Batch& batch) const { return batch.max_context / problem().ratio; }
  int64_t rank_stride(const Batch& batch) const {
    return round_up(max_keys(batch), int64_t{kKeysOfScoreBlock});
  }
  int span_of(int64_t tokens, int64_t keys) const {
    int64_t span = kMostKeys;
    while (span > kKeysOfScoreBlock &&
           tokens * ceil_div(keys, span) < kBlocksOfProcessor * num_processors_) {
      span /= 2;
    }
    return static_cast<int>(span);
  }

  ChooseParams make_params(const ChooseKeys::Args& args) const {
    const ChooseKeys::Problem& p = problem();
    const Batch& batch = *args.batch;
    const CacheTable& table = batch.tables[args.cache.table];
    return {.q = args.q.data,
            .q_stride = args.q.stride,
            .weights = args.weights.data,
            .weight_stride = args.weights.stride,
            .q_is_bf16 = args.q.format == RowFormat::kBf16,
            .weights_are_bf16 = args.weights.format == RowFormat::kBf16,
            .angles = args.angles.row(0),
            .angle_stride = args.angles.stride,
            .positions = batch.positions,
            .query_start = batch.query_start,
            .blocks = table.blocks,
            .num_seqs = static_cast<int>(batch.num_seqs),
            .max_blocks = table.max_blocks,
            .pages = args.cache.data,
            .page_bytes = args.cache.unit_bytes,
            .num_heads = static_cast<int>(p.num_heads),
            .dim = static_cast<int>(p.dim),
            .half = static_cast<int>(p.rotary_dim / 2),
            .turned = static_cast<int>(p.rotates_end ? p.dim - p.rotary_dim : 0),
            .rotates_pairs = p.rotates_pairs,
            .are_shared = p.ratio > 1,
            .by_ratio = Divisor(p.ratio),
            .places = SharedKeyPlaces(p.ratio),
            .most = static_cast<int>(p.most),
            .first_token = 0,
            .ranks = nullptr,
            .rank_stride = 0,
            .chosen = args.chosen};
  }

  int num_processors_ = 0;
  bool dependent_;
};

}  // namespace

template <>
std::unique_ptr<Prepared<ChooseKeys>> prepare_on_cuda<ChooseKeys>(
    const ChooseKeys::Problem& problem, const ChooseKeys::Weights& weights,
    const OpOptions& options) {
  return std::make_unique<CudaChooseKeys>(problem, weights, options);
}

}  // namespace moe4
