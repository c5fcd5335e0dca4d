// The warps of the grouped GEMMs that decode weights and multiply, a loop for each kind of tile.
#pragma once

#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/memory.cuh"
#include "device/cuda/ptx/wgmma_sm90.cuh"
#include "ops/experts/gpu/decode.cuh"
#include "ops/experts/hopper/gemm_rings_sm90.cuh"

namespace moe4::cuda::hopper {

/// Of one thread: row g + 8 (i / 2), token 8b + 2t + i % 2 at [4b + i].
template <class Shape>
using Accumulators = float[Shape::kMaxTokens / 2];

// What a consumer warp keeps from tile to tile.
template <class Shape>
struct Consumer {
  WeightRing<Shape> weights;
  TokenRing<Shape> tokens;
  uint32_t lane_codes;  ///< of this lane in its warp's first unit of stage 0
  uint32_t lane_scales;
  bool leader;  ///< lane 0
};

/// The descriptor of the first 64 columns of the stage that comes next; `first` is that of stage 0.
template <int Stages, int StageBytes>
__device__ __forceinline__ uint32_t tokens_descriptor(uint32_t first,
                                                      const Ring<Stages, StageBytes>& tokens) {
  return first + tokens.stage() * (StageBytes >> 4);
}

// One block of 64 rows a warpgroup: a step of 128 columns is decoded at once; the other groups
// multiply meanwhile.
template <class Shape>
__device__ __forceinline__ void multiply(const ShiftByProduct& shift_left, int steps,
                                         Consumer<Shape>& c, int rows,
                                         Accumulators<Shape> (&acc)[1]) {
  static_assert(Shape::kMaxTokens == 96 && Shape::kStageChunks == 2);
  uint32_t width = static_cast<uint32_t>(rows - 1) / 8;
  uint32_t first_b = b_descriptor(c.tokens.first());
  asm volatile("" : "+r"(width), "+r"(first_b));  // kept, not computed in every step
  // Where the tokens of the step before are reported as used; 0 in the first step.
  uint32_t used = 0;
  uint32_t a[32];
#pragma unroll 1
  for (int left = steps; left > 0; left -= 2) {
    c.weights.wait_full();
    uint32_t codes = c.weights.data() + c.lane_codes;
    uint2 scale_bytes = load_shared8(c.weights.data() + c.lane_scales);
    int here = min(2, left);
    asm volatile("" : "+r"(here));  // likewise
#pragma unroll 1
    do {
      const uint4 words[2] = {load_shared16(codes), load_shared16(codes + 512)};
      wgmma_wait<0>();  // of the step before: its A registers are free, its tokens used
      if (used != 0) warp_arrive(used, c.leader);
      decode_chunk(words[0], decode_scales<Shape::kFormat, 0>(scale_bytes), a, shift_left);
      decode_chunk(words[1], decode_scales<Shape::kFormat, 1>(scale_bytes), a + 16, shift_left);
      c.tokens.wait_full();
      const uint32_t b = tokens_descriptor(first_b, c.tokens);
      multiply_128_columns(acc[0], a, b, b + (Shape::kTokenTileBytes >> 4), used, width);
      used = c.tokens.empty();
      c.tokens.advance();
      codes += 1024;
      scale_bytes.x = scale_bytes.y;
    } while (--here > 0);
    __syncwarp();
    warp_arrive(c.weights.empty(), c.leader);
    c.weights.advance();
  }
  wgmma_wait<0>();
  warp_arrive(used, c.leader);
}

/// total += sums if `wanted`, without a branch.
template <int kSums>
__device__ __forceinline__ void add_if(bool wanted, const float (&sums)[kSums],
                                       float (&total)[kSums]) {
  static_assert(kSums % 4 == 0);
#pragma unroll
  for (int i = 0; i < kSums; i += 4) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.s32 p, %8, 0;\n"
        "@p add.rn.f32 %0, %0, %4;\n@p add.rn.f32 %1, %1, %5;\n"
        "@p add.rn.f32 %2, %2, %6;\n@p add.rn.f32 %3, %3, %7;\n}"
        : "+f"(total[i]), "+f"(total[i + 1]), "+f"(total[i + 2]), "+f"(total[i + 3])
        : "f"(sums[i]), "f"(sums[i + 1]), "f"(sums[i + 2]), "f"(sums[i + 3]),
          "r"(static_cast<int>(wanted)));
  }
}

// The width of the products is a constant, so the loop has no branch (with one, ptxas lets no
// products follow others to the same accumulators, and serialises): 300 instructions for 256
// columns, where the loop with a choice of widths takes 335.
//
// With runs (a stage is a unit of K) the products of a run are added to `total` where those of the
// next are about to begin: they have long been done by then, since decoding takes longer. Without,
// `total` is not used.
template <class Shape, int kTokens>
__device__ __forceinline__ void multiply_narrow(int steps, int run_units, Consumer<Shape>& c,
                                                float (&acc)[kTokens / 2],
                                                float (&total)[kTokens / 2]) {
  static_assert(Shape::kStageChunks == kChunks);
  int left_in_run = 0;  // units
  if constexpr (Shape::kRuns) {
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) acc[i] = total[i] = 0.0f;
  }
  // Sets of A registers. ptxas gives the loops of both widths their own accumulators and sets; with
  // runs `total` lives beside them, and a second set in tiles of 24 tokens would spill (6 % of a
  // layer at 16 tokens an expert).
  constexpr int kSets = Shape::kMaxTokens > (Shape::kRuns ? 16 : 24) ? 1 : 2;
  uint32_t a[kSets][16];
  uint32_t used = 0;
  const int chunks = 2 * steps;
