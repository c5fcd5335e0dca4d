// Chooses structure, grid and K split, divides the workspace and launches.
#include "ops/experts/marlin/marlin_layer.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "device/cuda/launch.h"
#include "ops/experts/gpu/block_routing_limits.h"
#include "ops/experts/marlin/marlin_kernels.h"
#include "ops/experts/marlin/marlin_supports.h"

namespace moe4::cuda {
namespace {

// Pairs of one chunk: bounds y (float32 [P, H]) to 134 MB at H = 2048.
constexpr int64_t kMaxChunkPairs = 16384;
// Row-stationary FC2 wins up to 64 tokens at top-8, with or without a shared expert, and keeps
// weights and products in shared memory.
constexpr int64_t kMaxRowPairs = 576;
constexpr size_t kMaxRowSharedBytes = 192 * 1024;
// Row tiles must fill the multiprocessors at least this well.
constexpr double kMinRowOccupancy = 0.8;

int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  MOE4_CUDA_CHECK(cudaGetDevice(&device));
  MOE4_CUDA_CHECK(cudaDeviceGetAttribute(&value, attribute, device));
  return value;
}

// Where step_stream.cuh uses them: SM12x has 99 KB of shared memory, too little.
bool has_bulk_copies(int major) { return major >= 9 && major < 12; }

std::optional<Fc2Structure> forced_structure(const Tuning& tuning) {
  const std::optional<std::string> name = tuning.find(std::string(kMarlinFc2.name));
  if (!name) return std::nullopt;
  if (*name == "rows") return Fc2Structure::kRows;
  if (*name == "experts") return Fc2Structure::kExperts;
  throw_bad_tuning(kMarlinFc2, *name);
}

}  // namespace

struct MarlinLayer::Workspace {
  RoutingTables tables;  // for more pairs than a block routes itself
  __nv_bfloat16* scaled = nullptr;
  __nv_bfloat16* act = nullptr;
  float* y = nullptr;
};

MarlinLayer::MarlinLayer(const PackedLayer& layer, const Tuning& tuning)
    : layer_(layer), order_(quick_order(layer.problem())) {
  const PackedLayerView& view = layer.view();
  if (view.num_local_experts > kMaxLocalExperts) {
    throw Error(ErrorCode::kUnavailable,
                fmt::format("marlin: {} experts on one device, at most {}; spread them over ranks",
                            view.num_local_experts, kMaxLocalExperts));
  }
  sm_count_ = device_attribute(cudaDevAttrMultiProcessorCount);
  const int major = device_attribute(cudaDevAttrComputeCapabilityMajor);
  dependent_launch_ = major >= 9;
  bulk_copies_ = has_bulk_copies(major);
  const int row_tiles = view.hidden_size / kTileRows;
  const int rounds = static_cast<int>(ceil_div(row_tiles, sm_count_));
  forced_structure_ = forced_structure(tuning);
  // It sums units apart.
  can_rows_ = view.fc2_k_units <= kMaxRowKUnits && order_.fc2_runs == view.fc2_k_units;
  rows_fill_device_ = row_tiles >= kMinRowOccupancy * rounds * sm_count_;
  const size_t most_shared_bytes = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  max_row_shared_bytes_ = std::min(kMaxRowSharedBytes, most_shared_bytes);
  allow_expert_shared_memory(base_params(), most_shared_bytes);
  allow_row_shared_memory(view, max_row_shared_bytes_);
  one_token_tiles_ = prepare_one_token_tiles(base_params(), static_cast<int>(most_shared_bytes));
}

MarlinParams MarlinLayer::base_params() const {
  const PackedLayerView& view = layer_.view();
  return {.layer = view,
          .fc1_split = order_.fc1_runs,
          .fc2_split = order_.fc2_runs,
          .bulk_copies = bulk_copies_,
          .sm_count = sm_count_,
          .top_k = Divisor(view.top_k)};
}

Fc2Structure MarlinLayer::structure(int64_t num_tokens) const {
  const int64_t pairs = num_tokens * layer_.view().top_k;
  if (forced_structure_ == Fc2Structure::kExperts || !can_rows_ || pairs > kMaxBlockPairs ||
      row_shared_bytes(pairs) > max_row_shared_bytes_) {
    return Fc2Structure::kExperts;
  }
  const bool rows =
      forced_structure_ == Fc2Structure::kRows || (rows_fill_device_ && pairs <= kMaxRowPairs);
  return rows ? Fc2Structure::kRows : Fc2Structure::kExperts;
}

size_t MarlinLayer::row_shared_bytes(int64_t num_pairs) const {
  return fc2_rows_shared_bytes(layer_.view(), num_pairs, bulk_copies_);
}

int64_t MarlinLayer::chunk_tokens() const {
  return std::max<int64_t>(1, kMaxChunkPairs / layer_.view().top_k);
}

