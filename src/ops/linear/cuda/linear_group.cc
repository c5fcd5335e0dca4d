// LinearGroup on NVIDIA GPUs: a kernel for generated tokens and one for prompts.
#include <algorithm>
#include <array>

#include "ops/cuda/implementation.h"
#include "ops/linear/cuda/cuda_linear_group.h"
#include "ops/linear/cuda/even.h"
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
  if (sm >= 90) {
    cuda::allow_few_kernels(bytes);
    cuda::allow_head_kernels(bytes);
  }
  cuda::allow_prompt_kernels(bytes);
  cuda::allow_wgmma_kernels(bytes);
  cuda::allow_wide_kernels(bytes);
  cuda::allow_many_head_kernels(bytes);
  cuda::allow_even_kernels(bytes);
  return bytes;
}

// Up to so many generated tokens few_linears() is fastest, and head_linears() of heads.
constexpr int64_t kFewTokens = 16;

// From so many generated tokens on wgmma is faster than reading the weights in passes (H200: 146
// against 203 us at 16 tokens of 248,320 rows, but 47 against 18 at 32 of 2,048, whose tiles leave
// most multiprocessors idle until there are more tokens).
constexpr int64_t kManyRows = 8192;
int64_t many_decodes(int64_t out_features) { return out_features >= kManyRows ? 9 : 65; }

// From so many tokens on share_linears() is faster than all others, but of more rows (H200:
// 12,352), whose sums go from block to block there, it is not.
constexpr int64_t kShareDecodes = 9, kMostShareRows = 10240;

// wide_linears() and many_head_linears() are faster than wgmma_linears() from so many rows on, and
// than all others from so many tokens on where no small panel keeps the large one waiting.
constexpr int64_t kWideRows = 16384, kWideDecodes = 65;
bool takes_wide(std::span<const cuda::Panel> panels, int64_t num_rows, int64_t decodes) {
  return num_rows >= kWideRows ||
         (num_rows >= kManyRows && decodes >= kWideDecodes && panels.size() == 1);
}
bool wide_linears(const cuda::LinearCall& call, std::byte* memory) {
  return cuda::many_head_linears(call, memory) || cuda::wide_linears(call, memory);
}

// Some panels of a call.
class PartOfCall {
 public:
  // All but the `index`-th panel, or that one alone.
  PartOfCall(const cuda::LinearCall& call, size_t index, bool alone) : call_(call) {
    size_t num_panels = 0, num_members = 0;
    for (size_t i = 0; i < call.panels.size(); ++i) {
      if ((i == index) != alone) continue;
      for (size_t j = 0; j < call.members.size(); ++j) {
        if (call.members[j].panel != static_cast<int32_t>(i)) continue;
        members_[num_members] = call.members[j];
        members_[num_members].panel = static_cast<int32_t>(num_panels);
        y_[num_members++] = call.y[j];
      }
      panels_[num_panels++] = call.panels[i];
    }
    call_.panels = {panels_.data(), num_panels};
    call_.members = {members_.data(), num_members};
    call_.y = {y_.data(), num_members};
  }
  PartOfCall(const PartOfCall&) = delete;
  PartOfCall& operator=(const PartOfCall&) = delete;
  const cuda::LinearCall& call() const { return call_; }

 private:
  std::array<cuda::Panel, cuda::kMaxPanels> panels_;
  std::array<cuda::PanelMember, cuda::kMaxMembers> members_;
  std::array<Rows, cuda::kMaxMembers> y_;
  cuda::LinearCall call_;
};

// wide_linears() where a small panel stands beside a large one: the small one on its own, whose
// code a single multiprocessor would fetch while all others wait. False, and nothing done, else.
bool wide_linears_apart(const cuda::LinearCall& call, std::byte* memory) {
  if (call.panels.size() < 2 || call.x.rows < kWideDecodes) return false;
  const auto large = std::max_element(call.panels.begin(), call.panels.end(),
                                      [](auto& a, auto& b) { return a.rows < b.rows; });
  if (large->rows < kManyRows || large->kind == cuda::PanelKind::kFp8Block) return false;
  const auto index = static_cast<size_t>(large - call.panels.begin());
  const PartOfCall small(call, index, false), wide(call, index, true);
  if (!cuda::share_linears(small.call())) cuda::decode_linears(small.call());
  return wide_linears(wide.call(), memory);
}

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
  // Tokens that tile_tokens() makes are a few more.
  return static_cast<size_t>(cuda::tiled_token_rows(rows.rows + 7) * rows.stride *
                             element_bytes(rows.format));
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
  const cuda::LinearCall generated = call(args.x.slice(0, decodes), 0, decodes);
  std::byte* memory = workspace.data();
  const bool more = has_wgmma(device_) && decodes > kFewTokens;
  const bool even = more && cuda::even_linears(generated);
  const bool wide =
      more && !even &&
      ((takes_wide(packed_.panels(), num_rows, decodes) && wide_linears(generated, memory)) ||
       wide_linears_apart(generated, memory));
  if (wide) {
    memory += cuda::tiled_token_rows(decodes) * round_up(args.x.width, int64_t{cuda::kPanelChunk}) *
              element_bytes(RowFormat::kBf16);
  }
  const bool shared = !even && !wide && decodes >= kShareDecodes && num_rows <= kMostShareRows &&
                      cuda::share_linears(generated);
  const bool few = !even && !wide && !shared && device_.sm >= 90 && decodes > 0 &&
                   decodes <= kFewTokens &&
                   (cuda::head_linears(generated) || cuda::few_linears(generated));
  const bool done = even || wide || shared || few;
  const bool by_wgmma = !done && has_wgmma(device_) && decodes >= many_decodes(num_rows);
  if (decodes > 0 && !done && !by_wgmma) cuda::decode_linears(generated);
  const int64_t first = by_wgmma ? 0 : decodes, prompts = args.x.rows - decodes;
  if (first == args.x.rows) return;
  const Rows x = args.x.slice(first, args.x.rows - first);
  if (takes_rows_as_they_are(device_, x)) return cuda::prompt_linears(call(x, decodes, prompts));
  const Rows prepared = prepared_rows(device_, x, memory);
  const auto cuda_stream = static_cast<cudaStream_t>(stream.handle);
  if (!has_wgmma(device_)) {
    cuda::round_rows(x, prepared, device_.sm >= 90, cuda_stream);
    return cuda::prompt_linears(call(prepared, decodes, prompts));
  }
  cuda::order_tokens(x, prepared, true, cuda_stream);
  if (by_wgmma) cuda::wgmma_linears(call(prepared.slice(0, decodes), 0, decodes), true);
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
