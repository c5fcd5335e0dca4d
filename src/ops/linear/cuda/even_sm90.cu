// Products of dozens of generated tokens on SM90: y[t] = x[t] W^T with wgmma, tokens the operand of
// rows and weights that of columns.
//
// All multiprocessors get equally many rows of the largest panel, kRows, and go through all of K
// once for every kTokens tokens; rows are wgmma's columns, of which any multiple of 8 may be had.
// Warps of a block have roles:
//
// - decoders bring weights (cp.async, each warp through a ring of its own, begun before the kernel
//   in front has ended) and decode each of them once, for all tokens, to a stage of 128 columns in
//   wgmma's 128-byte swizzle;
// - one warp asks the copy engine for tokens, 64 columns after the other, as they lie in memory;
//   blocks of a cluster fetch a share of the tokens each, for all of them;
// - one finds out where results go;
// - two warpgroups multiply, with the columns of a chunk of 64 tokens in registers: 64 tokens each,
//   or half of each chunk each, of which the sums are two chains anyway. While the products of a
//   chunk run they load the next one.
//
// Thread 4g + t of a warp that multiplies has columns 16t + 4m .. 16t + 4m + 3 of its tokens g and
// g + 8 in the m-th k16 of a chunk, and decoders put weights in the same order. Sums have the order
// of decode_shares(). A chain of wgmma rounds as one of mma.sync does, whichever operand is which:
// bits are those of decode_linears().
//
// A small panel of BF16 beside the large one has blocks of its own, which do the same with other
// decoders: what they multiply is the code that all others run.
#include <algorithm>

#include "device/cuda/launch.h"
#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/cluster.cuh"
#include "device/cuda/ptx/copy.cuh"
#include "device/cuda/ptx/launch.cuh"
#include "device/cuda/ptx/memory.cuh"
#include "device/cuda/ptx/multicast.cuh"
#include "device/cuda/ptx/named_barrier.cuh"
#include "device/cuda/ptx/tensor_copy.cuh"
#include "device/cuda/ptx/warp.cuh"
#include "device/cuda/ptx/wgmma_halves_sm90.cuh"
#include "device/cuda/ptx/wgmma_sm90.cuh"
#include "device/cuda/tensor_map.h"
#include "ops/linear/cuda/even.h"
#include "ops/linear/cuda/fragments.cuh"
#include "ops/linear/cuda/products.cuh"

namespace moe4::cuda {

// Not anonymous: nvcc takes what only sm_90a uses for forgotten otherwise.
namespace linear_even_sm90 {

constexpr int kGroupThreads = 128;
constexpr int kShares = 8;
constexpr int kUnit = 2;                      // chunks of a stage of weights
constexpr int kTokenBytes = kPanelChunk * 2;  // of a chunk
constexpr int kPieceRows = 8;                 // of a unit, that a decoder takes

/// Tokens of a pass, rows of a block, blocks of a cluster; stages of a chunk of tokens and of a
/// unit of weights; warps that decode, and slots of their rings.
template <int kTokens_, int kRows_, int kCluster_, int kTokenStages_, int kWeightStages_,
          int kDecoders_, int kSlots_>
struct EvenConfig {
  static constexpr int kTokens = kTokens_, kRows = kRows_, kCluster = kCluster_;
  static constexpr int kTokenStages = kTokenStages_, kWeightStages = kWeightStages_;
  static constexpr int kDecoders = kDecoders_, kSlots = kSlots_;
  // Pieces of a unit that a decoder has.
  static constexpr int kPieces = (kRows / kPieceRows + kDecoders - 1) / kDecoders;
  static constexpr int kGroups = 2;                 // that multiply
  static constexpr bool kHalves = kTokens <= 64;    // have a half of each chunk, not of the tokens
  static constexpr int kMultipliers = kGroups * 4;  // warps
  // Two warps more fetch tokens and find out where results go.
  static constexpr int kOtherGroups = (kDecoders + 2 + 3) / 4;
  static constexpr int kThreads = (kGroups + kOtherGroups) * kGroupThreads;
  static constexpr int kSums = kRows / 2;  // of a thread
  // So that ptxas spills hardly anything of either.
  static constexpr int kMultiplierRegisters = kHalves ? 144 : 192;
  static constexpr int kDecoderRegisters = kHalves ? 48 : 64;
  static constexpr int kStartRegisters =
      ((kGroups * kMultiplierRegisters + kOtherGroups * kDecoderRegisters) /
           (kGroups + kOtherGroups) +
       7) /
      8 * 8;
  static_assert(kStartRegisters * kThreads <= 65536);

