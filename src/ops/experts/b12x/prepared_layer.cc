// prepare(): pack and upload. apply(): a fixed sequence of launches, all sizes known on the host.
#include "ops/experts/b12x/prepared_layer.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "ops/experts/gpu/download.h"
#include "ops/experts/gpu/pack_weights.h"

namespace moe4::b12x {
namespace {

// Columns of a slab of partial outputs come in whole groups of eight m32 tiles.
constexpr int64_t kSlabColumns = 8 * kTileRows;
// Up to this many pairs an expert on average, tiles of 8 tokens read the weights hardly more than
// once; beyond it tiles of 64 do.
constexpr int64_t kDecodePairsPerExpert = 6;

template <typename T>
cuda::DeviceArray<T> to_device(const std::vector<T>& values) {
  auto array = cuda::allocate_device<T>(static_cast<int64_t>(values.size()));
  if (!values.empty()) {
    MOE4_CUDA_CHECK(
        cudaMemcpy(array.get(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  return array;
}

struct Event {
  Event() { MOE4_CUDA_CHECK(cudaEventCreateWithFlags(&handle, cudaEventDisableTiming)); }
  ~Event() { cudaEventDestroy(handle); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t handle = nullptr;
};

[[noreturn]] void throw_usage(const std::string& what) {
  throw Error(ErrorCode::kUsage, "b12x: " + what);
}

}  // namespace

PreparedLayer::PreparedLayer(const MoeLayerWeights& weights, const PrepareOptions& options)
    : problem_(weights.problem),
      fp4_(options.precision != ActivationPrecision::kBf16),
      calibrated_(options.precision == ActivationPrecision::kFp4Static),
      fc1_(fc1_matrix(weights.problem)),
      fc2_(fc2_matrix(weights.problem)),
      scales_(make_layer_scales(weights, options.precision)),
      device_(options.device.index) {
  MOE4_CHECK(options.threads != nullptr && !weights.experts.empty());
  const cuda::DeviceGuard guard(device_);
  int major = 0, l2_bytes = 0, multiprocessors = 0;
  MOE4_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device_));
  MOE4_CUDA_CHECK(cudaDeviceGetAttribute(&l2_bytes, cudaDevAttrL2CacheSize, device_));
  MOE4_CUDA_CHECK(
      cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device_));
  dependent_launch_ = major >= 9;
  // FC2 of the few-tokens shape has one block for each m32 tile. That hardly matters for one token,
  // which is all latency; for more it must keep every multiprocessor reading.
  few_tokens_ = fc2_.tiles >= multiprocessors ? 8 : 1;
  partial_bytes_ = l2_bytes / 2;
  configure_kernels(std::max(fc1_.chunks, fc2_.chunks));

  upload_weights(weights, *options.threads);
  fc1_alpha_ = to_device(scales_.fc1_alpha);
  fc2_alpha_ = to_device(scales_.fc2_alpha);
  fc1_input_scale_ = to_device(scales_.fc1_input_scale);
  fc2_input_scale_ = to_device(scales_.fc2_input_scale);
  fc1_bias_ = to_device(make_biases(fc1_, weights, true));
  fc2_bias_ = to_device(make_biases(fc2_, weights, false));
  expert_map_ = to_device(weights.expert_map);
}

void PreparedLayer::upload_weights(const MoeLayerWeights& weights, ThreadPool& threads) {
  const int64_t w13_bytes = fc1_.expert_bytes(), w2_bytes = fc2_.expert_bytes();
  w13_ = cuda::allocate_device<uint8_t>(num_local_experts() * w13_bytes);
  w2_ = cuda::allocate_device<uint8_t>(num_local_experts() * w2_bytes);
  struct Slab {
    cuda::PinnedArray<uint8_t> host;
    Event uploaded;
  } slabs[2];
  for (Slab& slab : slabs) slab.host = cuda::allocate_pinned<uint8_t>(w13_bytes + w2_bytes);

  std::vector<uint8_t> downloaded;
  for (int64_t e = 0; e < num_local_experts(); ++e) {
    const ExpertWeights expert = weights.on_device
                                     ? cuda::download_expert(weights.experts[e], downloaded)
                                     : weights.experts[e];
    if (expert.gate) cuda::check_scales(*expert.gate);
    cuda::check_scales(expert.up);
    cuda::check_scales(expert.down);
    Slab& slab = slabs[e % 2];
    MOE4_CUDA_CHECK(cudaEventSynchronize(slab.uploaded.handle));
    pack_expert(fc1_, fc1_.gated ? *expert.gate : expert.up, &expert.up, threads, slab.host.get());
    pack_expert(fc2_, expert.down, nullptr, threads, slab.host.get() + w13_bytes);
    MOE4_CUDA_CHECK(cudaMemcpyAsync(w13_.get() + e * w13_bytes, slab.host.get(), w13_bytes,
                                    cudaMemcpyHostToDevice, cudaStreamPerThread));
    MOE4_CUDA_CHECK(cudaMemcpyAsync(w2_.get() + e * w2_bytes, slab.host.get() + w13_bytes, w2_bytes,
                                    cudaMemcpyHostToDevice, cudaStreamPerThread));
    MOE4_CUDA_CHECK(cudaEventRecord(slab.uploaded.handle, cudaStreamPerThread));
  }
  MOE4_CUDA_CHECK(cudaStreamSynchronize(cudaStreamPerThread));
}

int64_t PreparedLayer::weight_bytes() const {
  return num_local_experts() * (fc1_.expert_bytes() + fc2_.expert_bytes());
}

bool PreparedLayer::row_per_pair() const { return calibrated_ || problem_.weight_on_input; }

Path PreparedLayer::path(int64_t num_tokens) const {
  const int64_t pairs = num_tokens * problem_.top_k;
  if (num_tokens <= few_tokens_ && pairs <= kFewPairs && !row_per_pair() &&
      few_tokens_fc2_bytes(pairs, fc2_.slices()) <= kFewTokensFc2MaxBytes) {
    return Path::kFewTokens;
  }
  const bool few = num_tokens <= 8 || pairs <= kDecodePairsPerExpert * num_local_experts();
  return few ? Path::kDecode : Path::kPrefill;
}

PreparedLayer::Workspace PreparedLayer::take_workspace(Arena& arena, int64_t num_tokens) const {
  const int64_t pairs = num_tokens * problem_.top_k;
  Workspace at;
  at.tables = cuda::take_routing_tables(arena, pairs, num_local_experts());
  const auto take_fp4_rows = [&](int64_t rows, int64_t chunks) {
    TokenRows t;
    t.code_stride = chunks * kTokenChunkBytes;
    t.scale_stride = token_scale_bytes(chunks);
    t.codes = arena.take<uint8_t>(rows * t.code_stride);
    t.scales = arena.take<uint8_t>(rows * t.scale_stride);
    return t;
  };
  if (fp4_) {
    const int64_t rows = (row_per_pair() ? pairs : num_tokens) * variants();
    at.staged = take_fp4_rows(rows, fc1_.chunks);
    at.intermediate = take_fp4_rows(pairs, fc2_.chunks);
  } else {
    if (row_per_pair()) at.scaled_values = arena.take<uint16_t>(pairs * problem_.hidden_size);
    at.intermediate.value_stride = fc2_.chunks * kChunkK;
    at.intermediate_values = arena.take<uint16_t>(pairs * at.intermediate.value_stride);
    at.intermediate.values = at.intermediate_values;
  }
  // Grows with the number of tokens, so that a workspace for more tokens serves fewer.
  const int64_t row_columns = fc2_.tiles * kTileRows, pair_bytes = pairs * sizeof(float);
  const int64_t bytes =
      std::min(pair_bytes * row_columns, std::max(partial_bytes_, pair_bytes * kSlabColumns));
  at.partial_columns =
      pairs == 0 ? row_columns
                 : std::min(row_columns,
                            std::max<int64_t>(1, bytes / pair_bytes / kSlabColumns) * kSlabColumns);
  at.partial = arena.take<float>(bytes / static_cast<int64_t>(sizeof(float)));
  return at;
}

size_t PreparedLayer::workspace_size(int64_t max_tokens) const {
  Arena arena = Arena::measuring();
  take_workspace(arena, max_tokens);
  return arena.peak();
}

void PreparedLayer::apply(const ExpertsArgs& args) const {
  if (args.hidden_dtype != DType::kBF16 || args.output_dtype != DType::kBF16) {
    throw_usage("hidden states and output are BF16");
  }
  const int64_t tokens = args.num_tokens, top_k = problem_.top_k, pairs = tokens * top_k;
  if (tokens == 0) return;
  const size_t bytes = workspace_size(tokens);
  if (args.workspace.size() < bytes) {
    throw_usage("workspace of " + std::to_string(args.workspace.size()) + " bytes, needs " +
                std::to_string(bytes));
  }
  Arena arena(args.workspace);
  const Workspace at = take_workspace(arena, tokens);
  const auto stream = static_cast<cudaStream_t>(args.stream);
  const auto* hidden = static_cast<const uint16_t*>(args.hidden_states);
  const Path launch_path = path(tokens);
  const int64_t tile = tile_tokens(launch_path);
  const int64_t max_tiles = std::min(pairs, pairs / tile + num_local_experts());

  const TopK top_k_args{.ids = args.topk_ids,
                        .weights = args.topk_weights,
                        .num_tokens = tokens,
                        .slots = static_cast<int32_t>(top_k),
                        .num_experts = static_cast<int32_t>(problem_.num_experts),
                        .num_local_experts = static_cast<int32_t>(num_local_experts()),
                        .expert_map = expert_map_.get(),
                        .weight_on_input = problem_.weight_on_input};

  if (launch_path != Path::kFewTokens) {
    cuda::build_routing_tables({.topk_ids = args.topk_ids,
                                .num_pairs = pairs,
                                .num_experts = top_k_args.num_experts,
                                .num_local_experts = top_k_args.num_local_experts,
                                .expert_map = expert_map_.get(),
                                .tile_tokens = static_cast<int32_t>(tile),
                                .tables = at.tables},
                               stream, dependent_launch_);
  }

  TokenRows input = at.staged;
  if (!fp4_) {
    input.values = row_per_pair() ? at.scaled_values : hidden;
    input.value_stride = problem_.hidden_size;
  }
  if (fp4_ || row_per_pair()) {
    stage_tokens({.hidden_states = hidden,
                  .top_k = top_k_args,
                  .hidden_size = static_cast<int32_t>(problem_.hidden_size),
                  .chunks = static_cast<int32_t>(fc1_.chunks),
                  .input_scale = calibrated_ ? fc1_input_scale_.get() : nullptr,
                  .row_per_pair = row_per_pair(),
                  .variants = static_cast<int32_t>(variants()),
                  .rows = at.staged,
                  .scaled_values = at.scaled_values},
                 fp4_, stream, dependent_launch_);
  }

  GemmArgs fc1{.weights = w13_.get(),
               .alpha = fc1_alpha_.get(),
               .bias = fc1_bias_.get(),
               .rows = static_cast<int32_t>(fc1_.rows),
               .k = static_cast<int32_t>(fc1_.k),
               .tiles = static_cast<int32_t>(fc1_.tiles),
               .chunks = static_cast<int32_t>(fc1_.chunks),
               .gated = fc1_.gated,
               .end_tile = static_cast<int32_t>(fc1_.tiles),
               .top_k = top_k_args,
               .tables = at.tables,
               .tokens = input,
               .pairs_per_row = row_per_pair() ? 1 : static_cast<int32_t>(top_k),
               .variants = static_cast<int32_t>(variants()),
               .activation = problem_.activation,
               .fc2_input_scale = fc2_input_scale_.get(),
               .out = at.intermediate,
               .out_values = at.intermediate_values};
  grouped_gemm(fc1, Gemm::kFc1, launch_path, fp4_, max_tiles, stream, dependent_launch_);

  GemmArgs fc2{.weights = w2_.get(),
               .alpha = fc2_alpha_.get(),
               .bias = fc2_bias_.get(),
               .rows = static_cast<int32_t>(fc2_.rows),
               // The columns past I are zeros, in the weights and in the intermediate.
               .k = static_cast<int32_t>(fc2_.chunks * kChunkK),
               .tiles = static_cast<int32_t>(fc2_.tiles),
               .chunks = static_cast<int32_t>(fc2_.chunks),
               .top_k = top_k_args,
               .tables = at.tables,
               .tokens = at.intermediate,
               .partial = at.partial,
               .partial_stride = at.partial_columns,
               .output = static_cast<uint16_t*>(args.output)};
  if (launch_path == Path::kFewTokens) {
    grouped_gemm(fc2, Gemm::kFc2, launch_path, fp4_, max_tiles, stream, dependent_launch_);
    return;
  }
  ReduceArgs reduce{.partial = at.partial,
                    .partial_stride = at.partial_columns,
                    .top_k = top_k_args,
                    .hidden_size = static_cast<int32_t>(problem_.hidden_size),
                    .output = static_cast<uint16_t*>(args.output)};
  for (int64_t column = 0; column < problem_.hidden_size; column += at.partial_columns) {
    const int64_t columns = std::min(at.partial_columns, problem_.hidden_size - column);
    fc2.first_tile = static_cast<int32_t>(column / kTileRows);
    fc2.end_tile = static_cast<int32_t>(ceil_div(column + columns, kTileRows));
    grouped_gemm(fc2, Gemm::kFc2, launch_path, fp4_, max_tiles, stream, dependent_launch_);
    reduce.first_column = static_cast<int32_t>(column);
    reduce.columns = static_cast<int32_t>(columns);
    reduce_topk(reduce, stream, dependent_launch_);
  }
}

}  // namespace moe4::b12x
