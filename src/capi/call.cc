// One call of a layer: checks, ids and rows as the backend takes them, and back.
#include <algorithm>
#include <limits>
#include <mutex>

#include "capi/gpu.h"
#include "capi/guard.h"
#include "capi/layer.h"
#include "capi/layer_desc.h"
#include "capi/threads.h"
#include "device/arena.h"
#include "moe/dequantize.h"
#include "moe/expert_map.h"
#include "numerics/bf16.h"
#include "numerics/f16.h"

namespace moe4::capi {
namespace {

constexpr int64_t kMaxTokens = std::numeric_limits<int32_t>::max();
constexpr int64_t kPiece = 1 << 12;  // values that a thread converts at a time

// What the backend takes of rows that are not BF16.
DType inner_dtype(const moe4_layer& layer, DType outer) {
  const bool wide = outer != DType::kBF16 && layer.prepared->accepts_float32();
  return wide ? DType::kF32 : DType::kBF16;
}

struct Workspace {
  int32_t* ids = nullptr;
  std::byte *in = nullptr, *out = nullptr;  // null: the caller's rows as they are
  std::byte* backend = nullptr;
  size_t backend_bytes = 0;
};

Workspace take_workspace(const moe4_layer& layer, int64_t tokens, DType outer, Arena& arena) {
  Workspace at;
  at.backend_bytes = layer.prepared->workspace_size(tokens);
  at.backend = arena.bytes(at.backend_bytes);
  at.ids = arena.take<int32_t>(tokens * layer.top_k);  // callers choose the type of ids by the call
  const DType inner = inner_dtype(layer, outer);
  if (inner == outer) return at;
  const size_t bytes = static_cast<size_t>(tokens * layer.hidden_size * size_of(inner));
  at.in = arena.bytes(bytes);
  at.out = arena.bytes(bytes);
  return at;
}

void check(const moe4_layer& layer, const moe4_apply_args& args) {
  require(args.num_tokens >= 0 && args.num_tokens <= kMaxTokens,
          "moe4_layer_apply: num_tokens is negative or above 2^31 - 1");
  if (args.num_tokens == 0) return;
  require(args.hidden_states != nullptr && args.topk_ids != nullptr &&
              args.topk_weights != nullptr && args.output != nullptr && args.workspace != nullptr,
          "moe4_layer_apply: a pointer is NULL");
  const auto aligned = [](const void* p, uintptr_t to) {
    return reinterpret_cast<uintptr_t>(p) % to == 0;
  };
  require(aligned(args.hidden_states, 16) && aligned(args.output, 16),
          "moe4_layer_apply: hidden_states and output must be 16-byte aligned");
  require(aligned(args.topk_ids, args.ids_are_int64 ? 8 : 4) && aligned(args.topk_weights, 4) &&
              aligned(args.expert_map, 4),
          "moe4_layer_apply: topk_ids, topk_weights or expert_map is not aligned to its elements");
  require((args.expert_map != nullptr) == layer.map_per_call,
          layer.map_per_call
              ? "moe4_layer_apply: expert_map is NULL, and the layer has expert_map_per_call"
              : "moe4_layer_apply: expert_map is given, and the layer has no expert_map_per_call");
  const size_t needed =
      workspace_size(layer, args.num_tokens, dtype_of(args.hidden_dtype, "moe4_layer_apply"));
  if (args.workspace_bytes < needed) {
    throw Error(ErrorCode::kUsage, "moe4_layer_apply: workspace of " +
                                       std::to_string(args.workspace_bytes) + " bytes, needs " +
                                       std::to_string(needed));
  }
}

template <typename Id>
void local_ids(const moe4_layer& layer, const moe4_apply_args& args, int32_t* out) {
  const auto* ids = static_cast<const Id*>(args.topk_ids);
  const auto num_experts = static_cast<int32_t>(layer.num_experts);
  for (int64_t i = 0; i < args.num_tokens * layer.top_k; ++i) {
    const int32_t id = ids[i] < 0 || ids[i] >= num_experts ? -1 : static_cast<int32_t>(ids[i]);
    out[i] = args.expert_map == nullptr
                 ? id
                 : local_expert(id, args.expert_map, num_experts,
                                static_cast<int32_t>(layer.num_local_experts));
  }
}

void convert_on_cpu(ThreadPool& threads, const void* in, DType from, int64_t n, void* out,
                    DType to) {
  threads.parallel_for(n, kPiece, [&](int64_t begin, int64_t end, int) {
    float values[kPiece];
    const int64_t count = end - begin;
    convert_to_float(static_cast<const std::byte*>(in) + begin * size_of(from), from, count,
                     values);
    if (to == DType::kF32) std::copy_n(values, count, static_cast<float*>(out) + begin);
    if (to == DType::kF16) {
      std::transform(values, values + count, static_cast<F16*>(out) + begin,
                     [](float x) { return to_f16(x); });
    }
    if (to == DType::kBF16) {
      std::transform(values, values + count, static_cast<Bf16*>(out) + begin,
                     [](float x) { return to_bf16(x); });
    }
  });
}

void convert(const moe4_layer& layer, const void* in, DType from, int64_t n, void* out, DType to,
             void* stream) {
  if (layer.device.is_cpu()) {
    convert_on_cpu(*layer.threads, in, from, n, out, to);
  } else {
    convert_on_gpu(in, from, n, out, to, stream);
  }
}

// Ids of the caller as int32 of the backend, in place where they are that.
const int32_t* backend_ids(const moe4_layer& layer, const moe4_apply_args& args, int32_t* out) {
  if (!args.ids_are_int64 && args.expert_map == nullptr) {
    return static_cast<const int32_t*>(args.topk_ids);
  }
  if (layer.device.is_cpu()) {
    args.ids_are_int64 ? local_ids<int64_t>(layer, args, out)
                       : local_ids<int32_t>(layer, args, out);
    return out;
  }
  // Without a map of the call ids stay the model's, whose experts may be elsewhere.
  const int64_t local = args.expert_map == nullptr ? layer.num_experts : layer.num_local_experts;
  local_ids_on_gpu(args.topk_ids, args.ids_are_int64 != 0, args.num_tokens * layer.top_k,
                   args.expert_map, static_cast<int32_t>(layer.num_experts),
                   static_cast<int32_t>(local), out, args.stream);
  return out;
}

}  // namespace

size_t workspace_size(const moe4_layer& layer, int64_t tokens, DType hidden_dtype) {
  if (tokens <= 0 || tokens > kMaxTokens) return 0;
  Arena arena = Arena::measuring();
  take_workspace(layer, tokens, hidden_dtype, arena);
  return arena.peak() + Arena::kAlignment;
}

void apply(const moe4_layer& layer, const moe4_apply_args& args) {
  check(layer, args);
  if (args.num_tokens == 0) return;
  const DType outer = dtype_of(args.hidden_dtype, "moe4_layer_apply");
  Arena arena = Arena::within({static_cast<std::byte*>(args.workspace), args.workspace_bytes});
  const Workspace at = take_workspace(layer, args.num_tokens, outer, arena);
  const DType inner = inner_dtype(layer, outer);
  const int64_t values = args.num_tokens * layer.hidden_size;
  // On the CPU one call at a time has the threads.
  std::unique_lock lock(shared_threads_mutex(), std::defer_lock);
  if (layer.device.is_cpu()) lock.lock();
  const int32_t* ids = backend_ids(layer, args, at.ids);
  if (at.in != nullptr) {
    convert(layer, args.hidden_states, outer, values, at.in, inner, args.stream);
  }
  layer.prepared->apply({.num_tokens = args.num_tokens,
                         .hidden_states = at.in != nullptr ? at.in : args.hidden_states,
                         .hidden_dtype = inner,
                         .topk_ids = ids,
                         .topk_weights = args.topk_weights,
                         .output = at.out != nullptr ? at.out : args.output,
                         .output_dtype = inner,
                         .workspace = {at.backend, at.backend_bytes},
                         .stream = args.stream});
  if (at.out != nullptr) {
    convert(layer, at.out, inner, values, args.output, outer, args.stream);
  }
}

}  // namespace moe4::capi