  static constexpr int kShare = kTokens / kCluster;         // tokens that a block fetches
  static constexpr int kShareBytes = kShare * kTokenBytes;  // of a stage, a chunk
  static constexpr int kTokenStageBytes = kCluster * kShareBytes;
  static constexpr int kTileBytes = kRows * kTokenBytes;  // a chunk of decoded weights
  static constexpr int kWeightStageBytes = kUnit * kTileBytes;
  static constexpr int kPieceBytes = kPieceRows * kUnit * kPanelChunk;        // of FP8
  static constexpr int kRingBytes = kSlots * kPieces * kPieceBytes;           // of a decoder
  static constexpr int kHalfBytes = kHalves ? kGroupThreads * kSums * 4 : 0;  // of sums
  static_assert(kTokenStages % kUnit == 0);
  static_assert(kShare * kTokenBytes % 1024 == 0 && kTileBytes % 1024 == 0, "the swizzle's");
};

/// Where a row of a block goes.
struct RowOutput {
  void* y;         ///< of the first token; null: nowhere
  int32_t stride;  ///< elements between tokens
  int32_t is_bf16;
};
/// Where eight of them go, if they lie side by side as BF16 at a multiple of 4 bytes; null
/// otherwise.
struct EightOutputs {
  void* y;
  int64_t stride;
};

template <class Config>
struct Shared {
  static constexpr int kTokens = 0;
  static constexpr int kWeights = kTokens + Config::kTokenStages * Config::kTokenStageBytes;
  static constexpr int kRings = kWeights + Config::kWeightStages * Config::kWeightStageBytes;
  static constexpr int kHalf = kRings + Config::kDecoders * Config::kRingBytes;
  static constexpr int kOutputs = kHalf + Config::kHalfBytes;
  static constexpr int kEights = kOutputs + Config::kRows * int{sizeof(RowOutput)};
  static constexpr int kScales = kEights + Config::kRows / 8 * int{sizeof(EightOutputs)};
  static constexpr int kBiases = kScales + Config::kRows * 4;
  static constexpr int kTokensFull = kBiases + Config::kRows * 4;
  static constexpr int kTokensEmpty = kTokensFull + Config::kTokenStages * 8;
  static constexpr int kWeightsFull = kTokensEmpty + Config::kTokenStages * 8;
  static constexpr int kWeightsEmpty = kWeightsFull + Config::kWeightStages * 8;
  static constexpr int kBytes = kWeightsEmpty + Config::kWeightStages * 8;
};

/// Rows of a block.
struct Layout {
  int32_t block_rows[kMaxPanels] = {};  ///< a multiple of kPieceRows
  int32_t passes = 1;                   ///< over tokens
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

/// Four codes of each of a row's four sixteens -> the two pieces of 16 bytes of a k16.
template <PanelKind kKind>
struct Decoder;
template <>
struct Decoder<PanelKind::kFp8> {
  static constexpr int kLaneBytes = 16;  // that a lane copies, of a row and chunk
  uint32_t words[4];
  __device__ __forceinline__ void load(const uint8_t* from, int sixteen) {
    words[sixteen] = *reinterpret_cast<const uint32_t*>(from);
  }
  __device__ __forceinline__ uint4 first() const {
    return make_uint4(e4m3_pair<0>(words[0]), e4m3_pair<0>(words[1]), e4m3_pair<0>(words[2]),
                      e4m3_pair<0>(words[3]));
  }
  __device__ __forceinline__ uint4 second() const {
    return make_uint4(e4m3_pair<1>(words[0]), e4m3_pair<1>(words[1]), e4m3_pair<1>(words[2]),
                      e4m3_pair<1>(words[3]));
  }
};
template <>
struct Decoder<PanelKind::kBf16> {
  static constexpr int kLaneBytes = 32;
  uint2 words[4];
  __device__ __forceinline__ void load(const uint8_t* from, int sixteen) {
    words[sixteen] = *reinterpret_cast<const uint2*>(from);
  }
  __device__ __forceinline__ uint4 first() const {
    return make_uint4(words[0].x, words[1].x, words[2].x, words[3].x);
  }
  __device__ __forceinline__ uint4 second() const {
    return make_uint4(words[0].y, words[1].y, words[2].y, words[3].y);
  }
};

/// What a warp decodes: of every kDecoders-th 8 rows of a block, 128 columns at a time. In four of
/// these rows lane 16h + 4r + m copies sixteen m and decodes k16 m of row r, chunk h.
template <PanelKind kKind, class Config>
class WeightDecoder {
 public:
  __device__ WeightDecoder(const Panel& panel, int first_row, int rows, int passes, uint8_t* shared,
                           int warp, int lane)
      : units_(panel.chunks / kUnit), left_(units_ * passes), to_copy_(left_), lane_(lane) {
    ring_ = shared + Shared<Config>::kRings + warp * Config::kRingBytes;
    const int q = lane / 4, m = lane % 4, r = q % 4, h = q / 4;
    row_bytes_ = panel.chunks * kChunkRowBytes;
    const int row = first_row + warp * kPieceRows + r;
    from_ = panel.weights + static_cast<int64_t>(row) * row_bytes_ + h * kChunkRowBytes +
            m * D::kLaneBytes;
    copy_to_ = shared_address(ring_) + (m * 8 + (q ^ (2 * m))) * D::kLaneBytes;
#pragma unroll
    for (int i = 0; i < kTasks; ++i) {
      const int piece = warp + i / 2 * Config::kDecoders;
      if (piece * kPieceRows < rows && row + row_of(i) < panel.rows) wanted_ |= 1u << i;
      if (piece * kPieceRows < rows) mine_ |= 1u << i;
    }
#pragma unroll 1
    for (int slot = 0; slot < kSlots; ++slot) copy(slot);
  }

