// The warps of the grouped GEMM that bring weights and tokens to shared memory.
#pragma once

#include <algorithm>

#include "experts/hopper/gemm_rings_sm90.cuh"

namespace moe4::cuda::hopper {

// One thread: pairs of m16 tiles lie together, a copy each. Tiles past the last are left out; their
// warps multiply whatever is there and store nothing of it.
template <class Shape>
__device__ __forceinline__ void copy_weights(const GemmArgs& args, uint32_t shared) {
  WeightRing<Shape> ring = weight_ring<Shape>(shared, 0);
  const int64_t pair_bytes = int64_t{args.k_units} * kStepBytes;
  const int stages = (args.steps + 1) / 2;
  TileSource source_of_tiles(args, shared + Shape::kTileOffset);
  for (;;) {
    source_of_tiles.publish();
    if (source_of_tiles.done()) return;
    const int first_tile = source_of_tiles.row_tile() * Shape::kRowTiles;
    const int pairs = max(0, min(Shape::kRowTiles, args.tiles - first_tile)) / 2;
    const uint8_t* source = args.weights + unit_offset(args.tiles, args.k_units,
                                                       source_of_tiles.expert(), first_tile, 0);
    for (int stage = 0; stage < stages; ++stage, source += kStepBytes) {
      // Late, so that whoever is quick gets more; in time, so that no copy waits for the answer.
      if (stage == max(stages - 3, 0)) source_of_tiles.take();
      if (stage == max(stages - 2, 0)) source_of_tiles.load();
      constexpr int kGroupPairs = Shape::kGroupTiles / 2;
#pragma unroll
      for (int group = 0; group < Shape::kConsumerGroups; ++group) {
        const int first = group * kGroupPairs;
        ring.wait_empty(group);
        barrier_expect(ring.full(group), min(max(pairs - first, 0), kGroupPairs) * kStepBytes);
#pragma unroll
        for (int i = first; i < first + kGroupPairs; ++i) {
          if (i >= pairs) break;
          bulk_copy(ring.data() + i * kStepBytes, source + i * pair_bytes, kStepBytes,
                    ring.full(group));
        }
      }
      ring.advance();
    }
  }
}

// FC1: 8 threads copy the 128 bytes of a row's chunk; a warp takes every third group of four rows.
// Such copies count as ordinary writes: once they have landed, each thread makes its own visible to
// wgmma and reports the stage, kBehind stages late. (A fence in the consumers instead costs them
// about 50 cycles a stage.)
template <class Shape>
__device__ __forceinline__ void gather_tokens(const GemmArgs& args, uint32_t shared) {
  constexpr int kWarps = Shape::kGatherThreads / 32;
  constexpr int kGroups = (Shape::kMaxTokens / 4 + kWarps - 1) / kWarps;  // of a warp
  static_assert(kWarps % 2 == 1);
  constexpr int kBehind = Shape::kReportBehind;
  TokenRing<Shape> ring = token_ring<Shape>(shared), landed = ring;
  int ahead = 0;  // stages copied and not reported
  const auto report = [&] {
    fence_async_proxy();
    barrier_arrive(landed.full());
    landed.advance();
    --ahead;
  };
  const int warp = threadIdx.x / 32, unit = threadIdx.x % 8;
  const int row_of_group = threadIdx.x % 32 / 8;
  const int64_t units_per_token = args.steps * 16;
  // Where a row's 16-byte unit lies in a swizzled tile: even and odd groups alternate.
  uint32_t offsets[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = (warp + kWarps * i) * 4 + row_of_group;
    offsets[i] = row * 128 + ((unit ^ (row & 7)) << 4) - kWarps * 512 * i;
  }
  for (TileWalk walk(shared + Shape::kTileOffset, true); !walk.done(); walk.advance()) {
    const int groups = ((walk.rows() + 3) / 4 - warp + kWarps - 1) / kWarps;
    const uint4* rows[kGroups];
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      // Past the end once more the last row: whatever it multiplies is not stored.
      const int row = min((warp + kWarps * i) * 4 + row_of_group, walk.rows() - 1);
      const uint32_t pair = args.sorted_pairs[walk.first_position() + row];
      rows[i] = static_cast<const uint4*>(args.tokens) +
                args.row_of_pair.divide(pair) * units_per_token + unit;
    }
    constexpr int kSpan = std::max(2, Shape::kStageChunks);  // chunks between two steps of `rows`
#pragma unroll 1
    for (int left = 2 * args.steps; left > 0; left -= kSpan) {
#pragma unroll
      for (int chunk = 0; chunk < kSpan; chunk += Shape::kStageChunks) {
        ring.wait_empty();
#pragma unroll
        for (int i = 0; i < kGroups; ++i) {
          if (i >= groups) break;
          const uint32_t destination = ring.data() + offsets[i % 2] + kWarps * 512 * i;
#pragma unroll
          for (int c = 0; c < Shape::kStageChunks; ++c) {
            if (Shape::kStageChunks > 2 && c == left) break;  // an odd number of steps
            copy16(destination + c * Shape::kTokenTileBytes, rows[i] + 8 * (chunk + c));
          }
        }
        copy_commit();
        ring.advance();
        if (++ahead > kBehind) {
          copy_wait<kBehind>();
          report();
        }
      }
#pragma unroll
      for (int i = 0; i < kGroups; ++i) rows[i] += 8 * kSpan;
    }
  }
  copy_wait<0>();
  while (ahead > 0) report();
}

// FC2: one thread copies whole tiles.
template <class Shape>
__device__ __forceinline__ void copy_tokens(const GemmArgs& args, uint32_t shared) {
  wait_for_previous_kernel();
  fence_async_proxy_all();  // the kernel before stored the tiles in the ordinary way
  TokenRing<Shape> ring = token_ring<Shape>(shared);
  const int64_t chunk_bytes = args.position_capacity * 128;
  for (TileWalk walk(shared + Shape::kTileOffset, false); !walk.done(); walk.advance()) {
    const uint8_t* source =
        static_cast<const uint8_t*>(args.tokens) + int64_t{128} * walk.first_position();
    const uint32_t bytes = (walk.rows() + 7) / 8 * 1024;
    for (int chunk = 0; chunk < 2 * args.steps; chunk += Shape::kStageChunks) {
      const int chunks = min(Shape::kStageChunks, 2 * args.steps - chunk);
      ring.wait_empty();
      barrier_expect(ring.full(), chunks * bytes);
#pragma unroll
      for (int c = 0; c < Shape::kStageChunks; ++c, source += chunk_bytes) {
        if (Shape::kStageChunks > 2 && c >= chunks) break;
        bulk_copy(ring.data() + c * Shape::kTokenTileBytes, source, bytes, ring.full());
      }
      ring.advance();
    }
  }
}

}  // namespace moe4::cuda::hopper
