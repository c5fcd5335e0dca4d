// Grouped GEMM of NVFP4 weights and BF16 tokens on Hopper's warpgroup tensor cores.
//
//   D[row, token] = sum_k W[expert, row, k] X[token, k],  for every tile of an expert's tokens
//
// A = weights: decoded in registers from the packed layout (device/packed_layout.h). A consumer
// warp
//     owns m16 tiles; the units of a CTA's 16 tiles and 256 columns make a stage of a ring in
//     shared memory, filled by bulk copies.
// B = tokens: [tokens][64] tiles in the 128-byte swizzle, in the stages of a second ring. FC1
//     gathers rows with cp.async; FC2 finds its tiles ready-made (FC1's epilogue stores the
//     intermediate in that form) and needs one bulk copy a tile.
//
// The packed layout gives lane t of a quad whole blocks of 16 columns, so slot s of wgmma m in a
// chunk of 64 columns is not column 16m + s: 32-bit word 8m + 4h + t of a token's chunk (h = half
// of the k16 slots) holds columns 2 (8t + 2m + h) and the next. Tokens are stored in that order:
// word 4u + t <- word 8t + u, u = 2m + h.
//
// wgmma n is the tokens of the tile, rounded up (narrow: to one of two widths). Decoding takes a
// warp longer than the tensor cores need for its products, so a CTA must keep them busy from
// several sides:
//
//   narrow 256 rows x 16, 24 or 40 tokens: four groups of 64 rows. A step is 64 columns: decode 16
//          registers, four wgmma of one of two constant widths, which run while the group decodes
//          the next 64.
//   small  256 rows x 96 tokens: four groups of 64 rows. A step is 128 columns: decode 32
//          registers, eight wgmma; the other groups multiply while one decodes.
//   large  256 rows x 160 tokens: two groups of two blocks of 64 rows. A step is a block's 64
//          columns: decode 16 registers, four wgmma, which run while the group decodes its other
//          block.
//
// The rings let warpgroups drift apart by a few steps, so one's epilogue overlaps the others'
// products. CTAs are persistent, one an SM, and share the list of (token tile, row tile), row tiles
// fastest, so that neighbours share tokens in L2.
#pragma once

#include <cuda_bf16.h>

#include <algorithm>

#include "base/checked_math.h"
#include "experts/device/decode.cuh"
#include "experts/device/launch.h"
#include "experts/device/memory.cuh"
#include "experts/device/warp_arrival.cuh"
#include "experts/hopper/hopper_kernels.h"
#include "experts/hopper/sm90_ptx.cuh"
#include "experts/hopper/wgmma_sm90.cuh"

