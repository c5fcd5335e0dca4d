// Adds up what is needed.
#include "cli/memory_words.h"

#include <limits>
#include <variant>

#include "base/checked_math.h"
#include "ops/batch.h"

namespace moe4::cli {
namespace {

int64_t saturated(std::optional<int64_t> bytes) {
  return bytes.value_or(std::numeric_limits<int64_t>::max());
}

// What all layers keep of so many tokens of so many sequences.
int64_t cache_bytes(const Model& model, int64_t tokens, int64_t sequences) {
  const int64_t pages = tokens / kPageTokens + sequences;
  int64_t bytes = 0;
  for (const CacheSpec& spec : model.caches()) {
    const int64_t units = std::holds_alternative<PagedSpec>(spec) ? pages : sequences;
    const int64_t of_layer = saturated(checked_mul(cache_unit_bytes(spec), units));
    bytes = saturated(checked_add(bytes, of_layer));
  }
  return bytes;
}

}  // namespace

void throw_out_of_memory(const Session& session, const MemoryUse& use) {
  const int64_t weights = session.checkpoint->total_tensor_bytes();
  const int64_t cache = session.model ? cache_bytes(*session.model, use.tokens, use.sequences) : 0;
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