  __device__ void run(uint8_t* shared, int warp) {
    if (mine_ == 0) return copy_wait<0>();
    const uint32_t memory = shared_address(shared);
    const int q = lane_ / 4, m = lane_ % 4, row = q % 4;
    const uint32_t to = memory + Shared<Config>::kWeights + q / 4 * Config::kTileBytes +
                        (warp * kPieceRows + row) * kTokenBytes;
    uint32_t from[4];  // of sixteen t, in a slot
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      from[t] = (t * 8 + (q ^ (2 * t))) * D::kLaneBytes + m * (D::kLaneBytes / 4);
    }
    Stage<Config::kWeightStages> stage;
    int slot = 0;
#pragma unroll 1
    for (int unit = 0; unit < left_; ++unit) {
      D codes[kTasks];
      copy_wait<kSlots - 1>();
      __syncwarp();
      const uint8_t* slot_memory = ring_ + slot * kSlotBytes;
#pragma unroll
      for (int i = 0; i < kTasks; ++i) {
#pragma unroll
        for (int t = 0; t < 4; ++t) codes[i].load(slot_memory + from[t] + i * kTaskBytes, t);
      }
      __syncwarp();
      copy(slot);
      slot = slot + 1 == kSlots ? 0 : slot + 1;
      barrier_wait(memory + Shared<Config>::kWeightsEmpty + stage.index * 8, stage.parity ^ 1);
      const uint32_t at = to + stage.index * Config::kWeightStageBytes;
#pragma unroll
      for (int i = 0; i < kTasks; ++i) {
        if ((mine_ >> i & 1) == 0) continue;
        const uint32_t line = at + row_of(i) * kTokenBytes;
        const int swizzle = row + i % 2 * 4;
        store_shared16(line + ((2 * m) ^ swizzle) * 16, codes[i].first());
        store_shared16(line + ((2 * m + 1) ^ swizzle) * 16, codes[i].second());
      }
      fence_async_proxy();
      __syncwarp();
      warp_arrive(memory + Shared<Config>::kWeightsFull + stage.index * 8, lane_ == 0);
      stage.advance();
    }
    copy_wait<0>();
  }

 private:
  using D = Decoder<kKind>;
  // Of four rows. A decoder has one piece of BF16 at most: blocks have few rows of it.
  static constexpr int kTasks = kKind == PanelKind::kBf16 ? 2 : 2 * Config::kPieces;
  static constexpr int kTaskBytes = 32 * D::kLaneBytes, kSlotBytes = kTasks * kTaskBytes;
  static constexpr int kSlots = Config::kRingBytes / kSlotBytes;
  static constexpr int kChunkRowBytes = tile_chunk_bytes(kKind) / kPanelTileRows;
  static_assert(D::kLaneBytes * 4 == kChunkRowBytes && kSlots > 1);

