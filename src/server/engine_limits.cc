// Shares memory among pages, running states and snapshots.
#include "server/engine_limits.h"

#include <fmt/format.h>

#include <algorithm>
#include <variant>

#include "base/checked_math.h"
#include "base/error.h"
#include "base/memory_limit.h"
#include "ops/batch.h"

namespace moe4::server {
namespace {

constexpr int64_t kDefaultSeqs = 64;
constexpr int64_t kDefaultTokens = 512;
constexpr int64_t kMaxSeqs = 4096, kMaxTokens = 65536;

struct CacheUnits {
  int64_t page_bytes = 0;   // of all layers, kPageTokens tokens
  int64_t state_bytes = 0;  // of all layers, a sequence
};

CacheUnits cache_units(const Model& model) {
  CacheUnits units;
  for (const CacheSpec& spec : model.caches()) {
    const bool paged = std::holds_alternative<PagedSpec>(spec);
    (paged ? units.page_bytes : units.state_bytes) += cache_unit_bytes(spec);
  }
  return units;
}

void check(const EngineFlags& flags, int64_t model_limit) {
  const auto refuse = [](const std::string& message) { throw Error(ErrorCode::kUsage, message); };
  if (flags.max_model_len > model_limit) {
    refuse(fmt::format("--max-model-len {} is beyond the {} tokens that the model was made for",
                       flags.max_model_len, model_limit));
  }
  if (flags.max_num_seqs > kMaxSeqs) {
    refuse(fmt::format("--max-num-seqs {}: expected at most {}", flags.max_num_seqs, kMaxSeqs));
  }
  if (flags.max_num_batched_tokens > kMaxTokens) {
    refuse(fmt::format("--max-num-batched-tokens {}: expected at most {}",
                       flags.max_num_batched_tokens, kMaxTokens));
  }
}

}  // namespace

EngineLimits engine_limits(const Model& model, const EngineFlags& flags, int64_t available,
                           std::vector<std::string>& notes) {
  const int64_t model_limit = model.config().max_position_embeddings;
  check(flags, model_limit);
  const CacheUnits units = cache_units(model);
  const int64_t budget =
      flags.kv_cache_memory_bytes > 0
          ? flags.kv_cache_memory_bytes
          : static_cast<int64_t>(static_cast<double>(available) * flags.memory_utilization);
  EngineLimits limits{.prefix_cache = flags.prefix_caching,
                      .cache_generated = flags.cache_generated,
                      .prompt_logits = true};

  // Half at most for states: a request needs pages as well.
  int64_t seqs = flags.max_num_seqs > 0 ? flags.max_num_seqs : kDefaultSeqs;
  if (units.state_bytes > 0 && seqs > budget / 2 / units.state_bytes) {
    const int64_t fitting = std::max<int64_t>(budget / 2 / units.state_bytes, 1);
    if (flags.max_num_seqs > 0) {
      throw Error(ErrorCode::kUnavailable,
                  fmt::format("--max-num-seqs {}: a state takes {} and {} are for the caches: "
                              "lower it to {}, or raise --kv-cache-memory-bytes",
                              seqs, memory_text(units.state_bytes), memory_text(budget), fitting));
    }
    notes.push_back(fmt::format("at most {} requests run at once: memory for states", fitting));
    seqs = fitting;
  }
  limits.max_seqs = seqs;
  limits.max_tokens = flags.max_num_batched_tokens > 0
                          ? flags.max_num_batched_tokens
                          : std::max(kDefaultTokens, seqs + kPageTokens);
  if (limits.max_tokens < seqs + kPageTokens) {
    throw Error(ErrorCode::kUsage,
                fmt::format("--max-num-batched-tokens {} has no room for a token of each of {} "
                            "requests and {} of a prompt: raise it to {} or lower --max-num-seqs",
                            limits.max_tokens, seqs, kPageTokens, seqs + kPageTokens));
  }

  int64_t left = std::max<int64_t>(budget - seqs * units.state_bytes, 0);
  limits.snapshot_bytes = flags.prefix_caching && units.state_bytes > 0 ? left / 4 : 0;
  // More than a few snapshots a request are seldom found again.
  limits.snapshot_bytes = std::min(limits.snapshot_bytes, 8 * seqs * units.state_bytes);
  left -= limits.snapshot_bytes;

  int64_t length = flags.max_model_len > 0 ? flags.max_model_len : model_limit;
  const int64_t most = ceil_div(length, kPageTokens) * seqs;
  const int64_t pages = units.page_bytes > 0 ? std::min(left / units.page_bytes, most) : most;
  if (pages < ceil_div(length, kPageTokens)) {
    const std::string room = fmt::format("the caches have {}, room for {} tokens",
                                         memory_text(budget), pages * kPageTokens);
    if (flags.max_model_len > 0 || pages == 0) {
      throw Error(ErrorCode::kUnavailable,
                  fmt::format("{}, and a request may have {}: lower --max-model-len, or raise "
                              "--kv-cache-memory-bytes",
                              room, length));
    }
    length = pages * kPageTokens;
    notes.push_back(fmt::format("{}: requests are limited to as many", room));
  }
  limits.max_context = length;
  limits.cache_tokens = pages * kPageTokens;
  return limits;
}

}  // namespace moe4::server
