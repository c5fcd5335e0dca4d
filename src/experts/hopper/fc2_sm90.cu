// FC2: the down projection of every (token, slot) pair.
#include <type_traits>

#include "experts/hopper/grouped_gemm_sm90.cuh"
#include "experts/hopper/pair_output.cuh"

namespace moe4::cuda::hopper {
namespace {

struct Fc2Epilogue {
  using Factors = float;
  static __device__ __forceinline__ float factors(const GemmArgs& args, const TileWalk& walk) {
    return args.alpha[walk.expert()];
  }

  // What a lane keeps of its tiles: 4 rows of token 2t or 2t + 1 of each group of 8 tokens. Lanes
  // of rows g and g ^ 1 swap for it, the even row's lane keeps column 2t, the odd one's 2t + 1.
  template <int kBlocks>
  class LaneQuads {
   public:
    __device__ __forceinline__ LaneQuads(const GemmArgs& args, const TileWalk& walk, int tile,
                                         float alpha)
        : alpha_(alpha), lane_(threadIdx.x % 32) {
      if (args.bias == nullptr) return;
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        const int row = (tile + block) * kTileRows + lane_ / 4;
        if (row >= args.output_rows) continue;  // padding
        const float* from = args.bias + walk.expert() * args.output_rows + row;
        bias_[block][0] = from[0];
        bias_[block][1] = from[8];
      }
    }
    /// Of each group of 8 tokens.
    __device__ __forceinline__ int token() const { return 2 * (lane_ % 4) + odd(); }
    __device__ __forceinline__ int quad() const { return lane_ / 8; }
    __device__ __forceinline__ uint2 encode(const float* c, int block) const {
      const float top0 = fmaf(c[0], alpha_, bias_[block][0]);
      const float top1 = fmaf(c[1], alpha_, bias_[block][0]);
      const float bottom0 = fmaf(c[2], alpha_, bias_[block][1]);
      const float bottom1 = fmaf(c[3], alpha_, bias_[block][1]);
      const float top = __shfl_xor_sync(~0u, odd() ? top0 : top1, 4);
      const float bottom = __shfl_xor_sync(~0u, odd() ? bottom0 : bottom1, 4);
      return encode_quad(odd() ? top1 : top0, odd() ? bottom1 : bottom0, top, bottom,
                         odd() ? kOddRow : kEvenRow, odd() ? kEvenRow : kOddRow);
    }

   private:
    __device__ __forceinline__ bool odd() const { return lane_ / 4 & 1; }
    const float alpha_;
    const int lane_;
    float bias_[kBlocks][2] = {};
  };

  // Outputs keep the order of the sorted list, which is that of the tiles; the combine looks up
  // where a pair's row is.
  template <int kBlocks, int kSums>
  static __device__ __forceinline__ void store(const GemmArgs& args, const TileWalk& walk, int tile,
                                               float alpha, const float (&acc)[kBlocks][kSums]) {
    if (tile * kTileRows >= args.output_rows) return;  // padding
    const LaneQuads<kBlocks> quads(args, walk, tile, alpha);
    using Word = std::conditional_t<kBlocks == 2, uint4, uint2>;
    uint32_t row_bytes = static_cast<uint32_t>(args.tiles * 4 * sizeof(uint2));
    uint8_t* output = static_cast<uint8_t*>(args.output) + tile * 4 * sizeof(uint2) +
                      quads.quad() * sizeof(Word) +
                      static_cast<uint64_t>(walk.first_position() + quads.token()) * row_bytes;
    asm volatile("" : "+l"(output), "+r"(row_bytes));  // else they are computed for each store
    constexpr int kGroups = kSums / 4;                 // of 8 tokens
    constexpr int kBatch = branchless_groups(kGroups, 4 / kBlocks);
#pragma unroll
    for (int first = 0; first < kGroups; first += kBatch) {
      if (first * 8 >= walk.rows()) break;
#pragma unroll
      for (int n = first; n < first + kBatch; ++n) {
        union {
          uint2 quad[kBlocks];
          Word all;
        } word;
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) {
          word.quad[block] = quads.encode(acc[block] + 4 * n, block);
        }
        // Rows that fill the last eight are stored too: nobody reads them.
        if (n * 8 < walk.rows()) {
          *reinterpret_cast<Word*>(output + uint64_t{row_bytes} * (n * 8)) = word.all;
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
      .taken = scratch.taken + 1,
      .tokens = scratch.intermediate,
      .position_capacity = scratch.positions,
      .alpha = layer.alpha_down,
      .bias = layer.bias_down,
      .output = scratch.outputs,
      .output_rows = layer.hidden_size,
  };
  launch_grouped_gemm<Fc2Epilogue, false>(args, layer.fc2_tiles, call.config, call.sm_count,
                                          stream);
}

void prepare_fc2_kernels() { allow_shared_memory<Fc2Epilogue, false>(); }

}  // namespace moe4::cuda::hopper
