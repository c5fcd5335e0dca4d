// Benchmark reports as Markdown and JSON.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "ops/experts/bench/gpu_moe_bench.h"

namespace moe4 {

std::string_view to_string(TokenPhase phase) {
  return phase == TokenPhase::kDecode ? "decode" : phase == TokenPhase::kPrompt ? "prompt" : "";
}

void GpuMoeBenchReport::add(const GpuMoeBenchReport& other) {
  device = other.device;
  bf16_tflops = other.bf16_tflops;
  bf16_sustained_tflops = other.bf16_sustained_tflops;
  bf16_tflops_from = other.bf16_tflops_from;
  shapes.insert(shapes.end(), other.shapes.begin(), other.shapes.end());
  cold_reads.insert(cold_reads.end(), other.cold_reads.begin(), other.cold_reads.end());
  rows.insert(rows.end(), other.rows.begin(), other.rows.end());
}

std::string to_markdown(const GpuMoeBenchReport& report) {
  const double sustained = report.bf16_sustained_tflops;
  std::string out = fmt::format(
      "{}, BF16 products at {:.0f} TFLOP/s{} ({})\n\n", report.device, report.bf16_tflops,
      sustained > 0 ? fmt::format(", {:.0f} sustained", sustained) : "", report.bf16_tflops_from);
  out +=
      "| shape | T | backend | us | floor us | x floor | GB/s | of cold read | TFLOP/s | of BF16 | "
      "spread | SM MHz | error | sustained us | x its floor | its MHz |\n"
      "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";
  for (const GpuMoeBenchRow& r : report.rows) {
    out += fmt::format(
        "| {} | {}{} | {} | {:.1f} | {:.1f} | {:.2f} | {:.0f} | {:.0f} % | {:.1f} | {:.0f} % | "
        "{:.1f} % | {:.0f} | {:.4f} | {:.1f} | {} | {:.0f} |\n",
        r.shape, r.tokens,
        r.phase == TokenPhase::kUnknown ? "" : fmt::format(" {}", to_string(r.phase)), r.backend,
        r.microseconds, r.floor, r.microseconds / r.floor, r.gigabytes_per_second,
        100 * r.share_of_bandwidth, r.tflops, 100 * r.share_of_tflops, 100 * r.spread, r.sm_mhz,
        r.error, r.sustained,
        r.sustained_floor > 0 ? fmt::format("{:.2f}", r.sustained / r.sustained_floor) : "-",
        r.sustained_sm_mhz);
  }
  return out;
}

std::string to_json(const GpuMoeBenchReport& report) {
  nlohmann::ordered_json json;
  json["device"] = report.device;
  json["bf16_tflops_ceiling"] = report.bf16_tflops;
  if (report.bf16_sustained_tflops > 0) {
    json["bf16_sustained_tflops"] = report.bf16_sustained_tflops;
  }
  json["bf16_tflops_ceiling_from"] = report.bf16_tflops_from;
  json["shapes"] = nlohmann::ordered_json::array();
  for (const GpuMoeBenchShape& shape : report.shapes) {
    const MoeProblem& p = shape.layer.problem;
    json["shapes"].push_back({{"shape", shape.name},
                              {"preset", shape.layer.title()},
                              {"weights", shape.layer.scheme.is_mxfp4() ? "MXFP4" : "NVFP4"},
                              {"activation", to_string(p.activation)},
                              {"hidden_size", p.hidden_size},
                              {"intermediate_size", p.intermediate_size},
                              {"num_experts", p.num_experts},
                              {"top_k", p.top_k}});
  }
  json["cold_reads"] = nlohmann::ordered_json::array();
  for (const ColdRead& read : report.cold_reads) {
    json["cold_reads"].push_back({{"bytes", read.bytes}, {"us", read.microseconds}});
  }
  json["rows"] = nlohmann::ordered_json::array();
  for (const GpuMoeBenchRow& r : report.rows) {
    json["rows"].push_back({{"shape", r.shape},
                            {"backend", r.backend},
                            {"activations", r.activations},
                            {"tokens", r.tokens},
                            {"experts_hit", r.experts_hit},
                            {"bytes", r.bytes},
                            {"us", r.microseconds},
                            {"spread", r.spread},
                            {"sm_mhz", r.sm_mhz},
                            {"calls", r.calls},
                            {"floor_us", r.floor},
                            {"times_floor", r.microseconds / r.floor},
                            {"sustained_us", r.sustained},
                            {"sustained_sm_mhz", r.sustained_sm_mhz},
                            {"gb_per_s", r.gigabytes_per_second},
                            {"tflops", r.tflops},
                            {"share_of_bandwidth", r.share_of_bandwidth},
                            {"share_of_tflops", r.share_of_tflops},
                            {"error", r.error}});
    if (r.phase != TokenPhase::kUnknown) json["rows"].back()["phase"] = to_string(r.phase);
    if (r.sustained_floor > 0) {
      json["rows"].back()["sustained_times_floor"] = r.sustained / r.sustained_floor;
    }
  }
  return json.dump(1);
}

}  // namespace moe4
