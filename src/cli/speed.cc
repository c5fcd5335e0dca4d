// Tokens over seconds.
#include "cli/speed.h"

#include <fmt/format.h>

#include "base/cache_size.h"
#include "base/error.h"
#include "bench/ceilings.h"

namespace moe4::cli {

MemoryShare memory_share(double gb_per_token, double gb_per_second, const MemoryReads& memory) {
  MemoryShare result;
  result.in_caches =
      memory.cache_bytes > 0 && gb_per_token * 1e9 <= static_cast<double>(memory.cache_bytes);
  if (!result.in_caches && memory.gbs > 0 && gb_per_second > 0) {
    result.share = gb_per_second / memory.gbs;
  }
  return result;
}

std::string share_cell(const MemoryShare& share) {
  if (share.in_caches) return "in caches";
  if (!share.share) return "-";
  return *share.share > 1 ? "over 100%" : fmt::format("{:.0f}%", 100 * *share.share);
}

Speed measure_speed(const GenerateResult& result, int64_t bytes_per_token,
                    const MemoryReads& memory) {
  Speed speed;
  if (result.prefill_seconds > 0)
    speed.prompt_tokens_per_second =
        static_cast<double>(result.prompt_tokens - result.cached_tokens) / result.prefill_seconds;
  // The first token comes from the prompt's own logits.
  const auto steps = static_cast<double>(result.tokens.size()) - 1;
  if (result.decode_seconds > 0 && steps > 0)
    speed.generation_tokens_per_second = steps / result.decode_seconds;
  speed.gb_per_token = static_cast<double>(bytes_per_token) * 1e-9;
  speed.gb_per_second = speed.gb_per_token * speed.generation_tokens_per_second;
  speed.memory = memory;
  speed.memory_share = memory_share(speed.gb_per_token, speed.gb_per_second, memory);
  return speed;
}

MemoryReads measure_memory(ThreadPool& threads) {
  MemoryReads memory{.cache_bytes = largest_cache_bytes()};
  try {
    memory.gbs = DramProbe(threads).measure();
  } catch (const Error&) {
    memory.gbs = 0;
  }
  return memory;
}

namespace {

std::string share_words(const Speed& speed) {
  if (speed.memory_share.in_caches) {
    return fmt::format(" (they fit in the caches, {:.3f} GB; memory reads at {:.1f} GB/s)",
                       static_cast<double>(speed.memory.cache_bytes) * 1e-9, speed.memory.gbs);
  }
  if (*speed.memory_share.share > 1) {
    return fmt::format(" (more than the {:.1f} GB/s of the memory's reads measured afterwards)",
                       speed.memory.gbs);
  }
  return fmt::format(" ({} of the memory's read bandwidth measured here)",
                     share_cell(speed.memory_share));
}

}  // namespace

std::string speed_line(const GenerateResult& result, const Speed& speed) {
  std::string line = fmt::format(
      "prompt: {} tokens{} at {:.1f} tok/s; generation: {} tokens at {:.1f} tok/s, {:.4f} GB per "
      "token, {:.2f} GB/s",
      result.prompt_tokens,
      result.cached_tokens > 0 ? fmt::format(", {} of them kept from before,", result.cached_tokens)
                               : "",
      speed.prompt_tokens_per_second, result.tokens.size(), speed.generation_tokens_per_second,
      speed.gb_per_token, speed.gb_per_second);
  if (speed.memory.gbs > 0 && speed.gb_per_second > 0) line += share_words(speed);
  if (result.reason == StopReason::kContextFull) line += "; the context is full";
  return line;
}

}  // namespace moe4::cli
