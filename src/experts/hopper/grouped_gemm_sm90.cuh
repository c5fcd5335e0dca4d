// Grouped GEMM of NVFP4 weights and BF16 tokens on Hopper's warpgroup tensor cores.
//
//   D[row, token] = sum_k W[expert, row, k] X[token, k],  for every tile of an expert's tokens
//
// A = weights: decoded in registers from the packed layout (device/packed_layout.h); a consumer
// warp
//     owns an m16 tile. The units of a CTA's 16 tiles and 256 columns make a stage of a ring in
//     shared memory, filled by bulk copies.
// B = tokens: [tokens][64] tiles in the 128-byte swizzle, two to a stage of a second ring. FC1
//     gathers rows with cp.async; FC2 finds its tiles ready-made (FC1's epilogue stores the
//     intermediate in that form) and needs two bulk copies a stage.
//
// The packed layout gives lane t of a quad whole blocks of 16 columns, so slot s of wgmma m in a
// chunk of 64 columns is not column 16m + s: 32-bit word 8m + 4h + t of a token's chunk (h = half
// of the k16 slots) holds columns 2 (8t + 2m + h) and the next. Tokens are stored in that order:
// word 4u + t <- word 8t + u, u = 2m + h.
//
// wgmma n is the tokens of the tile rounded up to 8 or 16. A warpgroup's step is 64 rows and 128
// columns: decode 32 registers, eight wgmma. Decoding and waiting take longer than the products of
// one warpgroup, so that the others must fill the tensor cores meanwhile; every instruction of the
// loop counts.
//
// | config | rows x tokens | consumer groups | registers (consumer, producer) | tokens    | weights
// |
// |--------|---------------|-----------------|--------------------------------|-----------|-----------|
// | small  | 256 x 96      | 4               | 112, 32                        | 4 x 24 KB | 3 x 36
// KB | | large  | 192 x 192     | 3               | 160, 32                        | 3 x 48 KB | 3
// x 27 KB |
//
// The rings let warpgroups drift apart by a few steps, so one's epilogue overlaps the others'
// products. CTAs are persistent, one an SM: CTA b takes items b, b + grid, ... of the list (token
// tile, row tile), row tiles fastest, so that neighbours share tokens in L2.
#pragma once

#include <cuda_bf16.h>

#include "base/checked_math.h"
#include "experts/device/decode.cuh"
#include "experts/device/launch.h"
#include "experts/device/memory.cuh"
#include "experts/hopper/hopper_kernels.h"
#include "experts/hopper/sm90_ptx.cuh"
#include "experts/hopper/wgmma_sm90.cuh"

