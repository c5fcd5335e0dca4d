// Repacking from checkpoint order to panels.
#include "experts/cpu/packed_weights.h"

#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>

#include "moe/dequantize.h"
#include "numerics/e4m3.h"

namespace moe4::cpu {
namespace {

constexpr uint8_t kBadScale = 0xff;

// E4M3 byte -> 5 exponent bits, 3 mantissa bits (packed_layout.h); zero maps to zero, which the
// packer treats apart; NaN and negative scales map to kBadScale.
constexpr std::array<uint8_t, 256> make_scale_table() {
  std::array<uint8_t, 256> table{};
  for (int byte = 0; byte < 256; ++byte) {
    const int exponent = byte >> 3, mantissa = byte & 7;
    if (byte == 0 || byte == 0x80) {
      table[byte] = 0;
    } else if (byte >= 0x7f) {
      table[byte] = kBadScale;
    } else if (exponent > 0) {
      table[byte] = static_cast<uint8_t>((exponent - 7 + kScaleExponentBias) << 3 | mantissa);
    } else {
      // mantissa * 2^-9: its leading bit becomes the implicit one.
      const int top = mantissa >= 4 ? 2 : (mantissa >= 2 ? 1 : 0);
      table[byte] =
          static_cast<uint8_t>((top - 9 + kScaleExponentBias) << 3 | ((mantissa << (3 - top)) & 7));
    }
  }
  return table;
}
constexpr std::array<uint8_t, 256> kScaleTable = make_scale_table();

// Nibbles e0 e1 ... e7 (from the lowest) to e0 e4 e1 e5 e2 e6 e3 e7.
constexpr uint32_t interleave_halves(uint32_t word) {
  const auto spread = [](uint32_t x) {
    x = (x | x << 8) & 0x00ff00ffu;
    return (x | x << 4) & 0x0f0f0f0fu;
  };
  return spread(word & 0xffffu) | spread(word >> 16) << 4;
}

template <typename T>
void transpose_rows(const std::byte* const* rows, int64_t k, std::byte* out) {
  auto* to = reinterpret_cast<T*>(out);
  for (int r = 0; r < kPanelRows; ++r) {
    if (rows[r] == nullptr) {
      for (int64_t i = 0; i < k; ++i) to[i * kPanelRows + r] = T{};
      continue;
    }
    for (int64_t i = 0; i < k; ++i) {
      std::memcpy(&to[i * kPanelRows + r], rows[r] + i * sizeof(T), sizeof(T));
    }
  }
  for (int64_t i = k * kPanelRows; i < padded_inputs(k) * kPanelRows; ++i) to[i] = T{};
}

float fp8_group_scale(const LinearWeights& linear, int64_t row, int64_t group) {
  if (linear.scheme.weight.format == QuantFormat::kFp8Tensor) return linear.global_scale.value;
  const bool block = linear.scheme.weight.format == QuantFormat::kFp8Block128;
  const int64_t r = block ? row / kDenseGroup : row, c = block ? group : 0;
  float value;
  convert_to_float(linear.scale.row(r) + c * size_of(linear.scale.dtype), linear.scale.dtype, 1,
                   &value);
  return value;
}

PanelFormat choose_format(const MoeLayerWeights& weights) {
  if (weights.scheme.is_nvfp4()) return PanelFormat::kNvfp4;
  if (weights.scheme.is_fp8()) return PanelFormat::kFp8;
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
  for (const LinearWeights* l :
       {expert.gate ? &*expert.gate : &expert.up, &expert.up, &expert.down}) {
    if (l->scheme.is_nvfp4()) {
      for (int64_t r = 0; r < l->out_features; ++r) {
        const auto* scales = reinterpret_cast<const uint8_t*>(l->scale.row(r));
        for (int64_t b = 0; b < l->in_features / kBlock; ++b) {
          if (kScaleTable[scales[b]] != kBadScale) continue;
          throw_bad_input({.what = "bad block scale at row " + std::to_string(r) + ", block " +
                                   std::to_string(b),
                           .tensor = l->name + ".weight_scale",
                           .expected = "a non-negative number",
                           .found = e4m3_is_nan(scales[b]) ? "NaN" : "a negative number",
                           .hint = "the file is damaged or was exported wrongly"});
        }
      }
    }
  }
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

}  // namespace

PackedWeights::PackedWeights(const MoeLayerWeights& weights, ThreadPool& threads)
    : problem_(weights.problem), format_(choose_format(weights)) {
  const int64_t hidden = problem_.hidden_size, width = problem_.intermediate_size;
  const bool gated = problem_.activation.is_gated();
  fc1_ = {ceil_div(width, gated ? 16 : 32), panel_bytes(hidden)};
  fc2_ = {ceil_div(hidden, kPanelRows), panel_bytes(width)};
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
    if (format_ != PanelFormat::kNvfp4) continue;  // FP8 scales go into the panels
    s.up = checked_global(expert.up);
    s.gate = expert.gate ? checked_global(*expert.gate) : s.up;
    s.down = checked_global(expert.down);
  }
  if (biased) bias_.resize(num_experts * bias_stride());

