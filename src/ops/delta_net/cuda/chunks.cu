// DeltaNet's prompts, first launch: what every chunk of 64 tokens computes for itself.
//
// With G_i = sum of the logarithms of decays in the chunk up to token i, D_ij = exp(G_i - G_j) for
// i >= j and 0 else (the chunked form of Yang et al., 2024, with the decays of gated delta nets):
//   A_ij = beta_i (k_i k_j) D_ij for i > j;   T = (I + A)^-1, unit lower triangular
//   W = T diag(beta exp(G)) K;   U = T diag(beta) V;   scores = (Q K^T) * D
// A block has one chunk of one key head, its value heads in pairs: 8 warps.
//   convolution, SiLU and norms in float32: a warp has whole rows, a lane 4 channels
//   K K^T and Q K^T [64, 64]: a warp has 16 rows and 32 columns
//   T, four warps a head of the pair: the diagonal blocks of 16 by substitution in float32, a
//   thread a column; then row by row of blocks T_pr = -sum over m of (T_pp A_pm) T_mr, operands as
//   two F16 each, exact to 2^-22 W and U: a warp has 16 columns and all rows; block columns past
//   the diagonal are left out
// What a block takes is a chain of latencies, most of them of T: hence the pairs.
// Operands are F16 and sums float32: |k| = |q| = 1, |T_ij| <= 1, decays <= 1, so that F16's range
// is enough and its 11 bits keep the error of a prompt's output near 5e-4. exp() is only taken of
// differences that are not positive; the others are replaced before.
// Shared memory: 98 KB, which every GPU from SM80 on has; two blocks an SM where that has 228 KB.
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "device/cuda/ptx/warp.cuh"
#include "ops/cuda/chunk_tiles.cuh"
#include "ops/delta_net/cuda/kernels.h"

namespace moe4::cuda {
namespace {

constexpr int kPair = 2;       // value heads at a time
constexpr int kSolvers = 128;  // threads that invert for one of them
static_assert(kPair * kSolvers == kChunkThreads);
constexpr int kRowsPerWarp = kChunkTokens / kChunkWarps;
constexpr float kL2Epsilon = 1e-6f;

template <typename In>
struct Params {
  RecurrentBatch batch;
  PromptChunks prompts;
  RowsOf<In> qkv;
  RowsOf<float> a, b;
  DeviceConv conv;
  const float *decay_rate, *dt_bias;
  DeltaNetBuffers out;
  int64_t num_tokens;
  int num_key_heads, heads_per_key, key_dim, value_dim;
};

// Of one value head.
struct HeadTiles {
  // T as two F16, high and low, and A's blocks below the diagonal before them.
  alignas(16) std::byte high[tile_bytes(kChunkTokens)];
  alignas(16) std::byte low[tile_bytes(kChunkTokens)];  // at last T diag(beta exp(G))
  alignas(16) std::byte v[tile_bytes(kWide)];           // times beta
  float diagonal[kChunkBlocks][16][20];                 // of A, below its own diagonal
  float log_decay[kChunkTokens];                        // G
  float beta[kChunkTokens];
};

struct Shared {
  alignas(16) std::byte k[tile_bytes(kWide)];
  HeadTiles heads[kPair];

  /// q, before T of the first head.
  __device__ std::byte* q() { return heads[0].high; }
};
static_assert(2 * tile_bytes(kChunkTokens) >= tile_bytes(kWide));
static_assert(sizeof(Shared) <= 99 * 1024);

__device__ __forceinline__ uint32_t* word_at(std::byte* tile, int stride, int row, int column) {
  return reinterpret_cast<uint32_t*>(tile + row * stride + column * 2);
}

// x = high + low, each half of a word of F16.
__device__ __forceinline__ void split_f16(float x, float y, uint32_t& high, uint32_t& low) {
  high = pack_f16(x, y);
  const float2 rounded = unpack_f16(high);
  low = pack_f16(x - rounded.x, y - rounded.y);
}

// G and beta of some value heads: a warp a head, a lane two tokens.
template <typename In>
__device__ void compute_gates(const Params<In>& p, const Chunk& chunk, int first_head, int heads,
                              Shared& shared) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  if (warp >= heads) return;
  const int head = first_head + warp;
  const float rate = p.decay_rate[head], bias = p.dt_bias[head];
  float a[2] = {}, b[2] = {}, g[2] = {}, beta[2] = {};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int64_t token = chunk.sequence.first + chunk.begin + min(2 * lane + i, chunk.tokens - 1);
    a[i] = p.a.row(token)[head];
    b[i] = p.b.row(token)[head];
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (2 * lane + i >= chunk.tokens) continue;
    g[i] = bounded_log_decay(rate * softplus(a[i] + bias));
    beta[i] = sigmoid(b[i]);
  }
  const float2 sums = sums_along_chunk({g[0], g[1]});
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int t = 2 * lane + i;
    const float log_decay = i == 0 ? sums.x : sums.y;
    shared.heads[warp].log_decay[t] = log_decay;
    shared.heads[warp].beta[t] = beta[i];
    if (t < chunk.tokens) {
      p.out.decays[head * p.num_tokens + chunk.sequence.first + chunk.begin + t] = log_decay;
    }
  }
}

