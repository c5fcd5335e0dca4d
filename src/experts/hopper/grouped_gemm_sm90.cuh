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

#include "base/checked_math.h"
#include "experts/device/launch.h"
#include "experts/hopper/gemm_consumers_sm90.cuh"
#include "experts/hopper/gemm_producers_sm90.cuh"
#include "experts/hopper/gemm_staging_sm90.cuh"

namespace moe4::cuda::hopper {

// Epilogue: a struct with `static void store(args, walk, m16_tile, factors, acc, staging)` for a
// warp's tiles from m16_tile on, acc[tile][sum], which it may change; see fc1_ and fc2_sm90.cu.
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
    for (int group = 0; group < Shape::kConsumerGroups; ++group) {
      weight_ring<Shape>(shared, group).init(1, 4 * kWarpArrivals);
    }
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
    Consumer<Shape> consumer{weight_ring<Shape>(shared, (warp - 4) / 4), token_ring<Shape>(shared),
                             unit + lane * 16, unit + kUnitScaleOffset + lane * 8, lane == 0};
    Staging<Shape> staging(shared, warp - 4);
    for (TileWalk walk(shared + Shape::kTileOffset, true); !walk.done(); walk.advance()) {
      // Loaded before the products, so that they are at hand after them.
      const typename Epilogue::Factors factors = Epilogue::factors(args, walk);
      const int tile = walk.row_tile() * Shape::kRowTiles + first_tile;
      if constexpr (kIsNarrow<Config>) {
        const auto multiply_and_store = [&]<int kTokens>() {
          float acc[1][kTokens / 2];
          multiply_narrow<Shape, kTokens>(args, consumer, acc[0]);
          Epilogue::store(args, walk, tile, factors, acc, staging);
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
        Epilogue::store(args, walk, tile, factors, acc, staging);
      }
    }
    staging.finish();
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
