// Products of dozens of generated tokens with a great many rows of FP4, those of heads, on SM90:
// y[t] = x[t] W^T with wgmma, bound by its arithmetic.
//
// A block has 64 rows for each warpgroup that multiplies, for kTokens tokens at a time, then the
// same rows for the next tokens, then other rows. A warp decodes its 16 rows into wgmma's register
// operand, half a chunk while the products of the halves before run, and does nothing else that
// could keep the tensor cores waiting: two warps of a warpgroup of their own have the copy engine
// bring weights, units of 2 KB, and tokens, chunk after chunk. Blocks of a cluster fetch a share of
// the tokens each, for all of them: on their way from L2 tokens cost more than weights.
//
// Shared memory is the other limit: every warpgroup reads all tokens for its 64 rows, 64 of 128
// bytes a cycle, and tokens come in at 32 with two warpgroups. Weights that went through it decoded
// would take another 64.
//
// Sums have the order of decode_shares(): two chains and a total, all in registers, which makes
// 128 tokens the most for a warpgroup. Thread 4g + t of a warp holds columns 16t + 4m .. 16t + 4m +
// 3 in the m-th k16 of a chunk (TileChunk), so tokens come in that order, in the 128-byte swizzle
// of wgmma's descriptors (tile_tokens()). A chain of wgmma rounds as one of mma.sync does: bits are
// those of decode_linears().
#include "device/cuda/launch.h"
#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/cluster.cuh"
#include "device/cuda/ptx/copy.cuh"
#include "device/cuda/ptx/launch.cuh"
#include "device/cuda/ptx/memory.cuh"
#include "device/cuda/ptx/multicast.cuh"
#include "device/cuda/ptx/warp.cuh"
#include "device/cuda/ptx/wgmma_sm90.cuh"
#include "ops/experts/gpu/decode.cuh"
#include "ops/linear/cuda/products.cuh"
#include "ops/linear/cuda/result_rows.cuh"

namespace moe4::cuda {

// Not anonymous: nvcc takes what only sm_90a uses for forgotten otherwise.
namespace linear_head_sm90 {

constexpr int kGroupThreads = 128;
constexpr int kTileRows = 64;                 // of a warpgroup
constexpr int kTokenBytes = kPanelChunk * 2;  // of a chunk
constexpr int kUnit = unit_chunks(PanelKind::kNvfp4);
constexpr int kChunkBytes = tile_chunk_bytes(PanelKind::kNvfp4);
constexpr int kUnitBytes = kUnit * kChunkBytes;  // of 16 rows
constexpr int kCluster = 2;
static_assert(unit_chunks(PanelKind::kMxfp4) == kUnit &&
              tile_chunk_bytes(PanelKind::kMxfp4) == kChunkBytes);

/// Tokens of a pass, warpgroups that multiply, stages of a chunk of tokens and of a unit of
/// weights; halves of chunks that a warp holds decoded; the half of a unit behind which the next
/// warpgroup may begin it.
template <int kTokens_, int kGroups_, int kTokenStages_, int kWeightStages_, int kHeld_, int kTurn_>
struct HeadConfig {
  static constexpr int kTokens = kTokens_, kGroups = kGroups_;
  static constexpr int kTokenStages = kTokenStages_, kWeightStages = kWeightStages_;
  static constexpr int kHeld = kHeld_, kTurn = kTurn_;
  static constexpr int kSums = kTokens / 2;  // of a thread
  static constexpr int kWarps = kGroups * 4;
  static constexpr int kRows = kGroups * kTileRows;  // of a block at a time
  static constexpr int kThreads = (kGroups + 1) * kGroupThreads;
  // What warpgroups start with is 168 for three, 128 for four, 96 for five.
  static_assert(kGroups >= 2 && kGroups <= 4);
  static constexpr int kFetcherRegisters = 24;
  static constexpr int kAllRegisters = kGroups == 2 ? 504 : kGroups == 3 ? 512 : 480;
  static constexpr int kRegisters = (kAllRegisters - kFetcherRegisters) / kGroups / 8 * 8;

