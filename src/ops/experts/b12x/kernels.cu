// Instantiation and launch of b12x's kernels; the two small ones, staging and reduction, are here.
#include <algorithm>

#include "base/checked_math.h"
#include "base/error.h"
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "ops/experts/b12x/decode_gemm.cuh"
#include "ops/experts/b12x/kernels.h"
#include "ops/experts/b12x/prefill_gemm.cuh"
#include "ops/experts/b12x/quantize.cuh"

namespace moe4::b12x {
namespace {

// A thread quantises 8 values, half a block; lanes 2i and 2i + 1 share the block. Rows are tokens
// or pairs, once for each variant; chunks are whole, the columns past H become zeros.
__global__ __launch_bounds__(kThreads) void quantize_tokens_kernel(
    const __grid_constant__ StageArgs args) {
  // In this order: FC1 of kFewTokens reads the routing before it waits for this kernel.
  cuda::wait_for_previous_kernel();
  cuda::launch_dependents();
  const int words_per_row = args.chunks * 8;
  const int64_t pairs_per_row = args.row_per_pair ? args.top_k.slots : 1;
  const int64_t words = args.top_k.num_tokens * pairs_per_row * args.variants * words_per_row;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const bool inside = index < words;
  const int64_t row = inside ? index / words_per_row : 0;
  const int word = static_cast<int>(index % words_per_row), k = word * 8;
  const int64_t source = row / args.variants;  // a token or a pair
  const int64_t token = source / pairs_per_row;

  float global = 1.0f;
  if (args.input_scale != nullptr) {
    const int expert = local_expert(args.top_k, source);
    if (expert >= 0) global = args.input_scale[2 * expert + row % args.variants];
  }
  float x[8] = {};
  if (inside && k < args.hidden_size) {
    const uint4 bits =
        *reinterpret_cast<const uint4*>(args.hidden_states + token * args.hidden_size + k);
    const uint32_t pairs[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[2 * i] = __uint_as_float(pairs[i] << 16);
      x[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
    }
    if (args.top_k.weight_on_input) {
      const float weight = args.top_k.weights[source];
#pragma unroll
      for (float& value : x) value = round_to_bf16(value * weight);
    }
  }
  uint32_t amax = 0;
#pragma unroll
  for (const float value : x) amax = max(amax, magnitude_bits(value));
  amax = max(amax, __shfl_xor_sync(~0u, amax, 1));
  if (!inside) return;

  const BlockScale scale = block_scale(amax, global);
  uint32_t codes = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j) codes |= quantize(x[j], scale.step) << element_shift(j);
  *reinterpret_cast<uint32_t*>(args.rows.codes + row * args.rows.code_stride +
                               token_word_offset(word / 8, word % 8)) = codes;
  if (word % 2 == 0) args.rows.scales[row * args.rows.scale_stride + word / 2] = scale.byte;
}

// BF16 with the routing weight on the input: one scaled row for each pair.
__global__ __launch_bounds__(kThreads) void scale_tokens_kernel(
    const __grid_constant__ StageArgs args) {
  cuda::launch_dependents();
  cuda::wait_for_previous_kernel();
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= args.top_k.num_tokens * args.top_k.slots * args.hidden_size) return;
  const int64_t pair = index / args.hidden_size;
  const int64_t k = index % args.hidden_size;
  const Bf16 x{args.hidden_states[pair / args.top_k.slots * args.hidden_size + k]};
  args.scaled_values[index] = to_bf16(to_float(x) * args.top_k.weights[pair]).bits;
}

// A thread sums four columns of a token over its slots.
__global__ __launch_bounds__(kThreads) void reduce_topk_kernel(
    const __grid_constant__ ReduceArgs args) {
  cuda::launch_dependents();
  cuda::wait_for_previous_kernel();
  const int quads = args.columns / 4;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t token = index / quads;
  if (token >= args.top_k.num_tokens) return;
  const int column = static_cast<int>(index % quads) * 4;
  float sum[4] = {};
  for (int slot = 0; slot < args.top_k.slots; ++slot) {
    const int64_t pair = token * args.top_k.slots + slot;
    if (local_expert(args.top_k, pair) < 0) continue;
    const float4 y =
        __ldcg(reinterpret_cast<const float4*>(args.partial + pair * args.partial_stride + column));
    sum[0] = add_slot(args.top_k, pair, y.x, sum[0]);
    sum[1] = add_slot(args.top_k, pair, y.y, sum[1]);
    sum[2] = add_slot(args.top_k, pair, y.z, sum[2]);
    sum[3] = add_slot(args.top_k, pair, y.w, sum[3]);
  }
  const int64_t at = token * args.hidden_size + args.first_column + column;
  uint2 packed;
  packed.x = to_bf16(sum[0]).bits | static_cast<uint32_t>(to_bf16(sum[1]).bits) << 16;
  packed.y = to_bf16(sum[2]).bits | static_cast<uint32_t>(to_bf16(sum[3]).bits) << 16;
  *reinterpret_cast<uint2*>(args.output + at) = packed;
}

template <int kThreadIdA, int kThreadIdB>
__global__ void block_scaled_mma_kernel(float* d, const uint32_t* a, const uint32_t* b,
                                        const uint32_t* scales_a, const uint32_t* scales_b) {
  const int lane = threadIdx.x;
  float sums[4];
  for (int i = 0; i < 4; ++i) sums[i] = d[4 * lane + i];
  block_scaled_mma<kThreadIdA, kThreadIdB>(
      sums, make_uint4(a[4 * lane], a[4 * lane + 1], a[4 * lane + 2], a[4 * lane + 3]),
      make_uint2(b[2 * lane], b[2 * lane + 1]), scales_a[lane], scales_b[lane]);
  for (int i = 0; i < 4; ++i) d[4 * lane + i] = sums[i];
}

unsigned blocks_for(int64_t threads) {
  const int64_t blocks = ceil_div(threads, kThreads);
  MOE4_CHECK(blocks < (int64_t{1} << 31));
  return static_cast<unsigned>(blocks);
}

template <bool kFp4, Gemm kGemm>
void launch_gemm(const GemmArgs& args, Path path, int64_t max_tiles, cudaStream_t stream,
                 bool dependent) {
  const auto slices = static_cast<int>(ceil_div(args.chunks, kSliceChunks));
  cuda::LaunchShape shape{.block = dim3(kThreads), .stream = stream, .dependent = dependent};
  if (path == Path::kFewTokens && kGemm == Gemm::kFc2) {
    shape.grid = dim3(static_cast<unsigned>(args.tiles));
    shape.shared_bytes =
        static_cast<size_t>(few_tokens_fc2_bytes(args.top_k.num_tokens * args.top_k.slots, slices));
    cuda::launch(few_tokens_fc2_kernel<kFp4>, shape, args);
    return;
  }
  const int warps_m = path == Path::kPrefill ? kWarps : decode_warps_m(slices);
  const int64_t blocks = max_tiles * ceil_div(args.end_tile - args.first_tile, warps_m);
  MOE4_CHECK(blocks > 0 && blocks < (int64_t{1} << 31));
  shape.grid = dim3(static_cast<unsigned>(blocks));
  if (path == Path::kPrefill) {
    shape.shared_bytes = Stages<kFp4>::bytes(kFp4 ? args.variants : 1);
    cuda::launch(prefill_kernel<kFp4, kGemm>, shape, args);
    return;
  }
  shape.shared_bytes = decode_shared_bytes(slices);
  if constexpr (kGemm == Gemm::kFc1) {
    if (path == Path::kFewTokens) {
      cuda::launch(decode_kernel<kFp4, kGemm, Path::kFewTokens>, shape, args);
      return;
    }
  }
  cuda::launch(decode_kernel<kFp4, kGemm, Path::kDecode>, shape, args);
}

void raise_shared_limit(void (*kernel)(GemmArgs), int bytes) {
  MOE4_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
}

template <bool kFp4>
void raise_shared_limits(int decode_bytes) {
  raise_shared_limit(decode_kernel<kFp4, Gemm::kFc1, Path::kFewTokens>, decode_bytes);
  raise_shared_limit(decode_kernel<kFp4, Gemm::kFc1, Path::kDecode>, decode_bytes);
  raise_shared_limit(decode_kernel<kFp4, Gemm::kFc2, Path::kDecode>, decode_bytes);
  raise_shared_limit(few_tokens_fc2_kernel<kFp4>, kFewTokensFc2MaxBytes);
  raise_shared_limit(prefill_kernel<kFp4, Gemm::kFc1>, Stages<kFp4>::bytes(kFp4 ? 2 : 1));
  raise_shared_limit(prefill_kernel<kFp4, Gemm::kFc2>, Stages<kFp4>::bytes(kFp4 ? 2 : 1));
}

}  // namespace