namespace moe4::cuda::hopper {

using namespace sm90;

/// Tiles of at most `Few` tokens take narrower products.
template <TileConfig Tiles, int Few>
struct NarrowConfig {
  static constexpr TileConfig kTiles = Tiles;
  static constexpr int kConsumerGroups = 4;
  static constexpr int kBlocks = 1;
  static constexpr int kMaxTokens = max_tile_tokens(kTiles);
  static constexpr int kFewTokens = Few;
  static constexpr int kStageChunks = 4;
  static constexpr int kConsumerRegisters = 112;
  static constexpr int kProducerRegisters = 32;
  static constexpr int kTokenStages = 3;
  static constexpr int kWeightStages = 4;
};
template <class Config>
inline constexpr bool kIsNarrow = false;
template <TileConfig Tiles, int Few>
inline constexpr bool kIsNarrow<NarrowConfig<Tiles, Few>> = true;

struct SmallConfig {
  static constexpr int kConsumerGroups = 4;
  static constexpr int kBlocks = 1;  ///< blocks of 64 rows of a consumer group
  static constexpr TileConfig kTiles = TileConfig::kSmall;
  static constexpr int kMaxTokens = max_tile_tokens(kTiles);
  static constexpr int kStageChunks = 2;  ///< chunks of 64 columns in a stage of tokens
  static constexpr int kConsumerRegisters = 112;
  static constexpr int kProducerRegisters = 32;
  static constexpr int kTokenStages = 4;
  static constexpr int kWeightStages = 3;
};

struct LargeConfig {
  static constexpr int kConsumerGroups = 2;
  static constexpr int kBlocks = 2;
  static constexpr TileConfig kTiles = TileConfig::kLarge;
  static constexpr int kMaxTokens = max_tile_tokens(kTiles);
  static constexpr int kStageChunks = 1;
  static constexpr int kConsumerRegisters = 232;
  static constexpr int kProducerRegisters = 40;
  static constexpr int kTokenStages = 5;
  static constexpr int kWeightStages = 3;
};

/// Tiles that the thread which takes them may be ahead of the last that uses them.
inline constexpr int kTilesAhead = 4;

template <class Config>
struct GemmShape : Config {
  static constexpr int kConsumerWarps = Config::kConsumerGroups * 4;
  static constexpr int kRowTiles = kConsumerWarps * Config::kBlocks;  ///< m16 tiles of a CTA
  static constexpr int kThreads = (Config::kConsumerGroups + 1) * 128;
  static constexpr int kGatherThreads = 96;  ///< warps 0 to 2; warp 3 brings weights
  static constexpr int kTokenTileBytes = Config::kMaxTokens * 128;
  static constexpr int kTokenStageBytes = Config::kStageChunks * kTokenTileBytes;
  static constexpr int kWeightStageBytes = kRowTiles * kUnitBytes;
  // Shared memory: tokens, weights, their barriers, tiles with theirs.
  static constexpr int kWeightOffset = Config::kTokenStages * kTokenStageBytes;
  static constexpr int kBarrierOffset = kWeightOffset + Config::kWeightStages * kWeightStageBytes;
  static constexpr int kTileOffset =
      kBarrierOffset + 16 * (Config::kTokenStages + Config::kWeightStages);
  static constexpr int kSharedBytes = kTileOffset + 32 * kTilesAhead;
  static_assert(tiles_of_quads(Config::kTiles) == Config::kBlocks);
  static_assert(kTokenTileBytes % 1024 == 0 && kSharedBytes <= 232448);
  // The registers a launch gets: 65536 over all threads, in units of 8 a thread.
  static_assert(Config::kConsumerGroups * Config::kConsumerRegisters + Config::kProducerRegisters <=
                65536 / kThreads / 8 * 8 * (Config::kConsumerGroups + 1));
};

// Division of numbers below 2^31 by a number known at launch: a product and a shift.
struct Divisor {
  explicit Divisor(int divisor) {
    while ((int64_t{1} << shift) < divisor) ++shift;
    factor = static_cast<uint32_t>(((int64_t{1} << (31 + shift)) + divisor - 1) / divisor);
  }
  Divisor() = default;
  __device__ uint32_t divide(uint32_t n) const { return __umulhi(n * 2, factor) >> shift; }

