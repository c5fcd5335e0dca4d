// FC1 and FC2, grouped GEMMs of NVFP4 or MXFP4 weights and BF16 tokens on Hopper's warpgroup tensor
// cores, in one persistent kernel.
//
//   D[row, token] = sum_k W[expert, row, k] X[token, k],  for every tile of an expert's tokens
//
// A = weights: decoded in registers from the packed layout (gpu/packed_layout.h). A consumer
//     warp owns m16 tiles; the units of a CTA's 16 tiles and 256 columns make a stage of a ring in
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
// CTAs are persistent, one an SM, and share one list of tiles (gemm_rings_sm90.cuh): FC1's (token
// tile, row tile), then FC2's, row tiles fastest, so that neighbours share tokens in L2.
#include "base/checked_math.h"
#include "device/cuda/launch.h"
#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/launch.cuh"
#include "device/cuda/ptx/warp.cuh"
#include "ops/experts/hopper/fc1_epilogue_sm90.cuh"
#include "ops/experts/hopper/fc2_epilogue_sm90.cuh"
#include "ops/experts/hopper/gemm_consumers_sm90.cuh"
#include "ops/experts/hopper/gemm_producers_sm90.cuh"
#include "ops/experts/hopper/gemm_staging_sm90.cuh"

namespace moe4::cuda::hopper {
namespace {

// What a tile's sums are multiplied by.
__device__ __forceinline__ Factors load_factors(const GemmArgs& args, const TileWalk& walk) {
  const int expert = walk.expert();
  if (walk.gemm() == 1) return {args.alpha_down[expert], 0.0f};
  return {args.alpha_up[expert], args.activation.is_gated() ? args.alpha_gate[expert] : 0.0f};
}

template <class Config, WeightFormat Format, bool Runs>
__global__ __launch_bounds__(GemmShape<Config, Format, Runs>::kThreads,
                             1) void grouped_gemms_kernel(const __grid_constant__ GemmArgs args) {
  using Shape = GemmShape<Config, Format, Runs>;
  extern __shared__ __align__(1024) uint8_t shared_memory[];
  uint32_t shared = shared_address(shared_memory);
  asm volatile("" : "+r"(shared));  // else it is computed anew in every step
  if (threadIdx.x == 0) {
    constexpr int kConsumers = Shape::kConsumerWarps * kWarpArrivals;
    constexpr int kBringers = Shape::kGatherThreads / 32 * kWarpArrivals;
    token_ring<Shape>(shared).init(kBringers, kConsumers);
    for (int group = 0; group < Shape::kConsumerGroups; ++group) {
      weight_ring<Shape>(shared, group).init(1, 4 * kWarpArrivals);
    }
    tile_ring(shared + Shape::kTileOffset).init(1, kConsumers + kBringers);
    fence_barrier_init();
  }
  __syncthreads();
  wait_for_previous_kernel();
  launch_dependents();

  const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
  if (warp < 4) {
    give_registers_back<Shape::kProducerRegisters>();
    if (warp == 3) {
      if (elect_one()) copy_weights<Shape>(args, shared);
    } else if (warp < Shape::kGatherThreads / 32) {
      TokenBringer<Shape>(args, shared).run();
    }
  } else {
    take_registers<Shape::kConsumerRegisters>();
    uint32_t lane = threadIdx.x % 32;
    asm volatile("" : "+r"(lane));  // likewise
    const int first_tile = (warp - 4) * Shape::kBlocks;
    const uint32_t unit = first_tile * Shape::Unit::kBytes;
    Consumer<Shape> consumer{weight_ring<Shape>(shared, (warp - 4) / 4), token_ring<Shape>(shared),
                             unit + lane * 16, unit + Shape::Unit::scales(lane), lane == 0};
    if constexpr (!kIsNarrow<Config>) {  // kept where there is room, not computed for every stage
      asm volatile("" : "+r"(consumer.lane_codes), "+r"(consumer.lane_scales));
    }
    OutboxOf<Shape> outbox(shared, warp - 4);
    for (TileWalk walk(shared + Shape::kTileOffset); !walk.done(); walk.advance()) {
      // Loaded before the products, so that they are at hand after them.
      const Factors factors = load_factors(args, walk);
      int steps = args.weights[walk.gemm()].steps;
      asm volatile("" : "+r"(steps));  // else it is loaded in every step
      const int tile = walk.row_tile() * Shape::kRowTiles + first_tile;
      const auto store = [&](auto& acc) {
        if (walk.gemm() == 0) {
          Fc1Epilogue::store(args, walk, tile, factors, acc);
        } else if constexpr (Shape::kRuns) {
          Fc2Epilogue::store_floats(args, walk, tile, factors.up_or_down, acc);
        } else if constexpr (Shape::kBlocks > 1) {
          Fc2Epilogue::store(args, walk, tile, factors.up_or_down, acc, outbox);
        } else {
          Exchange<Shape> exchange(shared, first_tile);
          Fc2Epilogue::store(args, walk, tile, factors.up_or_down, acc, exchange);
        }
      };
      if constexpr (kIsNarrow<Config>) {
        const auto multiply_and_store = [&]<int kTokens>() {
          float acc[1][kTokens / 2], total[1][kTokens / 2];
          multiply_narrow<Shape, kTokens>(steps, args.weights[walk.gemm()].run_units, consumer,
                                          acc[0], total[0]);
          store(Shape::kRuns ? total : acc);
        };
        if (walk.rows() > Shape::kFewTokens) {
          multiply_and_store.template operator()<Shape::kMaxTokens>();
        } else {
          multiply_and_store.template operator()<Shape::kFewTokens>();
        }
      } else {
        Accumulators<Shape> acc[Shape::kBlocks];
        multiply<Shape>(args.shift_left, steps, consumer, walk.rows(), acc);
#pragma unroll
        for (auto& block : acc) {
#pragma unroll
          for (float& sum : block) asm volatile("" : "+f"(sum)::"memory");
        }
        store(acc);
      }
    }
    outbox.finish();
  }
}

// Calls `run` with the types of a kernel.
template <class Run>
void with_kernel(TileConfig config, WeightFormat format, bool runs, Run run) {
  with_config(config, [&]<class Config>() {
    const auto with_runs = [&]<bool Runs>() {
      if (format == WeightFormat::kMxfp4) {
        run.template operator()<Config, WeightFormat::kMxfp4, Runs>();
      } else {
        run.template operator()<Config, WeightFormat::kNvfp4, Runs>();
      }
    };
    if (!runs) return with_runs.template operator()<false>();
    if constexpr (kIsNarrow<Config>) with_runs.template operator()<true>();
  });
}

GemmWeights weights_of(const uint8_t* units, int tiles, int k_units, int steps, int padded_tiles,
                       int cta_tiles, int runs) {
  const int row_tiles = static_cast<int>(ceil_div(padded_tiles, cta_tiles));
  return {units, tiles, k_units, steps, row_tiles, Divisor(row_tiles), run_units(k_units, runs)};
}

}  // namespace

void launch_grouped_gemms(const Call& call, cudaStream_t stream) {
  const PackedLayerView& layer = call.layer;
  const Scratch& scratch = call.scratch;
  GemmArgs args = {
      .weights = {},
      .token_tiles = scratch.tiles,
      .num_token_tiles = scratch.num_tiles,
      .shift_left = {},
      .taken = scratch.taken,
      .stored = scratch.stored,
      .stored_of_tokens = scratch.stored_of_tokens,
      .position_capacity = scratch.positions,
      .sorted_pairs = scratch.sorted_pairs,
      .row_of_pair = layer.weight_on_input ? Divisor(1) : Divisor(layer.top_k),
      .hidden = scratch.hidden,
      .alpha_up = layer.alpha_up,
      .alpha_gate = layer.alpha_gate,
      .bias_up = layer.bias_up,
      .bias_gate = layer.bias_gate,
      .activation = layer.activation,
      .intermediate_size = layer.intermediate_size,
      .intermediate_chunks = 2 * scratch.intermediate_steps,
      .intermediate = scratch.intermediate,
      .alpha_down = layer.alpha_down,
      .bias_down = layer.bias_down,
      .hidden_size = layer.hidden_size,
      .outputs = scratch.outputs,
  };
  // FC2 multiplies whole steps of the intermediate: FC1's tiles past I store zeros there.
  const int elements_per_tile = layer.activation.is_gated() ? 8 : kTileRows;
  MOE4_CHECK(!call.runs || call.config <= TileConfig::k40);
  with_kernel(
      call.config, layer.format, call.runs, [&]<class Config, WeightFormat Format, bool Runs>() {
        using Shape = GemmShape<Config, Format, Runs>;
        args.weights[0] =
            weights_of(layer.fc1, layer.fc1_tiles, layer.fc1_k_units, scratch.hidden_steps,
                       scratch.intermediate_steps * kStepK / elements_per_tile, Shape::kRowTiles,
                       call.order.fc1_runs);
        args.weights[1] =
            weights_of(layer.fc2, layer.fc2_tiles, layer.fc2_k_units, scratch.intermediate_steps,
                       layer.fc2_tiles, Shape::kRowTiles, call.order.fc2_runs);
        launch(grouped_gemms_kernel<Config, Format, Runs>,
               {.grid = dim3(static_cast<unsigned>(call.sm_count)),
                .block = dim3(Shape::kThreads),
                .shared_bytes = Shape::kSharedBytes,
                .stream = stream,
                .dependent = true},
               args);
      });
}

void prepare_grouped_gemms(WeightFormat format) {
  for (const TileConfig config : kTileConfigs) {
    for (const bool runs : {false, true}) {
      with_kernel(config, format, runs, [&]<class Config, WeightFormat Format, bool Runs>() {
        MOE4_CUDA_CHECK(cudaFuncSetAttribute(grouped_gemms_kernel<Config, Format, Runs>,
                                             cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             GemmShape<Config, Format, Runs>::kSharedBytes));
      });
    }
  }
}

}  // namespace moe4::cuda::hopper
