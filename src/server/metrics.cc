// Counters and histograms; bounds of buckets are vLLM's, so that dashboards fit.
#include "server/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace moe4::server {
namespace {

const std::vector<double> kFirstToken = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,
                                         0.25,  0.5,   0.75, 1,    2.5,  5,    7.5,  10,
                                         20,    40,    80,   160,  640,  2560};
const std::vector<double> kToken = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
                                    0.75, 1,     2.5,  5,     7.5, 10,   20,  40,  80};
const std::vector<double> kRequest = {0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                      30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680};
const std::vector<double> kIteration = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192};

// 1, 2, 5, 10, ... up to `most`.
std::vector<double> token_bounds(int64_t most) {
  std::vector<double> bounds;
  for (int64_t power = 1; power <= most; power *= 10) {
    for (const int64_t digit : {1, 2, 5}) {
      if (digit * power <= most) bounds.push_back(static_cast<double>(digit * power));
    }
  }
  return bounds;
}

std::string escape_label(const std::string& value) {
  std::string out;
  for (const char c : value) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace

Histogram::Histogram(std::vector<double> bounds)
    : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}

void Histogram::observe(double value) {
  const auto at = std::lower_bound(bounds_.begin(), bounds_.end(), value);
  ++counts_[static_cast<size_t>(at - bounds_.begin())];
  sum_ += value;
  ++count_;
}

void Histogram::render(std::string& out, const std::string& name, const std::string& labels) const {
  auto to = std::back_inserter(out);
  fmt::format_to(to, "# TYPE {} histogram\n", name);
  int64_t below = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    below += counts_[i];
    const std::string bound = i < bounds_.size() ? fmt::format("{}", bounds_[i]) : "+Inf";
    fmt::format_to(to, "{}_bucket{{{},le=\"{}\"}} {}\n", name, labels, bound, below);
  }
  fmt::format_to(to, "{0}_sum{{{1}}} {2}\n{0}_count{{{1}}} {3}\n", name, labels, sum_, count_);
}

Metrics::Metrics(std::string model_name, int64_t max_model_len)
    : labels_(fmt::format("engine=\"0\",model_name=\"{}\"", escape_label(model_name))),
      time_to_first_token_(kFirstToken),
      inter_token_(kToken),
      end_to_end_(kRequest),
      queue_(kRequest),
      prefill_(kRequest),
      decode_(kRequest),
      per_output_token_(kToken),
      iteration_tokens_(kIteration),
      request_prompt_tokens_(token_bounds(max_model_len)),
      request_generation_tokens_(token_bounds(max_model_len)),
      request_max_(token_bounds(max_model_len)) {
  for (const char* reason : {"stop", "length", "abort", "error"}) finished_[reason] = 0;
}

void Metrics::request_started(int64_t prompt_tokens, int64_t cached_tokens) {
  const std::lock_guard lock(mutex_);
  prefix_queries_ += prompt_tokens;
  prefix_hits_ += cached_tokens;
}

void Metrics::first_token(double seconds_since_arrival) {
  const std::lock_guard lock(mutex_);
  ++generation_tokens_;
  time_to_first_token_.observe(seconds_since_arrival);
}

void Metrics::next_token(double seconds_since_last) {
  const std::lock_guard lock(mutex_);
  ++generation_tokens_;
  inter_token_.observe(seconds_since_last);
}

void Metrics::step(int64_t tokens) {
  const std::lock_guard lock(mutex_);
  iteration_tokens_.observe(static_cast<double>(tokens));
}

void Metrics::request_ended(const RequestRecord& record) {
  const std::lock_guard lock(mutex_);
  ++finished_[record.finished_reason];
  prompt_tokens_ += record.prompt_tokens;
  end_to_end_.observe(record.end_to_end);
  queue_.observe(record.queue);
  prefill_.observe(record.prefill);
  decode_.observe(record.decode);
  if (record.generation_tokens > 1) {
    per_output_token_.observe(record.decode / static_cast<double>(record.generation_tokens - 1));
  }
  request_prompt_tokens_.observe(static_cast<double>(record.prompt_tokens));
  request_generation_tokens_.observe(static_cast<double>(record.generation_tokens));
  request_max_.observe(static_cast<double>(record.max_tokens));
}

std::string Metrics::render(const EngineStats& stats) const {
  const std::lock_guard lock(mutex_);
  std::string out;
  auto to = std::back_inserter(out);
  const auto value = [&](const char* kind, const char* name, const char* help, auto number) {
    fmt::format_to(to, "# HELP vllm:{0} {1}\n# TYPE vllm:{0} {2}\nvllm:{0}{{{3}}} {4}\n", name,
                   help, kind, labels_, number);
  };
  value("gauge", "num_requests_running", "Requests in the engine's steps.", stats.running);
  value("gauge", "num_requests_waiting", "Requests that wait to be started.", stats.waiting);
  value("gauge", "kv_cache_usage_perc", "Share of the cache's pages in use; 1 is all.",
        stats.pages > 0 ? static_cast<double>(stats.used_pages) / static_cast<double>(stats.pages)
                        : 0.0);
  value("counter", "prefix_cache_queries_total", "Tokens of prompts.", prefix_queries_);
  value("counter", "prefix_cache_hits_total", "Those of them that were computed before.",
        prefix_hits_);
  value("counter", "num_preemptions_total", "Requests that gave up their pages for a while.",
        stats.preemptions);
  value("counter", "prompt_tokens_total", "Tokens of prompts of ended requests.", prompt_tokens_);
  value("counter", "generation_tokens_total", "Tokens generated.", generation_tokens_);
  fmt::format_to(to,
                 "# HELP vllm:request_success_total Requests that ended.\n"
                 "# TYPE vllm:request_success_total counter\n");
  for (const auto& [reason, count] : finished_) {
    fmt::format_to(to, "vllm:request_success_total{{{},finished_reason=\"{}\"}} {}\n", labels_,
                   reason, count);
  }
  time_to_first_token_.render(out, "vllm:time_to_first_token_seconds", labels_);
  inter_token_.render(out, "vllm:inter_token_latency_seconds", labels_);
  per_output_token_.render(out, "vllm:request_time_per_output_token_seconds", labels_);
  end_to_end_.render(out, "vllm:e2e_request_latency_seconds", labels_);
  queue_.render(out, "vllm:request_queue_time_seconds", labels_);
  prefill_.render(out, "vllm:request_prefill_time_seconds", labels_);
  decode_.render(out, "vllm:request_decode_time_seconds", labels_);
  iteration_tokens_.render(out, "vllm:iteration_tokens_total", labels_);
  request_prompt_tokens_.render(out, "vllm:request_prompt_tokens", labels_);
  request_generation_tokens_.render(out, "vllm:request_generation_tokens", labels_);
  request_max_.render(out, "vllm:request_params_max_tokens", labels_);
  return out;
}

}  // namespace moe4::server