  uint32_t factor = 0, shift = 0;
};

struct GemmArgs {
  const uint8_t* weights;
  int tiles;      ///< m16 tiles of an expert
  int k_units;    ///< units of 256 columns of an expert's tile
  int steps;      ///< of 128 columns
  int row_tiles;  ///< CTA tiles over the rows
  Divisor row_tiles_divisor;
  const TokenTile* token_tiles;
  const int32_t* num_token_tiles;
  int32_t* taken;               ///< tiles that CTAs have taken besides their first ones
  const int32_t* sorted_pairs;  ///< FC1
  Divisor row_of_pair;          ///< FC1: a pair's row of `tokens`
  const void* tokens;           ///< FC1: permuted rows; FC2: the intermediate
  int64_t position_capacity;
  const float* alpha;  ///< FC1: up; FC2: down
  const float* gate_alpha;
  const float* bias;       ///< [experts, output_rows] of up or down, or null
  const float* gate_bias;  ///< FC1; null exactly when `bias` is
  ActivationParams activation;
  void* output;
  int64_t output_rows;  ///< FC1: I; FC2: H
  int output_chunks;    ///< FC1: chunks of 64 the intermediate has room for
};

// A ring of stages in shared memory: their addresses, barriers, and a place in the ring.
template <int Stages, int StageBytes>
class Ring {
 public:
  __device__ __forceinline__ Ring(uint32_t data, uint32_t barriers)
      : data_(data), barriers_(barriers) {}
  __device__ void init(uint32_t producers, uint32_t consumers) const {
    for (int i = 0; i < Stages; ++i) {
      barrier_init(barriers_ + i * 8, producers);
      barrier_init(barriers_ + (Stages + i) * 8, consumers);
    }
  }
  __device__ __forceinline__ uint32_t data() const { return data_ + stage() * StageBytes; }
  __device__ __forceinline__ uint32_t full() const { return barriers_ + stage() * 8; }
  __device__ __forceinline__ uint32_t empty() const { return barriers_ + (Stages + stage()) * 8; }
  __device__ __forceinline__ void wait_full() const { barrier_wait(full(), parity()); }
  __device__ __forceinline__ void wait_empty() const { barrier_wait(empty(), parity() ^ 1); }
  __device__ __forceinline__ void advance() {
    ++count_;
    if (!kPowerOfTwo && count_ == Stages) {
      count_ = 0;
      parity_ ^= 1;
    }
  }

 private:
  static constexpr bool kPowerOfTwo = (Stages & (Stages - 1)) == 0;
  __device__ __forceinline__ uint32_t stage() const {
    return kPowerOfTwo ? count_ % Stages : count_;
  }
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
template <class Shape>
__device__ __forceinline__ WeightRing<Shape> weight_ring(uint32_t shared) {
  return {shared + Shape::kWeightOffset, shared + Shape::kBarrierOffset + 16 * Shape::kTokenStages};
}

// ---- tiles -------------------------------------------------------------------------------------

// CTAs take (token tile, row tile) pairs from one list, longest first, as they come to need one, so
// that they end together. The thread that brings weights takes them, since it is the first to know
// that the CTA can go on, and writes them down for all others.
using TileRing = Ring<kTilesAhead, 16>;
__device__ __forceinline__ TileRing tile_ring(uint32_t tiles) {
  return {tiles, tiles + kTilesAhead * 16};
}

class TileSource {
 public:
  __device__ TileSource(const GemmArgs& args, uint32_t tiles)
      : args_(args),
        ring_(tile_ring(tiles)),
        items_(load_l2_4(args.num_token_tiles) * args.row_tiles),
        item_(blockIdx.x) {
    load();
  }
  __device__ bool done() const { return rows() == 0; }
  /// Takes the next tile; its answer is on its way until load().
  __device__ void take() { item_ = gridDim.x + atomicAdd(args_.taken, 1); }
  /// What the tile taken is made of, on its way until publish().
  __device__ void load() {
    next_ = {0, 0};
    if (item_ < items_) {
      next_ = load_l2_8(args_.token_tiles + args_.row_tiles_divisor.divide(item_));
    }
  }
  /// Goes on to it; one without rows is the end.
  __device__ void publish() {
    current_ = next_;
    row_tile_ = item_ - static_cast<int>(args_.row_tiles_divisor.divide(item_)) * args_.row_tiles;
    ring_.wait_empty();
    store_shared16(ring_.data(), make_uint4(current_.x, current_.y, row_tile_, 0));
    barrier_arrive(ring_.full());
    ring_.advance();
  }
  __device__ int row_tile() const { return row_tile_; }
  __device__ int expert() const { return static_cast<int>(current_.y & 0xffff); }