// Rows of q or k, of unit length.
template <typename In>
__device__ __forceinline__ void convolve_unit_rows(const Params<In>& p, const Chunk& chunk,
                                                   int channel, std::byte* tile) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  convolve_rows<kRowsPerWarp>(
      p.conv, p.qkv, chunk, channel, lane * 4 < p.key_dim, warp * kRowsPerWarp,
      [&](int row, float4 y) {
        float squares = y.x * y.x + y.y * y.y + y.z * y.z + y.w * y.w;
#pragma unroll
        for (int offset = 16; offset > 0; offset /= 2) {
          squares += __shfl_xor_sync(0xffffffff, squares, offset);
        }
        const float factor = rsqrtf(squares + kL2Epsilon);
        *reinterpret_cast<uint2*>(tile + row * kWideRow + lane * 8) =
            pack_f16(float4{y.x * factor, y.y * factor, y.z * factor, y.w * factor});
      });
}

// The inverses of (I + A)'s diagonal blocks into T's: 64 threads, thread 16 b + c column c of block
// b.
__device__ __forceinline__ void invert_diagonal(HeadTiles& tiles, int thread) {
  const int block = thread / 16, column = thread % 16;
  float x[16];
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    float sum = i == column ? 1.0f : 0.0f;
#pragma unroll
    for (int m = 0; m < i; ++m) sum -= tiles.diagonal[block][i][m] * x[m];
    x[i] = sum;
  }
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const int at = (16 * block + i) * kSquareRow + (16 * block + column) * 2;
    const __half high = __float2half_rn(x[i]);
    *reinterpret_cast<__half*>(tiles.high + at) = high;
    *reinterpret_cast<__half*>(tiles.low + at) = __float2half_rn(x[i] - __half2float(high));
  }
}

// d += a b of two F16 each; the product of the low parts is below the last digit.
__device__ __forceinline__ void multiply_split(float (&left)[4], float (&right)[4],
                                               const uint32_t (&a_high)[4],
                                               const uint32_t (&a_low)[4],
                                               const uint32_t (&b_high)[4],
                                               const uint32_t (&b_low)[4]) {
  multiply_f16(left, right, a_low, b_high);
  multiply_f16(left, right, a_high, b_low);
  multiply_f16(left, right, a_high, b_high);
}

