// Repacking from checkpoint order to panels.
#include "ops/experts/cpu/packed_weights.h"

#include <atomic>
#include <cmath>

#include "base/error.h"
#include "moe/dequantize.h"

namespace moe4::cpu {
namespace {

ExpertShifts exponent_shifts(const ExpertWeights& expert) {
  return {.gate = expert.gate ? panel_exponent_shift(*expert.gate) : 0,
          .up = panel_exponent_shift(expert.up),
          .down = panel_exponent_shift(expert.down)};
}

PanelFormat choose_format(const MoeLayerWeights& weights) {
  if (weights.scheme.is_nvfp4()) return PanelFormat::kNvfp4;
  if (weights.scheme.is_mxfp4()) return PanelFormat::kMxfp4;
  if (weights.scheme.is_fp8()) return PanelFormat::kFp8Groups;
  if (weights.scheme.is_ggml()) return PanelFormat::kQ8_0;
  bool all_bf16 = true, all_f16 = true;
  for (const ExpertWeights& e : weights.experts) {
    for (const LinearWeights* l : {e.gate ? &*e.gate : &e.up, &e.up, &e.down}) {
      all_bf16 = all_bf16 && l->weight.dtype == DType::kBF16;
      all_f16 = all_f16 && l->weight.dtype == DType::kF16;
    }
  }
  return all_bf16 ? PanelFormat::kBf16 : (all_f16 ? PanelFormat::kF16 : PanelFormat::kF32);
}

[[noreturn]] void report_bad_numbers(const ExpertWeights& expert) {
  if (expert.up.scheme.is_mxfp4()) exponent_shifts(expert);
  if (expert.gate) check_block_scales(*expert.gate);
  check_block_scales(expert.up);
  check_block_scales(expert.down);
  throw_bad_input({.what = "weights that are not finite numbers",
                   .tensor = expert.up.name,
                   .expected = "finite values in this expert's projections",
                   .found = "NaN or infinity",
                   .hint = "the file is damaged or was exported wrongly"});
}

float checked_global(const LinearWeights& linear) {
  if (!std::isfinite(linear.global_scale.value)) {
    throw_bad_input({.what = "global scale is not finite",
                     .tensor = linear.name,
                     .expected = "a finite float32",
                     .found = std::to_string(linear.global_scale.value)});
  }
  return linear.global_scale.value;
}

void copy_bias(const PanelRows& rows, float* bias) {
  for (int r = 0; r < kPanelRows; ++r) {
    if (rows[r].linear != nullptr) bias[r] = bias_at(*rows[r].linear, rows[r].row);
  }
}

}  // namespace

PackedWeights::PackedWeights(const MoeLayerWeights& weights, ThreadPool& threads,
                             const std::function<void(const ExpertWeights&)>& copied)
    : problem_(weights.problem), format_(choose_format(weights)) {
  const int64_t hidden = problem_.hidden_size, width = problem_.intermediate_size;
  const bool gated = problem_.activation.is_gated();
  fc1_ = {ceil_div(width, gated ? 16 : 32), panel_bytes(format_, hidden)};
  fc2_ = {ceil_div(hidden, kPanelRows), panel_bytes(format_, width)};
  expert_bytes_ = fc1_.panels * fc1_.panel_bytes + fc2_.panels * fc2_.panel_bytes;
  const auto num_experts = static_cast<int64_t>(weights.experts.size());
  buffer_ = AlignedBuffer(static_cast<size_t>(num_experts * expert_bytes_));

  bool biased = false;
  scales_.resize(num_experts);
  for (int64_t e = 0; e < num_experts; ++e) {
    const ExpertWeights& expert = weights.experts[e];
    const auto input = [](const LinearWeights& l) {
      return l.input_scale ? l.input_scale->value : 0;
    };
    ExpertScales& s = scales_[e];
    s.gate_input = s.up_input = input(expert.up);
    s.down_input = input(expert.down);
    if (expert.gate) s.gate_input = input(*expert.gate);
    biased = biased || !expert.up.bias.empty() || !expert.down.bias.empty() ||
             (expert.gate && !expert.gate->bias.empty());
    if (format_ != PanelFormat::kNvfp4) continue;  // other scales go into the panels
    s.up = checked_global(expert.up);
    s.gate = expert.gate ? checked_global(*expert.gate) : s.up;
    s.down = checked_global(expert.down);
  }
  if (biased) bias_.resize(num_experts * bias_stride());

  std::atomic<int64_t> first_bad{num_experts};
  threads.parallel_for(num_experts, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t e = begin; e < end; ++e) {
      const bool good = pack_expert(weights.experts[e], e);
      if (copied) copied(weights.experts[e]);
      int64_t seen = first_bad.load();
      while (!good && e < seen && !first_bad.compare_exchange_weak(seen, e)) {
      }
    }
  });
  if (first_bad.load() < num_experts) report_bad_numbers(weights.experts[first_bad.load()]);
}

bool PackedWeights::pack_expert(const ExpertWeights& expert, int64_t index) {
  bool good = true;
  ExpertShifts shifts;
  if (format_ == PanelFormat::kMxfp4) {
    try {
      shifts = exponent_shifts(expert);
    } catch (const Error&) {  // thrown again outside of the threads
      return false;
    }
    scales_[index].gate = std::ldexp(1.0f, -shifts.gate);
    scales_[index].up = std::ldexp(1.0f, -shifts.up);
    scales_[index].down = std::ldexp(1.0f, -shifts.down);
  }
  std::byte* out = buffer_.data() + index * expert_bytes_;
  for (int64_t p = 0; p < fc1_.panels + fc2_.panels; ++p) {
    const bool fc1 = p < fc1_.panels;
    const PanelRows rows =
        fc1 ? fc1_rows(expert, shifts, p) : fc2_rows(expert, shifts, p - fc1_.panels);
    if (!bias_.empty()) copy_bias(rows, &bias_[index * bias_stride() + p * kPanelRows]);
    good &= pack_panel(format_, rows, fc1 ? problem_.hidden_size : problem_.intermediate_size, out);
    out += fc1 ? fc1_.panel_bytes : fc2_.panel_bytes;
  }
  return good;
}

PanelRows PackedWeights::fc1_rows(const ExpertWeights& expert, const ExpertShifts& shifts,
                                  int64_t panel) const {
  PanelRows rows;
  const bool gated = problem_.activation.is_gated();
  for (int r = 0; r < kPanelRows; ++r) {
    const int64_t row = gated ? panel * 16 + r % 16 : panel * kPanelRows + r;
    if (row >= problem_.intermediate_size) continue;
    rows[r] = gated && r < 16 ? PanelRow{&*expert.gate, row, shifts.gate}
                              : PanelRow{&expert.up, row, shifts.up};
  }
  return rows;
}

PanelRows PackedWeights::fc2_rows(const ExpertWeights& expert, const ExpertShifts& shifts,
                                  int64_t panel) const {
  PanelRows rows;
  for (int r = 0; r < kPanelRows; ++r) {
    const int64_t row = panel * kPanelRows + r;
    if (row < problem_.hidden_size) rows[r] = {&expert.down, row, shifts.down};
  }
  return rows;
}

}  // namespace moe4::cpu
