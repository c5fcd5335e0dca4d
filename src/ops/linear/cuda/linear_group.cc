// LinearGroup on NVIDIA GPUs: a kernel for generated tokens and one for prompts.
#include <algorithm>
#include <array>

#include "ops/cuda/implementation.h"
#include "ops/linear/cuda/cuda_linear_group.h"
#include "ops/linear/cuda/kernels.h"

namespace moe4 {
namespace {

cuda::PackedGroup pack(const LinearGroup::Weights& weights, const OpOptions& options) {
  const cuda::DeviceGuard guard(options.device.index);
  return cuda::PackedGroup(weights, options.threads);
}

// The shared memory of a block on the current device, which the kernels may then use.
int shared_memory(int sm) {
  int device = 0, bytes = 0;
  MOE4_CUDA_CHECK(cudaGetDevice(&device));
  MOE4_CUDA_CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  cuda::allow_decode_kernels(bytes);
  if (sm >= 90) cuda::allow_few_kernels(bytes);
  cuda::allow_prompt_kernels(bytes);
  cuda::allow_wgmma_kernels(bytes);
  cuda::allow_split_kernels(bytes);
  return bytes;
}

// From so many generated tokens on wgmma is faster than reading the weights in passes. Of less than
// kManyRows rows there are too few tiles for all multiprocessors: up to kMostSplitTokens tokens
// shares of K are dealt over blocks (H200, us at 32 tokens: 2,048 rows of 4,096 columns 12 instead
// of 19, 12,352 rows of 2,048 columns 26 instead of 19).
constexpr int64_t kManyRows = 8192, kMostSplitTokens = 64;
int64_t many_decodes(bool many_rows) { return many_rows ? 17 : 9; }

// From so many tokens on share_linears() is faster than all others, but of more rows (H200:
// 12,352), whose sums go from block to block there, it is not.
constexpr int64_t kShareDecodes = 9, kMostShareRows = 10240;

bool has_wgmma(const Device& device) { return device.sm == 90 && cuda::has_wgmma_linears(); }

// What the kernels for many tokens read instead of x.
Rows prepared_rows(const Device& device, const Rows& x, std::byte* memory) {
  const int64_t stride =
      has_wgmma(device) ? round_up(x.width, int64_t{cuda::kPanelChunk}) : padded_row(x.width);
  return {memory, RowFormat::kBf16, x.rows, x.width, stride};
}
bool takes_rows_as_they_are(const Device& device, const Rows& x) {
  return !has_wgmma(device) && x.format == RowFormat::kBf16 && x.stride % 8 == 0;
}

}  // namespace

CudaLinearGroup::CudaLinearGroup(const LinearGroup::Problem& problem,
                                 const LinearGroup::Weights& weights, const OpOptions& options)
    : Prepared(problem), packed_(pack(weights, options)), device_(options.device) {
  const cuda::DeviceGuard guard(device_.index);
  shared_bytes_ = shared_memory(device_.sm);
  if (has_wgmma(device_)) clusters_ = cuda::allow_share_kernels(shared_bytes_);
}

size_t CudaLinearGroup::workspace_size(const LinearGroup::Args& bound) const {
  if (takes_rows_as_they_are(device_, bound.x)) return 0;
  const Rows rows = prepared_rows(device_, bound.x, nullptr);
  return static_cast<size_t>(rows.rows * rows.stride * element_bytes(rows.format));
}

void CudaLinearGroup::run(const LinearGroup::Args& args, std::span<std::byte> workspace,
                          const Stream& stream) const {
  const int64_t decodes = std::clamp<int64_t>(args.num_decode_tokens, 0, args.x.rows);
  std::array<Rows, cuda::kMaxMembers> y;
  const auto call = [&](const Rows& x, int64_t first, int64_t count) {
    for (size_t i = 0; i < args.y.size(); ++i) y[i] = args.y[i].slice(first, count);
    return cuda::LinearCall{.x = x,
                            .panels = packed_.panels(),
                            .members = packed_.members(),
                            .y = {y.data(), args.y.size()},
                            .sm_count = device_.sm_count,
                            .shared_bytes = shared_bytes_,
                            .clusters = clusters_,
                            .dependent = device_.sm >= 90,
                            .stream = static_cast<cudaStream_t>(stream.handle)};
  };
  int64_t num_rows = 0;
  for (const LinearGroup::Member& member : problem().members) num_rows += member.out_features;
  const bool many_rows = num_rows >= kManyRows;
  const cuda::LinearCall generated = call(args.x.slice(0, decodes), 0, decodes);
  const bool shared =
      decodes >= kShareDecodes && num_rows <= kMostShareRows && cuda::share_linears(generated);
  const bool by_wgmma = !shared && has_wgmma(device_) && decodes >= many_decodes(many_rows);
  const bool split = by_wgmma && !many_rows && decodes <= kMostSplitTokens;
  if (decodes > 0 && !shared && !by_wgmma) {
    if (device_.sm < 90 || !cuda::few_linears(generated)) cuda::decode_linears(generated);
  }
  const bool unordered = split && cuda::split_takes_unordered(args.x.slice(0, decodes));
  if (unordered) cuda::split_linears(generated, false);
  const int64_t first = by_wgmma && !unordered ? 0 : decodes, prompts = args.x.rows - decodes;
  if (first == args.x.rows) return;
  const Rows x = args.x.slice(first, args.x.rows - first);
  if (takes_rows_as_they_are(device_, x)) return cuda::prompt_linears(call(x, decodes, prompts));
  const Rows prepared = prepared_rows(device_, x, workspace.data());
  const auto cuda_stream = static_cast<cudaStream_t>(stream.handle);
  if (!has_wgmma(device_)) {
    cuda::round_rows(x, prepared, device_.sm >= 90, cuda_stream);
    return cuda::prompt_linears(call(prepared, decodes, prompts));
  }
  cuda::order_tokens(x, prepared, true, cuda_stream);
  if (by_wgmma && !unordered) {
    const cuda::LinearCall ordered = call(prepared.slice(0, decodes), 0, decodes);
    if (split) {
      cuda::split_linears(ordered, true);
    } else {
      cuda::wgmma_linears(ordered, true);
    }
  }
  if (prompts == 0) return;
  cuda::wgmma_linears(call(prepared.slice(decodes - first, prompts), decodes, prompts), false);
}

template <>
std::unique_ptr<Prepared<LinearGroup>> prepare_on_cuda<LinearGroup>(
    const LinearGroup::Problem& problem, const LinearGroup::Weights& weights,
    const OpOptions& options) {
  return std::make_unique<CudaLinearGroup>(problem, weights, options);
}

}  // namespace moe4