// Blocks of T below the diagonal over those of A, by four warps: warp p has row p of blocks.
__device__ __forceinline__ void invert_below_diagonal(HeadTiles& tiles, int thread, int barrier) {
  const int row = thread / 32, lane = thread % 32;
  const uint32_t high = shared_address(tiles.high), low = shared_address(tiles.low);
  const auto corner = [](int r, int c) {
    return static_cast<uint32_t>(16 * r * kSquareRow + 32 * c);
  };
  const uint32_t by_rows = tile_by_rows(lane, kSquareRow);
  // B_m = T_pp A_pm, as operands on the left.
  uint32_t b_high[kChunkBlocks - 1][4], b_low[kChunkBlocks - 1][4];
#pragma unroll
  for (int m = 0; m < kChunkBlocks - 1; ++m) {
    if (m >= row) continue;
    uint32_t t_high[4], t_low[4], a_high[4], a_low[4];
    load_tile(t_high, high + corner(row, row) + by_rows);
    load_tile(t_low, low + corner(row, row) + by_rows);
    load_tile_transposed(a_high, high + corner(row, m) + by_rows);
    load_tile_transposed(a_low, low + corner(row, m) + by_rows);
    float left[4] = {}, right[4] = {};
    multiply_split(left, right, t_high, t_low, a_high, a_low);
    split_f16(left[0], left[1], b_high[m][0], b_low[m][0]);
    split_f16(left[2], left[3], b_high[m][1], b_low[m][1]);
    split_f16(right[0], right[1], b_high[m][2], b_low[m][2]);
    split_f16(right[2], right[3], b_high[m][3], b_low[m][3]);
  }
#pragma unroll
  for (int step = 1; step < kChunkBlocks; ++step) {
    if (row == step) {
#pragma unroll
      for (int r = 0; r < step; ++r) {
        float left[4] = {}, right[4] = {};
#pragma unroll
        for (int m = r; m < step; ++m) {
          uint32_t t_high[4], t_low[4];
          load_tile_transposed(t_high, high + corner(m, r) + by_rows);
          load_tile_transposed(t_low, low + corner(m, r) + by_rows);
          multiply_split(left, right, b_high[m], b_low[m], t_high, t_low);
        }
        // Of A_pr nothing is needed any more.
        const int i = 16 * step + lane / 4, j = 16 * r + lane % 4 * 2;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float* const d = half == 0 ? left : right;
#pragma unroll
          for (int down = 0; down < 2; ++down) {
            uint32_t to_high, to_low;
            split_f16(-d[2 * down], -d[2 * down + 1], to_high, to_low);
            *word_at(tiles.high, kSquareRow, i + 8 * down, j + 8 * half) = to_high;
            *word_at(tiles.low, kSquareRow, i + 8 * down, j + 8 * half) = to_low;
          }
        }
      }
    }
    named_barrier<kSolvers>(barrier);
  }
}

// rows [tokens, 128] = t [64, 64] times a tile: this warp's 16 columns.
__device__ __forceinline__ void multiply_by_t(uint32_t t, uint32_t tile, uint16_t* rows,
                                              int tokens) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const uint32_t wide = tile_by_rows(lane, kWideRow), square = tile_by_rows(lane, kSquareRow);
  float d[kChunkBlocks][2][4] = {};
#pragma unroll
  for (int k = 0; k < kChunkBlocks; ++k) {
    uint32_t b[4];
    load_tile_transposed(b, tile + 16 * k * kWideRow + 32 * warp + wide);
#pragma unroll
    for (int m = k; m < kChunkBlocks; ++m) {
      uint32_t a[4];
      load_tile(a, t + 16 * m * kSquareRow + 32 * k + square);
      multiply_f16(d[m][0], d[m][1], a, b);
    }
  }
  const int column = 16 * warp + lane % 4 * 2;
#pragma unroll
  for (int m = 0; m < kChunkBlocks; ++m) {
#pragma unroll
    for (int down = 0; down < 2; ++down) {
      const int row = 16 * m + lane / 4 + 8 * down;
      if (row >= tokens) continue;
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        *reinterpret_cast<uint32_t*>(rows + row * kWide + column + 8 * n) =
            pack_f16(d[m][n][2 * down], d[m][n][2 * down + 1]);
      }
    }
  }
}

