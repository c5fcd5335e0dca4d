// Sums, percentiles and lines.
#include "bench/serve_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

namespace moe4 {
namespace {

double percentile(const std::vector<double>& sorted, double share) {
  if (sorted.empty()) return 0;
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

double rate(double count, double seconds) { return seconds > 0 ? count / seconds : 0; }

void add_line(std::string* text, const std::string& name, int64_t value) {
  *text += fmt::format("{:<40} {:<10}\n", name, value);
}

void add_line(std::string* text, const std::string& name, double value) {
  *text += fmt::format("{:<40} {:<10.2f}\n", name, value);
}

void add_times(std::string* text, const std::string& title, const std::string& name,
               const TimeFigures& times) {
  *text += fmt::format("{:-^50}\n", title);
  add_line(text, "Mean " + name + " (ms):", times.mean);
  add_line(text, "Median " + name + " (ms):", times.median);
  add_line(text, "P99 " + name + " (ms):", times.p99);
}

}  // namespace

TimeFigures time_figures(std::vector<double> seconds) {
  if (seconds.empty()) return {};
  for (double& value : seconds) value *= 1e3;
  std::ranges::sort(seconds);
  const auto count = static_cast<double>(seconds.size());
  TimeFigures figures;
  figures.mean = std::accumulate(seconds.begin(), seconds.end(), 0.0) / count;
  for (const double value : seconds) {
    const double distance = value - figures.mean;
    figures.deviation += distance * distance / count;
  }
  figures.deviation = std::sqrt(figures.deviation);
  figures.median = percentile(seconds, 0.5);
  figures.p99 = percentile(seconds, 0.99);
  return figures;
}

ServeReport summarise(const ServedLoad& load) {
  ServeReport report{.seconds = load.seconds};
  std::vector<double> first, per_token, gaps;
  for (const ServedRequest& request : load.requests) {
    if (!request.error.empty()) {
      ++report.failed;
      continue;
    }
    ++report.completed;
    report.prompt_tokens += request.prompt_tokens;
    report.output_tokens += request.output_tokens;
    first.push_back(request.first_token);
    if (request.output_tokens > 1) {
      per_token.push_back((request.last_token - request.first_token) /
                          static_cast<double>(request.output_tokens - 1));
    }
    gaps.insert(gaps.end(), request.gaps.begin(), request.gaps.end());
  }
  report.ttft = time_figures(std::move(first));
  report.tpot = time_figures(std::move(per_token));
  report.itl = time_figures(std::move(gaps));
  return report;
}

std::string report_text(const ServeReport& report, double request_rate, int64_t max_concurrency) {
  std::string text = fmt::format("{:=^50}\n", " Serving Benchmark Result ");
  add_line(&text, "Successful requests:", report.completed);
  if (report.failed > 0) add_line(&text, "Failed requests:", report.failed);
  if (max_concurrency > 0) add_line(&text, "Maximum request concurrency:", max_concurrency);
  if (std::isfinite(request_rate)) add_line(&text, "Request rate configured (RPS):", request_rate);
  add_line(&text, "Benchmark duration (s):", report.seconds);
  add_line(&text, "Total input tokens:", report.prompt_tokens);
  add_line(&text, "Total generated tokens:", report.output_tokens);
  const auto prompt = static_cast<double>(report.prompt_tokens);
  const auto output = static_cast<double>(report.output_tokens);
  add_line(&text, "Request throughput (req/s):",
           rate(static_cast<double>(report.completed), report.seconds));
  add_line(&text, "Output token throughput (tok/s):", rate(output, report.seconds));
  add_line(&text, "Total Token throughput (tok/s):", rate(prompt + output, report.seconds));
  add_times(&text, "Time to First Token", "TTFT", report.ttft);
  add_times(&text, "Time per Output Token (excl. 1st token)", "TPOT", report.tpot);
  add_times(&text, "Inter-token Latency", "ITL", report.itl);
  return text + std::string(50, '=') + "\n";
}

std::string report_json(const ServeReport& report) {
  const auto prompt = static_cast<double>(report.prompt_tokens);
  const auto output = static_cast<double>(report.output_tokens);
  nlohmann::ordered_json json = {
      {"duration", report.seconds},
      {"completed", report.completed},
      {"failed", report.failed},
      {"total_input_tokens", report.prompt_tokens},
      {"total_output_tokens", report.output_tokens},
      {"request_throughput", rate(static_cast<double>(report.completed), report.seconds)},
      {"output_throughput", rate(output, report.seconds)},
      {"total_token_throughput", rate(prompt + output, report.seconds)}};
  const std::pair<const char*, const TimeFigures*> times[] = {
      {"ttft", &report.ttft}, {"tpot", &report.tpot}, {"itl", &report.itl}};
  for (const auto& [name, figures] : times) {
    json[fmt::format("mean_{}_ms", name)] = figures->mean;
    json[fmt::format("median_{}_ms", name)] = figures->median;
    json[fmt::format("std_{}_ms", name)] = figures->deviation;
    json[fmt::format("p99_{}_ms", name)] = figures->p99;
  }
  return json.dump();
}

}  // namespace moe4
