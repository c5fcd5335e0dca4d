// The runs that `moe4 bench` times: a request alone, and many at once.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "engine/engine.h"

namespace moe4::cli {

struct Rate {
  double mean = 0, deviation = 0;  // tokens per second
};

struct RunLengths {
  int64_t prompt = 512;    ///< tokens; 0: no prompts are timed
  int64_t generate = 128;  ///< tokens of a request; 0: no generation is timed
  int64_t depth = 0;       ///< tokens of a request's context before those that are timed
  int64_t chunk = 512;     ///< prompt tokens of a step
  int repetitions = 3;
};

/// Of the engine for so many requests.
EngineLimits bench_limits(const RunLengths& lengths, int64_t requests);

/// A request alone.
struct AloneResult {
  std::optional<Rate> prompt, generation;
};

/// Requests that generate at the same time.
struct TogetherResult {
  int64_t requests = 0;
  Rate generation;  ///< tokens of all of them
  /// While a prompt of RunLengths::prompt tokens comes in; 0 without one.
  double longest_pause_ms =
      0;  ///< between two tokens of a running request, worst of all repetitions
  double prompt_tokens_per_second = 0;  ///< of that prompt
};

/// `on_run` is called after each repetition of each test. Token ids are random and of a fixed seed.
AloneResult measure_alone(const Model& model, const RunLengths& lengths,
                          const std::function<void()>& on_run);
/// `lengths.generate` > 0.
TogetherResult measure_together(const Model& model, const RunLengths& lengths, int64_t requests,
                                const std::function<void()>& on_run);

}  // namespace moe4::cli
