// PagedAttention on NVIDIA GPUs: sequences that generate are split along their keys, prompts are
// done in tiles of queries.
#include <algorithm>
#include <bit>
#include <limits>
#include <numbers>

#include "base/checked_math.h"
#include "ops/attention/cuda/params.h"
#include "ops/cuda/device_values.h"
#include "ops/cuda/implementation.h"

namespace moe4 {
namespace {

using namespace cuda;

constexpr double kLog2E = std::numbers::log2e;

// Keys of a block in decode, see SplitShape.
constexpr int kSpanShifts[] = {10, 8, 6};
// One sequence of 8192 tokens takes 21.6 us in spans of 64, 14.9 in spans of 256; of 1024
// tokens 6.4 and 13.2.
constexpr int64_t kMostPages = 64;
constexpr int64_t kFirstRung = 1024;  // engine/decode_sizes.h
// Tiles of rows that may be merged by their last block, and spans that are not too many for it: a
// launch of merge_splits() takes as long as it takes for about 8.
constexpr int64_t kTickets = 4096;
constexpr int kMostSpansOfBlock = 16;

class CudaPagedAttention final : public Prepared<PagedAttention> {
 public:
  CudaPagedAttention(const PagedAttention::Problem& problem, const PagedAttention::Weights& weights,
                     const OpOptions& options)
      : Prepared(problem), dependent_(options.device.sm >= 90) {
    const DeviceGuard guard(options.device.index);
    std::vector<float> sinks = sink_values(problem, weights);
    for (float& sink : sinks) sink = static_cast<float>(static_cast<double>(sink) * kLog2E);
    sinks_ = to_device<float>(sinks);
    tickets_ = to_device<int32_t>(std::vector<int32_t>(kTickets, 0));
    int max_shared = 0;
    MOE4_CUDA_CHECK(cudaDeviceGetAttribute(&max_shared, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                           options.device.index));
    MOE4_CUDA_CHECK(cudaDeviceGetAttribute(&num_processors_, cudaDevAttrMultiProcessorCount,
                                           options.device.index));
    const auto panels = std::bit_ceil(static_cast<unsigned>(ceil_div(problem.head_dim, 64)));
    const bool wide = panels > 4;
    shape_.key_panels = wide ? kMaxKeyPanels : static_cast<int>(panels);
    shape_.value_panels = wide ? 8 : static_cast<int>(panels);
    shape_.seen = problem.num_chosen == 0    ? SeenKeys::kAll
                  : problem.chooses_blocks() ? SeenKeys::kChosenBlocks
                                             : SeenKeys::kChosenKeys;
    bool fits = prepare_split(shape_, max_shared);
    if (!wide && shape_.seen != SeenKeys::kChosenKeys) {
      prompt_shape_ = shape_;
      prompt_shape_.prompt_heads = group() % 2 == 0 ? 2 : 1;
      fits = fits && prepare_prompts(prompt_shape_, max_shared);
      prompt_shape_.prompts_sm90 = options.device.sm == 90 && prepare_prompts_sm90(prompt_shape_);
    }
    if (!fits) {
      throw Error(ErrorCode::kUnavailable,
                  "paged_attention: heads of " + std::to_string(problem.head_dim) +
                      " need more shared memory than the " + std::to_string(max_shared) +
                      " bytes that a block may have on " + to_string(options.device));
    }
  }

  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return problem().sinks ? problem().num_heads * int64_t{sizeof(float)} : 0;
  }

