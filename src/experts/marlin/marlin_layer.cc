// Chooses structure, grid and K split, carves the workspace and launches.
#include "experts/marlin/marlin_layer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "experts/device/block_routing_limits.h"
#include "experts/device/launch.h"
#include "experts/marlin/marlin_kernels.h"

namespace moe4::cuda {
namespace {

// Pairs of one chunk: bounds y (float32 [P, H]) to 134 MB at H = 2048.
constexpr int64_t kMaxChunkPairs = 16384;
// Row-stationary FC2 wins up to 16 tokens at top-8, and keeps its products in shared memory.
constexpr int64_t kMaxRowPairs = 128;
constexpr size_t kMaxRowSharedBytes = 96 * 1024;
// With more units of K an expert's tile is long enough to hide its start, and expert-wise FC2 wins
// at any batch (measured: I 512 and 768 rows, I 2048 experts).
constexpr int kMaxRowKUnits = 4;
// Row tiles must fill the multiprocessors at least this well.
constexpr double kMinRowOccupancy = 0.8;

// The widest split whose warps all have work most of the time; wide means a short first step.
int choose_split(int k_units) {
  for (const int split : {8, 4, 2}) {
    const int rounds = static_cast<int>(ceil_div(k_units, split));
    if (k_units >= split && 10 * k_units >= 9 * split * rounds) return split;
  }
  return 1;
}

int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  MOE4_CUDA_CHECK(cudaGetDevice(&device));
  MOE4_CUDA_CHECK(cudaDeviceGetAttribute(&value, attribute, device));
  return value;
}

int forced_structure() {
  const char* name = std::getenv("MOE4_MARLIN_FC2");
  if (name == nullptr) return -1;
  if (std::string_view(name) == "rows") return static_cast<int>(Fc2Structure::kRows);
  if (std::string_view(name) == "experts") return static_cast<int>(Fc2Structure::kExperts);
  throw Error(ErrorCode::kUsage,
              fmt::format("MOE4_MARLIN_FC2: expected rows or experts, found '{}'", name));
}

}  // namespace

struct MarlinLayer::Workspace {
  RoutingTables tables;  // for more pairs than a block routes itself
  __nv_bfloat16* scaled = nullptr;
  __nv_bfloat16* act = nullptr;
  float* y = nullptr;
  size_t bytes = 0;
};

MarlinLayer::MarlinLayer(const PackedLayer& layer) : layer_(layer) {
  const PackedLayerView& view = layer.view();
  if (view.num_local_experts > kMaxLocalExperts) {
    throw Error(ErrorCode::kUnavailable,
                fmt::format("marlin: {} experts on one device, at most {}; spread them over ranks",
                            view.num_local_experts, kMaxLocalExperts));
  }
  const int sms = device_attribute(cudaDevAttrMultiProcessorCount);
  dependent_launch_ = device_attribute(cudaDevAttrComputeCapabilityMajor) >= 9;
  fc1_split_ = choose_split(view.fc1_k_units);
  fc1_blocks_ = fc1_blocks();
  fc2_expert_blocks_ = fc2_expert_blocks();
  const int row_tiles = view.hidden_size / kTileRows;
  const int rounds = static_cast<int>(ceil_div(row_tiles, sms));
  fc2_row_blocks_ = row_tiles >= kMinRowOccupancy * rounds * sms ? std::min(row_tiles, sms) : 0;
  forced_structure_ = forced_structure();
  if (forced_structure_ == static_cast<int>(Fc2Structure::kRows)) {
    fc2_row_blocks_ = std::min(row_tiles, sms);
  }
  allow_expert_shared_memory();
  allow_row_shared_memory();
}

Fc2Structure MarlinLayer::structure(int64_t num_tokens) const {
  const int64_t pairs = num_tokens * layer_.view().top_k;
  const bool can_rows = fc2_row_blocks_ > 0 && pairs <= kMaxBlockPairs &&
                        fc2_rows_shared_bytes(layer_.view(), pairs) <= kMaxRowSharedBytes;
  if (forced_structure_ == static_cast<int>(Fc2Structure::kExperts)) return Fc2Structure::kExperts;
  if (forced_structure_ == static_cast<int>(Fc2Structure::kRows) && can_rows) {
    return Fc2Structure::kRows;
  }
  const bool rows = can_rows && pairs <= kMaxRowPairs && layer_.view().fc2_k_units <= kMaxRowKUnits;
  return rows ? Fc2Structure::kRows : Fc2Structure::kExperts;
}

int64_t MarlinLayer::chunk_tokens() const {
  return std::max<int64_t>(1, kMaxChunkPairs / layer_.view().top_k);
}

MarlinLayer::Workspace MarlinLayer::carve(std::byte* base, int64_t num_tokens) const {
  const PackedLayerView& view = layer_.view();
  const int64_t pairs = std::min(num_tokens, chunk_tokens()) * view.top_k;
  WorkspaceCarver carver(base);
  Workspace at;
  at.tables = carve_routing_tables(carver, pairs, view.num_local_experts, kTokenTile);
  if (view.weight_on_input) at.scaled = carver.take<__nv_bfloat16>(pairs * view.hidden_size);
  at.act = carver.take<__nv_bfloat16>(pairs * view.intermediate_size);
  at.y = carver.take<float>(pairs * view.hidden_size);
  at.bytes = carver.used();
  return at;
}

size_t MarlinLayer::workspace_size(int64_t max_tokens) const {
  return carve(nullptr, max_tokens).bytes;
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
  const Workspace at = carve(args.workspace.data(), num_tokens);
  const auto stream = static_cast<cudaStream_t>(args.stream);
  const int64_t hidden = view.hidden_size;
  const auto* x = static_cast<const __nv_bfloat16*>(args.hidden_states) + begin * hidden;
  MarlinParams params{
      .layer = view,
      .x = x,
      .topk_ids = args.topk_ids + begin * view.top_k,
      .topk_weights = args.topk_weights + begin * view.top_k,
      .act = at.act,
      .y = at.y,
      .out = static_cast<__nv_bfloat16*>(args.output) + begin * hidden,
      .num_tokens = static_cast<int32_t>(num_tokens),
      .num_pairs = static_cast<int32_t>(num_tokens * view.top_k),
      .fc1_split = fc1_split_,
      .top_k_reciprocal = top_k_reciprocal(view.top_k),
  };
  // The first kernel of the chain starts after everything before it in the stream; each later one
  // may start its prologue early.
  bool dependent = false;
  if (view.weight_on_input) {
    launch_scale_input(params, x, at.scaled, stream);
    params.x = at.scaled;
    dependent = dependent_launch_;
  }
  if (params.num_pairs > kMaxBlockPairs) {
    build_routing_tables({.topk_ids = params.topk_ids,
                          .num_pairs = params.num_pairs,
                          .num_experts = view.num_experts,
                          .num_local_experts = view.num_local_experts,
                          .expert_map = view.expert_map,
                          .tile_tokens = kTokenTile,
                          .tables = at.tables},
                         stream, dependent);
    params.tiles = at.tables.tiles;
    params.sorted_pairs = at.tables.sorted_pairs;
    params.num_tiles = at.tables.tile_offsets + view.num_local_experts;
    dependent = dependent_launch_;
  }
  launch_fc1(params, fc1_blocks_, stream, dependent);
  if (structure(num_tokens) == Fc2Structure::kRows) {
    launch_fc2_rows(params, fc2_row_blocks_, stream, dependent_launch_);
  } else {
    launch_fc2_experts(params, fc2_expert_blocks_, stream, dependent_launch_);
    launch_combine(params, stream, dependent_launch_);
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