  static constexpr int kTokenStageBytes = kTokens * kTokenBytes;
  static constexpr int kWeightStageBytes = kWarps * kUnitBytes;
  static constexpr int kWeights = kTokenStages * kTokenStageBytes;
  static constexpr int kTokensFull = kWeights + kWeightStages * kWeightStageBytes;
  static constexpr int kTokensEmpty = kTokensFull + kTokenStages * 8;
  static constexpr int kWeightsFull = kTokensEmpty + kTokenStages * 8;
  static constexpr int kWeightsEmpty = kWeightsFull + kWeightStages * 8;
  static constexpr int kTurns = kWeightsEmpty + kWeightStages * 8;
  static constexpr int kBytes = 1024 + kTurns + kGroups * 8;
};

/// How a launch goes over rows and tokens.
struct Layout {
  int32_t rounds = 1;      ///< over all blocks' rows
  int32_t passes = 1;      ///< over tokens
  int32_t token_rows = 0;  ///< of a chunk, a multiple of 8
};

/// A stage of a ring and its parity.
template <int kStages>
struct Stage {
  uint32_t index = 0, parity = 0;
  __device__ __forceinline__ void advance() {
    if (++index == kStages) {
      index = 0;
      parity ^= 1;
    }
  }
};

/// What one thread of a block does: its share of the tokens of every chunk, to all blocks.
template <class Config>
__device__ __forceinline__ void fetch_tokens(const Products& p, const Layout& layout, int rank,
                                             uint32_t memory) {
  constexpr int kShare = Config::kTokens / kCluster;
  const int chunks = p.panels[0].chunks;
  const int64_t step = static_cast<int64_t>(layout.token_rows) * kTokenBytes;
  Stage<Config::kTokenStages> stage;
  for (int round = 0; round < layout.rounds; ++round) {
    for (int pass = 0; pass < layout.passes; ++pass) {
      const int first = pass * Config::kTokens, rows = layout.token_rows - first;
      const int mine = min(max(rows - rank * kShare, 0), kShare);
      const int all = min(rows, Config::kTokens);
      const uint8_t* from = static_cast<const uint8_t*>(p.x) +
                            static_cast<int64_t>(first + rank * kShare) * kTokenBytes;
#pragma unroll 1
      for (int c = 0; c < (chunks + kUnit - 1) / kUnit * kUnit; ++c) {
        const uint32_t full = memory + Config::kTokensFull + stage.index * 8;
        barrier_wait(memory + Config::kTokensEmpty + stage.index * 8, stage.parity ^ 1);
        if (c >= chunks) {  // of a unit that has fewer
          barrier_arrive(full);
          stage.advance();
          continue;
        }
        barrier_expect(full, all * kTokenBytes);
        if (mine > 0) {
          bulk_copy_to_blocks(
              memory + stage.index * Config::kTokenStageBytes + rank * kShare * kTokenBytes, from,
              mine * kTokenBytes, full, (1 << kCluster) - 1);
        }
        from += step;
        stage.advance();
      }
    }
  }
  // The other blocks' warps tell this one as long as it is there.
  for (int i = 0; i < Config::kTokenStages; ++i) {
    barrier_wait(memory + Config::kTokensEmpty + stage.index * 8, stage.parity ^ 1);
    stage.advance();
  }
}

/// What one warp of a block does: units of all its rows, a lane 16 of them.
template <class Config>
__device__ __forceinline__ void fetch_weights(const Panel& panel, const Layout& layout, int row,
                                              int row_step, uint32_t memory, int lane) {
  const int tile_bytes = panel.chunks * kChunkBytes;
  Stage<Config::kWeightStages> stage;
  for (int round = 0; round < layout.rounds && row < panel.rows; ++round, row += row_step) {
    const int tiles = min((panel.rows - row + kPanelTileRows - 1) / kPanelTileRows, Config::kWarps);
    for (int pass = 0; pass < layout.passes; ++pass) {
      const uint8_t* from = panel.chunk(row, 0) + static_cast<int64_t>(lane) * tile_bytes;
#pragma unroll 1
      for (int left = tile_bytes; left > 0; left -= kUnitBytes) {
        const int bytes = min(left, kUnitBytes);
        const uint32_t full = memory + Config::kWeightsFull + stage.index * 8;
        barrier_wait(memory + Config::kWeightsEmpty + stage.index * 8, stage.parity ^ 1);
        if (lane == 0) barrier_expect(full, tiles * bytes);
        __syncwarp();
        if (lane < tiles) {
          bulk_copy(memory + Config::kWeights + stage.index * Config::kWeightStageBytes +
                        lane * kUnitBytes,
                    from, bytes, full);
        }
        from += kUnitBytes;
        stage.advance();
      }
    }
  }
}

/// The stages of tokens as a warp goes through them, a unit at a time, and all blocks are told.
template <class Config>
class TokenStages {
 public:
  __device__ TokenStages(uint32_t memory, int lane)
      : at_(memory),
        full_(memory + Config::kTokensFull),
        memory_(memory),
        empty_(told_barrier(memory + Config::kTokensEmpty, lane, kCluster)) {}
  /// Where chunk `c` of the unit lies.
  __device__ __forceinline__ uint32_t wait(int c) {
    barrier_wait(full_ + c * 8, parity_);
    return at_ + c * Config::kTokenStageBytes;
  }
  /// The warp is done with chunk `c`.
  __device__ __forceinline__ void release(int c, int lane) {
    warp_tell_blocks(empty_ + c * 8, lane, kCluster);
  }
  __device__ __forceinline__ void advance() {
    at_ += kUnit * Config::kTokenStageBytes;
    full_ += kUnit * 8;
    empty_ += kUnit * 8;
    if (at_ == memory_ + Config::kTokenStages * Config::kTokenStageBytes) {
      at_ = memory_;
      full_ -= Config::kTokenStages * 8;
      empty_ -= Config::kTokenStages * 8;
      parity_ ^= 1;
    }
  }