  // For a bound and all that is smaller: short spans are taken only where longer ones would make
  // fewer blocks than there are processors, of contexts a quarter as long, and are a quarter as
  // long.
  size_t workspace_size(const PagedAttention::Args& bound) const override {
    const Batch& batch = *bound.batch;
    if (batch.num_decodes == 0) return 0;
    const int64_t rows = group() * batch.query_of_decode;
    const int64_t longest = batch.num_decodes * spans(batch, kSpanShifts[0]);
    const int64_t shortest = batch.num_decodes * spans(batch, kSpanShifts[2]);
    const int64_t few = 16 * ceil_div(int64_t{num_processors_}, problem().num_kv_heads);
    const int64_t partials =
        std::max(longest, std::min(shortest, few)) * problem().num_kv_heads * rows;
    Arena arena = Arena::measuring();
    arena.take<float>(partials * problem().value_dim());
    arena.take<float2>(partials);
    return arena.peak();
  }

  void run(const PagedAttention::Args& args, std::span<std::byte> workspace,
           const Stream& stream) const override {
    const Batch& batch = *args.batch;
    if (batch.num_tokens == 0 || batch.num_seqs == 0) return;
    MOE4_CHECK(args.queries.format == RowFormat::kF32);
    const AttentionParams params = make_params(args);
    const KernelLaunch how{static_cast<cudaStream_t>(stream.handle), dependent_};
    const auto decodes = static_cast<int>(batch.num_decodes);
    if (decodes > 0) run_decodes(params, batch, workspace, how);
    const auto prompts = static_cast<int>(batch.num_seqs) - decodes;
    const auto max_query = static_cast<int>(batch.max_query);
    if (prompts == 0 || max_query == 0) return;
    if (prompt_shape_.prompts_sm90) {
      attend_prompts_sm90(prompt_shape_, params, decodes, prompts, max_query, how);
    } else if (prompt_shape_.prompt_heads > 0) {
      attend_prompts(prompt_shape_, params, decodes, prompts, max_query, how);
    }
    const bool all_done = prompt_shape_.prompt_heads > 0;
    if (all_done && batch.max_context <= params.end_of_prompts) return;
    attend_split(shape_, params,
                 {.first_sequence = decodes,
                  .num_sequences = prompts,
                  .max_tokens = max_query,
                  .first_position = all_done ? params.end_of_prompts : 0,
                  .span_shift = kAllKeys,
                  .num_spans = 1},
                 how);
  }

 private:
  int64_t group() const { return problem().num_heads / problem().num_kv_heads; }

  // That a token sees, where they are chosen.
  int64_t most_keys() const {
    constexpr int64_t kAll = std::numeric_limits<int32_t>::max();
    if (problem().num_chosen == 0) return kAll;
    const int64_t keys = std::max<int64_t>(problem().block_size, 1);
    return std::min(checked_mul(problem().num_chosen, keys).value_or(kAll), kAll);
  }

  // Spans of the keys from the first that a decode's first token sees to its last token's, in
  // contexts of this length.
  int64_t spans(const Batch& batch, int shift, int64_t context) const {
    const int64_t keys = int64_t{1} << shift;
    const int64_t all = ceil_div(std::min(context, most_keys()), keys);
    const int64_t most = problem().chunk > 0 ? problem().chunk : problem().window;
    if (most == 0) return all;
    return std::min(all, ceil_div(most + batch.query_of_decode - 1, keys) + 1);
  }
  int64_t spans(const Batch& batch, int shift) const {
    return spans(batch, shift, batch.max_context);
  }

  // The longest spans that give every processor a block. In a graph max_context is the bound of a
  // rung, contexts are a quarter of it or more; and pages alone may be too many to merge.
  int choose_span(const Batch& batch) const {
    const int64_t likely = std::max(batch.max_context / 4, std::min(batch.max_context, kFirstRung));
    for (const int shift : kSpanShifts) {
      if (spans(batch, kSpanShifts[2]) > kMostPages && shift == kSpanShifts[1]) return shift;
      if (batch.num_decodes * problem().num_kv_heads * spans(batch, shift, likely) >=
          num_processors_) {
        return shift;
      }
    }
    return kSpanShifts[2];
  }