namespace moe4::cuda::hopper {

using namespace sm90;

struct SmallConfig {
  static constexpr int kConsumerGroups = 4;
  static constexpr int kMaxTokens = max_tile_tokens(TileConfig::kSmall);
  static constexpr int kWidthQuantum = 8;  ///< tokens are rounded up to this
  static constexpr int kConsumerRegisters = 112;
  static constexpr int kProducerRegisters = 32;
  static constexpr int kTokenStages = 4;
  static constexpr int kWeightStages = 3;
};

struct LargeConfig {
  static constexpr int kConsumerGroups = 3;
  static constexpr int kMaxTokens = max_tile_tokens(TileConfig::kLarge);
  static constexpr int kWidthQuantum = 16;
  static constexpr int kConsumerRegisters = 160;
  static constexpr int kProducerRegisters = 32;
  static constexpr int kTokenStages = 3;
  static constexpr int kWeightStages = 3;
};

template <class Config>
struct GemmShape : Config {
  static constexpr int kConsumerWarps = Config::kConsumerGroups * 4;
  static constexpr int kRowTiles = kConsumerWarps;  ///< m16 tiles of a CTA
  static constexpr int kThreads = (Config::kConsumerGroups + 1) * 128;
  static constexpr int kGatherThreads = 96;  ///< warps 0 to 2; warp 3 brings weights
  static constexpr int kTokenTileBytes = Config::kMaxTokens * 128;
  static constexpr int kTokenStageBytes = 2 * kTokenTileBytes;
  static constexpr int kWeightStageBytes = kConsumerWarps * kUnitBytes;
  // Shared memory: tokens, weights, barriers, places of the gathered rows.
  static constexpr int kWeightOffset = Config::kTokenStages * kTokenStageBytes;
  static constexpr int kBarrierOffset = kWeightOffset + Config::kWeightStages * kWeightStageBytes;
  static constexpr int kPlacesOffset =
      kBarrierOffset + 16 * (Config::kTokenStages + Config::kWeightStages);
  static constexpr int kSharedBytes = kPlacesOffset + 4 * Config::kMaxTokens;
  static_assert(kTokenTileBytes % 1024 == 0 && kSharedBytes <= 232448);
  // The registers a launch gets: 65536 over all threads, in units of 8 a thread.
  static_assert(Config::kConsumerGroups * Config::kConsumerRegisters + Config::kProducerRegisters <=
                65536 / kThreads / 8 * 8 * (Config::kConsumerGroups + 1));
};

struct GemmArgs {
  const uint8_t* weights;
  int tiles;      ///< m16 tiles of an expert
  int k_units;    ///< units of 256 columns of an expert's tile
  int steps;      ///< of 128 columns
  int row_tiles;  ///< CTA tiles over the rows
  const TokenTile* token_tiles;
  const int32_t* num_token_tiles;
  const int32_t* sorted_pairs;
  int pairs_per_row;   ///< FC1: pairs that share a row of `tokens`
  const void* tokens;  ///< FC1: permuted rows; FC2: the intermediate
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

// This CTA's way through (token tile, row tile), one descriptor ahead of itself.
class TileWalk {
 public:
  __device__ explicit TileWalk(const GemmArgs& args)
      : args_(args), items_(*args.num_token_tiles * args.row_tiles), item_(blockIdx.x) {
    current_ = load(item_);
    next_ = load(item_ + gridDim.x);
  }
  __device__ bool done() const { return item_ >= items_; }
  __device__ void advance() {
    item_ += gridDim.x;
    current_ = next_;
    next_ = load(item_ + gridDim.x);
  }
  __device__ int row_tile() const { return item_ % args_.row_tiles; }
  __device__ int first_position() const { return static_cast<int>(current_.x); }
  __device__ int expert() const { return static_cast<int>(current_.y & 0xffff); }
  __device__ int rows() const { return static_cast<int>(current_.y >> 16); }

 private:
  __device__ uint2 load(int item) const {
    if (item >= items_) return {0, 0};
    return __ldg(reinterpret_cast<const uint2*>(args_.token_tiles) + item / args_.row_tiles);
  }
  const GemmArgs& args_;
  int items_, item_;
  uint2 current_, next_;
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
  __device__ __forceinline__ uint32_t data() const { return data_ + stage_ * StageBytes; }
  __device__ __forceinline__ uint32_t full() const { return barriers_ + stage_ * 8; }
  __device__ __forceinline__ uint32_t empty() const { return barriers_ + (Stages + stage_) * 8; }
  __device__ __forceinline__ void wait_full() const { barrier_wait(full(), parity_); }
  __device__ __forceinline__ void wait_empty() const { barrier_wait(empty(), parity_ ^ 1); }
  __device__ __forceinline__ void advance() {
    if (++stage_ == Stages) {
      stage_ = 0;
      parity_ ^= 1;
    }
  }