 private:
  uint32_t at_, full_, memory_, empty_, parity_ = 0;
};

/// The stages of weights in the same way; a warp reads 16 rows of each.
template <class Config>
class WeightStages {
 public:
  __device__ explicit WeightStages(uint32_t memory) : memory_(memory) {}
  __device__ __forceinline__ uint32_t next(int warp) {
    barrier_wait(memory_ + Config::kWeightsFull + stage_.index * 8, stage_.parity);
    return memory_ + Config::kWeights + stage_.index * Config::kWeightStageBytes +
           warp * kUnitBytes;
  }
  __device__ __forceinline__ void release(int lane) {
    __syncwarp();
    warp_arrive(memory_ + Config::kWeightsEmpty + stage_.index * 8, lane == 0);
    stage_.advance();
  }

 private:
  uint32_t memory_;
  Stage<Config::kWeightStages> stage_;
};

/// Warpgroups begin a unit one after the other, each when the one before it has asked for a part of
/// its products: while one waits for its sums and adds them, others multiply.
template <class Config>
class Turns {
 public:
  __device__ Turns(uint32_t memory, int group)
      : mine_(memory + Config::kTurns + group * 8),
        next_(memory + Config::kTurns + (group + 1 == Config::kGroups ? 0 : group + 1) * 8),
        parity_(group == 0 ? 1 : 0) {}
  __device__ __forceinline__ void wait() {
    barrier_wait(mine_, parity_);
    parity_ ^= 1;
  }
  __device__ __forceinline__ void pass(int lane) {
    __syncwarp();
    warp_arrive(next_, lane == 0);
  }

 private:
  uint32_t mine_, next_, parity_;
};

/// A lane's part of a chunk of 16 rows.
template <PanelKind kKind>
struct Codes {
  uint4 words;
  uint32_t scales;
  __device__ __forceinline__ void load(uint32_t chunk, int lane) {
    words = load_shared16(chunk + lane * 16);
    scales = load_shared2(chunk + 512 + lane * 2);
  }
  /// Half of the chunk, as TileChunk has it.
  __device__ __forceinline__ void decode(int half, uint32_t (&a)[8]) const {
    constexpr WeightFormat kFormat =
        kKind == PanelKind::kNvfp4 ? WeightFormat::kNvfp4 : WeightFormat::kMxfp4;
    const uint32_t pair = decode_scales<kFormat, 0>(make_uint2(scales, 0));
    decode_pairs(half == 0 ? words.x : words.z, half == 0 ? words.y : words.w, pair, a);
#pragma unroll
    for (int i = 0; i < 8; ++i) asm volatile("" : "+r"(a[i]));  // decoded before any product
  }
};

/// All but the last `Pending` groups of products are done. What they had in registers alone may be
/// written then; loads of shared memory may move across.
template <int Pending>
__device__ __forceinline__ void wait_for_operands() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending));
}