MarlinLayer::Workspace MarlinLayer::take_workspace(Arena& arena, int64_t num_tokens) const {
  const PackedLayerView& view = layer_.view();
  const int64_t pairs = std::min(num_tokens, chunk_tokens()) * view.top_k;
  Workspace at;
  at.tables = take_routing_tables(arena, pairs, view.num_local_experts, kTileTokens);
  if (view.weight_on_input) at.scaled = arena.take<__nv_bfloat16>(pairs * view.hidden_size);
  at.act = arena.take<__nv_bfloat16>(pairs * view.intermediate_size);
  at.y = arena.take<float>(pairs * view.hidden_size);
  return at;
}

size_t MarlinLayer::workspace_size(int64_t max_tokens) const {
  Arena arena = Arena::measuring();
  take_workspace(arena, max_tokens);
  return arena.peak();
}

void MarlinLayer::apply(const ExpertsArgs& args) const {
  check_device_args(args, workspace_size(args.num_tokens), "marlin");
  const int64_t chunk = chunk_tokens();
  for (int64_t begin = 0; begin < args.num_tokens; begin += chunk) {
    apply_chunk(args, begin, std::min(chunk, args.num_tokens - begin));
  }
}

void MarlinLayer::apply_chunk(const ExpertsArgs& args, int64_t begin, int64_t num_tokens) const {
  const PackedLayerView& view = layer_.view();
  Arena arena(args.workspace);
  const Workspace at = take_workspace(arena, num_tokens);
  const auto stream = static_cast<cudaStream_t>(args.stream);
  const int64_t hidden = view.hidden_size;
  const auto* x = static_cast<const __nv_bfloat16*>(args.hidden_states) + begin * hidden;
  MarlinParams params = base_params();
  params.x = x;
  params.topk_ids = args.topk_ids + begin * view.top_k;
  params.topk_weights = args.topk_weights + begin * view.top_k;
  params.act = at.act;
  params.y = at.y;
  params.out = static_cast<__nv_bfloat16*>(args.output) + begin * hidden;
  params.num_tokens = static_cast<int32_t>(num_tokens);
  params.num_pairs = static_cast<int32_t>(num_tokens * view.top_k);
  // Every kernel of the chain waits for the one before it, so each may start its prologue early.
  const bool dependent = dependent_launch_;
  if (view.weight_on_input) {
    launch_scale_input(params, x, at.scaled, stream, dependent);
    params.x = at.scaled;
  }
  if (params.num_pairs > kMaxBlockPairs) {
    build_routing_tables({.topk_ids = params.topk_ids,
                          .num_pairs = params.num_pairs,
                          .num_experts = view.num_experts,
                          .num_local_experts = view.num_local_experts,
                          .expert_map = view.expert_map,
                          .tile_tokens = kTileTokens,
                          .tables = at.tables},
                         stream, dependent);
    params.tiles = at.tables.tiles;
    params.sorted_pairs = at.tables.sorted_pairs;
    params.num_tiles = at.tables.tile_offsets + view.num_local_experts;
  }
  const bool one_token = num_tokens == 1 && !forced_structure_;
  if (one_token && has_one_token_kernels(params)) {
    launch_one_token_fc1(params, stream, dependent);
    launch_one_token_fc2(params, stream, dependent);
    return;
  }
  if (one_token && one_token_tiles_) {
    launch_one_token_fc1_tiles(params, stream, dependent);
    launch_one_token_fc2_tiles(params, stream, dependent);
    launch_combine(params, stream, dependent);
    return;
  }
  launch_fc1(params, stream, dependent);
  if (structure(num_tokens) == Fc2Structure::kRows) {
    launch_fc2_rows(params, row_shared_bytes(params.num_pairs), stream, dependent);
  } else {
    launch_fc2_experts(params, stream, dependent);
    launch_combine(params, stream, dependent);
  }
}

void check_device_args(const ExpertsArgs& args, size_t workspace_size, const char* backend) {
  if (args.hidden_dtype != DType::kBF16 || args.output_dtype != DType::kBF16) {
    throw Error(ErrorCode::kUsage,
                fmt::format("{}: takes and gives BF16, found {} and {}", backend,
                            to_string(args.hidden_dtype), to_string(args.output_dtype)));
  }
  if (args.num_tokens > 0 && args.workspace.size() < workspace_size) {
    throw Error(ErrorCode::kUsage, fmt::format("{}: workspace of {} bytes, needs {}", backend,
                                               args.workspace.size(), workspace_size));
  }
  const auto misaligned = [](const void* p, uintptr_t to) {
    return reinterpret_cast<uintptr_t>(p) % to != 0;
  };
  if (misaligned(args.workspace.data(), 256) || misaligned(args.hidden_states, 16) ||
      misaligned(args.output, 16)) {
    throw Error(ErrorCode::kUsage,
                fmt::format("{}: hidden_states and output must be 16-byte aligned, the workspace "
                            "256-byte",
                            backend));
  }
}

}  // namespace moe4::cuda