  // From a lane's row in its first task.
  __device__ static constexpr int row_of(int task) {
    return task / 2 * Config::kDecoders * kPieceRows + task % 2 * 4;
  }
  __device__ __forceinline__ void copy(int slot) {
    if (to_copy_ > 0) {
      --to_copy_;
      const uint32_t to = copy_to_ + slot * kSlotBytes;
#pragma unroll
      for (int i = 0; i < kTasks; ++i) {
        const uint8_t* from = from_ + row_of(i) * row_bytes_;
#pragma unroll
        for (int j = 0; j < D::kLaneBytes / 16; ++j) {
          copy16_if((wanted_ >> i & 1) != 0, to + i * kTaskBytes + j * 16, from + j * 16);
        }
      }
      from_ += kUnit * kChunkRowBytes;
      if (++unit_ == units_) {  // the next pass
        unit_ = 0;
        from_ -= row_bytes_;
      }
    }
    copy_commit();
  }

  int units_, left_, to_copy_, lane_;
  int unit_ = 0, row_bytes_;
  uint32_t wanted_ = 0, mine_ = 0;  // tasks: those with rows that exist, those with rows at all
  uint32_t copy_to_;
  uint8_t* ring_;
  const uint8_t* from_;
};

template <class Config>
__device__ __forceinline__ void fetch_tokens(const CUtensorMap& map, int chunks, int passes,
                                             uint32_t memory, int rank) {
  Stage<Config::kTokenStages> stage;
  for (int pass = 0; pass < passes; ++pass) {
#pragma unroll 1
    for (int c = 0; c < chunks; ++c) {
      const uint32_t full = memory + Shared<Config>::kTokensFull + stage.index * 8;
      barrier_wait(memory + Shared<Config>::kTokensEmpty + stage.index * 8, stage.parity ^ 1);
      barrier_expect(full, Config::kTokenStageBytes);
      const uint32_t to = memory + Shared<Config>::kTokens +
                          stage.index * Config::kTokenStageBytes + rank * Config::kShareBytes;
      const int token = pass * Config::kTokens + rank * Config::kShare;
      if constexpr (Config::kCluster == 1) {
        tensor_copy(to, &map, 0, token, c, full);
      } else {
        tensor_copy_to_blocks(to, &map, 0, token, c, full, (1 << Config::kCluster) - 1);
      }
      stage.advance();
    }
  }
  if constexpr (Config::kCluster > 1) {
    // The other blocks' warps tell this one as long as it is there.
    for (int i = 0; i < Config::kTokenStages; ++i) {
      barrier_wait(memory + Shared<Config>::kTokensEmpty + stage.index * 8, stage.parity ^ 1);
      stage.advance();
    }
  }
}

template <class Config>
__device__ __forceinline__ void store_results(const Products& p, const uint8_t* shared, int rows,
                                              int token, int lane, float (&sums)[Config::kSums]) {
  const int column = lane % 4 * 2;
  const auto* scales = reinterpret_cast<const float*>(shared + Shared<Config>::kScales) + column;
  const auto* biases = reinterpret_cast<const float*>(shared + Shared<Config>::kBiases) + column;
  const auto* eights = reinterpret_cast<const EightOutputs*>(shared + Shared<Config>::kEights);
  const auto values = [&](int b, int upper, int at) {
    const float2 scale = *reinterpret_cast<const float2*>(scales + 8 * at);
    const float2 bias = *reinterpret_cast<const float2*>(biases + 8 * at);
    return make_float2(sums[4 * b + 2 * upper] * scale.x + bias.x,
                       sums[4 * b + 2 * upper + 1] * scale.y + bias.y);
  };
  bool all = true;
#pragma unroll
  for (int b = 0; b < Config::kRows / 8; ++b) {
    const EightOutputs output = eights[b];
    if (output.y == nullptr) {
      all = false;
      continue;
    }
#pragma unroll
    for (int upper = 0; upper < 2; ++upper) {
      const int64_t t = token + 8 * upper;
      const float2 v = values(b, upper, b);
      auto* y = static_cast<__nv_bfloat16*>(output.y) + t * output.stride + column;
      if (t < p.tokens) {
        *reinterpret_cast<__nv_bfloat162*>(y) = __floats2bfloat162_rn(v.x, v.y);
      }
    }
  }
  if (all) return;
  const auto* outputs =
      reinterpret_cast<const RowOutput*>(shared + Shared<Config>::kOutputs) + column;
  // Little code, for few blocks get here and fetch it anew.
#pragma unroll 1
  for (int b = 0; b < rows / 8; ++b) {
    if (eights[b].y == nullptr) {
#pragma unroll
      for (int upper = 0; upper < 2; ++upper) {
        const int64_t t = token + 8 * upper;
        const float2 v = values(0, upper, b);
        const auto store = [&](const RowOutput& row, float x) {
          if (row.y == nullptr || t >= p.tokens) return;
          if (row.is_bf16 != 0) {
            static_cast<__nv_bfloat16*>(row.y)[t * row.stride] = __float2bfloat16_rn(x);
          } else {
            static_cast<float*>(row.y)[t * row.stride] = x;
          }
        };
        store(outputs[8 * b], v.x);
        store(outputs[8 * b + 1], v.y);
      }
    }
#pragma unroll
    for (int i = 0; i < Config::kSums - 4; ++i) sums[i] = sums[i + 4];
  }
}

enum NamedBarrier { kOutputsKnown = 1, kHalfFull, kHalfFree };

/// Two warpgroups have a half of each chunk, a chain each: the second one's sums come to the first
/// through shared memory, a thread's to the same thread.
template <class Config>
class HalfExchange {
 public:
  __device__ HalfExchange(uint8_t* shared, int thread)
      : memory_(reinterpret_cast<float4*>(shared + Shared<Config>::kHalf) + thread) {}
  __device__ __forceinline__ void send(const float (&sums)[Config::kSums]) const {
    named_barrier<2 * kGroupThreads>(kHalfFree);
#pragma unroll
    for (int i = 0; i < Config::kSums / 4; ++i) {
      memory_[i * kGroupThreads] =
          make_float4(sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]);
    }
    arrive_at_named_barrier<2 * kGroupThreads>(kHalfFull);
  }
  __device__ __forceinline__ void invite() const {
    arrive_at_named_barrier<2 * kGroupThreads>(kHalfFree);
  }
  __device__ __forceinline__ void add(float (&sums)[Config::kSums]) const {
    named_barrier<2 * kGroupThreads>(kHalfFull);
#pragma unroll
    for (int i = 0; i < Config::kSums / 4; ++i) {
      const float4 other = memory_[i * kGroupThreads];
      sums[4 * i] += other.x, sums[4 * i + 1] += other.y;
      sums[4 * i + 2] += other.z, sums[4 * i + 3] += other.w;
    }
  }