/// part (+)= a unit of this warp's rows times the tokens.
template <PanelKind kKind, class Config>
__device__ __forceinline__ void multiply_unit(WeightStages<Config>& weights,
                                              TokenStages<Config>& tokens, Turns<Config>& turns,
                                              int warp, int lane, bool accumulate,
                                              float (&part)[2][Config::kSums]) {
  constexpr int kHeld = Config::kHeld, kHalves = 2 * kUnit;
  const uint32_t unit = weights.next(warp);
  Codes<kKind> codes;
  codes.load(unit, lane);
  uint32_t a[kHeld][8], b = 0;
#pragma unroll
  for (int i = 0; i < kHalves; ++i) {
    const int half = i % 2;
    if (half == 0) b = b_descriptor(tokens.wait(i / 2));
    if (i >= kHeld) {
      wait_for_operands<kHeld - 1>();
      if ((i - kHeld) % 2 == 1) tokens.release((i - kHeld) / 2, lane);
    }
    codes.decode(half, a[i % kHeld]);
    if (i + 1 == kHalves) {
      weights.release(lane);
    } else if (half == 1) {
      codes.load(unit + (i + 1) / 2 * kChunkBytes, lane);
    }
    if (i == 0) turns.wait();
    multiply_32_columns(part[half], a[i % kHeld], b + 4 * half, accumulate || i >= 2);
    if (i == Config::kTurn) turns.pass(lane);
  }
  // With products pending into the next round ptxas would serialise them all.
  wgmma_wait<0>();
#pragma unroll
  for (int c = 0; c < kUnit; ++c) {
    if (2 * c + 1 + kHeld >= kHalves) tokens.release(c, lane);
  }
  tokens.advance();
}

/// The same of a row's last unit with fewer chunks.
template <PanelKind kKind, class Config>
__device__ __forceinline__ void multiply_chunks(int chunks, WeightStages<Config>& weights,
                                                TokenStages<Config>& tokens, Turns<Config>& turns,
                                                int warp, int lane, bool accumulate,
                                                float (&part)[2][Config::kSums]) {
  const uint32_t unit = weights.next(warp);
  turns.wait();
#pragma unroll 1
  for (int c = 0; c < kUnit; ++c) {
    const uint32_t b = b_descriptor(tokens.wait(c));
    if (c < chunks) {
      Codes<kKind> codes;
      codes.load(unit + c * kChunkBytes, lane);
      uint32_t a[2][8];
      codes.decode(0, a[0]);
      codes.decode(1, a[1]);
      multiply_32_columns(part[0], a[0], b, accumulate || c > 0);
      multiply_32_columns(part[1], a[1], b + 4, accumulate || c > 0);
      wgmma_wait<0>();
    }
    tokens.release(c, lane);
  }
  tokens.advance();
  turns.pass(lane);
  weights.release(lane);
}

/// The sums of this warp's rows over all units: total = x W^T.
template <PanelKind kKind, class Config>
__device__ __forceinline__ void sum_shares(const Panel& panel, WeightStages<Config>& weights,
                                           TokenStages<Config>& tokens, Turns<Config>& turns,
                                           int warp, int lane, float (&total)[Config::kSums]) {
  const int units = (panel.chunks + kUnit - 1) / kUnit, shares = decode_shares(units);
  // What is added to -0 stays as it is, the sign of a zero too.
#pragma unroll
  for (int i = 0; i < Config::kSums; ++i) total[i] = -0.0f;
  int unit = 0;
#pragma unroll 1
  for (int share = 0; share < shares; ++share) {
    const int begin = unit, end = units * (share + 1) / shares;
    float part[2][Config::kSums];
#pragma unroll 1
    for (; unit < end; ++unit) {
      const int chunks = panel.chunks - unit * kUnit;
      if (chunks >= kUnit) {
        multiply_unit<kKind, Config>(weights, tokens, turns, warp, lane, unit > begin, part);
      } else {
        multiply_chunks<kKind, Config>(chunks, weights, tokens, turns, warp, lane, unit > begin,
                                       part);
      }
    }
#pragma unroll
    for (int i = 0; i < Config::kSums; ++i) total[i] += part[0][i] + part[1][i];
  }
}