template <typename In>
__global__ void __launch_bounds__(kChunkThreads, 2) chunks_kernel(const Params<In> p) {
  extern __shared__ __align__(16) std::byte memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  wait_for_previous_kernel();
  launch_dependents();
  const Chunk chunk = find_chunk(p.batch, p.prompts, static_cast<int>(blockIdx.x));
  if (chunk.tokens <= 0) return;
  const int key_head = static_cast<int>(blockIdx.y);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int keys = p.num_key_heads * p.key_dim;
  const int64_t first_token = chunk.sequence.first + chunk.begin;

  // Block row warp % 4; block columns 2 (warp / 4) and the next, where not past the diagonal.
  const int block_row = warp % kChunkBlocks, block_column = warp / kChunkBlocks * 2;
  for (int first = 0; first < p.heads_per_key; first += kPair) {
    const int first_head = key_head * p.heads_per_key + first;
    const int heads = min(kPair, p.heads_per_key - first);
    __syncthreads();  // the tiles of the pair before are not read any more
    compute_gates(p, chunk, first_head, heads, shared);
    const int64_t key_row = (key_head * p.num_tokens + first_token) * kWide;
    if (first == 0) {
      convolve_unit_rows(p, chunk, key_head * p.key_dim, shared.q());
      convolve_unit_rows(p, chunk, keys + key_head * p.key_dim, shared.k);
    } else {
      fetch_tile<kWide>(shared.q(), p.out.queries + key_row, kWide, chunk.tokens);
      copy_commit();
      copy_wait<0>();
    }
    __syncthreads();
    for (int h = 0; h < heads; ++h) {
      HeadTiles& tiles = shared.heads[h];
      convolve_rows<kRowsPerWarp>(
          p.conv, p.qkv, chunk, 2 * keys + (first_head + h) * p.value_dim, lane * 4 < p.value_dim,
          warp * kRowsPerWarp, [&](int row, float4 y) {
            const float factor = tiles.beta[row];
            *reinterpret_cast<uint2*>(tiles.v + row * kWideRow + lane * 8) =
                pack_f16(float4{y.x * factor, y.y * factor, y.z * factor, y.w * factor});
          });
    }
    if (first == 0) {
      store_wide(shared.q(), p.out.queries + key_row, chunk.tokens);
      store_wide(shared.k, p.out.keys + key_row, chunk.tokens);
    }
    float kk[2][2][4] = {}, qk[2][2][4] = {};
    if (block_column <= block_row) {
      const uint32_t q = shared_address(shared.q()), k = shared_address(shared.k);
      const uint32_t by_rows = tile_by_rows(lane, kWideRow);
      const uint32_t by_columns = tile_by_columns(lane, kWideRow);
#pragma unroll
      for (int i = 0; i < kWide / 16; ++i) {
        uint32_t a_q[4], a_k[4];
        load_tile(a_q, q + 16 * block_row * kWideRow + 32 * i + by_rows);
        load_tile(a_k, k + 16 * block_row * kWideRow + 32 * i + by_rows);
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          if (block_column + c > block_row) continue;
          uint32_t b[4];
          load_tile(b, k + 16 * (block_column + c) * kWideRow + 32 * i + by_columns);
          multiply_f16(kk[c][0], kk[c][1], a_k, b);
          multiply_f16(qk[c][0], qk[c][1], a_q, b);
        }
      }
    }
    __syncthreads();  // q has been read

    for (int h = 0; h < heads; ++h) {
      HeadTiles& tiles = shared.heads[h];
      const int64_t row_of_head = (first_head + h) * p.num_tokens + first_token;
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        if (block_column + c > block_row) continue;
#pragma unroll
        for (int n = 0; n < 2; ++n) {
#pragma unroll
          for (int down = 0; down < 2; ++down) {
            const int i = 16 * block_row + lane / 4 + 8 * down;
            const int j = 16 * (block_column + c) + 8 * n + lane % 4 * 2;
            const float g = tiles.log_decay[i], beta = tiles.beta[i];
            const float decay[2] = {i >= j ? __expf(g - tiles.log_decay[j]) : 0.0f,
                                    i > j ? __expf(g - tiles.log_decay[j + 1]) : 0.0f};
            if (i < chunk.tokens) {
              *reinterpret_cast<uint32_t*>(p.out.scores + (row_of_head + i) * kChunkTokens + j) =
                  pack_f16(qk[c][n][2 * down] * decay[0], qk[c][n][2 * down + 1] * decay[1]);
            }
            const float left = beta * kk[c][n][2 * down] * decay[0];
            const float right = beta * kk[c][n][2 * down + 1] * decay[1];
            if (block_column + c == block_row) {  // entries from the diagonal on are not read
              *reinterpret_cast<float2*>(&tiles.diagonal[block_row][i % 16][j % 16]) = {left,
                                                                                        right};
            } else {
              uint32_t high, low;
              split_f16(left, right, high, low);
              *word_at(tiles.high, kSquareRow, i, j) = high;
              *word_at(tiles.low, kSquareRow, i, j) = low;
            }
          }
        }
      }
    }
    __syncthreads();
    const int solved = warp / (kSolvers / 32), solver = static_cast<int>(threadIdx.x) % kSolvers;
    if (solved < heads) {
      HeadTiles& tiles = shared.heads[solved];
      if (solver < kChunkTokens) invert_diagonal(tiles, solver);
      named_barrier<kSolvers>(1 + solved);
      invert_below_diagonal(tiles, solver, 1 + solved);
    }
    __syncthreads();
    for (int h = 0; h < heads; ++h) {
      HeadTiles& tiles = shared.heads[h];
      const int64_t row_of_head = (first_head + h) * p.num_tokens + first_token;
      multiply_by_t(shared_address(tiles.high), shared_address(tiles.v),
                    p.out.u + row_of_head * kWide, chunk.tokens);
      // T diag(beta exp(G)) in place of T's low parts, blocks up to the diagonal.
      for (int i = static_cast<int>(threadIdx.x); i < kChunkTokens * kChunkTokens / 2;
           i += kChunkThreads) {
        const int row = i / (kChunkTokens / 2), column = i % (kChunkTokens / 2) * 2;
        if (column / 16 > row / 16) continue;
        uint32_t* const low = word_at(tiles.low, kSquareRow, row, column);
        const float2 a = unpack_f16(*word_at(tiles.high, kSquareRow, row, column));
        const float2 b = unpack_f16(*low);
        *low = pack_f16((a.x + b.x) * tiles.beta[column] * __expf(tiles.log_decay[column]),
                        (a.y + b.y) * tiles.beta[column + 1] * __expf(tiles.log_decay[column + 1]));
      }
    }
    __syncthreads();
    for (int h = 0; h < heads; ++h) {
      multiply_by_t(shared_address(shared.heads[h].low), shared_address(shared.k),
                    p.out.w + ((first_head + h) * p.num_tokens + first_token) * kWide,
                    chunk.tokens);
    }
  }
}