 private:
  float4* memory_;
};

template <class Config, bool kSecond>
__device__ __forceinline__ void multiply(const Products& p, int chunks, int rows, int passes,
                                         uint8_t* shared, int warp, int lane) {
  const uint32_t memory = shared_address(shared);
  const int g = lane / 4, t = lane % 4;
  const int warp_token = (Config::kHalves ? warp % 4 : warp) * 16;  // of a pass
  // A warp past the tokens of a stage multiplies what it has.
  const bool has_tokens = warp_token < Config::kTokens;
  const uint32_t x_row = memory + Shared<Config>::kTokens +
                         warp_token / Config::kShare * Config::kShareBytes +
                         (warp_token % Config::kShare + g) * kTokenBytes;
  const uint32_t x_piece[2] = {static_cast<uint32_t>((2 * t) ^ g) * 16,
                               static_cast<uint32_t>((2 * t + 1) ^ g) * 16};
  const uint32_t tokens_full = memory + Shared<Config>::kTokensFull;
  uint32_t tokens_empty = memory + Shared<Config>::kTokensEmpty;
  if constexpr (Config::kCluster > 1) {
    tokens_empty = told_barrier(tokens_empty, lane, Config::kCluster);
  }
  const int share_units = chunks / (kShares * kUnit);
  const HalfExchange<Config> exchange(shared, warp % 4 * 32 + lane);
  Stage<Config::kTokenStages / kUnit> x_stage;  // of units
  Stage<Config::kWeightStages> w_stage;
  // The halves of a chunk that this warpgroup has.
  constexpr int kOwn = Config::kHalves ? 1 : 2, kFirst = kSecond ? 1 : 0;
  uint32_t a[kUnit][kOwn][8] = {};
  // Behind the last unit, without a wait, whatever lies there: it is not used.
  const auto load = [&](int h, bool more) {
    barrier_wait(tokens_full + (x_stage.index * kUnit + h) * 8,
                 more ? x_stage.parity : x_stage.parity ^ 1);
    if (has_tokens) {
      const uint32_t x = x_row + (x_stage.index * kUnit + h) * Config::kTokenStageBytes;
#pragma unroll
      for (int half = 0; half < kOwn; ++half) {
        const uint32_t piece = x + x_piece[kFirst + half];
        const uint4 low = load_shared16(piece);
        const uint4 high = load_shared16(piece + 8 * kTokenBytes);
        uint32_t(&to)[8] = a[h][half];
        to[0] = low.x, to[1] = high.x, to[2] = low.y, to[3] = high.y;
        to[4] = low.z, to[5] = high.z, to[6] = low.w, to[7] = high.w;
      }
    }
  };
  int left = passes * kShares * share_units;
  load(0, true);
  for (int pass = 0; pass < passes; ++pass) {
    float total[kSecond ? 1 : Config::kSums];
    if constexpr (!kSecond) {
      // What is added to -0 stays as it is, the sign of a zero too.
#pragma unroll
      for (int i = 0; i < Config::kSums; ++i) total[i] = -0.0f;
    }
#pragma unroll 1
    for (int share = 0; share < kShares; ++share) {
      if constexpr (Config::kHalves && !kSecond) exchange.invite();
      float part[kOwn][Config::kSums];
#pragma unroll 1
      for (int unit = 0; unit < share_units; ++unit) {
        const uint32_t b = b_descriptor(memory + Shared<Config>::kWeights +
                                        w_stage.index * Config::kWeightStageBytes);
        barrier_wait(memory + Shared<Config>::kWeightsFull + w_stage.index * 8, w_stage.parity);
        const uint32_t empty = tokens_empty + x_stage.index * kUnit * 8;
#pragma unroll
        for (int h = 0; h < kUnit; ++h) {
          if (h > 0) load(h, true);
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            asm volatile("" : "+r"(a[h][0][i]), "+r"(a[h][kOwn - 1][i]));  // before any product
          }
          const uint32_t at = b + h * (Config::kTileBytes / 16);
          const bool accumulate = h > 0 || unit > 0;
          if constexpr (Config::kHalves) {
            multiply_half(part[0], a[h][0], at + 4 * kFirst, accumulate);
          } else {
            multiply_halves(part[0], part[1], a[h], at, accumulate);
          }
          __syncwarp();
          if constexpr (Config::kCluster == 1) {
            warp_arrive(empty + h * 8, lane == 0);
          } else {
            warp_tell_blocks(empty + h * 8, lane, Config::kCluster);
          }
        }
        x_stage.advance();
        wgmma_wait<1>();  // the first chunk's registers are free
        --left;
        load(0, left > 0);
        // With products pending into the next round ptxas would serialise them all.
        wgmma_wait<0>();
        warp_arrive(memory + Shared<Config>::kWeightsEmpty + w_stage.index * 8, lane == 0);
        w_stage.advance();
      }
      if constexpr (kSecond) {
        exchange.send(part[0]);
      } else {
        if constexpr (Config::kHalves) exchange.add(part[0]);
#pragma unroll
        for (int i = 0; i < Config::kSums; ++i) {
          total[i] += Config::kHalves ? part[0][i] : part[0][i] + part[kOwn - 1][i];
        }
      }
    }
    if constexpr (!kSecond) {
      constexpr int kStoring = Config::kHalves ? kGroupThreads : 2 * kGroupThreads;
      if (pass == 0) named_barrier<kStoring + 32>(kOutputsKnown);
      if (has_tokens) {
        store_results<Config>(p, shared, rows, pass * Config::kTokens + warp_token + g, lane,
                              total);
      }
    }
  }
}

