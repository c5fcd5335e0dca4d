// The warps of the grouped GEMMs that bring weights and tokens to shared memory.
#pragma once

#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/copy.cuh"
#include "device/cuda/ptx/memory.cuh"
#include "device/cuda/ptx/warp.cuh"
#include "ops/experts/hopper/gemm_rings_sm90.cuh"

namespace moe4::cuda::hopper {

// What FC1 has stored of a tile becomes known to the CTAs that multiply it in FC2.
//
// The thread that brings weights tells them, once all stages of weights are filled with later ones:
// then it has nothing better to do (the fence waits 1 to 2 us for the CTA's writes), the consumers
// are at most storing that tile, and it has not yet begun to wait for products that may in turn
// wait for other CTAs.
template <class Shape>
class StoredTile {
 public:
  __device__ explicit StoredTile(const GemmArgs& args, uint32_t tiles)
      : args_(args), place_(tile_ring(tiles)) {}
  /// Waits until the tile is stored, if there is one to tell of.
  __device__ void announce() {
    if (token_tile_ < 0) return;
    place_.wait_used();
    fence_release();
    add(args_.stored_of_tokens + token_tile_, 1);
    add(args_.stored, 1);
    token_tile_ = -1;
  }
  /// All weights of this tile of FC1 are on their way.
  __device__ void expect(const TileSource& tile) {
    announce();
    place_ = tile.place();
    token_tile_ = tile.token_tile();
    stages_ = 0;
  }
  /// A stage of another tile is on its way.
  __device__ void count_stage() {
    if (++stages_ == Shape::kWeightStages) announce();
  }

 private:
  const GemmArgs& args_;
  TileRing place_;
  int token_tile_ = -1;  ///< stored soon and not announced
  int stages_ = 0;
};

// One thread: pairs of m16 tiles lie together, a copy each. Tiles past the last are left out; their
// warps multiply whatever is there and store nothing of it.
template <class Shape>
__device__ __forceinline__ void copy_weights(const GemmArgs& args, uint32_t shared) {
  // So publish() waits for no tile of FC2, and no place is used again, as long as a tile of FC1 is
  // not announced.
  static_assert(Shape::kWeightStages < kTilesAhead);
  constexpr int kStepBytes = Shape::Unit::kStepBytes;
  WeightRing<Shape> ring = weight_ring<Shape>(shared, 0);
  StoredTile<Shape> stored(args, shared + Shape::kTileOffset);
  TileSource tile(args, shared + Shape::kTileOffset);
  // A weight is wanted by one CTA, or by a few at once; tokens and outputs are wanted again.
  const uint64_t policy = evict_first_policy();
  for (;;) {
    tile.publish();
    if (tile.done()) break;
    const GemmWeights& weights = args.weights[tile.gemm()];
    const int64_t pair_bytes = int64_t{weights.k_units} * kStepBytes;
    const int stages = (weights.steps + 1) / 2;
    const int first_tile = tile.row_tile() * Shape::kRowTiles;
    const int pairs = max(0, min(Shape::kRowTiles, weights.tiles - first_tile)) / 2;
    const uint8_t* source =
        weights.units + unit_index(weights.tiles, weights.k_units, tile.expert(), first_tile, 0) *
                            Shape::Unit::kBytes;
    for (int stage = 0; stage < stages; ++stage, source += kStepBytes) {
      // Late, so that whoever is quick gets more; in time, so that no copy waits for the answer.
      if (stage == max(stages - 3, 0)) tile.take();
      if (stage == max(stages - 2, 0)) tile.load();
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
                    ring.full(group), policy);
        }
      }
      ring.advance();
      stored.count_stage();
    }
    if (tile.gemm() == 0) stored.expect(tile);
  }
  stored.announce();
}

// Three warps. FC1: they gather token rows. 8 threads copy the 128 bytes of a row's chunk; a warp
// takes every third group of four rows. Such copies count as ordinary writes: once they have
// landed, each thread makes its own visible to wgmma and reports the stage, kBehind stages late. (A
// fence in the consumers instead costs them about 50 cycles a stage.) FC2: one thread copies whole
// tiles.
template <class Shape>
class TokenBringer {
 public:
  __device__ TokenBringer(const GemmArgs& args, uint32_t shared)
      : args_(args),
        tiles_(shared + Shape::kTileOffset),
        ring_(token_ring<Shape>(shared)),
        landed_(ring_),
        warp_(threadIdx.x / 32),
        row_of_group_(threadIdx.x % 32 / 8) {
    const int unit = threadIdx.x % 8;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = (warp_ + kWarps * i) * 4 + row_of_group_;
      offsets_[i] = row * 128 + ((unit ^ (row & 7)) << 4) - kWarps * 512 * i;
    }
  }

  __device__ __forceinline__ void run() {
    TileWalk walk(tiles_);
    for (; !walk.done() && walk.gemm() == 0; walk.advance()) gather(walk);
    copy_wait<0>();
    while (ahead_ > 0) report();
    for (; !walk.done(); walk.advance()) copy(walk);
  }

 private:
  static constexpr int kWarps = Shape::kGatherThreads / 32;
  static constexpr int kGroups = (Shape::kMaxTokens / 4 + kWarps - 1) / kWarps;  // of a warp
  static_assert(kWarps % 2 == 1);
  static constexpr int kBehind = Shape::kReportBehind;

  __device__ __forceinline__ void report() {
    fence_async_proxy();
    __syncwarp();
    warp_arrive(landed_.full(), elect_one());
    landed_.advance();
    --ahead_;
  }

  __device__ __forceinline__ void gather(const TileWalk& walk) {
    const int64_t units_per_token = args_.weights[0].steps * 16;
    const int groups = ((walk.rows() + 3) / 4 - warp_ + kWarps - 1) / kWarps;
    const uint4* rows[kGroups];
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      // Past the end once more the last row: whatever it multiplies is not stored.
      const int row = min((warp_ + kWarps * i) * 4 + row_of_group_, walk.rows() - 1);
      const uint32_t pair = args_.sorted_pairs[walk.first_position() + row];
      rows[i] = static_cast<const uint4*>(args_.hidden) +
                args_.row_of_pair.divide(pair) * units_per_token + threadIdx.x % 8;
    }
    constexpr int kSpan = 4;  // chunks between two steps of `rows`
    static_assert(kSpan % Shape::kStageChunks == 0);
    // If there are more groups than predicates, each is compared with a number that changes, in
    // front of every copy: ptxas would keep the results as bits of a register, three instructions
    // each.
    constexpr bool kManyGroups = kGroups > 8;
    constexpr int kGroup = 1 << 24;
