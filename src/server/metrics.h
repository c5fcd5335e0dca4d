// What a server has done, in the words of Prometheus and by vLLM's names.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace moe4::server {

/// Cumulative counts of values up to each bound, as Prometheus has them.
class Histogram {
 public:
  explicit Histogram(std::vector<double> bounds);
  void observe(double value);
  /// "name_bucket{labels,le=...} n" and so on; `labels` without braces.
  void render(std::string& out, const std::string& name, const std::string& labels) const;

 private:
  std::vector<double> bounds_;
  std::vector<int64_t> counts_;  // one more than bounds_
  double sum_ = 0;
  int64_t count_ = 0;
};

/// Of one answer that ended. Seconds.
struct RequestRecord {
  std::string finished_reason;  ///< "stop", "length", "abort", "error"
  int64_t prompt_tokens = 0, generation_tokens = 0, max_tokens = 0;
  double queue = 0;    ///< until its first tokens were computed
  double prefill = 0;  ///< from there to its first token
  double decode = 0;   ///< from there to its last
  double end_to_end = 0;
};

/// Thread-safe.
class Metrics {
 public:
  /// `max_model_len` sizes the histograms of tokens.
  Metrics(std::string model_name, int64_t max_model_len);

  void request_started(int64_t prompt_tokens, int64_t cached_tokens);
  void first_token(double seconds_since_arrival);
  void next_token(double seconds_since_last);
  void step(int64_t tokens);
  void request_ended(const RequestRecord& record);

  /// Prometheus' text format.
  std::string render(const EngineStats& stats) const;

 private:
  const std::string labels_;
  mutable std::mutex mutex_;
  int64_t prompt_tokens_ = 0, generation_tokens_ = 0;
  int64_t prefix_queries_ = 0, prefix_hits_ = 0;
  std::map<std::string, int64_t> finished_;
  Histogram time_to_first_token_, inter_token_, end_to_end_, queue_, prefill_, decode_,
      per_output_token_;
  Histogram iteration_tokens_, request_prompt_tokens_, request_generation_tokens_, request_max_;
};

}  // namespace moe4::server
