// FC1: gate, up and the activation, stored as the tiles FC2 multiplies.
#pragma once

#include "ops/experts/gpu/activation.cuh"
#include "ops/experts/hopper/gemm_rings_sm90.cuh"
#include "ops/experts/hopper/pack_bf16.cuh"

namespace moe4::cuda::hopper {

// Lanes of rows g and g ^ 1 swap, so that each holds both rows of one token: the even row's lane
// column 2t, the odd one's column 2t + 1.
__device__ __forceinline__ uint32_t pair_rows(bool odd, float column0, float column1) {
  const uint32_t own = pack_bf16(column0, column1);
  const uint32_t received = __shfl_xor_sync(~0u, own, 4);
  return __byte_perm(own, received, odd ? 0x3276 : 0x5410);
}

// Groups of 8 tokens that are stored without a branch between them: a divisor of `groups`, up to 4
// if there is one above 1.
constexpr int branchless_groups(int groups) {
  for (int batch = 4; batch > 1; --batch) {
    if (groups % batch == 0) return batch;
  }
  return groups;
}

struct Fc1Epilogue {
  template <int kBlocks, int kSums>
  static __device__ __forceinline__ void store(const GemmArgs& args, const TileWalk& walk, int tile,
                                               const Factors& factors,
                                               float (&acc)[kBlocks][kSums]) {
    const auto store = [&]<ActivationKind Kind, bool Clamp>() {
      store_as<Kind, Clamp>(args, walk, tile, factors, acc);
    };
    switch (args.activation.kind) {
      case ActivationKind::kSilu:
        if (args.activation.has_limit()) {
          return store.template operator()<ActivationKind::kSilu, true>();
        }
        return store.template operator()<ActivationKind::kSilu, false>();
      case ActivationKind::kSwigluOai:
        return store.template operator()<ActivationKind::kSwigluOai, true>();
      case ActivationKind::kGeluTanh:
        return store.template operator()<ActivationKind::kGeluTanh, false>();
      case ActivationKind::kRelu2:
        return store.template operator()<ActivationKind::kRelu2, false>();
      case ActivationKind::kSiluLateClamp:  // hopper_supports() refuses it
        return;
    }
  }

  // The intermediate is [chunk][position][64] with each 128-byte row's 16-byte units XORed by
  // position % 8 (wgmma's swizzle) and words in the order of grouped_gemms_sm90.cu: element i of a
  // chunk lies in word 4u + t with t = i / 16, u = i % 16 / 2.
  template <ActivationKind Kind, bool Clamp, int kBlocks, int kSums>
  static __device__ __forceinline__ void store_as(const GemmArgs& args, const TileWalk& walk,
                                                  int tile, const Factors& factors,
                                                  float (&acc)[kBlocks][kSums]) {
    constexpr bool kGated = Kind != ActivationKind::kRelu2;
    constexpr int kGroups = kSums / 4;  // of 8 tokens
    constexpr int kBatch = branchless_groups(kGroups);
    static_assert(kGroups % kBatch == 0 && kBlocks <= 2);
    // Gated: 8 elements a tile, two tiles a block of 16. Plain: 16.
    const int element_block = kGated ? tile / 2 : tile;
    const int chunk = element_block / 4;
    if (chunk >= args.intermediate_chunks) return;
    const int lane = threadIdx.x % 32, g = lane / 4;
    const bool odd = g & 1;
    const int row = 2 * (lane % 4) + odd;  // of each group of 8 tokens
    const int unit = (kGated ? 4 * (tile & 1) : 0) + g / 2;
    // Of elements g / 2 of the tile (gated) or of both its halves (plain), in a chunk's rows.
    const uint32_t low = row * 128 + ((unit ^ row) << 4) + (element_block % 4) * 4;
    const uint32_t high = low ^ 64;  // unit + 4
    float bias[kBlocks][2] = {};     // of rows g and g + 8 of each tile
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      if (tile + block >= args.weights[0].tiles) {  // past the end: zeros, FC2 multiplies them
#pragma unroll
        for (float& sum : acc[block]) sum = 0.0f;
      }
      if (args.bias_up != nullptr) load_bias<kGated>(args, walk, tile + block, g, bias[block]);
    }
    const int groups = (walk.rows() + 7) / 8;
    uint8_t* output = static_cast<uint8_t*>(args.intermediate) +
                      (chunk * args.position_capacity + walk.first_position()) * 128;
#pragma unroll
    for (int first = 0; first < kGroups; first += kBatch) {
      if (first >= groups) break;
#pragma unroll
      for (int i = 0; i < kBlocks * kBatch; ++i) {
        const int block = i / kBatch, n = first + i % kBatch;
        const float* c = acc[block] + 4 * n;
        const auto put = [&](uint32_t offset, float column0, float column1) {
          const uint32_t word = pair_rows(odd, column0, column1);
          if (n < groups) *reinterpret_cast<uint32_t*>(output + offset + n * 1024) = word;
        };
        if constexpr (kGated) {
          const auto value = [&](float gate, float up) {
            return activate<Kind, Clamp>(args.activation, fmaf(gate, factors.gate, bias[block][0]),
                                         fmaf(up, factors.up_or_down, bias[block][1]));
          };
          put(block == 0 ? low : high, value(c[0], c[2]), value(c[1], c[3]));
        } else {
          const auto value = [&](float sum, float bias) {
            return activate<Kind, Clamp>(args.activation, 0.0f,
                                         fmaf(sum, factors.up_or_down, bias));
          };
          put(low + 4 * block, value(c[0], bias[block][0]), value(c[1], bias[block][0]));
          put(high + 4 * block, value(c[2], bias[block][1]), value(c[3], bias[block][1]));
        }
      }
    }
  }

  template <bool kGated>
  static __device__ __forceinline__ void load_bias(const GemmArgs& args, const TileWalk& walk,
                                                   int tile, int g, float (&bias)[2]) {
    const int i = tile * (kGated ? 8 : 16) + g;
    const int64_t expert_row = walk.expert() * args.intermediate_size;
    if (kGated && i < args.intermediate_size) {
      bias[0] = args.bias_gate == nullptr ? 0.0f : args.bias_gate[expert_row + i];
      bias[1] = args.bias_up[expert_row + i];
    } else if (!kGated) {
      if (i < args.intermediate_size) bias[0] = args.bias_up[expert_row + i];
      if (i + 8 < args.intermediate_size) bias[1] = args.bias_up[expert_row + i + 8];
    }
  }
};

}  // namespace moe4::cuda::hopper