#pragma unroll 1
    for (int left = 2 * args_.weights[0].steps; left > 0; left -= kSpan) {
#pragma unroll
      for (int chunk = 0; chunk < kSpan; chunk += Shape::kStageChunks) {
        if (chunk == 2 && left == 2) break;  // an odd number of steps
        ring_.wait_empty();
        uint32_t first[2] = {ring_.data() + offsets_[0], ring_.data() + offsets_[1]};
        if (kManyGroups) asm volatile("" : "+r"(first[0]), "+r"(first[1]));  // constants go on top
        const int groups_and_left = groups * kGroup + left - chunk;
#pragma unroll
        for (int i = 0; i < kGroups; ++i) {
          const bool wanted = kManyGroups ? groups_and_left >= (i + 1) * kGroup : i < groups;
          const uint32_t destination = first[i % 2] + kWarps * 512 * i;
#pragma unroll
          for (int c = 0; c < Shape::kStageChunks; ++c) {
            const bool inside = Shape::kStageChunks <= 2 || c < left;
            copy16_if(inside && wanted, destination + c * Shape::kTokenTileBytes,
                      rows[i] + 8 * (chunk + c));
          }
        }
        copy_commit();
        ring_.advance();
        if (++ahead_ > kBehind) {
          copy_wait<kBehind>();
          report();
        }
      }
#pragma unroll
      for (int i = 0; i < kGroups; ++i) rows[i] += 8 * kSpan;
    }
  }

  __device__ __forceinline__ void copy(const TileWalk& walk) {
    if (warp_ == 0 && elect_one()) wait_for_fc1(walk.token_tile());
    const int64_t chunk_bytes = args_.position_capacity * 128;
    const uint8_t* source =
        static_cast<const uint8_t*>(args_.intermediate) + int64_t{128} * walk.first_position();
    const uint32_t bytes = (walk.rows() + 7) / 8 * 1024;
#pragma unroll 1
    for (int left = 2 * args_.weights[1].steps; left > 0; left -= Shape::kStageChunks) {
      const int chunks = min(Shape::kStageChunks, left);
      ring_.wait_empty();
      if (warp_ != 0) {
        warp_arrive(ring_.full(), threadIdx.x % 32 == 0);
      } else if (elect_one()) {
        barrier_expect(ring_.full(), chunks * bytes);
#pragma unroll
        for (int c = 0; c < Shape::kStageChunks; ++c) {
          if (Shape::kStageChunks > 2 && c >= chunks) break;
          bulk_copy(ring_.data() + c * Shape::kTokenTileBytes, source + c * chunk_bytes, bytes,
                    ring_.full());
        }
      } else if (kEveryLaneArrives) {
        barrier_arrive(ring_.full());
      }
      source += Shape::kStageChunks * chunk_bytes;
      ring_.advance();
    }
  }

  // One thread. Once FC1 is stored as a whole, there is nothing to ask for any more.
  __device__ __forceinline__ void wait_for_fc1(int token_tile) {
    if (fc1_is_stored_) return;
    const int row_tiles = args_.weights[0].row_tiles;
    fc1_is_stored_ = load_acquire(args_.stored) == load_l2_4(args_.num_token_tiles) * row_tiles;
    if (!fc1_is_stored_) {
      while (load_acquire(args_.stored_of_tokens + token_tile) < row_tiles) {
      }
    }
    fence_async_proxy_all();  // it was stored in the ordinary way
  }

  const GemmArgs& args_;
  const uint32_t tiles_;
  TokenRing<Shape> ring_, landed_;
  int ahead_ = 0;  ///< stages copied and not reported
  bool fc1_is_stored_ = false;
  const int warp_, row_of_group_;
  /// Where a row's 16-byte unit lies in a swizzled tile: even and odd groups alternate.
  uint32_t offsets_[2];
};

}  // namespace moe4::cuda::hopper
