// NormRoute of generated tokens as one launch (SM90): a cluster of 16 blocks takes some tokens from
// the residual to their experts.
//
//   v = (residual + delta) * scale;  y = v / rms(v) * w;  logits = y W^T + b;  ids, weights
//
// Block (share, half) has one of the eight shares of K, which give the order of sums of LinearGroup
// (decode_shares()), of one half of W's rows. A warp's 16 rows of them stay in registers as they
// are loaded, the n8 operands of mma.m16n8k16 (64 or 128 a thread), before the kernel in front has
// ended: no shared memory and no barrier stands between weights and products. The row of a shared
// expert's gate, which would be alone in a tile, is in shared memory; nobody waits for its product.
//
// A block needs of a token its share of K alone, and the row's sum of squares. AddNorm adds that
// over warps (norm_row.cuh): of few tokens a cluster each block makes all those sums again; of more
// each warp of the cluster makes some and sends them to all blocks. Then y of the share goes to
// shared memory (the m16 operand, a row a token) and, by one of the two halves, to memory.
//
// The products of a share go to the block that chooses for the token (another one for each token of
// a cluster), which adds the shares in order and does what Route does, a thread an expert. All that
// is sent reports to barriers of the receiver: one way, where a barrier of the cluster would wait
// for what is on its way to memory. So do blocks that have read the residual, which is overwritten
// in place: its new values wait in shared memory until all have.
#include <algorithm>

#include "device/cuda/launch.h"
#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/cluster.cuh"
#include "device/cuda/ptx/copy.cuh"
#include "device/cuda/ptx/launch.cuh"
#include "device/cuda/ptx/memory.cuh"
#include "device/cuda/ptx/warp.cuh"
#include "ops/cuda/implementation.h"
#include "ops/experts/gpu/decode.cuh"
#include "ops/linear/cuda/cuda_linear_group.h"
#include "ops/norm/cuda/cuda_add_norm.h"
#include "ops/norm/cuda/norm_row.cuh"
#include "ops/norm_route/composed.h"
#include "ops/norm_route/cuda/limits.h"
#include "ops/route/cuda/cuda_route.h"
#include "ops/route/cuda/route_token.cuh"

