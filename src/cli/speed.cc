// Tokens over seconds.
#include "cli/speed.h"

#include <fmt/format.h>

#include "base/error.h"
#include "bench/ceilings.h"

namespace moe4::cli {

Speed measure_speed(const GenerateResult& result, int64_t bytes_per_token, double memory_gbs) {
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
  if (memory_gbs > 0) speed.memory_share = speed.gb_per_second / memory_gbs;
  return speed;
}

double measure_memory(ThreadPool& threads) {
  try {
    return DramProbe(threads).measure();
  } catch (const Error&) {
    return 0;
  }
}

std::string speed_line(const GenerateResult& result, const Speed& speed) {
  std::string line = fmt::format(
      "prompt: {} tokens{} at {:.1f} tok/s; generation: {} tokens at {:.1f} tok/s, {:.4f} GB per "
      "token, {:.2f} GB/s",
      result.prompt_tokens,
      result.cached_tokens > 0 ? fmt::format(", {} of them kept from before,", result.cached_tokens)
                               : "",
      speed.prompt_tokens_per_second, result.tokens.size(), speed.generation_tokens_per_second,
      speed.gb_per_token, speed.gb_per_second);
  if (speed.memory_share > 0) {
    line += fmt::format(" ({:.0f}% of the memory's read bandwidth measured here)",
                        speed.memory_share * 100);
  }
  if (result.reason == StopReason::kContextFull) line += "; the context is full";
  return line;
}

}  // namespace moe4::cli