void configure_kernels(int64_t max_chunks) {
  const auto slices = static_cast<int>(ceil_div(max_chunks, kSliceChunks));
  // One slice needs 8 KB for eight m32 tiles; from eight slices on it is 1 KB a slice.
  const int bytes = std::max(decode_shared_bytes(slices), 16 << 10);
  raise_shared_limits<true>(bytes);
  raise_shared_limits<false>(bytes);
}

void stage_tokens(const StageArgs& args, bool fp4, cudaStream_t stream, bool dependent) {
  const int64_t rows = args.top_k.num_tokens * (args.row_per_pair ? args.top_k.slots : 1);
  const int64_t threads =
      rows * (fp4 ? int64_t{args.variants} * args.chunks * 8 : int64_t{args.hidden_size});
  const cuda::LaunchShape shape{.grid = dim3(blocks_for(threads)),
                                .block = dim3(kThreads),
                                .stream = stream,
                                .dependent = dependent};
  cuda::launch(fp4 ? quantize_tokens_kernel : scale_tokens_kernel, shape, args);
}

void grouped_gemm(const GemmArgs& args, Gemm gemm, Path path, bool fp4, int64_t max_tiles,
                  cudaStream_t stream, bool dependent) {
  const auto run = gemm == Gemm::kFc1
                       ? (fp4 ? launch_gemm<true, Gemm::kFc1> : launch_gemm<false, Gemm::kFc1>)
                       : (fp4 ? launch_gemm<true, Gemm::kFc2> : launch_gemm<false, Gemm::kFc2>);
  run(args, path, max_tiles, stream, dependent);
}

