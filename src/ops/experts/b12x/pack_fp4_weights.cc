// Packing is a gather: every lane's 16 bytes come from two rows of the checkpoint.
#include "ops/experts/b12x/pack_fp4_weights.h"

#include <cstring>

#include "base/error.h"
#include "moe/dequantize.h"

namespace moe4::b12x {
namespace {

// Eight codes (4 bytes) and their scale; zeros where the matrix ends.
struct WordAndScale {
  uint32_t word = 0;
  uint8_t scale = 0;
};

WordAndScale load_word(const LinearWeights& linear, int64_t row, int64_t k) {
  if (row >= linear.out_features || k >= linear.in_features) return {};
  const auto* codes = reinterpret_cast<const uint8_t*>(linear.weight.row(row)) + k / 2;
  const auto scale = reinterpret_cast<const uint8_t*>(linear.scale.row(row))[k / kBlock];
  if ((scale & 0x7f) == 0) return {};
  const uint32_t signs = (scale & 0x80) != 0 ? 0x88888888u : 0u;
  return {pack_word(codes) ^ signs, static_cast<uint8_t>(scale & 0x7f)};
}

void pack_chunk(const PackedMatrix& matrix, const LinearWeights& first, const LinearWeights* up,
                int64_t tile, int64_t chunk, uint8_t* out) {
  const int64_t k = chunk * kChunkK;
  for (int half = 0; half < 2; ++half) {
    const LinearWeights& linear = matrix.gated && half == 1 ? *up : first;
    const int64_t first_row = matrix.gated ? tile * kHalfRows : tile * kTileRows + half * kHalfRows;
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4, t = lane % 4;
      uint32_t registers[4];
      for (int r = 0; r < 4; ++r) {
        const int64_t row = first_row + g + 8 * (r & 1);
        registers[r] = load_word(linear, row, k + 8 * t + 32 * (r >> 1)).word;
      }
      std::memcpy(out + weight_codes_offset(half, lane), registers, sizeof registers);
    }
    for (int row = 0; row < kHalfRows; ++row) {
      uint8_t* scales = out + weight_scales_offset(4 * (row % 8) + 2 * half + row / 8);
      for (int b = 0; b < kBlocksPerChunk; ++b) {
        scales[b] = load_word(linear, first_row + row, k + b * kBlock).scale;
      }
    }
  }
}

float calibrated(const LinearWeights& linear) {
  if (!linear.input_scale) {
    throw_bad_input({.what = "static activation quantisation needs a calibrated input scale",
                     .tensor = linear.name + ".input_scale",
                     .expected = "a scalar in the checkpoint",
                     .found = "none",
                     .hint = "use --activations fp4 (dynamic) or bf16"});
  }
  return linear.input_scale->value;
}

void append_bias(const LinearWeights& linear, std::vector<float>& out) {
  const size_t begin = out.size();
  out.resize(begin + linear.out_features, 0.0f);
  for (int64_t r = 0; r < linear.out_features; ++r) out[begin + r] = bias_at(linear, r);
}

}  // namespace

void pack_expert(const PackedMatrix& matrix, const LinearWeights& first, const LinearWeights* up,
                 ThreadPool& threads, uint8_t* out) {
  MOE4_CHECK(!matrix.gated || up != nullptr);
  threads.parallel_for(matrix.tiles, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t tile = begin; tile < end; ++tile) {
      for (int64_t chunk = 0; chunk < matrix.chunks; ++chunk) {
        pack_chunk(matrix, first, up, tile, chunk,
                   out + chunk_offset(matrix.tiles, matrix.chunks, 0, tile, chunk));
      }
    }
  });
}

LayerScales make_layer_scales(const MoeLayerWeights& weights, ActivationPrecision precision) {
  const bool use_calibrated = precision == ActivationPrecision::kFp4Static;
  const auto input_scale = [&](const LinearWeights& linear) {
    return use_calibrated ? calibrated(linear) : 1.0f;
  };
  const float decoder_scale = precision == ActivationPrecision::kBf16 ? kBf16AlphaScale : 1.0f;
  LayerScales scales;
  for (const ExpertWeights& expert : weights.experts) {
    const LinearWeights& gate = expert.gate ? *expert.gate : expert.up;
    const float gate_input = input_scale(gate), up_input = input_scale(expert.up);
    const float down_input = input_scale(expert.down);
    scales.gate_and_up_inputs_differ |= gate_input != up_input;
    scales.fc1_input_scale.insert(scales.fc1_input_scale.end(), {gate_input, up_input});
    scales.fc2_input_scale.push_back(down_input);
    scales.fc1_alpha.insert(scales.fc1_alpha.end(),
                            {gate.global_scale.value * gate_input * decoder_scale,
                             expert.up.global_scale.value * up_input * decoder_scale});
    scales.fc2_alpha.insert(scales.fc2_alpha.end(), 2,
                            expert.down.global_scale.value * down_input * decoder_scale);
  }
  return scales;
}

std::vector<float> make_biases(const PackedMatrix& matrix, const MoeLayerWeights& weights,
                               bool fc1) {
  std::vector<float> biases;
  bool any = false;
  for (const ExpertWeights& expert : weights.experts) {
    if (fc1) {
      if (matrix.gated) append_bias(*expert.gate, biases);
      append_bias(expert.up, biases);
      any |= !expert.up.bias.empty() || (matrix.gated && !expert.gate->bias.empty());
    } else {
      append_bias(expert.down, biases);
      any |= !expert.down.bias.empty();
    }
  }
  if (!any) biases.clear();
  return biases;
}

}  // namespace moe4::b12x
