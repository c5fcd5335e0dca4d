// Figures of a load on a server, in the words and the layout of vLLM's `bench serve`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/serve_load.h"

namespace moe4 {

/// Of times in milliseconds.
struct TimeFigures {
  double mean = 0, median = 0, deviation = 0, p99 = 0;
};

/// Percentiles between two values are interpolated, as numpy does. Zeros for no values.
TimeFigures time_figures(std::vector<double> seconds);

struct ServeReport {
  int64_t completed = 0, failed = 0;
  double seconds = 0;
  int64_t prompt_tokens = 0, output_tokens = 0;  ///< of completed requests
  TimeFigures ttft;                              ///< time to first token
  TimeFigures tpot;  ///< time per output token after the first, a value a request
  TimeFigures itl;   ///< between tokens, all requests' gaps together
};

ServeReport summarise(const ServedLoad& load);

/// `request_rate` and `max_concurrency` as in ServeLoad.
std::string report_text(const ServeReport& report, double request_rate, int64_t max_concurrency);
/// The same figures under the names of vLLM's result files, one JSON object without its braces'
/// context: model and settings are the caller's to add.
std::string report_json(const ServeReport& report);

}  // namespace moe4
