// Rings of stages in shared memory: tokens, weights, and the tiles that a CTA has taken.
#pragma once

#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/memory.cuh"
#include "ops/experts/hopper/gemm_shape_sm90.cuh"

namespace moe4::cuda::hopper {

// A ring of stages in shared memory: their addresses, barriers, and a place in the ring. A stage
// may have several strands, parts with barriers of their own that other consumers use.
template <int Stages, int StageBytes>
class Ring {
 public:
  static constexpr uint32_t kStrandBarrierBytes = 16 * Stages;
  __device__ __forceinline__ Ring(uint32_t data, uint32_t barriers)
      : data_(data), barriers_(barriers) {}
  __device__ void init(uint32_t producers, uint32_t consumers) const {
    for (int i = 0; i < Stages; ++i) {
      barrier_init(barriers_ + i * 8, producers);
      barrier_init(barriers_ + (Stages + i) * 8, consumers);
    }
  }
  __device__ __forceinline__ uint32_t data() const { return data_ + stage() * StageBytes; }
  __device__ __forceinline__ uint32_t first() const { return data_; }  ///< stage 0
  __device__ __forceinline__ uint32_t stage() const {
    return kPowerOfTwo ? count_ % Stages : count_;
  }
  __device__ __forceinline__ uint32_t full(int strand = 0) const {
    return barriers_ + strand * kStrandBarrierBytes + stage() * 8;
  }
  __device__ __forceinline__ uint32_t empty(int strand = 0) const {
    return full(strand) + Stages * 8;
  }
  __device__ __forceinline__ void wait_full() const { barrier_wait(full(), parity()); }
  __device__ __forceinline__ void wait_empty(int strand = 0) const {
    barrier_wait(empty(strand), parity() ^ 1);
  }
  /// Waits until the consumers are done with this stage as it is filled now, or will be.
  __device__ __forceinline__ void wait_used() const { barrier_wait(empty(), parity()); }
  __device__ __forceinline__ void advance() {
    ++count_;
    if (!kPowerOfTwo && count_ == Stages) {
      count_ = 0;
      parity_ ^= 1;
    }
  }

 private:
  static constexpr bool kPowerOfTwo = (Stages & (Stages - 1)) == 0;
  __device__ __forceinline__ uint32_t parity() const {
    return kPowerOfTwo ? count_ / Stages % 2 : parity_;
  }

  uint32_t data_, barriers_;
  uint32_t count_ = 0, parity_ = 0;
};
template <class Shape>
using TokenRing = Ring<Shape::kTokenStages, Shape::kTokenStageBytes>;
template <class Shape>
using WeightRing = Ring<Shape::kWeightStages, Shape::kWeightStageBytes>;

template <class Shape>
__device__ __forceinline__ TokenRing<Shape> token_ring(uint32_t shared) {
  return {shared, shared + Shape::kBarrierOffset};
}
// Each group of consumers has its own strand of the weights: one that is ahead gets its next ones.
template <class Shape>
__device__ __forceinline__ WeightRing<Shape> weight_ring(uint32_t shared, int group) {
  return {shared + Shape::kWeightOffset, shared + Shape::kBarrierOffset + 16 * Shape::kTokenStages +
                                             group * WeightRing<Shape>::kStrandBarrierBytes};
}

// CTAs take (token tile, row tile) pairs from one list as they come to need one: those of FC1,
// longest first, then those of FC2, so that nobody waits between the two GEMMs and all end
// together. The thread that brings weights takes them, since it is the first to know that the CTA
// can go on, and writes them down for all others.
//
// FC2's tiles wait for FC1's of the same tokens (args.stored_of_tokens). Every tile in front of one
// in the list has been taken by a CTA that is running, so nobody waits for ever, however few CTAs
// run.
using TileRing = Ring<kTilesAhead, 16>;
__device__ __forceinline__ TileRing tile_ring(uint32_t tiles) {
  return {tiles, tiles + kTilesAhead * 16};
}

// A tile: x first position, y expert and rows << 16, z row tile * 2 + (1 of FC2), w token tile.
class TileSource {
 public:
  __device__ TileSource(const GemmArgs& args, uint32_t tiles)
      : args_(args), ring_(tile_ring(tiles)), place_(ring_) {
    take();
    const int token_tiles = load_l2_4(args.num_token_tiles);
    for (int gemm = 0; gemm < 2; ++gemm) items_[gemm] = token_tiles * args.weights[gemm].row_tiles;
    load();
  }
  __device__ bool done() const { return current_.y >> 16 == 0; }
  /// Takes the next tile; its answer is on its way until load().
  __device__ void take() { item_ = atomicAdd(args_.taken, 1); }
  /// What the tile taken is made of, on its way until publish().
  __device__ void load() {
    next_ = {0, 0, 0, 0};
    const int gemm = item_ >= items_[0];
    const int item = gemm == 0 ? item_ : item_ - items_[0];
    if (gemm == 1 && item >= items_[1]) return;
    const GemmWeights& weights = args_.weights[gemm];
    const int token_tile = static_cast<int>(weights.row_tiles_divisor.divide(item));
    const uint2 tokens = load_l2_8(args_.token_tiles + token_tile);
    next_ = make_uint4(tokens.x, tokens.y, (item - token_tile * weights.row_tiles) * 2 + gemm,
                       token_tile);
  }
  /// Goes on to it; one without rows is the end.
  __device__ void publish() {
    current_ = next_;
    ring_.wait_empty();
    store_shared16(ring_.data(), current_);
    barrier_arrive(ring_.full());
    place_ = ring_;
    ring_.advance();
  }
  /// Where it is written down: used when all warps are done with the tile.
  __device__ const TileRing& place() const { return place_; }
  __device__ int gemm() const { return current_.z & 1; }
  __device__ int row_tile() const { return static_cast<int>(current_.z / 2); }
  __device__ int expert() const { return static_cast<int>(current_.y & 0xffff); }
  __device__ int token_tile() const { return static_cast<int>(current_.w); }

 private:
  const GemmArgs& args_;
  TileRing ring_, place_;
  int items_[2];  ///< tiles of FC1, of FC2
  int item_;
  uint4 next_, current_;
};

// The same tiles for everybody else, one after the other.
class TileWalk {
 public:
  /// All lanes of a warp walk together.
  __device__ explicit TileWalk(uint32_t tiles) : ring_(tile_ring(tiles)) { read(); }
  __device__ bool done() const { return rows() == 0; }
  /// This warp is done with the tile: what it has stored of it is reported too (StoredTile).
  __device__ void advance() {
    __syncwarp();
    warp_arrive(ring_.empty(), threadIdx.x % 32 == 0);
    ring_.advance();
    read();
  }
  __device__ int first_position() const { return static_cast<int>(current_.x); }
  __device__ int expert() const { return static_cast<int>(current_.y & 0xffff); }
  __device__ int rows() const { return static_cast<int>(current_.y >> 16); }
  __device__ int gemm() const { return current_.z & 1; }  ///< 0: FC1, 1: FC2
  __device__ int row_tile() const { return static_cast<int>(current_.z / 2); }
  __device__ int token_tile() const { return static_cast<int>(current_.w); }

 private:
  __device__ void read() {
    ring_.wait_full();
    current_ = load_shared16(ring_.data());
  }
  TileRing ring_;
  uint4 current_;
};

}  // namespace moe4::cuda::hopper