 private:
  uint32_t data_, barriers_;
  uint32_t stage_ = 0, parity_ = 0;
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

// ---- producers ---------------------------------------------------------------------------------

// One thread: pairs of m16 tiles lie together, a copy each. Tiles past the last are left out; their
// warps multiply whatever is there and store nothing of it.
template <class Shape>
__device__ __forceinline__ void copy_weights(const GemmArgs& args, uint32_t shared) {
  WeightRing<Shape> ring = weight_ring<Shape>(shared);
  const int64_t pair_bytes = int64_t{args.k_units} * kStepBytes;
  for (TileWalk walk(args); !walk.done(); walk.advance()) {
    const int first_tile = walk.row_tile() * Shape::kRowTiles;
    const int pairs = max(0, min(Shape::kRowTiles, args.tiles - first_tile)) / 2;
    const uint8_t* source =
        args.weights + unit_offset(args.tiles, args.k_units, walk.expert(), first_tile, 0);
    for (int step = 0; step < args.steps; step += 2, source += kStepBytes) {
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
// Where a row comes from waits in shared memory, a warp's rows written by that warp.
template <class Shape>
__device__ __forceinline__ void gather_tokens(const GemmArgs& args, uint32_t shared) {
  constexpr uint32_t kNoRow = ~0u;
  constexpr int kWarps = Shape::kGatherThreads / 32;
  constexpr int kBatch = 4;  // groups whose places are read together
  TokenRing<Shape> ring = token_ring<Shape>(shared);
  const int warp = threadIdx.x / 32, unit = threadIdx.x % 8;
  const int row_of_group = threadIdx.x % 32 / 8;
  const uint32_t places = shared + Shape::kPlacesOffset + row_of_group * 4;
  const uint4* tokens = static_cast<const uint4*>(args.tokens) + unit;
  const uint32_t units_per_token = args.steps * 16;
  for (TileWalk walk(args); !walk.done(); walk.advance()) {
    const int groups = (walk.rows() + 3) / 4;
    __syncwarp();
    for (int group = warp + kWarps * unit; group < groups; group += kWarps * 8) {
      const int row = group * 4 + row_of_group;
      uint32_t place = kNoRow;
      if (row < walk.rows()) {
        const uint32_t pair = args.sorted_pairs[walk.first_position() + row];
        place = pair / static_cast<uint32_t>(args.pairs_per_row) * units_per_token;
      }
      store_shared4(places + group * 16, place);
    }
    __syncwarp();
    for (int step = 0; step < args.steps; ++step) {
      ring.wait_empty();
      for (int first = warp; first < groups; first += kWarps * kBatch) {
        uint32_t place[kBatch];
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
          const int group = first + i * kWarps;
          place[i] = group < groups ? load_shared4(places + group * 16) : kNoRow;
        }
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
          if (place[i] == kNoRow) continue;
          const int row = (first + i * kWarps) * 4 + row_of_group;
          const uint32_t destination = ring.data() + row * 128 + ((unit ^ (row & 7)) << 4);
          const uint4* from = tokens + (place[i] + step * 16);
          copy16(destination, from);
          copy16(destination + Shape::kTokenTileBytes, from + 8);
        }
      }
      arrive_after_copies(ring.full());
      ring.advance();
    }
  }
  copy_wait_all();
}

// FC2: one thread copies whole tiles.
template <class Shape>
__device__ __forceinline__ void copy_tokens(const GemmArgs& args, uint32_t shared) {
  fence_async_proxy_all();  // the kernel before stored the tiles in the ordinary way
  TokenRing<Shape> ring = token_ring<Shape>(shared);
  const int64_t chunk_bytes = args.position_capacity * 128;
  for (TileWalk walk(args); !walk.done(); walk.advance()) {
    const uint8_t* source =
        static_cast<const uint8_t*>(args.tokens) + int64_t{128} * walk.first_position();
    const uint32_t bytes = (walk.rows() + 7) / 8 * 1024;
    for (int step = 0; step < args.steps; ++step, source += 2 * chunk_bytes) {
      ring.wait_empty();
      barrier_expect(ring.full(), 2 * bytes);
      bulk_copy(ring.data(), source, bytes, ring.full());
      bulk_copy(ring.data() + Shape::kTokenTileBytes, source + chunk_bytes, bytes, ring.full());
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
  uint32_t lane_codes;  ///< of this lane in its warp's unit of stage 0
  uint32_t lane_scales;
  bool leader;  ///< lane 0
};

template <class Shape, bool kGather>
__device__ __forceinline__ void multiply(const GemmArgs& args, Consumer<Shape>& c, int rows,
                                         Accumulators<Shape>& acc) {
  uint32_t width = (rows - 1) / Shape::kWidthQuantum;
  asm volatile("" : "+r"(width));  // in a register of its own, where comparing is cheap
  uint32_t codes = 0, scales = 0, used = 0;
#pragma unroll 1  // two steps at once would need two sets of A registers
  for (int step = 0; step < args.steps; ++step) {
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
    if (step > 0 && c.leader) barrier_arrive(used);
    uint32_t a[32], scale_g, scale_g8;
    decode_scales<0>(make_uint2(scale_bytes, 0), scale_g, scale_g8);
    decode_chunk(words0, scale_g, scale_g8, reinterpret_cast<uint32_t(&)[16]>(a[0]));
    decode_scales<1>(make_uint2(scale_bytes, 0), scale_g, scale_g8);
    decode_chunk(words1, scale_g, scale_g8, reinterpret_cast<uint32_t(&)[16]>(a[16]));
    c.tokens.wait_full();
    if (kGather) fence_async_proxy();  // cp.async writes in the ordinary way
    const uint32_t b = b_descriptor(c.tokens.data());
    if constexpr (Shape::kMaxTokens == 96) {
      multiply_128_columns_96(acc, a, b, b + (Shape::kTokenTileBytes >> 4), step > 0, width);
    } else {
      multiply_128_columns_192(acc, a, b, b + (Shape::kTokenTileBytes >> 4), step > 0, width);
    }
    used = c.tokens.empty();
    c.tokens.advance();
    if (step % 2 == 1 || step == args.steps - 1) {
      __syncwarp();
      if (c.leader) barrier_arrive(c.weights.empty());
      c.weights.advance();
    }
  }
  wgmma_wait<0>();
  if (c.leader) barrier_arrive(used);
#pragma unroll
  for (int i = 0; i < Shape::kMaxTokens / 2; ++i) asm volatile("" : "+f"(acc[i])::"memory");
}

// Epilogue: a struct with `template <class Shape> static void store(args, walk, m16_tile, acc)`;
// see fc1_ and fc2_sm90.cu.
template <class Config, class Epilogue, bool kGather>
__global__ __launch_bounds__(GemmShape<Config>::kThreads,
                             1) void grouped_gemm_kernel(const __grid_constant__ GemmArgs args) {
  using Shape = GemmShape<Config>;
  extern __shared__ __align__(1024) uint8_t shared_memory[];
  uint32_t shared = shared_address(shared_memory);
  asm volatile("" : "+r"(shared));  // else it is computed anew in every step
  launch_dependents();
  if (threadIdx.x == 0) {
    token_ring<Shape>(shared).init(kGather ? Shape::kGatherThreads : 1, Shape::kConsumerWarps);
    weight_ring<Shape>(shared).init(1, Shape::kConsumerWarps);
    fence_barrier_init();
  }
  __syncthreads();
  wait_for_previous_kernel();

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
    const uint32_t unit = (warp - 4) * kUnitBytes;
    Consumer<Shape> consumer{weight_ring<Shape>(shared), token_ring<Shape>(shared),
                             unit + lane * 16, unit + kUnitScaleOffset + lane * 8, lane == 0};
    for (TileWalk walk(args); !walk.done(); walk.advance()) {
      Accumulators<Shape> acc;
      multiply<Shape, kGather>(args, consumer, walk.rows(), acc);
      Epilogue::template store<Shape>(args, walk, walk.row_tile() * Shape::kRowTiles + warp - 4,
                                      acc);
    }
  }
}

// A CTA on every SM.
template <class Config, class Epilogue, bool kGather>
void launch_grouped_gemm(const GemmArgs& args, int sm_count, cudaStream_t stream) {
  launch(grouped_gemm_kernel<Config, Epilogue, kGather>,
         {.grid = dim3(static_cast<unsigned>(sm_count)),
          .block = dim3(GemmShape<Config>::kThreads),
          .shared_bytes = GemmShape<Config>::kSharedBytes,
          .stream = stream,
          .dependent = true},
         args);
}
// The configuration the prologue cut the tiles for. `padded_tiles`: m16 tiles whose rows must be
// stored, with those past the last.
template <class Epilogue, bool kGather>
void launch_grouped_gemm(GemmArgs args, int padded_tiles, TileConfig config, int sm_count,
                         cudaStream_t stream) {
  if (config == TileConfig::kSmall) {
    args.row_tiles = static_cast<int>(ceil_div(padded_tiles, GemmShape<SmallConfig>::kRowTiles));
    launch_grouped_gemm<SmallConfig, Epilogue, kGather>(args, sm_count, stream);
  } else {
    args.row_tiles = static_cast<int>(ceil_div(padded_tiles, GemmShape<LargeConfig>::kRowTiles));
    launch_grouped_gemm<LargeConfig, Epilogue, kGather>(args, sm_count, stream);
  }
}
template <class Epilogue, bool kGather>
void allow_shared_memory() {
  MOE4_CUDA_CHECK(cudaFuncSetAttribute(grouped_gemm_kernel<SmallConfig, Epilogue, kGather>,
                                       cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       GemmShape<SmallConfig>::kSharedBytes));
  MOE4_CUDA_CHECK(cudaFuncSetAttribute(grouped_gemm_kernel<LargeConfig, Epilogue, kGather>,
                                       cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       GemmShape<LargeConfig>::kSharedBytes));
}

}  // namespace moe4::cuda::hopper