namespace moe4 {

// Not anonymous: nvcc takes what only SM90 and later use for forgotten otherwise.
namespace norm_route_cluster {

using namespace cuda;

constexpr int kBlocks = kRouteClusterBlocks, kShares = kRouteShares;
constexpr int kMostTokens = 16;          // of a cluster
constexpr int kMostRedundantTokens = 1;  // for which each block makes all sums of squares

struct Params {
  RowsOf<float> residual;
  RowsOf<__nv_bfloat16> delta, y;
  float scale, eps;
  int width;
  int norm_warps;  // of AddNorm's block
  Divisor by_norm_warps;
  const float* norm_weight;
  const uint8_t* weights;  // of the router: rows of `chunks` chunks
  const float* bias;       // of the router
  int chunks, tiles;       // of 16 rows; not that of a gate that is apart
  bool gate_apart;         // the row of the shared experts' gate would be alone in a tile
  RouteRule rule;
  int32_t* topk_ids;
  float* topk_weights;
  const int32_t* num_rows;  // null: all
  int tokens, cluster_tokens;
};

/// What a block keeps in shared memory before tokens and sums.
template <int kWarps>
struct Shared {
  uint64_t squares_there, logits_there, gate_there, residual_read;
  float gate_sums[kShares];
  float readers[kBlocks];  // they tell that they have read
  float squares[kMostTokens][kMaxNormWarps];
  float bias[32 * kWarps + 1];
  float correction_bias[32 * kWarps], expert_scale[32 * kWarps];
  BlockRouteMemory<kWarps> route;
};

/// Then the norm's weights of the share, the gate's row of it, the new residual of the share,
/// tokens, sums [8][rows].
///
/// Tokens lie as operands of mma.m16n8k16: for each half of each chunk and each thread t of a quad,
/// 16 bytes for each of the two mma, words of the tokens g and g + 8 in turn. Halves are 16 bytes
/// and pairs of tokens 64 bytes further apart than they are long, which spreads them over banks.
struct Layout {
  int weights, gate, residual, tokens, sums, end;  // bytes from the beginning
  int pair_stride;                                 // bytes
};
constexpr int kHalfBytes = 128 + 16;
/// Of word `word` of a token's vector in the share.
__device__ __forceinline__ int operand_place(int token, int vector, int word, int pair_stride) {
  const int half = vector / 8 * 2 + vector % 2, t = vector / 2 % 4;
  return token % 8 * pair_stride + half * kHalfBytes + word / 2 * 64 + t * 16 + word % 2 * 8 +
         token / 8 * 4;
}
template <int kWarps>
MOE4_HOST_DEVICE constexpr Layout layout_of(int share_chunks, int tiles, int tokens) {
  Layout l{};
  l.weights = (static_cast<int>(sizeof(Shared<kWarps>)) + 127) / 128 * 128;
  l.gate = l.weights + share_chunks * kPanelChunk * 4;
  l.residual = l.gate + share_chunks * kPanelChunk * 2;
  l.tokens = l.residual + tokens * share_chunks * kPanelChunk * 4;
  l.pair_stride = (share_chunks * 2 * kHalfBytes + 127) / 128 * 128 + 64;
  l.sums = (l.tokens + 8 * l.pair_stride + 127) / 128 * 128;
  l.end = l.sums + kShares * tiles * kPanelTileRows * 4;
  return l;
}

__device__ __forceinline__ uint4 load_weights16(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

/// `kExchanges`: sums of squares go from block to block.
template <int kChunks, int kWarps, bool kExchanges>
__global__ void __launch_bounds__(32 * kWarps, kChunks <= 4 && kWarps <= 8 ? 2 : 1)
    norm_route_kernel(const __grid_constant__ Params p) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) uint8_t memory[];
  // Pieces of 32 vectors of the share and of a token, which a warp has in registers.
  constexpr int kPieces = kChunks / 4;
  constexpr int kRounds =
      ((kExchanges ? kMostTokens : kMostRedundantTokens) * kPieces + kWarps - 1) / kWarps;
  launch_dependents();
  const int lane = lane_id(), warp = static_cast<int>(threadIdx.x) / 32;
  const int g = lane / 4, t = lane % 4;
  const int rank = static_cast<int>(blockIdx.x) % kBlocks;
  const int share = rank % kShares, half = rank / kShares;
  const int first_token = static_cast<int>(blockIdx.x) / kBlocks * p.cluster_tokens;
  const int count = min(p.cluster_tokens, p.tokens - first_token);
  const int chunk_begin = p.chunks * share / kShares;
  const int chunks = p.chunks * (share + 1) / kShares - chunk_begin;
  const int vectors = chunks * (kPanelChunk / kVector);

  auto& shared = *reinterpret_cast<Shared<kWarps>*>(memory);
  const Layout layout =
      layout_of<kWarps>((p.chunks + kShares - 1) / kShares, p.tiles, p.cluster_tokens);
  float* const norm_weight = reinterpret_cast<float*>(memory + layout.weights);
  uint8_t* const gate = memory + layout.gate;
  float* const new_residual = reinterpret_cast<float*>(memory + layout.residual);
  uint8_t* const x = memory + layout.tokens;
  float* const sums = reinterpret_cast<float*>(memory + layout.sums);

