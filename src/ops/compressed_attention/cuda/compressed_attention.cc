// CompressedAttention on NVIDIA GPUs: how a call's keys are dealt over blocks.
#include "ops/compressed_attention/compressed_attention.h"

#include <algorithm>
#include <numbers>

#include "ops/compressed_attention/cuda/kernels.h"
#include "ops/cuda/device_values.h"
#include "ops/cuda/implementation.h"

namespace moe4 {
namespace {

using namespace cuda;

constexpr double kLog2E = std::numbers::log2e;
constexpr int kShifts[] = {kAllSharedKeys, 8, 6};  // of spans, longest first

class CudaCompressedAttention final : public Prepared<CompressedAttention> {
 public:
  CudaCompressedAttention(const CompressedAttention::Problem& problem,
                          const CompressedAttention::Weights& weights, const OpOptions& options)
      : Prepared(problem), dependent_(options.device.sm >= 90) {
    const DeviceGuard guard(options.device.index);
    std::vector<float> sinks = float_vector(weights.sinks, problem.num_heads);
    for (float& sink : sinks) sink = static_cast<float>(static_cast<double>(sink) * kLog2E);
    sinks_ = to_device<float>(sinks);
    int max_shared = 0;
    MOE4_CUDA_CHECK(cudaDeviceGetAttribute(&max_shared, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                           options.device.index));
    MOE4_CUDA_CHECK(cudaDeviceGetAttribute(&num_processors_, cudaDevAttrMultiProcessorCount,
                                           options.device.index));
    num_tiles_ = prepare_compressed(problem.head_dim, max_shared);
    if (num_tiles_ == 0) {
      throw Error(ErrorCode::kUnavailable,
                  "compressed_attention: heads of " + std::to_string(problem.head_dim) +
                      " need more shared memory than the " + std::to_string(max_shared) +
                      " bytes that a block may have on " + to_string(options.device));
    }
  }

  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return problem().num_heads * int64_t{sizeof(float)}; }

  // For a bound and all that is smaller: spans are taken of a length only where longer ones would
  // make fewer blocks than there are processors, and are a quarter as long.
  size_t workspace_size(const CompressedAttention::Args& bound) const override {
    const Batch& batch = *bound.batch;
    const int64_t unsplit = std::min(blocks(batch.num_tokens), int64_t{num_processors_});
    const int64_t groups = unsplit * spans(batch.max_context, kShifts[1]);
    const int64_t pages =
        std::min(unsplit * spans(batch.max_context, kShifts[2]), 4 * int64_t{num_processors_});
    Arena arena = Arena::measuring();
    take_partials(arena, kHeadsOfBlock * std::max(groups, pages));
    return arena.peak();
  }

  void run(const CompressedAttention::Args& args, std::span<std::byte> workspace,
           const Stream& stream) const override {
    const Batch& batch = *args.batch;
    if (batch.num_tokens == 0 || batch.num_seqs == 0) return;
    MOE4_CHECK(args.queries.format == RowFormat::kF32 && args.angles.format == RowFormat::kF32);
    CompressedParams params = make_params(args);
    const CompressedLaunch how{num_tiles_, static_cast<cudaStream_t>(stream.handle), dependent_};
    params.span_shift = span_shift(batch);
    params.num_spans = static_cast<int>(spans(batch.max_context, params.span_shift));
    if (params.num_spans == 1) return attend_compressed(params, how);
    Arena arena(workspace);
    const Partials partials =
        take_partials(arena, batch.num_tokens * problem().num_heads * params.num_spans);
    params.values = partials.values;
    params.sums = partials.sums;
    attend_compressed(params, how);
    merge_compressed(params, how);
  }

 private:
  struct Partials {
    float* values;
    float2* sums;
  };
  Partials take_partials(Arena& arena, int64_t count) const {
    auto* values = arena.take<float>(count * problem().head_dim);
    return {values, arena.take<float2>(count)};
  }

  // Of a token that has so many before it, with its own.
  int64_t most_keys(int64_t context) const {
    const CompressedAttention::Problem& p = problem();
    const int64_t shared = p.ratio > 0 ? context / p.ratio : 0;
    return std::min(p.window, context) +
           (p.num_chosen > 0 ? std::min(shared, p.num_chosen) : shared);
  }
  int64_t spans(int64_t context, int shift) const {
    return std::max<int64_t>(ceil_div(most_keys(context), int64_t{1} << shift), 1);
  }
  // Of a call whose keys are not dealt out.
  int64_t blocks(int64_t tokens) const {
    return tokens * ceil_div(problem().num_heads, int64_t{kHeadsOfBlock});
  }
  // The longest spans that give every processor a block.
  int span_shift(const Batch& batch) const {
    for (const int shift : kShifts) {
      const int64_t all = blocks(batch.num_tokens) * spans(batch.max_context, shift);
      if (all >= num_processors_) return shift;
    }
    return kShifts[2];
  }

  CompressedParams make_params(const CompressedAttention::Args& args) const {
    const CompressedAttention::Problem& p = problem();
    const Batch& batch = *args.batch;
    const auto pages_of = [&](const LayerCache& cache) {
      const CacheTable& table = batch.tables[cache.table];
      return KeyPages{cache.data, cache.unit_bytes, table.blocks, table.max_blocks};
    };
    return {.queries = args.queries.row(0),
            .query_stride = args.queries.stride,
            .y = args.y.data,
            .y_stride = args.y.stride,
            .y_is_bf16 = args.y.format == RowFormat::kBf16,
            .angles = args.angles.row(0),
            .angle_stride = args.angles.stride,
            .half = static_cast<int>(p.rotary_dim / 2),
            .positions = batch.positions,
            .query_start = batch.query_start,
            .num_seqs = static_cast<int>(batch.num_seqs),
            .num_tokens = static_cast<int>(batch.num_tokens),
            .window_pages = pages_of(args.cache),
            .shared_pages = p.ratio > 0 ? pages_of(args.entries) : KeyPages{},
            .window = static_cast<int>(p.window),
            .has_shared = p.ratio > 0,
            .by_ratio = Divisor(std::max<int64_t>(p.ratio, 1)),
            .places = SharedKeyPlaces(std::max<int64_t>(p.ratio, 1)),
            .num_chosen = static_cast<int>(p.num_chosen),
            .chosen = args.chosen,
            .sinks = sinks_.get(),
            .num_heads = static_cast<int>(p.num_heads),
            .head_dim = static_cast<int>(p.head_dim),
            .scale = static_cast<float>(static_cast<double>(p.scale) * kLog2E),
            .span_shift = kAllSharedKeys,
            .num_spans = 1,
            .values = nullptr,
            .sums = nullptr};
  }

  DeviceArray<float> sinks_;
  int num_processors_ = 0, num_tiles_ = 0;
  bool dependent_;
};

}  // namespace

template <>
std::unique_ptr<Prepared<CompressedAttention>> prepare_on_cuda<CompressedAttention>(
    const CompressedAttention::Problem& problem, const CompressedAttention::Weights& weights,
    const OpOptions& options) {
  return std::make_unique<CudaCompressedAttention>(problem, weights, options);
}

}  // namespace moe4