void reduce_topk(const ReduceArgs& args, cudaStream_t stream, bool dependent) {
  cuda::launch(reduce_topk_kernel,
               {.grid = dim3(blocks_for(args.top_k.num_tokens * (args.columns / 4))),
                .block = dim3(kThreads),
                .stream = stream,
                .dependent = dependent},
               args);
}

void run_block_scaled_mma(float* d, const uint32_t* a, const uint32_t* b, const uint32_t* scales_a,
                          const uint32_t* scales_b, int thread_id_a, int thread_id_b,
                          cudaStream_t stream) {
  constexpr decltype(&block_scaled_mma_kernel<0, 0>) kKernels[2][4] = {
      {block_scaled_mma_kernel<0, 0>, block_scaled_mma_kernel<0, 1>, block_scaled_mma_kernel<0, 2>,
       block_scaled_mma_kernel<0, 3>},
      {block_scaled_mma_kernel<1, 0>, block_scaled_mma_kernel<1, 1>, block_scaled_mma_kernel<1, 2>,
       block_scaled_mma_kernel<1, 3>}};
  cuda::launch(kKernels[thread_id_a][thread_id_b],
               {.grid = dim3(1), .block = dim3(32), .stream = stream}, d, a, b, scales_a, scales_b);
}

}  // namespace moe4::b12x