  // This warp's rows of W.
  const int64_t row_bytes = int64_t{p.chunks} * (2 * kPanelChunk);
  const uint8_t* const weights = p.weights + chunk_begin * (2 * kPanelChunk);
  const int tile = half * ((p.tiles + 1) / 2) + warp;
  const bool has_tile = warp < (half == 0 ? (p.tiles + 1) / 2 : p.tiles / 2);
  uint4 w[kChunks][2][2];  // of the rows g and g + 8
  if (has_tile) {
    const uint8_t* from = weights + (tile * kPanelTileRows + g) * row_bytes + t * 32;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      if (c >= chunks) break;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        w[c][h][0] = load_weights16(from + c * 128 + h * 16);
        w[c][h][1] = load_weights16(from + 8 * row_bytes + c * 128 + h * 16);
      }
    }
  }

  // Token j's block is j ^ 8.
  const int chosen_token = rank ^ kShares;
  const bool chooses = chosen_token < count;
  const bool multiplies_gate = p.gate_apart && half == 0 && warp == 0;
  const uint32_t squares_there = shared_address(&shared.squares_there);
  const uint32_t logits_there = shared_address(&shared.logits_there);
  const uint32_t gate_there = shared_address(&shared.gate_there);
  const uint32_t residual_read = shared_address(&shared.residual_read);
  if (threadIdx.x == 0) {
    barrier_init(squares_there, 1);
    barrier_init(logits_there, 1);
    barrier_init(gate_there, 1);
    barrier_init(residual_read, 1);
    fence_barrier_init();
    barrier_expect(squares_there, kExchanges ? count * p.norm_warps * 4 : 0);
    barrier_expect(logits_there, chooses ? kShares * p.tiles * kPanelTileRows * 4 : 0);
    barrier_expect(residual_read, sizeof(shared.readers));
    barrier_expect(gate_there, chooses && p.gate_apart ? sizeof(shared.gate_sums) : 0);
  }
  constexpr int kThreads = 32 * kWarps;
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < vectors; i += kThreads) {
    const int c = (chunk_begin * (kPanelChunk / kVector) + i) * kVector;
    if (c < p.width) {
      const uint32_t to = shared_address(norm_weight + i * kVector);
      copy16(to, p.norm_weight + c, 16);
      copy16(to + 16, p.norm_weight + c + 4, 16);
    }
    if (p.gate_apart) {
      copy16(shared_address(gate) + i * 16, weights + p.tiles * kPanelTileRows * row_bytes + i * 16,
             16);
    }
  }
  if (chooses) {
    const int logits = p.rule.num_experts + (p.rule.shared_gate ? 1 : 0);
    const auto copy = [&](float* to, const float* values, int n) {
      if (values == nullptr) return;
      for (int i = thread; i < n; i += kThreads) copy4(shared_address(to + i), values + i, true);
    };
    copy(shared.bias, p.bias, logits);
    copy(shared.correction_bias, p.rule.bias, p.rule.num_experts);
    copy(shared.expert_scale, p.rule.scale, p.rule.num_experts);
  }
  copy_commit();
  arrive_in_cluster();

  // Pieces of this block's columns: 32 vectors of a token to a warp.
  const auto token_of = [&](int round) { return (warp + round * kWarps) / kPieces; };
  const auto vector_of = [&](int round) { return (warp + round * kWarps) % kPieces * 32 + lane; };
  const auto column_of = [&](int round) {
    return chunk_begin * kPanelChunk + vector_of(round) * kVector;
  };
  const auto is_here = [&](int round) {
    return token_of(round) < count && vector_of(round) < vectors && column_of(round) < p.width;
  };
  const auto new_residual_of = [&](int round) {
    return new_residual + (token_of(round) * vectors + vector_of(round)) * kVector;
  };
  wait_for_previous_kernel();

  float v[kRounds][kVector];
  uint4 d[kRounds];
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    if (!is_here(r)) continue;
    load_vector(p.residual.row(first_token + token_of(r)) + column_of(r), v[r]);
    d[r] = *reinterpret_cast<const uint4*>(p.delta.row(first_token + token_of(r)) + column_of(r));
  }
  const int num_rows = chooses && p.num_rows != nullptr ? *p.num_rows : 0x7fffffff;
  wait_for_cluster();  // its blocks have begun

  for (int task = kExchanges ? rank + kBlocks * warp : kWarps - 1 - warp;
       task < count * p.norm_warps; task += kExchanges ? kBlocks * kWarps : kWarps) {
    const auto token = static_cast<int>(p.by_norm_warps.divide(task));
    const int norm_warp = task - token * p.norm_warps;
    const float* residual = p.residual.row(first_token + token);
    const __nv_bfloat16* delta = p.delta.row(first_token + token);
    float squares = 0;
    for (int c = (norm_warp * 32 + lane) * kVector; c < p.width; c += p.norm_warps * 32 * kVector) {
      float r[kVector], add[kVector];
      load_vector(residual + c, r);
      load_vector(delta + c, add);
      squares += add_vector(r, add, p.scale);
    }
    squares = add_over_warp(squares);
    float* to = &shared.squares[token][norm_warp];
    if constexpr (kExchanges) {
      if (lane < kBlocks) {
        store_in_cluster4(address_in_block(shared_address(to), lane), squares,
                          address_in_block(squares_there, lane));
      }
    } else {
      if (lane == 0) *to = squares;
    }
  }
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    if (!is_here(r)) continue;
    float delta[kVector];
    load_vector(reinterpret_cast<const __nv_bfloat16*>(&d[r]), delta);
    add_vector(v[r], delta, p.scale);
    store_vector(new_residual_of(r), v[r]);
  }
  if constexpr (kExchanges) wait_for_cluster_stores(squares_there);
  copy_wait<0>();
  __syncthreads();
  // Behind it all of this block's loads of the residual have returned.
  if (warp == kWarps - 1 && lane < kBlocks) {
    store_in_cluster4(address_in_block(shared_address(&shared.readers[rank]), lane), 0.0f,
                      address_in_block(residual_read, lane));
  }