  void run_decodes(const AttentionParams& params, const Batch& batch,
                   std::span<std::byte> workspace, const KernelLaunch& how) const {
    const int64_t rows = group() * batch.query_of_decode;
    SplitShape split{.num_sequences = static_cast<int>(batch.num_decodes),
                     .max_tokens = static_cast<int>(batch.query_of_decode)};
    split.span_shift = choose_span(batch);
    split.num_spans = static_cast<int>(spans(batch, split.span_shift));
    if (split.num_spans == 1) return attend_split(shape_, params, split, how);
    Arena arena(workspace);
    const int64_t partials = batch.num_decodes * problem().num_kv_heads * rows * split.num_spans;
    split.values = arena.take<float>(partials * problem().value_dim());
    split.sums = arena.take<float2>(partials);
    const int64_t tiles = split_row_tiles(split.max_tokens, group(), shape_.seen) *
                          problem().num_kv_heads * batch.num_decodes;
    const bool by_block = split.span_shift > kSpanShifts[2] &&
                          split.num_spans <= kMostSpansOfBlock && tiles <= kTickets;
    if (by_block) split.tickets = tickets_.get();
    attend_split(shape_, params, split, how);
    if (!by_block) merge_splits(params, split, how);
  }

  AttentionParams make_params(const PagedAttention::Args& args) const {
    const PagedAttention::Problem& p = problem();
    const Batch& batch = *args.batch;
    const CacheTable& table = batch.tables[args.cache.table];
    const bool is_fp8 = p.cache_dtype == DType::kF8E4M3;
    return {.queries = args.queries.row(0),
            .query_stride = args.queries.stride,
            .gates = args.gates.data,
            .gate_stride = args.gates.stride,
            .y = args.y.data,
            .y_stride = args.y.stride,
            .gates_are_bf16 = args.gates.format == RowFormat::kBf16,
            .y_is_bf16 = args.y.format == RowFormat::kBf16,
            .query_start = batch.query_start,
            .context_len = batch.context_len,
            .blocks = table.blocks,
            .max_blocks = table.max_blocks,
            .pages = args.cache.data,
            .page_bytes = args.cache.unit_bytes,
            .values_in_page = p.latent_dim > 0 ? 0
                                               : p.num_kv_heads * kPageTokens * p.head_dim *
                                                     size_of(p.cache_dtype),
            .sinks = sinks_.get(),
            .num_heads = static_cast<int>(p.num_heads),
            .num_kv_heads = static_cast<int>(p.num_kv_heads),
            .group = static_cast<int>(group()),
            .head_dim = static_cast<int>(p.head_dim),
            .value_dim = static_cast<int>(p.value_dim()),
            .element_bytes = static_cast<int>(size_of(p.cache_dtype)),
            .v_scale = p.value_scale * (!is_fp8            ? 1.0f
                                        : p.latent_dim > 0 ? p.k_scale
                                                           : p.v_scale),
            .latent = p.latent_dim > 0,
            .window = static_cast<int>(p.window),
            .chunk = static_cast<int>(p.chunk),
            .num_chosen = static_cast<int>(p.num_chosen),
            .block_size = static_cast<int>(p.block_size),
            .chosen = args.chosen,
            .end_of_prompts = p.chooses_blocks() ? static_cast<int>(most_keys())
                                                 : std::numeric_limits<int32_t>::max(),
            .output_gate = p.output_gate,
            .scale = static_cast<float>(static_cast<double>(p.scale) * kLog2E *
                                        static_cast<double>(is_fp8 ? p.k_scale : 1.0f))};
  }

  DeviceArray<float> sinks_;
  DeviceArray<int32_t> tickets_;
  AttentionShape shape_{}, prompt_shape_{};
  int num_processors_ = 0;
  bool dependent_;
};

}  // namespace

template <>
std::unique_ptr<Prepared<PagedAttention>> prepare_on_cuda<PagedAttention>(
    const PagedAttention::Problem& problem, const PagedAttention::Weights& weights,
    const OpOptions& options) {
  return std::make_unique<CudaPagedAttention>(problem, weights, options);
}

}  // namespace moe4