/// Where the block's rows go, by one warp; eight lanes have eight rows.
template <class Config>
__device__ __forceinline__ void find_outputs(const Products& p, int panel, int first_row, int rows,
                                             uint8_t* shared, int lane) {
  auto* outputs = reinterpret_cast<RowOutput*>(shared + Shared<Config>::kOutputs);
  auto* eights = reinterpret_cast<EightOutputs*>(shared + Shared<Config>::kEights);
  auto* scales = reinterpret_cast<float*>(shared + Shared<Config>::kScales);
  auto* biases = reinterpret_cast<float*>(shared + Shared<Config>::kBiases);
#pragma unroll 1
  for (int begin = 0; begin < Config::kRows; begin += 32) {
    const int i = begin + lane, row = first_row + i;
    float scale = 0, bias = 0;
    if (i < rows && row < p.panels[panel].rows) {
      scale = __ldg(p.panels[panel].row_scale + row);
      bias = __ldg(p.panels[panel].bias + row);
    }
    RowOutput to = {};
    int member = -1;
#pragma unroll 1
    for (int j = 0; j < p.num_outputs; ++j) {
      const MemberOutput& o = p.outputs[j];
      const int column = row - o.first_row;
      if (i >= rows || o.panel != panel || column < 0 || column >= o.rows) continue;
      member = j;
      to.y = static_cast<uint8_t*>(o.y) + static_cast<int64_t>(column) * (o.is_bf16 != 0 ? 2 : 4);
      to.stride = static_cast<int32_t>(o.stride);
      to.is_bf16 = o.is_bf16;
    }
    const bool same = member == __shfl_sync(~0u, member, lane / 8 * 8);
    const bool is_one = member >= 0 && same && to.is_bf16 != 0 && to.stride % 2 == 0;
    const uint32_t are_one = __ballot_sync(~0u, is_one) >> (lane / 8 * 8) & 0xff;
    if (i >= Config::kRows) continue;
    outputs[i] = to;
    scales[i] = scale;
    biases[i] = bias;
    if (lane % 8 == 0) {
      const bool lie_so = are_one == 0xff && reinterpret_cast<uintptr_t>(to.y) % 4 == 0;
      eights[i / 8] = {lie_so ? to.y : nullptr, to.stride};
    }
  }
}

