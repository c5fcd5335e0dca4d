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
int shared_memory() {
  int device = 0, bytes = 0;
  MOE4_CUDA_CHECK(cudaGetDevice(&device));
  MOE4_CUDA_CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  cuda::allow_decode_kernels(bytes);
  cuda::allow_prompt_kernels(bytes);
  return bytes;
}

// Rows that the kernel for prompts takes as they are.
bool is_taken(const Rows& x) { return x.format == RowFormat::kBf16 && x.stride % 8 == 0; }

}  // namespace

CudaLinearGroup::CudaLinearGroup(const LinearGroup::Problem& problem,
                                 const LinearGroup::Weights& weights, const OpOptions& options)
    : Prepared(problem), packed_(pack(weights, options)), device_(options.device) {
  const cuda::DeviceGuard guard(device_.index);
  shared_bytes_ = shared_memory();
}

size_t CudaLinearGroup::workspace_size(const LinearGroup::Args& bound) const {
  if (is_taken(bound.x)) return 0;
  return static_cast<size_t>(bound.x.rows * padded_row(bound.x.width) *
                             element_bytes(RowFormat::kBf16));
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
                            .dependent = device_.sm >= 90,
                            .stream = static_cast<cudaStream_t>(stream.handle)};
  };
  if (decodes > 0) cuda::decode_linears(call(args.x.slice(0, decodes), 0, decodes));
  const int64_t prompts = args.x.rows - decodes;
  if (prompts == 0) return;
  Rows x = args.x.slice(decodes, prompts);
  if (!is_taken(x)) {
    const Rows rounded{workspace.data(), RowFormat::kBf16, prompts, x.width, padded_row(x.width)};
    cuda::round_rows(x, rounded, device_.sm >= 90, static_cast<cudaStream_t>(stream.handle));
    x = rounded;
  }
  cuda::prompt_linears(call(x, decodes, prompts));
}

template <>
std::unique_ptr<Prepared<LinearGroup>> prepare_on_cuda<LinearGroup>(
    const LinearGroup::Problem& problem, const LinearGroup::Weights& weights,
    const OpOptions& options) {
  return std::make_unique<CudaLinearGroup>(problem, weights, options);
}

}  // namespace moe4
