// Adds up what is needed.
#include "cli/memory_words.h"

#include <algorithm>
#include <limits>

#include "base/checked_math.h"

namespace moe4::cli {
namespace {

int64_t saturated(std::optional<int64_t> bytes) {
  return bytes.value_or(std::numeric_limits<int64_t>::max());
}

// Keys and values of the layers with attention; other layers keep a state of fixed size.
int64_t cache_bytes(const ModelConfig& config, int64_t tokens, DType compute_dtype) {
  const auto layers =
      std::count(config.layer_kinds.begin(), config.layer_kinds.end(), LayerKind::kFullAttention);
  const int64_t value_bytes = compute_dtype == DType::kF32 ? 4 : 2;
  const auto token_bytes =
      checked_mul(2 * value_bytes * layers, config.num_key_value_heads * config.head_dim);
  return saturated(token_bytes ? checked_mul(*token_bytes, tokens) : std::nullopt);
}

}  // namespace

void throw_out_of_memory(const Session& session, const MachineFlags& flags, const MemoryUse& use) {
  const int64_t weights = session.checkpoint->total_tensor_bytes();
  const int64_t cache = cache_bytes(session.checkpoint->config(), use.tokens, compute_dtype(flags));
  const int64_t all =
      saturated(checked_add(saturated(checked_add(weights, cache)), use.result_bytes));
  std::string message = "not enough memory: about " + memory_text(all) + " are needed in all (" +
                        memory_text(weights) + " of weights";
  if (use.tokens > 0) {
    message +=
        ", " + memory_text(cache) + " of cache for " + std::to_string(use.tokens) + " tokens";
  }
  if (use.result_bytes > 0) message += ", " + memory_text(use.result_bytes) + " of results";
  const AvailableMemory available = available_memory();
  message += "); " + memory_text(available.bytes) + " more are available, limited by " +
             available.limited_by + "; " + use.advice;
  throw Error(ErrorCode::kUnavailable, message);
}

}  // namespace moe4::cli
