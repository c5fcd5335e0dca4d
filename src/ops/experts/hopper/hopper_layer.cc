// Chooses path and tiles by the number of tokens, divides the workspace and launches.
#include "ops/experts/hopper/hopper_layer.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>
#include <utility>

#include "base/checked_math.h"
#include "base/error.h"
#include "device/cuda/cuda_check.h"
#include "ops/experts/hopper/hopper_supports.h"

namespace moe4::cuda {
namespace {

using hopper::TileConfig;

// Mean tokens an expert from which wgmma is ahead of marlin (H200; docs/hopper.md).
constexpr int64_t min_mean_tokens(SumOrder decode) { return decode.single_chains() ? 1 : 3; }
// Tiles by mean tokens an expert, up to and with (H200; docs/hopper.md): room for nearly all
// experts in one tile, since a second decodes the weights again.
struct TilesUpTo {
  int64_t mean;
  TileConfig config;
};
constexpr TilesUpTo kTilesByMean[] = {
    {11, TileConfig::k16}, {18, TileConfig::k24}, {32, TileConfig::k40}, {86, TileConfig::kSmall}};
// Outputs of all pairs of a slice: bounds the workspace to about 1.5 GB whatever the batch; of
// generated tokens, in float32, to a quarter of it.
constexpr int64_t kSliceOutputs = int64_t{1} << 28, kDecodeSliceOutputs = int64_t{1} << 25;

int multiprocessors() {
  int device = 0, count = 0;
  MOE4_CUDA_CHECK(cudaGetDevice(&device));
  MOE4_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

std::optional<int64_t> forced_min_tokens(const Tuning& tuning) {
  const std::optional<std::string> digits = tuning.find(std::string(kHopperMinTokens.name));
  if (!digits) return std::nullopt;
  int64_t value = 0;
  const char* last = digits->data() + digits->size();
  const auto [end, error] = std::from_chars(digits->data(), last, value);
  if (error != std::errc() || end != last || value < 0) {
    throw_bad_tuning(kHopperMinTokens, *digits);
  }
  return value;
}

std::optional<TileConfig> forced_tiles(const Tuning& tuning) {
  const std::optional<std::string> text = tuning.find(std::string(kHopperTiles.name));
  if (!text) return std::nullopt;
  constexpr std::pair<std::string_view, TileConfig> kNames[] = {{"16", TileConfig::k16},
                                                                {"24", TileConfig::k24},
                                                                {"40", TileConfig::k40},
                                                                {"small", TileConfig::kSmall},
                                                                {"large", TileConfig::kLarge}};
  for (const auto& [name, config] : kNames) {
    if (*text == name) return config;
  }
  throw_bad_tuning(kHopperTiles, *text);
}

}  // namespace

HopperLayer::HopperLayer(const PackedLayer& layer, const Tuning& tuning)
    : layer_(layer),
      order_(decode_order(layer.problem())),
      few_(layer, tuning),
      sm_count_(multiprocessors()),
      forced_config_(forced_tiles(tuning)) {
  const PackedLayerView& view = layer.view();
  const int64_t measured = ceil_div(min_mean_tokens(order_) * view.num_experts, view.top_k);
  min_tokens_ = forced_min_tokens(tuning).value_or(measured);
  one_token_ = order_.single_chains() && !forced_config_ && hopper::has_one_token_kernels(view);
  hopper::prepare_grouped_gemms(view.format);
  if (one_token_) hopper::prepare_one_token(view.format);
}

TileConfig HopperLayer::tile_config(int64_t num_tokens) const {
  if (forced_config_) return *forced_config_;
  const PackedLayerView& view = layer_.view();
  for (const TilesUpTo& tiles : kTilesByMean) {
    if (num_tokens * view.top_k <= tiles.mean * view.num_experts) return tiles.config;
  }
  return TileConfig::kLarge;
}

std::string HopperLayer::describe() const {
  return fmt::format("wgmma from {} tokens a call, marlin below", min_tokens_);
}

TileConfig HopperLayer::decode_config(int64_t num_tokens) const {
  return std::min(tile_config(num_tokens), TileConfig::k40);
}

int64_t HopperLayer::slice_tokens(Sums sums) const {
  const PackedLayerView& view = layer_.view();
  const int64_t outputs = sums == Sums::kRuns ? kDecodeSliceOutputs : kSliceOutputs;
  return std::max<int64_t>(256, outputs / (int64_t{view.hidden_size} * view.top_k));
}

size_t HopperLayer::workspace_size(int64_t max_tokens) const {
  const int64_t few = std::min(max_tokens, std::max<int64_t>(min_tokens_ - 1, 0));
  size_t bytes = few_.workspace_size(few);
  for (const Sums sums : {Sums::kChains, Sums::kRuns}) {
    Arena arena = Arena::measuring();
    hopper::take_scratch(arena, layer_.view(), std::min(max_tokens, slice_tokens(sums)),
                         sums == Sums::kRuns);
    bytes = std::max(bytes, arena.peak());
  }
  return bytes;
}

void HopperLayer::apply(const ExpertsArgs& args) const {
  check_device_args(args, workspace_size(args.num_tokens), "hopper");
  if (args.num_decode_tokens > args.num_tokens || args.num_decode_tokens < -1) {
    throw Error(ErrorCode::kUsage, fmt::format("hopper: {} of {} tokens cannot be generated ones",
                                               args.num_decode_tokens, args.num_tokens));
  }
  if (args.num_decode_tokens < 0) {
    if (args.num_tokens < min_tokens_) return few_.apply(args);
    return apply_wgmma(args, Sums::kChains, 0, args.num_tokens);
  }
  if (order_.single_chains()) return apply_wgmma(args, Sums::kChains, 0, args.num_tokens);
  const int64_t decode = args.num_decode_tokens;
  if (decode >= min_tokens_) {
    apply_wgmma(args, Sums::kRuns, 0, decode);
  } else {
    ExpertsArgs part = args;
    part.num_tokens = decode;
    few_.apply(part);
  }
  apply_wgmma(args, Sums::kChains, decode, args.num_tokens);
}

// Tokens [begin, end), in slices.
void HopperLayer::apply_wgmma(const ExpertsArgs& args, Sums sums, int64_t begin,
                              int64_t end) const {
  const PackedLayerView& view = layer_.view();
  const int64_t row_bytes = int64_t{view.hidden_size} * 2, slice = slice_tokens(sums);
  const auto stream = static_cast<cudaStream_t>(args.stream);
  for (; begin < end; begin += slice) {
    const int64_t num_tokens = std::min(slice, end - begin);
    Arena arena(args.workspace);
    const hopper::Call call{
        .layer = view,
        .num_tokens = num_tokens,
        .hidden_states = static_cast<const std::byte*>(args.hidden_states) + begin * row_bytes,
        .topk_ids = args.topk_ids + begin * view.top_k,
        .topk_weights = args.topk_weights + begin * view.top_k,
        .output = static_cast<std::byte*>(args.output) + begin * row_bytes,
        .config = sums == Sums::kRuns ? decode_config(num_tokens) : tile_config(num_tokens),
        .runs = sums == Sums::kRuns,
        .order = order_,
        .scratch = hopper::take_scratch(arena, view, num_tokens, sums == Sums::kRuns),
        .sm_count = sm_count_,
    };
    if (num_tokens == 1 && sums == Sums::kChains && one_token_) {
      hopper::launch_one_token(call, stream);
    } else {
      hopper::launch_prologue(call, stream);
      hopper::launch_grouped_gemms(call, stream);
      hopper::launch_combine(call, stream);
    }
  }
}

}  // namespace moe4::cuda
