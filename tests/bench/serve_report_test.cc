// Figures and layout of a load on a server.
#include "bench/serve_report.h"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

namespace moe4 {
namespace {

// numpy 2.3 on the same values.
TEST(ServeReport, PercentilesAreNumpys) {
  const TimeFigures figures = time_figures({0.010, 0.020, 0.040, 0.080, 0.3});
  EXPECT_DOUBLE_EQ(figures.mean, 90.0);
  EXPECT_DOUBLE_EQ(figures.median, 40.0);
  EXPECT_NEAR(figures.p99, 291.2, 1e-9);
  EXPECT_NEAR(figures.deviation, 107.70329614269008, 1e-9);
  EXPECT_DOUBLE_EQ(time_figures({0.5, 0.25}).median, 375.0);
  EXPECT_EQ(time_figures({}).p99, 0);
}

ServedLoad load_of_three() {
  ServedLoad load{.seconds = 2};
  load.requests.push_back({.prompt_tokens = 100,
                           .output_tokens = 3,
                           .first_token = 0.1,
                           .last_token = 0.3,
                           .gaps = {0.05, 0.15}});
  load.requests.push_back(
      {.prompt_tokens = 50, .output_tokens = 1, .first_token = 0.2, .last_token = 0.2});
  load.requests.push_back({.error = "HTTP 503", .prompt_tokens = 7, .output_tokens = 9});
  return load;
}

TEST(ServeReport, FailedRequestsCountForNothingElse) {
  const ServeReport report = summarise(load_of_three());
  EXPECT_EQ(report.completed, 2);
  EXPECT_EQ(report.failed, 1);
  EXPECT_EQ(report.prompt_tokens, 150);
  EXPECT_EQ(report.output_tokens, 4);
  EXPECT_NEAR(report.ttft.mean, 150, 1e-9);
  EXPECT_NEAR(report.tpot.mean, 100, 1e-9);  // one token has no time per token after it
  EXPECT_NEAR(report.itl.mean, 100, 1e-9);
}

// Labels and columns of vLLM's table.
TEST(ServeReport, TheTableIsLaidOutAsVllms) {
  const std::string expected =
      "============ Serving Benchmark Result ============\n"
      "Successful requests:                     2         \n"
      "Failed requests:                         1         \n"
      "Maximum request concurrency:             4         \n"
      "Request rate configured (RPS):           10.00     \n"
      "Benchmark duration (s):                  2.00      \n"
      "Total input tokens:                      150       \n"
      "Total generated tokens:                  4         \n"
      "Request throughput (req/s):              1.00      \n"
      "Output token throughput (tok/s):         2.00      \n"
      "Total Token throughput (tok/s):          77.00     \n"
      "---------------Time to First Token----------------\n"
      "Mean TTFT (ms):                          150.00    \n"
      "Median TTFT (ms):                        150.00    \n"
      "P99 TTFT (ms):                           199.00    \n"
      "-----Time per Output Token (excl. 1st token)------\n"
      "Mean TPOT (ms):                          100.00    \n"
      "Median TPOT (ms):                        100.00    \n"
      "P99 TPOT (ms):                           100.00    \n"
      "---------------Inter-token Latency----------------\n"
      "Mean ITL (ms):                           100.00    \n"
      "Median ITL (ms):                         100.00    \n"
      "P99 ITL (ms):                            149.00    \n"
      "==================================================\n";
  EXPECT_EQ(report_text(summarise(load_of_three()), 10, 4), expected);
  const std::string plain =
      report_text(summarise(load_of_three()), std::numeric_limits<double>::infinity(), 0);
  EXPECT_EQ(plain.find("rate configured"), std::string::npos);
  EXPECT_EQ(plain.find("concurrency"), std::string::npos);
}

TEST(ServeReport, JsonHasVllmsNames) {
  const auto json = nlohmann::json::parse(report_json(summarise(load_of_three())));
  EXPECT_EQ(json["completed"], 2);
  EXPECT_EQ(json["total_output_tokens"], 4);
  EXPECT_DOUBLE_EQ(json["output_throughput"], 2.0);
  EXPECT_NEAR(json["p99_ttft_ms"].get<double>(), 199, 1e-9);
  EXPECT_TRUE(json.contains("std_itl_ms") && json.contains("median_tpot_ms"));
}

}  // namespace
}  // namespace moe4
