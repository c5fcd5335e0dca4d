// Prometheus' text: names, labels and cumulative buckets.
#include "server/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace moe4::server {
namespace {

using ::testing::HasSubstr;

TEST(Metrics, BucketsCountAllBelow) {
  Histogram histogram({1, 2, 5});
  for (const double value : {0.5, 1.0, 1.5, 7.0}) histogram.observe(value);
  std::string text;
  histogram.render(text, "h", "a=\"b\"");
  EXPECT_EQ(text,
            "# TYPE h histogram\n"
            "h_bucket{a=\"b\",le=\"1\"} 2\n"
            "h_bucket{a=\"b\",le=\"2\"} 3\n"
            "h_bucket{a=\"b\",le=\"5\"} 3\n"
            "h_bucket{a=\"b\",le=\"+Inf\"} 4\n"
            "h_sum{a=\"b\"} 10\n"
            "h_count{a=\"b\"} 4\n");
}

TEST(Metrics, HaveTheNamesOfVllm) {
  Metrics metrics("my \"model\"", 100);
  metrics.request_started(10, 4);
  metrics.first_token(0.5);
  metrics.next_token(0.25);
  metrics.step(12);
  metrics.request_ended({.finished_reason = "length",
                         .prompt_tokens = 10,
                         .generation_tokens = 2,
                         .max_tokens = 2,
                         .decode = 0.25,
                         .end_to_end = 0.75});
  const std::string text =
      metrics.render({.running = 3, .waiting = 2, .pages = 8, .used_pages = 2, .preemptions = 1});
  const std::string labels = R"({engine="0",model_name="my \"model\""})";
  for (const char* line : {
           "vllm:num_requests_running@ 3\n",
           "vllm:num_requests_waiting@ 2\n",
           "vllm:kv_cache_usage_perc@ 0.25\n",
           "vllm:prefix_cache_queries_total@ 10\n",
           "vllm:prefix_cache_hits_total@ 4\n",
           "vllm:num_preemptions_total@ 1\n",
           "vllm:prompt_tokens_total@ 10\n",
           "vllm:generation_tokens_total@ 2\n",
           "vllm:time_to_first_token_seconds_count@ 1\n",
           "vllm:inter_token_latency_seconds_sum@ 0.25\n",
           "vllm:request_time_per_output_token_seconds_sum@ 0.25\n",
           "vllm:e2e_request_latency_seconds_sum@ 0.75\n",
           "vllm:iteration_tokens_total_sum@ 12\n",
       }) {
    std::string expected = line;
    expected.replace(expected.find('@'), 1, labels);
    EXPECT_THAT(text, HasSubstr("\n" + expected));
  }
  EXPECT_THAT(text, HasSubstr(R"(vllm:request_success_total{engine="0",model_name="my \"model\"",)"
                              R"(finished_reason="length"} 1)"));
}

}  // namespace
}  // namespace moe4::server