/// Before the sums that it is for, so that nobody waits for it.
__device__ __forceinline__ float load_float(const float* p) {
  float v;
  asm volatile("ld.global.nc.f32 %0, [%1];" : "=f"(v) : "l"(p));
  return v;
}

/// Results of a single member in float32.
template <class Config>
__device__ __forceinline__ void store_floats(const Products& p, int row, int lane, int first_token,
                                             const float (&scale)[2], const float (&bias)[2],
                                             const float (&sums)[Config::kSums]) {
  const MemberOutput& o = p.outputs[0];
  const int left = p.tokens - first_token - lane % 4 * 2;
  float* y =
      static_cast<float*>(o.y) + (first_token + lane % 4 * 2) * o.stride + (row - o.first_row);
  float* y1 = y + o.stride;
  const bool stored[2] = {row < o.first_row + o.rows, row + 8 < o.first_row + o.rows};
#pragma unroll
  for (int b = 0; b < Config::kTokens / 8; ++b) {
#pragma unroll
    for (int upper = 0; upper < 2; ++upper) {
      if (8 * b < left && stored[upper])
        y[8 * upper] = sums[4 * b + 2 * upper] * scale[upper] + bias[upper];
      if (8 * b + 1 < left && stored[upper])
        y1[8 * upper] = sums[4 * b + 2 * upper + 1] * scale[upper] + bias[upper];
    }
    y += 8 * o.stride;
    y1 += 8 * o.stride;
  }
}

template <PanelKind kKind, class Config>
__device__ __forceinline__ void multiply_rows(const Products& p, const Layout& layout, int row,
                                              int row_step, uint32_t memory, int warp, int lane) {
  const Panel& panel = p.panels[0];
  const int group_row = warp / 4 * kTileRows;
  const int lane_row = warp * kPanelTileRows + lane / 4;
  TokenStages<Config> tokens(memory, lane);
  WeightStages<Config> weights(memory);
  Turns<Config> turns(memory, warp / 4);
  const bool simple = p.num_outputs == 1 && p.outputs[0].is_bf16 == 0;
  for (int round = 0; round < layout.rounds; ++round, row += row_step) {
    for (int pass = 0; pass < layout.passes; ++pass) {
      if (row + group_row >= panel.rows) {  // others of the cluster may have rows
        for (int u = 0; u < (panel.chunks + kUnit - 1) / kUnit; ++u) {
          turns.wait();
          turns.pass(lane);
          if (row < panel.rows) {
            weights.next(warp);
            weights.release(lane);
          }
          for (int c = 0; c < kUnit; ++c) {
            tokens.wait(c);
            tokens.release(c, lane);
          }
          tokens.advance();
        }
        continue;
      }
      float scale[2], bias[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int r = min(row + lane_row + 8 * i, panel.rows - 1);
        scale[i] = load_float(panel.row_scale + r);
        bias[i] = load_float(panel.bias + r);
      }
      float total[Config::kSums];
      sum_shares<kKind, Config>(panel, weights, tokens, turns, warp, lane, total);
      if (simple) {
        store_floats<Config>(p, row + lane_row, lane, pass * Config::kTokens, scale, bias, total);
        continue;
      }
#pragma unroll
      for (int upper = 0; upper < 2; ++upper) {
        store_rows<Config::kTokens>(p, 0, row + lane_row + 8 * upper, lane, pass * Config::kTokens,
                                    upper, total);
      }
    }
  }
}

