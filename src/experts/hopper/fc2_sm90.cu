// FC2: the down projection of every (token, slot) pair.
#include "experts/hopper/grouped_gemm_sm90.cuh"
#include "experts/hopper/pair_output.cuh"

namespace moe4::cuda::hopper {
namespace {

struct Fc2Epilogue {
  using Factors = float;
  static __device__ __forceinline__ float factors(const GemmArgs& args, const TileWalk& walk) {
    return args.alpha[walk.expert()];
  }

  template <class Shape>
  static __device__ __forceinline__ void store(const GemmArgs& args, const TileWalk& walk, int tile,
                                               float alpha, uint32_t pairs,
                                               const Accumulators<Shape>& acc) {
    if (tile * kTileRows >= args.output_rows) return;  // padding
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const bool odd = g & 1;
    const float* bias = args.bias == nullptr
                            ? nullptr
                            : args.bias + walk.expert() * args.output_rows + tile * kTileRows + g;
    const float bias0 = bias == nullptr ? 0.0f : bias[0], bias1 = bias == nullptr ? 0.0f : bias[8];
    // Lanes of rows g and g ^ 1 swap, so that each holds four rows of one token: the even row's
    // lane column 2t, the odd one's column 2t + 1.
    const uint32_t own_place = odd ? kOddRow : kEvenRow, other_place = odd ? kEvenRow : kOddRow;
    const uint32_t lane_pairs = pairs + (2 * t + odd) * 4;
    uint8_t* output = static_cast<uint8_t*>(args.output) + (tile * 4 + g / 2) * sizeof(uint2);
    uint32_t row_bytes = static_cast<uint32_t>(args.output_rows * 2);
    asm volatile("" : "+l"(output), "+r"(row_bytes));  // else they are computed for each store
    constexpr int kBatch = 4;  // groups of 8 tokens without a branch between them
    static_assert(Shape::kMaxTokens % (8 * kBatch) == 0);
#pragma unroll
    for (int first = 0; first < Shape::kMaxTokens / 8; first += kBatch) {
      if (first * 8 >= walk.rows()) break;
#pragma unroll
      for (int n = first; n < first + kBatch; ++n) {
        const uint32_t pair = load_shared4(lane_pairs + n * 32);
        const float* c = acc + 4 * n;
        const float top0 = fmaf(c[0], alpha, bias0), top1 = fmaf(c[1], alpha, bias0);
        const float bottom0 = fmaf(c[2], alpha, bias1), bottom1 = fmaf(c[3], alpha, bias1);
        const float top = __shfl_xor_sync(~0u, odd ? top0 : top1, 4);
        const float bottom = __shfl_xor_sync(~0u, odd ? bottom0 : bottom1, 4);
        const uint2 quad = encode_quad(odd ? top1 : top0, odd ? bottom1 : bottom0, top, bottom,
                                       own_place, other_place);
        if (n * 8 < walk.rows() && static_cast<int32_t>(pair) >= 0) {
          *reinterpret_cast<uint2*>(output + static_cast<uint64_t>(pair) * row_bytes) = quad;
        }
      }
    }
  }
};

}  // namespace

void launch_fc2(const Call& call, cudaStream_t stream) {
  const PackedLayerView& layer = call.layer;
  const Scratch& scratch = call.scratch;
  const GemmArgs args = {
      .weights = layer.fc2,
      .tiles = layer.fc2_tiles,
      .k_units = layer.fc2_k_units,
      .steps = scratch.intermediate_steps,
      .token_tiles = scratch.tiles,
      .num_token_tiles = scratch.num_tiles,
      .sorted_pairs = scratch.sorted_pairs,
      .tokens = scratch.intermediate,
      .position_capacity = scratch.positions,
      .alpha = layer.alpha_down,
      .bias = layer.bias_down,
      .output = scratch.pair_output,
      .output_rows = layer.hidden_size,
  };
  launch_grouped_gemm<Fc2Epilogue, false>(args, layer.fc2_tiles, call.config, call.sm_count,
                                          stream);
}

void prepare_fc2_kernels() { allow_shared_memory<Fc2Epilogue, false>(); }

}  // namespace moe4::cuda::hopper