  const int64_t panels = fc1_.panels + fc2_.panels;
  std::atomic<int64_t> first_bad{num_experts};
  threads.parallel_for(num_experts * panels, 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t e = i / panels, p = i % panels;
      const bool fc1 = p < fc1_.panels;
      const PanelSources sources = fc1 ? fc1_sources(weights.experts[e], p)
                                       : fc2_sources(weights.experts[e], p - fc1_.panels);
      std::byte* out =
          buffer_.data() + e * expert_bytes_ +
          (fc1 ? p * fc1_.panel_bytes
               : fc1_.panels * fc1_.panel_bytes + (p - fc1_.panels) * fc2_.panel_bytes);
      float* bias = biased ? &bias_[e * bias_stride() + p * kPanelRows] : nullptr;
      if (pack_panel(sources, fc1 ? hidden : width, out, bias)) continue;
      int64_t seen = first_bad.load();
      while (e < seen && !first_bad.compare_exchange_weak(seen, e)) {
      }
    }
  });
  if (first_bad.load() < num_experts) report_bad_numbers(weights.experts[first_bad.load()]);
}

int64_t PackedWeights::panel_bytes(int64_t in_features) const {
  const int64_t inputs = padded_inputs(in_features);
  switch (format_) {
    case PanelFormat::kNvfp4:
      return inputs / kUnitInputs * kNvfp4UnitBytes;
    case PanelFormat::kBf16:
    case PanelFormat::kF16:
      return inputs * kPanelRows * 2;
    case PanelFormat::kF32:
      return inputs * kPanelRows * 4;
    case PanelFormat::kFp8:
      return inputs * kPanelRows + ceil_div(inputs, kDenseGroup) * kPanelRows * 4;
  }
  return 0;
}

PackedWeights::PanelSources PackedWeights::fc1_sources(const ExpertWeights& expert,
                                                       int64_t panel) const {
  PanelSources sources;
  const bool gated = problem_.activation.is_gated();
  for (int r = 0; r < kPanelRows; ++r) {
    const int64_t row = gated ? panel * 16 + r % 16 : panel * kPanelRows + r;
    if (row >= problem_.intermediate_size) continue;
    sources[r] = {gated && r < 16 ? &*expert.gate : &expert.up, row};
  }
  return sources;
}

PackedWeights::PanelSources PackedWeights::fc2_sources(const ExpertWeights& expert,
                                                       int64_t panel) const {
  PanelSources sources;
  for (int r = 0; r < kPanelRows; ++r) {
    const int64_t row = panel * kPanelRows + r;
    if (row < problem_.hidden_size) sources[r] = {&expert.down, row};
  }
  return sources;
}

namespace {

// One half (16 rows) of a unit's block: 128 bytes of codes and 16 of scales. Null rows are padding.
bool pack_nvfp4_block(const uint8_t* const* codes, const uint8_t* const* scales, int64_t block,
                      std::byte* out_codes, std::byte* out_scales) {
  bool good = true;
  uint32_t words[2][16];
  for (int r = 0; r < 16; ++r) {
    const uint8_t scale = codes[r] ? kScaleTable[scales[r][block]] : 0;
    const bool zero = codes[r] == nullptr || (scales[r][block] & 0x7f) == 0;
    good = good && scale != kBadScale;
    out_scales[r] = static_cast<std::byte>(scale);
    uint32_t pair[2] = {0, 0};
    if (!zero) std::memcpy(pair, codes[r] + block * (kBlock / 2), 8);
    words[0][r] = pair[0];
    words[1][r] = pair[1];
  }
  for (auto& vector : words) {
    for (uint32_t& word : vector) word = interleave_halves(word);
  }
  std::memcpy(out_codes, words, sizeof words);
  return good;
}

}  // namespace

