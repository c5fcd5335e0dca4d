// Reports of the GPU benchmark: a sustained ceiling that nobody measured is left out.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "ops/experts/bench/gpu_moe_bench.h"

namespace moe4 {
namespace {

GpuMoeBenchReport report_of(double sustained_tflops, double sustained_floor) {
  GpuMoeBenchRow row{.shape = "C", .backend = "hopper", .tokens = 256};
  row.microseconds = 330;
  row.floor = 220;
  row.sustained = 390;
  row.sustained_floor = sustained_floor;
  return {.device = "a GPU",
          .bf16_tflops = 800,
          .bf16_sustained_tflops = sustained_tflops,
          .bf16_tflops_from = "somewhere",
          .shapes = {{"C", moe_preset("deepseek-v3/32")}},
          .cold_reads = {},
          .rows = {row}};
}

TEST(GpuMoeBenchReport, SustainedTimesStandBesideTheSustainedFloor) {
  const GpuMoeBenchReport report = report_of(680, 260);
  const auto json = nlohmann::json::parse(to_json(report));
  EXPECT_EQ(json["bf16_tflops_ceiling"], 800);
  EXPECT_EQ(json["bf16_sustained_tflops"], 680);
  EXPECT_DOUBLE_EQ(json["rows"][0]["times_floor"], 1.5);
  EXPECT_DOUBLE_EQ(json["rows"][0]["sustained_times_floor"], 1.5);
  const std::string text = to_markdown(report);
  EXPECT_NE(text.find("800 TFLOP/s, 680 sustained (somewhere)"), std::string::npos) << text;
  EXPECT_NE(text.find("| 390.0 | 1.50 |"), std::string::npos) << text;
}

TEST(GpuMoeBenchReport, SaysWhatItsShapesAre) {
  GpuMoeBenchReport all;
  all.add(report_of(680, 260));
  GpuMoeBenchReport other = report_of(0, 0);
  other.shapes = {{"gpt-oss-20b", moe_preset("gpt-oss-20b")}};
  all.add(other);
  const auto json = nlohmann::json::parse(to_json(all));
  EXPECT_EQ(json["device"], "a GPU");
  EXPECT_EQ(json["rows"].size(), 2u);
  ASSERT_EQ(json["shapes"].size(), 2u);
  EXPECT_EQ(json["shapes"][0]["preset"], "deepseek-v3, 32 of its 256 experts");
  EXPECT_EQ(json["shapes"][0]["weights"], "NVFP4");
  EXPECT_EQ(json["shapes"][1]["weights"], "MXFP4");
  EXPECT_EQ(json["shapes"][1]["activation"], "swigluoai(alpha=1.702, beta=1, limit=7)");
  EXPECT_EQ(json["shapes"][1]["intermediate_size"], 2880);
}

TEST(GpuMoeBenchReport, AGivenCeilingHasNoSustainedFloor) {
  const GpuMoeBenchReport report = report_of(0, 0);
  const auto json = nlohmann::json::parse(to_json(report));
  EXPECT_FALSE(json.contains("bf16_sustained_tflops"));
  EXPECT_FALSE(json["rows"][0].contains("sustained_times_floor"));
  EXPECT_EQ(json["rows"][0]["sustained_us"], 390);
  const std::string text = to_markdown(report);
  EXPECT_NE(text.find("800 TFLOP/s (somewhere)"), std::string::npos) << text;
  EXPECT_NE(text.find("| 390.0 | - |"), std::string::npos) << text;
}

}  // namespace
}  // namespace moe4