template <PanelKind kKind, class Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    head_kernel(const __grid_constant__ Products p, const __grid_constant__ Layout layout) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint8_t dynamic[];
  // The swizzle wants multiples of 1024 bytes, the same in all blocks of a cluster.
  const uint32_t start = shared_address(dynamic), memory = start + (1024 - start % 1024) % 1024;
  launch_dependents();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
  const int row = static_cast<int>(blockIdx.x) * Config::kRows;
  const int row_step = static_cast<int>(gridDim.x) * Config::kRows;
  if (warp == Config::kWarps && lane == 0) {
    for (int i = 0; i < Config::kTokenStages; ++i) {
      barrier_init(memory + Config::kTokensFull + i * 8, 1);
      barrier_init(memory + Config::kTokensEmpty + i * 8,
                   Config::kWarps * kCluster * kWarpArrivals);
    }
    for (int i = 0; i < Config::kWeightStages; ++i) {
      barrier_init(memory + Config::kWeightsFull + i * 8, 1);
      barrier_init(memory + Config::kWeightsEmpty + i * 8, Config::kWarps * kWarpArrivals);
    }
    for (int i = 0; i < Config::kGroups; ++i) {
      barrier_init(memory + Config::kTurns + i * 8, 4 * kWarpArrivals);
    }
    fence_barrier_init();
  }
  __syncwarp();
  arrive_in_cluster();
  wait_for_cluster();
  if (warp < Config::kWarps) {
    take_registers<Config::kRegisters>();
    multiply_rows<kKind, Config>(p, layout, row, row_step, memory, warp, lane);
  } else {
    give_registers_back<Config::kFetcherRegisters>();
    if (warp == Config::kWarps) {
      fetch_weights<Config>(p.panels[0], layout, row, row_step, memory, lane);
    } else if (warp == Config::kWarps + 1) {
      wait_for_previous_kernel();
      if (elect_one()) {
        fetch_tokens<Config>(p, layout, static_cast<int>(blockIdx.x) % kCluster, memory);
      }
    }
    __syncwarp();
  }
#endif
}

template <class Config>
void launch_head(const LinearCall& call, const void* tiles) {
  Products p = products_of(call);
  p.x = tiles;
  const int blocks = call.sm_count / kCluster * kCluster;
  const Layout layout = {
      .rounds = static_cast<int32_t>(
          ceil_div(int64_t{call.panels[0].rows}, int64_t{blocks} * Config::kRows)),
      .passes = static_cast<int32_t>(ceil_div(call.x.rows, int64_t{Config::kTokens})),
      .token_rows = static_cast<int32_t>(tiled_token_rows(call.x.rows))};
  const auto start = [&](auto* kernel) {
    launch(kernel,
           {.grid = dim3(static_cast<unsigned>(blocks)),
            .block = dim3(Config::kThreads),
            .shared_bytes = Config::kBytes,
            .stream = call.stream,
            .dependent = call.dependent,
            .cluster = kCluster},
           p, layout);
  };
  start(call.panels[0].kind == PanelKind::kNvfp4 ? head_kernel<PanelKind::kNvfp4, Config>
                                                 : head_kernel<PanelKind::kMxfp4, Config>);
}

// As many warpgroups as registers have room for.
using Tokens32 = HeadConfig<32, 4, 16, 3, 3, 1>;
using Tokens64 = HeadConfig<64, 3, 12, 4, 4, 3>;
using Tokens128 = HeadConfig<128, 2, 8, 3, 2, 3>;

template <class... Configs>
void allow(int bytes) {
  const auto one = [&](auto* kernel) {
    MOE4_CUDA_CHECK(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  };
  (one(head_kernel<PanelKind::kNvfp4, Configs>), ...);
  (one(head_kernel<PanelKind::kMxfp4, Configs>), ...);
}

}  // namespace linear_head_sm90

using namespace linear_head_sm90;

void allow_many_head_kernels(int bytes) { allow<Tokens32, Tokens64, Tokens128>(bytes); }

bool many_head_linears(const LinearCall& call, void* tiles) {
  if (call.panels.size() != 1 || !is_tiled(call.panels[0].kind) ||
      Tokens128::kBytes > call.shared_bytes) {
    return false;
  }
  tile_tokens(call, tiles);
  if (call.x.rows <= Tokens32::kTokens) {
    launch_head<Tokens32>(call, tiles);
  } else if (call.x.rows <= Tokens64::kTokens) {
    launch_head<Tokens64>(call, tiles);
  } else {
    launch_head<Tokens128>(call, tiles);
  }
  return true;
}

}  // namespace moe4::cuda