#pragma unroll 1
  for (int left = chunks; left > 0; left -= kChunks) {
    c.weights.wait_full();
    const uint32_t codes = c.weights.data() + c.lane_codes;
    const uint2 scale_bytes = load_shared8(c.weights.data() + c.lane_scales);
    uint4 words = load_shared16(codes);
    uint32_t b = 0, scales = 0;
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      if (chunk == 2 && left == 2) break;  // an odd number of steps
      if (chunk == 0) scales = decode_scales<Shape::kFormat, 0>(scale_bytes);
      if (chunk == 1) scales = decode_scales<Shape::kFormat, 1>(scale_bytes);
      if (chunk == 2) scales = decode_scales<Shape::kFormat, 2>(scale_bytes);
      if (chunk == 3) scales = decode_scales<Shape::kFormat, 3>(scale_bytes);
      uint32_t pairs[16];
      extract_pairs(words.x, words.y, pairs);
      extract_pairs(words.z, words.w, pairs + 8);
      if constexpr (kSets == 1) {
#pragma unroll
        for (uint32_t& pair : pairs) asm volatile("" : "+r"(pair));  // before the wait
      }
      wgmma_wait<kSets - 1>();  // of the products that read these A registers
      if (chunk == 1) {         // the stage before is used
        if (left < chunks) warp_arrive(used, c.leader);
        used = c.tokens.empty();
        c.tokens.advance();
      }
      scale_pairs<16>(pairs, scales, a[chunk % kSets]);
      if (chunk + 1 < kChunks) words = load_shared16(codes + 512 * (chunk + 1));
      bool accumulate = chunk > 0 || left < chunks;
      if (chunk == 0) {
        c.tokens.wait_full();
        b = b_descriptor(c.tokens.data());
        if constexpr (Shape::kRuns) {
          wgmma_wait<0>();
#pragma unroll
          for (float& sum : acc) asm volatile("" : "+f"(sum)::"memory");
          const bool begins = left_in_run == 0;
          add_if(begins, acc, total);
          accumulate = !begins;
          left_in_run = (begins ? run_units : left_in_run) - 1;
        }
      }
      multiply_64_columns(acc, a[chunk % kSets], b + chunk * (Shape::kTokenTileBytes >> 4),
                          accumulate);
    }
    __syncwarp();
    warp_arrive(c.weights.empty(), c.leader);
    c.weights.advance();
  }
  wgmma_wait<0>();
  warp_arrive(used, c.leader);
#pragma unroll
  for (float& sum : acc) asm volatile("" : "+f"(sum)::"memory");
  if constexpr (Shape::kRuns) add_if(true, acc, total);
}

// Two blocks of 64 rows a warpgroup, in turn: while the products of one run, the other is decoded,
// 64 columns at a time.
template <class Shape>
__device__ __forceinline__ void multiply(const ShiftByProduct& shift_left, int steps,
                                         Consumer<Shape>& c, int rows,
                                         Accumulators<Shape> (&acc)[2]) {
  static_assert(Shape::kMaxTokens == 160 && Shape::kStageChunks == 1);
  const uint32_t width = (rows - 1) / 8;
  uint32_t used = 0, accumulate = 0;
  uint32_t a[2][16];
  for (int first = 0; first < 2 * steps; first += kChunks) {
    c.weights.wait_full();
    uint32_t codes = c.weights.data() + c.lane_codes;
    uint32_t scales = c.weights.data() + c.lane_scales;
    uint4 words = load_shared16(codes);
    uint32_t scale_bytes = load_shared2(scales);
    int here = min(kChunks, 2 * steps - first);
    asm volatile("" : "+r"(here));  // kept, not computed for every chunk
#pragma unroll 1
    do {
      uint32_t b = 0;
#pragma unroll
      for (int block = 0; block < 2; ++block) {
        wgmma_wait<1>();  // of this block's chunk before: its A registers are free
        if (block == 1) {
          if (accumulate != 0) warp_arrive(used, c.leader);
          used = c.tokens.empty();
          c.tokens.advance();
        }
        decode_chunk(words, decode_scales<Shape::kFormat, 0>(make_uint2(scale_bytes, 0)), a[block],
                     shift_left);
        // The next words, before the products start; past the unit's end nobody uses them.
        words = load_shared16(codes + (block == 0 ? Shape::Unit::kBytes : 512));
        scale_bytes = load_shared2(scales + (block == 0 ? Shape::Unit::kBytes : 2));
        if (block == 0) {
#pragma unroll
          for (uint32_t& word : a[0]) asm volatile("" : "+r"(word));  // decoded before the wait
          c.tokens.wait_full();
          b = tokens_descriptor(b_descriptor(c.tokens.first()), c.tokens);
        }
        multiply_64_columns(acc[block], a[block], b, accumulate, width);
      }
      accumulate = 1;
      codes += 512;
      scales += 2;
    } while (--here > 0);
    __syncwarp();
    warp_arrive(c.weights.empty(), c.leader);
    c.weights.advance();
  }
  wgmma_wait<0>();
  warp_arrive(used, c.leader);
}

}  // namespace moe4::cuda::hopper