#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    const int token = token_of(r);
    if (token >= count) continue;
    float squares = 0;
#pragma unroll 8
    for (int n = 0; n < p.norm_warps; ++n) squares += shared.squares[token][n];
    const float factor = norm_factor(squares, p.width, p.eps);
    if (vector_of(r) >= vectors) continue;
    float y[kVector] = {};
    if (is_here(r)) {
      float weight[kVector];
      load_vector(norm_weight + vector_of(r) * kVector, weight);
#pragma unroll
      for (int i = 0; i < kVector; ++i) y[i] = v[r][i];
      scale_vector(y, factor, weight);
      if (token % 2 == half) store_vector(p.y.row(first_token + token) + column_of(r), y);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      *reinterpret_cast<__nv_bfloat162*>(
          x + operand_place(token, vector_of(r), i, layout.pair_stride)) =
          __floats2bfloat162_rn(y[2 * i], y[2 * i + 1]);
    }
  }
  __syncthreads();

  // Tokens are the m16 operand, so that weights are one as they were loaded. Rows without a token
  // hold anything: nobody sends their sums.
  const uint8_t* const tokens = x + g * layout.pair_stride + t * 16;
  const auto load_tokens = [&](int c, int h, uint32_t(&operand)[2][4]) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const uint4 words =
          *reinterpret_cast<const uint4*>(tokens + (2 * c + h) * kHalfBytes + m * 64);
      operand[m][0] = words.x, operand[m][1] = words.y;
      operand[m][2] = words.z, operand[m][3] = words.w;
    }
  };
  if (has_tile) {
    float acc[2][2][4] = {};  // of 8 rows, of halves of chunks
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      if (c >= chunks) break;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        uint32_t operand[2][4];
        load_tokens(c, h, operand);
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          mma_m16n8k16(acc[n][h], operand[0], w[c][h][n].x, w[c][h][n].y);
          mma_m16n8k16(acc[n][h], operand[1], w[c][h][n].z, w[c][h][n].w);
        }
      }
    }
    const uint32_t to =
        shared_address(sums) + ((share * p.tiles + tile) * kPanelTileRows + 2 * t) * 4;
#pragma unroll
    for (int i = 0; i < (kExchanges ? 2 : 1); ++i) {
      const int j = g + 8 * i;
      if (j >= count) continue;
      const uint32_t there = address_in_block(to, j ^ kShares);
      const uint32_t barrier = address_in_block(logits_there, j ^ kShares);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        store_in_cluster8(there + n * 32, acc[n][0][2 * i] + acc[n][1][2 * i],
                          acc[n][0][2 * i + 1] + acc[n][1][2 * i + 1], barrier);
      }
    }
  }
  if (multiplies_gate) {  // nobody waits for it
    float acc[2][4] = {};
#pragma unroll 1
    for (int c = 0; c < chunks; ++c) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        uint4 row = make_uint4(0, 0, 0, 0);
        if (g == 0) row = *reinterpret_cast<const uint4*>(gate + c * 128 + t * 32 + h * 16);
        uint32_t operand[2][4];
        load_tokens(c, h, operand);
        mma_m16n8k16(acc[h], operand[0], row.x, row.y);
        mma_m16n8k16(acc[h], operand[1], row.z, row.w);
      }
    }