template <typename In>
void launch_chunks(const DeltaNetCall& call) {
  const DeltaNet::Problem& problem = call.problem;
  const PromptChunks prompts(*call.args.batch);
  const Params<In> params{
      .batch = {*call.args.batch, call.args.cache},
      .prompts = prompts,
      .qkv = RowsOf<In>(call.args.qkv),
      .a = RowsOf<float>(call.args.a),
      .b = RowsOf<float>(call.args.b),
      .conv = {call.weights.conv, nullptr, static_cast<int>(problem.channels()),
               static_cast<int>(problem.conv_taps)},
      .decay_rate = call.weights.decay_rate,
      .dt_bias = call.weights.dt_bias,
      .out = call.buffers,
      .num_tokens = call.args.batch->num_tokens,
      .num_key_heads = static_cast<int>(problem.num_key_heads),
      .heads_per_key = static_cast<int>(problem.num_value_heads / problem.num_key_heads),
      .key_dim = static_cast<int>(problem.key_dim),
      .value_dim = static_cast<int>(problem.value_dim)};
  launch(chunks_kernel<In>,
         {.grid = dim3(static_cast<unsigned>(prompts.bound),
                       static_cast<unsigned>(problem.num_key_heads)),
          .block = dim3(kChunkThreads),
          .shared_bytes = sizeof(Shared),
          .stream = call.stream,
          .dependent = call.sm >= 90},
         params);
}

template <typename In>
void allow_shared_memory() {
  MOE4_CUDA_CHECK(cudaFuncSetAttribute(chunks_kernel<In>,
                                       cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       static_cast<int>(sizeof(Shared))));
  // Two blocks an SM: not what one block needs, which may be the driver's choice.
  MOE4_CUDA_CHECK(cudaFuncSetAttribute(chunks_kernel<In>,
                                       cudaFuncAttributePreferredSharedMemoryCarveout,
                                       cudaSharedmemCarveoutMaxShared));
}

}  // namespace

void prepare_delta_chunks() {
  allow_shared_memory<float>();
  allow_shared_memory<__nv_bfloat16>();
}

void launch_delta_chunks(const DeltaNetCall& call) {
  with_element(call.args.qkv.format, [&](auto in) { launch_chunks<decltype(in)>(call); });
}

}  // namespace moe4::cuda