/// Barriers are known to all blocks of the cluster.
template <class Config>
__device__ __forceinline__ void meet() {
  if constexpr (Config::kCluster == 1) {
    __syncthreads();
  } else {
    arrive_in_cluster();
    wait_for_cluster();
  }
}

template <PanelKind kKind, class Config>
__device__ __forceinline__ void decode_weights(const Products& p, int panel, int first_row,
                                               int rows, int passes, uint8_t* shared, int warp,
                                               int lane) {
  WeightDecoder<kKind, Config> decoder(p.panels[panel], first_row, rows, passes, shared, warp,
                                       lane);
  meet<Config>();
  decoder.run(shared, warp);
}

template <class Config>
__global__ void __maxnreg__(Config::kStartRegisters)
    even_kernel(const __grid_constant__ Products p, const __grid_constant__ Layout layout,
                const __grid_constant__ CUtensorMap tokens) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint8_t dynamic[];
  // The swizzle wants multiples of 1024 bytes, the same in all blocks of a cluster.
  uint8_t* shared = dynamic + (1024 - shared_address(dynamic) % 1024) % 1024;
  const uint32_t memory = shared_address(shared);
  launch_dependents();
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int rank = static_cast<int>(blockIdx.x) % Config::kCluster;
  const int panel = panel_of_block(p), chunks = p.panels[panel].chunks;
  const int rows = layout.block_rows[panel];
  const int first_row = (static_cast<int>(blockIdx.x) - p.first_block[panel]) * rows;
  if (warp < Config::kMultipliers) {
    if (warp == 0 && lane == 0) {
      for (int i = 0; i < Config::kTokenStages; ++i) {
        barrier_init(memory + Shared<Config>::kTokensFull + i * 8, 1);
        barrier_init(memory + Shared<Config>::kTokensEmpty + i * 8,
                     Config::kMultipliers * Config::kCluster * kWarpArrivals);
      }
      for (int i = 0; i < Config::kWeightStages; ++i) {
        barrier_init(memory + Shared<Config>::kWeightsFull + i * 8,
                     min(rows / kPieceRows, Config::kDecoders) * kWarpArrivals);
        barrier_init(memory + Shared<Config>::kWeightsEmpty + i * 8,
                     Config::kMultipliers * kWarpArrivals);
      }
      fence_barrier_init();
    }
    __syncwarp();
    meet<Config>();
    take_registers<Config::kMultiplierRegisters>();
    if (Config::kHalves && warp >= 4) {
      multiply<Config, Config::kHalves>(p, chunks, rows, layout.passes, shared, warp, lane);
    } else {
      multiply<Config, false>(p, chunks, rows, layout.passes, shared, warp, lane);
    }
  } else {
    give_registers_back<Config::kDecoderRegisters>();
    const int other = warp - Config::kMultipliers;
    if (other < Config::kDecoders) {
      if (p.panels[panel].kind == PanelKind::kFp8) {
        decode_weights<PanelKind::kFp8, Config>(p, panel, first_row, rows, layout.passes, shared,
                                                other, lane);
      } else {
        decode_weights<PanelKind::kBf16, Config>(p, panel, first_row, rows, layout.passes, shared,
                                                 other, lane);
      }
    } else {
      if (other == Config::kDecoders && lane == 0) prefetch_tensor_map(&tokens);
      meet<Config>();
      if (other == Config::kDecoders) {
        wait_for_previous_kernel();
        if (elect_one()) fetch_tokens<Config>(tokens, chunks, layout.passes, memory, rank);
      } else if (other == Config::kDecoders + 1) {
        find_outputs<Config>(p, panel, first_row, rows, shared, lane);
        named_barrier<(Config::kHalves ? 1 : 2) * kGroupThreads + 32>(kOutputsKnown);
      }
    }
  }