#pragma unroll
    for (int i = 0; i < (kExchanges ? 2 : 1); ++i) {
      const int j = g + 8 * i;
      if (t > 0 || j >= count) continue;
      store_in_cluster4(address_in_block(shared_address(&shared.gate_sums[share]), j ^ kShares),
                        acc[0][2 * i] + acc[1][2 * i], address_in_block(gate_there, j ^ kShares));
    }
  }

  wait_for_cluster_stores(residual_read);
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    if (!is_here(r) || token_of(r) % 2 != half) continue;
    float kept[kVector];
    load_vector(new_residual_of(r), kept);
    store_vector(p.residual.row(first_token + token_of(r)) + column_of(r), kept);
  }
  if (!chooses) return;

  wait_for_cluster_stores(logits_there);
  const int rows = p.tiles * kPanelTileRows;
  const auto sum_of = [&](const float* from, int stride) {
    float sum = from[0];
#pragma unroll
    for (int s = 1; s < kShares; ++s) sum += from[s * stride];
    return sum;
  };
  const float logit =
      thread < p.rule.num_experts ? sum_of(sums + thread, rows) + shared.bias[thread] : -INFINITY;
  const auto shared_weight = [&] {
    if (!p.rule.shared_gate) return 1.0f;
    if (p.gate_apart) wait_for_cluster_stores(gate_there);
    const float sum =
        p.gate_apart ? sum_of(shared.gate_sums, 1) : sum_of(sums + p.rule.num_experts, rows);
    return sigmoid_of(sum + shared.bias[p.rule.num_experts]);
  };
  const int64_t token = first_token + chosen_token;
  RouteRule rule = p.rule;
  if (rule.bias != nullptr) rule.bias = shared.correction_bias;
  if (rule.scale != nullptr) rule.scale = shared.expert_scale;
  route_token_in_block(rule, logit, shared_weight, token >= num_rows, shared.route,
                       p.topk_ids + token * rule.num_slots,
                       p.topk_weights + token * rule.num_slots);
  // Nobody leaves while others may still tell it something.
  wait_for_cluster_stores(gate_there);
#endif
}

using Kernel = void (*)(Params);

template <int kChunks, int kWarps>
Kernel kernel_of(bool exchanges) {
  return exchanges ? norm_route_kernel<kChunks, kWarps, true>
                   : norm_route_kernel<kChunks, kWarps, false>;
}

bool is_gate_apart(const RouterConfig& route) {
  return route.shared_gate && route.num_experts % kPanelTileRows == 0;
}
int64_t tiled_rows(const RouterConfig& route) {
  return route.num_logits() - (is_gate_apart(route) ? 1 : 0);
}

/// Calls f(kernel, layout of shared memory) for what a problem wants.
template <typename F>
void with_kernel(const NormRoute::Problem& problem, bool exchanges, int tokens, const F& f) {
  const auto chunks = static_cast<int>(ceil_div(problem.norm.width, int64_t{kPanelChunk}));
  const auto tiles = static_cast<int>(ceil_div(tiled_rows(problem.route), int64_t{kPanelTileRows}));
  const auto share = static_cast<int>(ceil_div(chunks, kShares));
  if (route_warps(problem.route.num_experts) > 8) {
    f(kernel_of<4, 16>(exchanges), layout_of<16>(share, tiles, tokens));
  } else {
    f(share <= 4 ? kernel_of<4, 8>(exchanges) : kernel_of<8, 8>(exchanges),
      layout_of<8>(share, tiles, tokens));
  }
}

class ClusterNormRoute final : public ComposedNormRoute {
 public:
  ClusterNormRoute(const NormRoute::Problem& problem, const NormRoute::Weights& weights,
                   const OpOptions& options)
      : ComposedNormRoute(problem, weights),
        norm_(dynamic_cast<const CudaAddNorm&>(*weights.norm)),
        router_(dynamic_cast<const CudaLinearGroup&>(*weights.router)),
        route_(dynamic_cast<const CudaRoute&>(*weights.route)) {
    const DeviceGuard guard(options.device.index);
    for (const bool exchanges : {false, true}) {
      with_kernel(problem, exchanges, kMostTokens, [&](Kernel kernel, const Layout& layout) {
        MOE4_CUDA_CHECK(
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, layout.end));
        MOE4_CUDA_CHECK(
            cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
        cudaLaunchAttribute attribute = {};
        attribute.id = cudaLaunchAttributeClusterDimension;
        attribute.val.clusterDim.x = kBlocks;
        attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
        cudaLaunchConfig_t config = {};
        config.gridDim = dim3(kBlocks);
        config.blockDim = dim3(static_cast<unsigned>(threads()));
        config.dynamicSmemBytes = static_cast<size_t>(layout.end);
        config.attrs = &attribute;
        config.numAttrs = 1;
        MOE4_CUDA_CHECK(cudaOccupancyMaxActiveClusters(&clusters_, kernel, &config));
      });
    }
  }