 private:
  __device__ int rows() const { return static_cast<int>(current_.y >> 16); }
  const GemmArgs& args_;
  TileRing ring_;
  const int items_;
  int item_, row_tile_ = 0;
  uint2 next_, current_ = {0, 0};
};

// The same tiles for everybody else, one after the other.
class TileWalk {
 public:
  /// `whole_warp`: all lanes of the warp walk together, else one thread alone does.
  __device__ TileWalk(uint32_t tiles, bool whole_warp)
      : ring_(tile_ring(tiles)), whole_warp_(whole_warp) {
    read();
  }
  __device__ bool done() const { return rows() == 0; }
  __device__ void advance() { read(); }
  __device__ int first_position() const { return static_cast<int>(current_.x); }
  __device__ int expert() const { return static_cast<int>(current_.y & 0xffff); }
  __device__ int rows() const { return static_cast<int>(current_.y >> 16); }
  __device__ int row_tile() const { return static_cast<int>(current_.z); }

 private:
  __device__ void read() {
    ring_.wait_full();
    current_ = load_shared16(ring_.data());
    if (whole_warp_) {
      __syncwarp();
      warp_arrive(ring_.empty(), threadIdx.x % 32 == 0);
    } else {
      barrier_arrive(ring_.empty());
    }
    ring_.advance();
  }
  TileRing ring_;
  const bool whole_warp_;
  uint4 current_;
};

// ---- producers ---------------------------------------------------------------------------------

// One thread: pairs of m16 tiles lie together, a copy each. Tiles past the last are left out; their
// warps multiply whatever is there and store nothing of it.
template <class Shape>
__device__ __forceinline__ void copy_weights(const GemmArgs& args, uint32_t shared) {
  WeightRing<Shape> ring = weight_ring<Shape>(shared);
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
      ring.wait_empty();
      barrier_expect(ring.full(), pairs * kStepBytes);
      for (int i = 0; i < pairs; ++i) {
        bulk_copy(ring.data() + i * kStepBytes, source + i * pair_bytes, kStepBytes, ring.full());
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
  constexpr int kBehind = Shape::kTokenStages / 2 - (Shape::kTokenStages % 2 == 0);
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

// ---- consumers ---------------------------------------------------------------------------------

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

// Widths of multiply_64_columns(): 40, 80, 112, 120, 128, 136, 144 and 160 tokens.
__device__ __forceinline__ uint32_t large_width(int rows) {
  if (rows > 104) return rows > 144 ? 7 : (rows - 97) / 8 + 1;
  return rows > 80 ? 2 : (rows > 40 ? 1 : 0);
}

// One block of 64 rows a warpgroup: a step of 128 columns is decoded at once; the other groups
// multiply meanwhile.
template <class Shape>
__device__ __forceinline__ void multiply(const GemmArgs& args, Consumer<Shape>& c, int rows,
                                         Accumulators<Shape> (&acc)[1]) {
  static_assert(Shape::kMaxTokens == 96 && Shape::kStageChunks == 2);
  uint32_t width = (rows - 1) / 8;
  asm volatile("" : "+r"(width));  // in a register of its own, where comparing is cheap
  int steps = args.steps;
  asm volatile("" : "+r"(steps));  // else it is loaded in every step
  uint32_t codes = 0, scales = 0, used = 0;
  const auto release_weights = [&] {
    __syncwarp();
    warp_arrive(c.weights.empty(), c.leader);
    c.weights.advance();
  };
#pragma unroll 1  // two steps at once would need two sets of A registers
  for (int step = 0; step < steps; ++step) {
    if (step % 2 == 0) {
      c.weights.wait_full();
      codes = c.weights.data() + c.lane_codes;
      scales = c.weights.data() + c.lane_scales;
    }
    const uint32_t scale_bytes = load_shared4(scales);
    const uint4 words0 = load_shared16(codes), words1 = load_shared16(codes + 512);
    codes += 1024;
    scales += 4;
    wgmma_wait<0>();  // of the step before: its A registers are free, its tokens used
    if (step > 0) warp_arrive(used, c.leader);
    uint32_t a[32], scale_g, scale_g8;
    decode_scales<0>(make_uint2(scale_bytes, 0), scale_g, scale_g8);
    decode_chunk(words0, scale_g, scale_g8, reinterpret_cast<uint32_t(&)[16]>(a[0]));
    decode_scales<1>(make_uint2(scale_bytes, 0), scale_g, scale_g8);
    decode_chunk(words1, scale_g, scale_g8, reinterpret_cast<uint32_t(&)[16]>(a[16]));
    c.tokens.wait_full();
    const uint32_t b = b_descriptor(c.tokens.data());
    multiply_128_columns(acc[0], a, b, b + (Shape::kTokenTileBytes >> 4), step > 0, width);
    used = c.tokens.empty();
    c.tokens.advance();
    if (step % 2 == 1) release_weights();
  }
  if (steps % 2 == 1) release_weights();
  wgmma_wait<0>();
  warp_arrive(used, c.leader);
}

// The width of the products is a constant, so the loop has no branch (with one, ptxas lets no
// products follow others to the same accumulators, and serialises): 302 instructions for 256
// columns, where the loop with a choice of widths takes 370.
template <class Shape, int kTokens>
__device__ __forceinline__ void multiply_narrow(const GemmArgs& args, Consumer<Shape>& c,
                                                float (&acc)[kTokens / 2]) {
  static_assert(Shape::kStageChunks == kChunks);
  // Sets of A registers. ptxas gives the loops of both widths their own accumulators and sets.
  constexpr int kSets = Shape::kMaxTokens > 24 ? 1 : 2;
  uint32_t a[kSets][16];
  uint32_t used = 0;
  const int chunks = 2 * args.steps;
#pragma unroll 1
  for (int left = chunks; left > 0; left -= kChunks) {
    c.weights.wait_full();
    const uint32_t codes = c.weights.data() + c.lane_codes;
    const uint2 scale_bytes = load_shared8(c.weights.data() + c.lane_scales);
    uint4 words = load_shared16(codes);
    uint32_t b = 0, scale_g, scale_g8;
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      if (chunk == 2 && left == 2) break;  // an odd number of steps
      if (chunk == 0) decode_scales<0>(scale_bytes, scale_g, scale_g8);
      if (chunk == 1) decode_scales<1>(scale_bytes, scale_g, scale_g8);
      if (chunk == 2) decode_scales<2>(scale_bytes, scale_g, scale_g8);
      if (chunk == 3) decode_scales<3>(scale_bytes, scale_g, scale_g8);
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
      uint32_t(&registers)[16] = a[chunk % kSets];
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        registers[i] = multiply_bf16x2(pairs[i], i % 2 == 0 ? scale_g : scale_g8);
      }
      if (chunk + 1 < kChunks) words = load_shared16(codes + 512 * (chunk + 1));
      if (chunk == 0) {
        c.tokens.wait_full();
        b = b_descriptor(c.tokens.data());
      }
      multiply_64_columns(acc, registers, b + chunk * (Shape::kTokenTileBytes >> 4),
                          chunk > 0 || left < chunks);
    }
    __syncwarp();
    warp_arrive(c.weights.empty(), c.leader);
    c.weights.advance();
  }
  wgmma_wait<0>();
  warp_arrive(used, c.leader);
#pragma unroll
  for (float& sum : acc) asm volatile("" : "+f"(sum)::"memory");
}

// Two blocks of 64 rows a warpgroup, in turn: while the products of one run, the other is decoded,
// 64 columns at a time.
template <class Shape>
__device__ __forceinline__ void multiply(const GemmArgs& args, Consumer<Shape>& c, int rows,
                                         Accumulators<Shape> (&acc)[2]) {
  static_assert(Shape::kMaxTokens == 160 && Shape::kStageChunks == 1);
  uint32_t width = large_width(rows);
  asm volatile("" : "+r"(width));
  uint32_t used = 0, accumulate = 0;
  uint32_t a[2][16];
  for (int first = 0; first < 2 * args.steps; first += kChunks) {
    c.weights.wait_full();
    uint32_t codes = c.weights.data() + c.lane_codes;
    uint32_t scales = c.weights.data() + c.lane_scales;
    uint4 words = load_shared16(codes);
    uint32_t scale_bytes = load_shared2(scales);
    const int chunks = min(kChunks, 2 * args.steps - first);
#pragma unroll 1
    for (int chunk = 0; chunk < chunks; ++chunk) {
      uint32_t b = 0;
#pragma unroll
      for (int block = 0; block < 2; ++block) {
        uint32_t scale_g, scale_g8;
        decode_scales<0>(make_uint2(scale_bytes, 0), scale_g, scale_g8);
        wgmma_wait<1>();  // of this block's chunk before: its A registers are free
        if (block == 1) {
          if (accumulate != 0) warp_arrive(used, c.leader);
          used = c.tokens.empty();
          c.tokens.advance();
        }
        decode_chunk(words, scale_g, scale_g8, a[block]);
        // The next words, before the products start; past the unit's end nobody uses them.
        words = load_shared16(codes + (block == 0 ? kUnitBytes : 512));
        scale_bytes = load_shared2(scales + (block == 0 ? kUnitBytes : 2));
        if (block == 0) {
          c.tokens.wait_full();
          b = b_descriptor(c.tokens.data());
        }
        multiply_64_columns(acc[block], a[block], b, accumulate, width);
      }
      accumulate = 1;
      codes += 512;
      scales += 2;
    }
    __syncwarp();
    warp_arrive(c.weights.empty(), c.leader);
    c.weights.advance();
  }
  wgmma_wait<0>();
  warp_arrive(used, c.leader);
}

// Groups of 8 tokens that an epilogue stores without a branch between them: a divisor of `groups`,
// up to `most` if there is one above 1.
constexpr int branchless_groups(int groups, int most) {
  for (int batch = most; batch > 1; --batch) {
    if (groups % batch == 0) return batch;
  }
  return groups;
}

// Epilogue: a struct with `static void store(args, walk, m16_tile, factors, acc)` for a warp's
// tiles from m16_tile on, acc[tile][sum]; see fc1_ and fc2_sm90.cu.
template <class Config, class Epilogue, bool kGather>
__global__ __launch_bounds__(GemmShape<Config>::kThreads,
                             1) void grouped_gemm_kernel(const __grid_constant__ GemmArgs args) {
  using Shape = GemmShape<Config>;
  extern __shared__ __align__(1024) uint8_t shared_memory[];
  uint32_t shared = shared_address(shared_memory);
  asm volatile("" : "+r"(shared));  // else it is computed anew in every step
  if (!kGather) launch_dependents();
  if (threadIdx.x == 0) {
    constexpr int kConsumers = Shape::kConsumerWarps * kWarpArrivals;
    token_ring<Shape>(shared).init(kGather ? Shape::kGatherThreads : 1, kConsumers);
    weight_ring<Shape>(shared).init(1, kConsumers);
    constexpr int kCopiers = kGather ? Shape::kGatherThreads / 32 * kWarpArrivals : 1;
    tile_ring(shared + Shape::kTileOffset).init(1, kConsumers + kCopiers);
    fence_barrier_init();
  }
  __syncthreads();
  // FC2 starts when every CTA of FC1 has passed its wait, so the prologue's tiles are there: FC2's
  // weights are on their way while FC1 ends. Only copy_tokens() waits for FC1.
  if (kGather) {
    wait_for_previous_kernel();
    launch_dependents();
  }

  const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
  if (warp < 4) {
    give_registers_back<Shape::kProducerRegisters>();
    if (warp == 3) {
      if (threadIdx.x % 32 == 0) copy_weights<Shape>(args, shared);
    } else if (kGather && warp < Shape::kGatherThreads / 32) {
      gather_tokens<Shape>(args, shared);
    } else if (!kGather && threadIdx.x == 0) {
      copy_tokens<Shape>(args, shared);
    }
  } else {
    take_registers<Shape::kConsumerRegisters>();
    uint32_t lane = threadIdx.x % 32;
    asm volatile("" : "+r"(lane));  // likewise
    const int first_tile = (warp - 4) * Shape::kBlocks;
    const uint32_t unit = first_tile * kUnitBytes;
    Consumer<Shape> consumer{weight_ring<Shape>(shared), token_ring<Shape>(shared),
                             unit + lane * 16, unit + kUnitScaleOffset + lane * 8, lane == 0};
    for (TileWalk walk(shared + Shape::kTileOffset, true); !walk.done(); walk.advance()) {
      // Loaded before the products, so that they are at hand after them.
      const typename Epilogue::Factors factors = Epilogue::factors(args, walk);
      const int tile = walk.row_tile() * Shape::kRowTiles + first_tile;
      if constexpr (kIsNarrow<Config>) {
        const auto multiply_and_store = [&]<int kTokens>() {
          float acc[1][kTokens / 2];
          multiply_narrow<Shape, kTokens>(args, consumer, acc[0]);
          Epilogue::store(args, walk, tile, factors, acc);
        };
        if (walk.rows() > Shape::kFewTokens) {
          multiply_and_store.template operator()<Shape::kMaxTokens>();
        } else {
          multiply_and_store.template operator()<Shape::kFewTokens>();
        }
      } else {
        Accumulators<Shape> acc[Shape::kBlocks];
        multiply<Shape>(args, consumer, walk.rows(), acc);
#pragma unroll
        for (auto& block : acc) {
#pragma unroll
          for (float& sum : block) asm volatile("" : "+f"(sum)::"memory");
        }
        Epilogue::store(args, walk, tile, factors, acc);
      }
    }
  }
}

// Calls `run` with the configuration's type.
template <class Run>
void with_config(TileConfig config, Run run) {
  switch (config) {
    case TileConfig::k16:
      return run.template operator()<NarrowConfig<TileConfig::k16, 8>>();
    case TileConfig::k24:
      return run.template operator()<NarrowConfig<TileConfig::k24, 16>>();
    case TileConfig::k40:
      return run.template operator()<NarrowConfig<TileConfig::k40, 32>>();
    case TileConfig::kSmall:
      return run.template operator()<SmallConfig>();
    case TileConfig::kLarge:
      return run.template operator()<LargeConfig>();
  }
}

// A CTA on every SM, in the configuration the prologue cut the tiles for. `padded_tiles`: m16 tiles
// whose rows must be stored, with those past the last.
template <class Epilogue, bool kGather>
void launch_grouped_gemm(GemmArgs args, int padded_tiles, TileConfig config, int sm_count,
                         cudaStream_t stream) {
  with_config(config, [&]<class Config>() {
    using Shape = GemmShape<Config>;
    args.row_tiles = static_cast<int>(ceil_div(padded_tiles, Shape::kRowTiles));
    args.row_tiles_divisor = Divisor(args.row_tiles);
    launch(grouped_gemm_kernel<Config, Epilogue, kGather>,
           {.grid = dim3(static_cast<unsigned>(sm_count)),
            .block = dim3(Shape::kThreads),
            .shared_bytes = Shape::kSharedBytes,
            .stream = stream,
            .dependent = true},
           args);
  });
}
template <class Epilogue, bool kGather>
void allow_shared_memory() {
  for (const TileConfig config : kTileConfigs) {
    with_config(config, [&]<class Config>() {
      MOE4_CUDA_CHECK(cudaFuncSetAttribute(grouped_gemm_kernel<Config, Epilogue, kGather>,
                                           cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           GemmShape<Config>::kSharedBytes));
    });
  }
}

}  // namespace moe4::cuda::hopper
