// FC1: gate, up and the activation, stored as the tiles FC2 multiplies.
#include <cuda_bf16.h>

#include "experts/hopper/activation_sm90.cuh"
#include "experts/hopper/grouped_gemm_sm90.cuh"

namespace moe4::cuda::hopper {
namespace {

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(v);
}

// Lanes of rows g and g ^ 1 swap, so that each holds both rows of one token: the even row's lane
// column 2t, the odd one's column 2t + 1.
__device__ __forceinline__ uint32_t pair_rows(bool odd, float column0, float column1) {
  const float received = __shfl_xor_sync(~0u, odd ? column0 : column1, 4);
  return odd ? pack_bf16(received, column1) : pack_bf16(column0, received);
}

struct Fc1Epilogue {
  struct Factors {
    float up, gate;
  };
  static __device__ __forceinline__ Factors factors(const GemmArgs& args, const TileWalk& walk) {
    const bool gated = args.activation.is_gated();
    return {args.alpha[walk.expert()], gated ? args.gate_alpha[walk.expert()] : 0.0f};
  }

  template <int kBlocks, int kSums>
  static __device__ __forceinline__ void store(const GemmArgs& args, const TileWalk& walk, int tile,
                                               const Factors& factors,
                                               const float (&acc)[kBlocks][kSums]) {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      store_block(args, walk, tile + block, factors, acc[block]);
    }
  }

  template <int kSums>
  static __device__ __forceinline__ void store_block(const GemmArgs& args, const TileWalk& walk,
                                                     int tile, const Factors& factors,
                                                     const float (&acc)[kSums]) {
    switch (args.activation.kind) {
      case ActivationKind::kSilu:
        return store_as<ActivationKind::kSilu>(args, walk, tile, factors, acc);
      case ActivationKind::kSwigluOai:
        return store_as<ActivationKind::kSwigluOai>(args, walk, tile, factors, acc);
      case ActivationKind::kGeluTanh:
        return store_as<ActivationKind::kGeluTanh>(args, walk, tile, factors, acc);
      case ActivationKind::kRelu2:
        return store_as<ActivationKind::kRelu2>(args, walk, tile, factors, acc);
    }
  }

  // The intermediate is [chunk][position][64] with each 128-byte row's 16-byte units XORed by
  // position % 8 (wgmma's swizzle) and words in the order of grouped_gemm_sm90.cuh: element i of a
  // chunk lies in word 4u + t with t = i / 16, u = i % 16 / 2.
  template <ActivationKind Kind, int kSums>
  static __device__ __forceinline__ void store_as(const GemmArgs& args, const TileWalk& walk,
                                                  int tile, const Factors& factors,
                                                  const float (&acc)[kSums]) {
    constexpr bool kGated = Kind != ActivationKind::kRelu2;
    // Gated: 8 elements a tile, two tiles a block of 16. Plain: 16.
    const int block = kGated ? tile / 2 : tile;
    if (block / 4 >= args.output_chunks) return;
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const bool odd = g & 1;
    const int row = 2 * t + odd;  // of each group of 8 tokens
    const int unit = (kGated ? 4 * (tile & 1) : 0) + g / 2;
    uint8_t* base = static_cast<uint8_t*>(args.output) +
                    ((block / 4) * args.position_capacity + walk.first_position() + row) * 128 +
                    (block % 4) * 4;
    uint32_t* low = reinterpret_cast<uint32_t*>(base + ((unit ^ row) << 4));
    uint32_t* high = reinterpret_cast<uint32_t*>(base + (((unit + 4) ^ row) << 4));
    const bool inside = tile < args.tiles;  // past the end: zeros, FC2 multiplies them
    float bias0 = 0.0f, bias1 = 0.0f;       // of rows g and g + 8 of the tile
    if (args.bias != nullptr) {
      const int i = tile * (kGated ? 8 : 16) + g;
      const int64_t expert_row = walk.expert() * args.output_rows;
      if (kGated && i < args.output_rows) {
        bias0 = args.gate_bias == nullptr ? 0.0f : args.gate_bias[expert_row + i];
        bias1 = args.bias[expert_row + i];
      } else if (!kGated) {
        if (i < args.output_rows) bias0 = args.bias[expert_row + i];
        if (i + 8 < args.output_rows) bias1 = args.bias[expert_row + i + 8];
      }
    }
    constexpr int kGroups = kSums / 4;  // of 8 tokens
    constexpr int kBatch = branchless_groups(kGroups, 4);
#pragma unroll
    for (int first = 0; first < kGroups; first += kBatch) {
      if (first * 8 >= walk.rows()) break;
#pragma unroll
      for (int n = first; n < first + kBatch; ++n) {
        const bool store = n * 8 < walk.rows();
        const float* c = acc + 4 * n;
        if constexpr (kGated) {
          const auto value = [&](float gate, float up) {
            return activate<Kind>(args.activation, fmaf(gate, factors.gate, bias0),
                                  fmaf(up, factors.up, bias1));
          };
          const uint32_t word = pair_rows(odd, value(c[0], c[2]), value(c[1], c[3]));
          if (store) low[n * 256] = inside ? word : 0u;
        } else {
          const auto value = [&](float sum, float bias) {
            return activate<Kind>(args.activation, 0.0f, fmaf(sum, factors.up, bias));
          };
          const uint32_t word0 = pair_rows(odd, value(c[0], bias0), value(c[1], bias0));
          const uint32_t word1 = pair_rows(odd, value(c[2], bias1), value(c[3], bias1));
          if (store) low[n * 256] = inside ? word0 : 0u;
          if (store) high[n * 256] = inside ? word1 : 0u;
        }
      }
    }
  }
};

}  // namespace

void launch_fc1(const Call& call, cudaStream_t stream) {
  const PackedLayerView& layer = call.layer;
  const Scratch& scratch = call.scratch;
  const GemmArgs args = {
      .weights = layer.fc1,
      .tiles = layer.fc1_tiles,
      .k_units = layer.fc1_k_units,
      .steps = scratch.hidden_steps,
      .token_tiles = scratch.tiles,
      .num_token_tiles = scratch.num_tiles,
      .taken = scratch.taken,
      .sorted_pairs = scratch.sorted_pairs,
      .row_of_pair = layer.weight_on_input ? Divisor(1) : Divisor(layer.top_k),
      .tokens = scratch.hidden,
      .position_capacity = scratch.positions,
      .alpha = layer.alpha_up,
      .gate_alpha = layer.alpha_gate,
      .bias = layer.bias_up,
      .gate_bias = layer.bias_gate,
      .activation = layer.activation,
      .output = scratch.intermediate,
      .output_rows = layer.intermediate_size,
      .output_chunks = 2 * scratch.intermediate_steps,
  };
  // FC2 multiplies whole steps of the intermediate: the tiles past I store zeros there.
  const int elements_per_tile = layer.activation.is_gated() ? 8 : kTileRows;
  launch_grouped_gemm<Fc1Epilogue, true>(args,
                                         scratch.intermediate_steps * kStepK / elements_per_tile,
                                         call.config, call.sm_count, stream);
}

void prepare_fc1_kernels() { allow_shared_memory<Fc1Epilogue, true>(); }

}  // namespace moe4::cuda::hopper
