// ChooseBlocks on NVIDIA GPUs: ranks of runs of keys of some tokens side by side, then the blocks
// of each head.
#include "ops/choose_blocks/choose_blocks.h"

#include <algorithm>
#include <numeric>

#include "base/checked_math.h"
#include "ops/choose_blocks/cuda/kernels.h"
#include "ops/cuda/device_values.h"
#include "ops/cuda/implementation.h"

namespace moe4 {
namespace {

using namespace cuda;

// What ranks may take. Not part of the arithmetic.
constexpr int64_t kRankBytes = int64_t{128} << 20;
// Keys of a block of threads: as many as leave every processor some blocks.
constexpr int64_t kMostKeys = 4096, kBlocksOfProcessor = 4;

class CudaChooseBlocks final : public Prepared<ChooseBlocks> {
 public:
  CudaChooseBlocks(const ChooseBlocks::Problem& problem, const ChooseBlocks::Weights&,
                   const OpOptions& options)
      : Prepared(problem),
        run_keys_(std::gcd(problem.block_size, int64_t{kKeysOfRun})),
        dependent_(options.device.sm >= 90) {
    const DeviceGuard guard(options.device.index);
    MOE4_CUDA_CHECK(cudaDeviceGetAttribute(&num_processors_, cudaDevAttrMultiProcessorCount,
                                           options.device.index));
  }

  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return 0; }
  // For a bound and all that is smaller.
  size_t workspace_size(const ChooseBlocks::Args& bound) const override {
    const Batch& batch = *bound.batch;
    if (sees_all(batch)) return 0;
    const int64_t of_token = bytes_of_token(batch);
    Arena arena = Arena::measuring();
    arena.bytes(std::max(of_token, std::min(batch.num_tokens * of_token, kRankBytes)));
    return arena.peak();
  }

  void run(const ChooseBlocks::Args& args, std::span<std::byte> workspace,
           const Stream& stream) const override {
    const Batch& batch = *args.batch;
    if (batch.num_tokens == 0 || batch.num_seqs == 0) return;
    MOE4_CHECK(args.q.format == RowFormat::kF32);
    ChooseBlocksParams params = make_params(args);
    const ChooseBlocksLaunch how{static_cast<cudaStream_t>(stream.handle), dependent_};
    params.end_token = static_cast<int>(batch.num_tokens);
    if (sees_all(batch)) return take_blocks(params, how);
    params.run_stride = run_stride(batch);
    params.rank_stride = rank_stride(batch);
    const int64_t most =
        std::clamp<int64_t>(kRankBytes / bytes_of_token(batch), 1, batch.num_tokens);
    Arena arena(workspace);
    const int64_t rows = most * problem().num_heads;
    params.ranks = arena.take<uint32_t>(rows * (params.rank_stride + params.run_stride));
    params.runs = params.ranks + rows * params.rank_stride;
    const int64_t decodes = batch.num_decodes;
    for (int64_t first = 0; first < batch.num_tokens; first += most) {
      params.first_token = static_cast<int>(first);
      params.end_token = static_cast<int>(std::min(first + most, batch.num_tokens));
      // Tokens of decodes lie in front.
      if (decodes > 0 && first < decodes * batch.query_of_decode) {
        rank_sequences(params, batch, 0, decodes, batch.query_of_decode, how);
      }
      if (decodes < batch.num_seqs && batch.max_query > 0) {
        rank_sequences(params, batch, decodes, batch.num_seqs - decodes, batch.max_query, how);
      }
      take_blocks(params, how);
    }
  }

 private:
  // Whether no token leaves a block out.
  bool sees_all(const Batch& batch) const {
    return ceil_div(batch.max_context, problem().block_size) <= problem().most;
  }
  int64_t run_stride(const Batch& batch) const {
    return round_up(batch.max_context, int64_t{kKeysOfRunBlock}) / run_keys_;
  }
  int64_t rank_stride(const Batch& batch) const {
    return round_up(ceil_div(batch.max_context, problem().block_size), 4);
  }
  int64_t bytes_of_token(const Batch& batch) const {
    return problem().num_heads * (run_stride(batch) + rank_stride(batch)) *
           int64_t{sizeof(uint32_t)};
  }

  void rank_sequences(const ChooseBlocksParams& params, const Batch& batch, int64_t first_sequence,
                      int64_t count, int64_t max_tokens, const ChooseBlocksLaunch& how) const {
    const int64_t tiles = ceil_div(max_tokens, tokens_of_run_block(params.num_heads));
    int64_t span = kMostKeys;
    while (span > kKeysOfRunBlock && count * tiles * ceil_div(batch.max_context, span) <
                                         kBlocksOfProcessor * num_processors_) {
      span /= 2;
    }
    rank_runs(params,
              {.first_sequence = static_cast<int>(first_sequence),
               .num_sequences = static_cast<int>(count),
               .max_tokens = static_cast<int>(max_tokens),
               .max_context = batch.max_context,
               .span = static_cast<int>(span)},
              how);
  }

  ChooseBlocksParams make_params(const ChooseBlocks::Args& args) const {
    const ChooseBlocks::Problem& p = problem();
    const Batch& batch = *args.batch;
    const CacheTable& table = batch.tables[args.cache.table];
    return {.q = args.q.row(0),
            .q_stride = args.q.stride,
            .positions = batch.positions,
            .query_start = batch.query_start,
            .blocks = table.blocks,
            .num_seqs = static_cast<int>(batch.num_seqs),
            .max_blocks = table.max_blocks,
            .pages = args.cache.data,
            .page_bytes = args.cache.unit_bytes,
            .num_heads = static_cast<int>(p.num_heads),
            .dim = static_cast<int>(p.dim),
            .block_size = static_cast<int>(p.block_size),
            .most = static_cast<int>(p.most),
            .local = static_cast<int>(p.local),
            .run_keys = static_cast<int>(run_keys_),
            .first_token = 0,
            .end_token = 0,
            .runs = nullptr,
            .run_stride = 0,
            .ranks = nullptr,
            .rank_stride = 0,
            .chosen = args.chosen};
  }

  int64_t run_keys_;
  int num_processors_ = 0;
  bool dependent_;
};

}  // namespace

template <>
std::unique_ptr<Prepared<ChooseBlocks>> prepare_on_cuda<ChooseBlocks>(
    const ChooseBlocks::Problem& problem, const ChooseBlocks::Weights& weights,
    const OpOptions& options) {
  return std::make_unique<CudaChooseBlocks>(problem, weights, options);
}

}  // namespace moe4