#endif
}

/// Blocks of `rows` rows for the large panel and of a quarter, half as many bytes, for the others.
/// Returns how many; 0: too many or too few for all multiprocessors.
inline int divide_rows(const LinearCall& call, int rows, int cluster, Products& p, Layout& layout) {
  int total = 0;
  for (size_t i = 0; i < call.panels.size(); ++i) {
    const Panel& panel = call.panels[i];
    const int most = panel.kind == PanelKind::kFp8 ? rows : rows / 4;
    const int blocks = round_up(ceil_div(panel.rows, most), cluster);
    layout.block_rows[i] =
        panel.kind == PanelKind::kFp8 ? rows : round_up(ceil_div(panel.rows, blocks), kPieceRows);
    total += blocks;
    p.first_block[i + 1] = total;
  }
  return total <= call.sm_count && total * 8 >= call.sm_count * 7 ? total : 0;
}

template <class Config>
bool launch_even(const LinearCall& call) {
  constexpr int kBytes = 1024 + Shared<Config>::kBytes;
  if (kBytes > call.shared_bytes) return false;
  Products p = products_of(call);
  Layout layout;
  const int blocks = divide_rows(call, Config::kRows, Config::kCluster, p, layout);
  if (blocks == 0) return false;
  layout.passes = static_cast<int32_t>(ceil_div(call.x.rows, int64_t{Config::kTokens}));
  launch(
      even_kernel<Config>,
      {.grid = dim3(static_cast<unsigned>(blocks)),
       .block = dim3(Config::kThreads),
       .shared_bytes = kBytes,
       .stream = call.stream,
       .dependent = call.dependent,
       .cluster = Config::kCluster},
      p, layout,
      swizzled_rows_map(call.x.data, call.x.rows, call.x.width, call.x.stride, Config::kShare, 1));
  return true;
}

// A decoder for each 8 rows, or for each 16 where registers have no room for more. A fourth unit
// of tokens is worth more than two slots of weights.
template <int kRows>
using Tokens32 = EvenConfig<32, kRows, 1, 10, 3, kRows / 8, kRows <= 72 ? 7 : 6>;
template <int kRows>
using Tokens64 = EvenConfig<64, kRows, 2, 8, 3, kRows / 8, 4>;
template <int kRows>
using Tokens128 =
    EvenConfig<128, kRows, 2, 8, kRows <= 72 ? 3 : 2, (kRows + 15) / 16, kRows <= 72 ? 4 : 3>;

template <int kRows>
bool launch_tokens(const LinearCall& call) {
  if (call.x.rows <= 32) return launch_even<Tokens32<kRows>>(call);
  if (call.x.rows <= 64) return launch_even<Tokens64<kRows>>(call);
  return launch_even<Tokens128<kRows>>(call);
}

template <class... Configs>
void allow(int bytes) {
  const auto one = [&](auto* kernel) {
    MOE4_CUDA_CHECK(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  };
  (one(even_kernel<Configs>), ...);
}

}  // namespace linear_even_sm90

using namespace linear_even_sm90;

void allow_even_kernels(int bytes) {
  allow<Tokens32<72>, Tokens64<72>, Tokens128<72>, Tokens32<96>, Tokens64<96>, Tokens128<96>>(
      bytes);
}

bool even_linears(const LinearCall& call) {
  const Rows& x = call.x;
  const bool is_mappable = x.format == RowFormat::kBf16 && x.stride % 8 == 0 &&
                           reinterpret_cast<uintptr_t>(x.data) % 16 == 0 &&
                           x.width % kPanelChunk == 0;
  if (!is_mappable) return false;
  int large = 0;
  for (const Panel& panel : call.panels) {
    large += panel.kind == PanelKind::kFp8 ? 1 : 0;
    // Eight shares of whole units of the same chunks whatever the kind.
    if ((panel.kind != PanelKind::kFp8 && panel.kind != PanelKind::kBf16) ||
        panel.x_chunks != panel.chunks || panel.chunks % (kShares * kUnit) != 0) {
      return false;
    }
  }
  return large == 1 && (launch_tokens<72>(call) || launch_tokens<96>(call));
}

}  // namespace moe4::cuda