  void run(const NormRoute::Args& args, std::span<std::byte> workspace,
           const Stream& stream) const override {
    const int64_t decodes = std::clamp<int64_t>(args.num_decode_tokens, 0, args.y.rows);
    const bool takes = decodes > 0 && decodes <= most_tokens() &&
                       args.delta.format == RowFormat::kBf16 && args.delta.data != nullptr &&
                       args.y.format == RowFormat::kBf16 &&
                       are_vectors({args.residual, args.delta, args.y});
    if (takes) start(args, decodes, static_cast<cudaStream_t>(stream.handle));
    run_from(takes ? decodes : 0, args, workspace, stream);
  }

 private:
  int threads() const { return 32 * route_warps(problem().route.num_experts); }

  void start(const NormRoute::Args& args, int64_t tokens, cudaStream_t stream) const {
    const Panel& panel = router_.packed().panels()[0];
    const int cluster_tokens = cluster_tokens_of(tokens);
    const bool exchanges = cluster_tokens > kMostRedundantTokens;
    const Params params{
        .residual = RowsOf<float>(args.residual),
        .delta = RowsOf<__nv_bfloat16>(args.delta),
        .y = RowsOf<__nv_bfloat16>(args.y),
        .scale = args.scale,
        .eps = problem().norm.norm.eps,
        .width = static_cast<int>(problem().norm.width),
        .norm_warps = norm_threads(problem().norm.width) / 32,
        .by_norm_warps = Divisor(norm_threads(problem().norm.width) / 32),
        .norm_weight = norm_.weight(),
        .weights = panel.weights,
        .bias = panel.bias,
        .chunks = panel.chunks,
        .tiles = static_cast<int>(ceil_div(tiled_rows(problem().route), int64_t{kPanelTileRows})),
        .gate_apart = is_gate_apart(problem().route),
        .rule = RouteRule(problem().route, route_.bias(), route_.scale()),
        .topk_ids = args.topk_ids,
        .topk_weights = args.topk_weights,
        .num_rows = args.num_rows,
        .tokens = static_cast<int>(tokens),
        .cluster_tokens = cluster_tokens};
    with_kernel(problem(), exchanges, cluster_tokens, [&](Kernel kernel, const Layout& layout) {
      launch(kernel,
             {.grid = dim3(static_cast<unsigned>(kBlocks * ceil_div(tokens, cluster_tokens))),
              .block = dim3(static_cast<unsigned>(threads())),
              .shared_bytes = static_cast<size_t>(layout.end),
              .stream = stream,
              .dependent = true,
              .cluster = kBlocks},
             params);
    });
  }

  // Eight clusters of few tokens each are fastest as long as none has more than eight, then as many
  // as run at once (14 on an H200); a second wave would be slower than three launches.
  static constexpr int64_t kFewClusters = 8, kFewTokens = 8;
  int cluster_tokens_of(int64_t tokens) const {
    const int64_t few = std::min(ceil_div(tokens, kFewClusters), kFewTokens);
    return static_cast<int>(std::max(few, ceil_div(tokens, int64_t{clusters_})));
  }
  // Where a block fills a multiprocessor, clusters of one token.
  int64_t most_tokens() const {
    const bool two = route_chunks(problem().norm.width) <= 4 && threads() <= 256;
    return int64_t{clusters_} * (two ? kMostTokens : 1);
  }

  const CudaAddNorm& norm_;
  const CudaLinearGroup& router_;
  const CudaRoute& route_;
  int clusters_ = 0;
};

}  // namespace norm_route_cluster

template <>
std::unique_ptr<Prepared<NormRoute>> prepare_on_cuda<NormRoute>(const NormRoute::Problem& problem,
                                                                const NormRoute::Weights& weights,
                                                                const OpOptions& options) {
  return std::make_unique<norm_route_cluster::ClusterNormRoute>(problem, weights, options);
}

}  // namespace moe4