bool PackedWeights::pack_panel(const PanelSources& sources, int64_t in_features, std::byte* out,
                               float* bias) const {
  bool good = true;
  const std::byte* rows[kPanelRows];
  for (int r = 0; r < kPanelRows; ++r) {
    const LinearWeights* l = sources[r].linear;
    rows[r] = l ? l->weight.row(sources[r].row) : nullptr;
    if (bias) {
      bias[r] = 0;
      if (l && !l->bias.empty()) {
        convert_to_float(
            static_cast<const std::byte*>(l->bias.data) + sources[r].row * size_of(l->bias.dtype),
            l->bias.dtype, 1, &bias[r]);
      }
    }
  }
  switch (format_) {
    case PanelFormat::kNvfp4: {
      const uint8_t* codes[kPanelRows];
      const uint8_t* scales[kPanelRows];
      for (int r = 0; r < kPanelRows; ++r) {
        const LinearWeights* l = sources[r].linear;
        codes[r] = reinterpret_cast<const uint8_t*>(rows[r]);
        scales[r] = l ? reinterpret_cast<const uint8_t*>(l->scale.row(sources[r].row)) : nullptr;
      }
      const int64_t blocks = in_features / kBlock;
      for (int64_t block = 0; block < blocks; ++block) {
        std::byte* unit = out + block / 2 * kNvfp4UnitBytes;
        for (int h = 0; h < 2; ++h) {
          const int part = static_cast<int>(2 * (block % 2) + h);
          good &= pack_nvfp4_block(codes + 16 * h, scales + 16 * h, block, unit + 128 * part,
                                   unit + kUnitScalesOffset + 16 * part);
        }
      }
      return good;  // the padding block of an odd count stays as the buffer began: zeros
    }
    case PanelFormat::kBf16:
      transpose_rows<uint16_t>(rows, in_features, out);
      return true;
    case PanelFormat::kF16: {
      for (const std::byte* row : rows) {
        for (int64_t k = 0; row != nullptr && k < in_features; ++k) {
          uint16_t half;
          std::memcpy(&half, row + 2 * k, 2);
          good = good && (half & 0x7c00) != 0x7c00;
        }
      }
      transpose_rows<uint16_t>(rows, in_features, out);
      return good;
    }
    case PanelFormat::kF32: {
      auto* to = reinterpret_cast<float*>(out);
      for (int r = 0; r < kPanelRows; ++r) {
        if (!rows[r]) continue;
        const DType dtype = sources[r].linear->weight.dtype;
        for (int64_t k = 0; k < in_features; ++k) {
          convert_to_float(rows[r] + k * size_of(dtype), dtype, 1, &to[k * kPanelRows + r]);
        }
      }
      return true;
    }
    case PanelFormat::kFp8: {
      for (const std::byte* row : rows) {
        for (int64_t k = 0; row != nullptr && k < in_features; ++k) {
          good = good && !e4m3_is_nan(static_cast<uint8_t>(row[k]));
        }
      }
      transpose_rows<uint8_t>(rows, in_features, out);
      auto* scales = reinterpret_cast<float*>(out + padded_inputs(in_features) * kPanelRows);
      for (int64_t g = 0; g < ceil_div(in_features, kDenseGroup); ++g) {
        for (int r = 0; r < kPanelRows; ++r) {
          const RowSource& source = sources[r];
          const float scale = source.linear ? fp8_group_scale(*source.linear, source.row, g) : 0.0f;
          good = good && std::isfinite(scale);
          scales[g * kPanelRows + r] = scale;
        }
      }
      return good;
    }
  }
  return good;
}

}  // namespace moe4::cpu
