// FC2: the down projection of every (token, slot) pair.
#pragma once

#include "device/cuda/ptx/copy.cuh"
#include "device/cuda/ptx/memory.cuh"
#include "ops/experts/hopper/gemm_rings_sm90.cuh"
#include "ops/experts/hopper/gemm_staging_sm90.cuh"
#include "ops/experts/hopper/pair_output.cuh"

namespace moe4::cuda::hopper {

struct Fc2Epilogue {
  // Where the quads of a lane begin, for the m16 tiles 2j, 2j + 1 around `tile` and its token `row`
  // of each group of 8, from the first position of the tile of tokens; groups are 2048 bytes apart.
  static __device__ __forceinline__ uint32_t quad_offset(int tile, int row) {
    const int g = threadIdx.x % 32 / 4;
    const int unit = tile % 8 / 2 * 4 + g / 2;
    return row * kOutputRowBytes + ((unit ^ row) << 4) + g % 2 * 8;
  }
  static __device__ __forceinline__ uint8_t* output(const GemmArgs& args, const TileWalk& walk,
                                                    int tile) {
    return static_cast<uint8_t*>(args.outputs) +
           (tile / 8 * args.position_capacity + walk.first_position()) * kOutputRowBytes;
  }

  // Of rows g and g + 8 of an m16 tile.
  static __device__ __forceinline__ float2 load_bias(const GemmArgs& args, const TileWalk& walk,
                                                     int tile) {
    const int row = tile * kTileRows + threadIdx.x % 32 / 4;
    if (args.bias_down == nullptr || row >= args.hidden_size) return {};
    const float* from = args.bias_down + walk.expert() * args.hidden_size + row;
    return {from[0], from[8]};
  }

  // Decoding: float32 [position][H], as marlin leaves them. Rows that fill the last eight are
  // stored too.
  template <int kSums>
  static __device__ __forceinline__ void store_floats(const GemmArgs& args, const TileWalk& walk,
                                                      int tile, float alpha,
                                                      const float (&acc)[1][kSums]) {
    if (tile * kTileRows >= args.hidden_size) return;  // padding
    const float2 bias = load_bias(args, walk, tile);
    const int lane = threadIdx.x % 32;
    float* to = static_cast<float*>(args.outputs) +
                (walk.first_position() + int64_t{2} * (lane % 4)) * args.hidden_size +
                tile * kTileRows + lane / 4;
    const int groups = (walk.rows() + 7) / 8;
#pragma unroll
    for (int n = 0; n < kSums / 4; ++n) {
      if (n >= groups) break;
#pragma unroll
      for (int q = 0; q < 2; ++q) {
        to[q * args.hidden_size] = fmaf(acc[0][4 * n + q], alpha, bias.x);
        to[q * args.hidden_size + 8] = fmaf(acc[0][4 * n + 2 + q], alpha, bias.y);
      }
      to += 8 * args.hidden_size;
    }
  }

  // Large tiles: a lane holds the quads of tokens 2t and 2t + 1 of each group of 8. Rows that fill
  // the last eight are stored too: nobody reads them.
  template <class Shape, int kSums>
  static __device__ __forceinline__ void store(const GemmArgs& args, const TileWalk& walk, int tile,
                                               float alpha, float (&acc)[2][kSums],
                                               Outbox<Shape>& outbox) {
    if (tile / 8 * kOutputBlockRows >= args.hidden_size) return;  // padding
    if (args.bias_down != nullptr) {
#pragma unroll
      for (int block = 0; block < 2; ++block) {
        const float2 bias = load_bias(args, walk, tile + block);
#pragma unroll
        for (int i = 0; i < kSums; ++i) {
          acc[block][i] = fmaf(acc[block][i], alpha, i % 4 < 2 ? bias.x : bias.y);
        }
      }
      alpha = 1.0f;
    }
    const QuadEncoder encoder(alpha);
    const int first_row = threadIdx.x % 4 * 2;
    const uint32_t offsets[2] = {quad_offset(tile, first_row), quad_offset(tile, first_row + 1)};
    const int groups = (walk.rows() + 7) / 8;
    constexpr int kGroups = kSums / 4;
    static_assert(kGroups % kSlotGroups == 0);
#pragma unroll
    for (int first = 0; first < kGroups; first += kSlotGroups) {
      if (first >= groups) break;
      const uint32_t slot = outbox.slot();
#pragma unroll
      for (int i = 0; i < 2 * kSlotGroups; ++i) {
        const int n = i / 2, token = i % 2;
        const float* even = acc[0] + 4 * (first + n) + token;
        const float* odd = acc[1] + 4 * (first + n) + token;
        store_shared8(slot + offsets[token] + n * 2048,
                      encoder.encode(even[0], even[2], odd[0], odd[2]));
      }
      outbox.close([&](uint32_t from) {
        bulk_store(output(args, walk, tile) + first * 2048, from,
                   min(kSlotGroups, groups - first) * 2048);
      });
    }
  }

  // Other tiles: of each group of 8 tokens the warp of the even m16 tile gets the other's sums of
  // tokens 2t and gives its own of tokens 2t + 1.
  template <class Shape, int kSums>
  static __device__ __forceinline__ void store(const GemmArgs& args, const TileWalk& walk, int tile,
                                               float alpha, float (&acc)[1][kSums],
                                               Exchange<Shape>& exchange) {
    if (tile / 2 * (2 * kTileRows) >= args.hidden_size) return;  // padding
    if (tile % 2 == 0) {
      store_tokens<0>(args, walk, tile, alpha, acc[0], exchange);
    } else {
      store_tokens<1>(args, walk, tile, alpha, acc[0], exchange);
    }
    exchange.finish();
  }
  template <int kToken, class Shape, int kSums>
  static __device__ __forceinline__ void store_tokens(const GemmArgs& args, const TileWalk& walk,
                                                      int tile, float alpha,
                                                      const float (&acc)[kSums],
                                                      Exchange<Shape>& exchange) {
    // Without a bias times 1 plus 0, because a branch makes ptxas serialise wgmma.
    const float2 bias = load_bias(args, walk, tile);
    const float factor = args.bias_down == nullptr ? 1.0f : alpha;
    const QuadEncoder encoder(args.bias_down == nullptr ? alpha : 1.0f);
    uint8_t* to = output(args, walk, tile) + quad_offset(tile, threadIdx.x % 4 * 2 + kToken);
    const int groups = (walk.rows() + 7) / 8;
    constexpr int kGroups = kSums / 4;
#pragma unroll
    for (int first = 0; first < kGroups; first += 2) {
      if (first >= groups) break;
      float own[2][2], other[2][2];  // sums of rows g and g + 8 of two groups
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float* c = acc + 4 * (first + i < kGroups ? first + i : first);
        own[i][0] = fmaf(c[kToken], factor, bias.x);
        own[i][1] = fmaf(c[kToken + 2], factor, bias.y);
        other[i][0] = fmaf(c[1 - kToken], factor, bias.x);
        other[i][1] = fmaf(c[3 - kToken], factor, bias.y);
      }
      exchange.swap(other);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float(&even)[2] = kToken == 0 ? own[i] : other[i];
        const float(&odd)[2] = kToken == 0 ? other[i] : own[i];
        const uint2 quad = encoder.encode(even[0], even[1], odd[0], odd[1]);
        if (first + i < groups) *reinterpret_cast<uint2*>(to + (first + i) * 2048) = quad;
      }
    }
  }
};

}  // namespace moe4::cuda::hopper
