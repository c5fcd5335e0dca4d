// Packing of linears and their distribution over threads.
#include "layers/linear.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "moe/activation_quant.h"
#include "moe/dequantize.h"
#include "numerics/e4m3.h"
#include "numerics/nvfp4.h"

namespace moe4 {
namespace {

// Weight bytes of one unit of work: long enough to hide its dispatch, short enough that threads
// finish together.
constexpr int64_t kChunkBytes = 64 << 10;

RowFormat row_format(const LinearWeights& weights) {
  switch (weights.scheme.weight.format) {
    case QuantFormat::kNvfp4:
      return RowFormat::kNvfp4;
    case QuantFormat::kFloat:
      return weights.weight.dtype == DType::kBF16 ? RowFormat::kBF16 : RowFormat::kF32;
    default:
      return RowFormat::kF8;
  }
}

int64_t bytes_per_row(RowFormat format, int64_t k) {
  switch (format) {
    case RowFormat::kF32:
      return 4 * k;
    case RowFormat::kBF16:
      return 2 * k;
    case RowFormat::kF8:
      return k;
    case RowFormat::kNvfp4:
      return k / 2;
  }
  return 0;
}

// Copies n E4M3 bytes and refuses NaN.
void copy_e4m3(const std::byte* from, int64_t n, std::byte* to, const std::string& tensor) {
  std::memcpy(to, from, n);
  const auto* bytes = reinterpret_cast<const uint8_t*>(to);
  if (std::any_of(bytes, bytes + n, e4m3_is_nan)) {
    throw_bad_input({.what = "NaN in an FP8 tensor",
                     .tensor = tensor,
                     .expected = "finite values",
                     .hint = "download or export the checkpoint again"});
  }
}

std::vector<float> to_floats(const TensorView& view) {
  std::vector<float> values(view.num_elements());
  const int64_t rows = view.shape.size() >= 2 ? view.dim(0) : 1;
  const int64_t columns = static_cast<int64_t>(values.size()) / std::max<int64_t>(rows, 1);
  for (int64_t r = 0; r < rows; ++r) {
    const void* from = view.shape.size() >= 2 ? view.row(r) : view.data;
    convert_to_float(from, view.dtype, columns, values.data() + r * columns);
  }
  return values;
}

}  // namespace

Linear::Linear(const LinearWeights& weights, const LinearOptions& options)
    : out_features_(weights.out_features), in_features_(weights.in_features) {
  choose_input_quant(weights, options);
  pack(weights);
  pack_scales(weights);
  if (!weights.bias.empty()) {
    bias_ = to_floats(weights.bias);
    rows_.bias = bias_.data();
  }
  weight_bytes_ = static_cast<int64_t>(data_.size() + scales_.size() +
                                       (row_scale_.size() + block_scale_.size() + bias_.size()) *
                                           sizeof(float));
}

void Linear::choose_input_quant(const LinearWeights& weights, const LinearOptions& options) {
  const auto& key = weights.scheme.activation;
  if (!key) return;
  if (weights.scheme.is_fp8() && options.fp8_activations) {
    input_ = InputQuant{key->format, key->dynamic, {}};
    if (key->dynamic) return;
  } else if (weights.scheme.is_nvfp4() && options.activations == ActivationMode::kFp4) {
    input_ = InputQuant{QuantFormat::kNvfp4, true, DecodeScale{1.0f}};
    return;
  } else if (weights.scheme.is_nvfp4() && options.activations == ActivationMode::kFp4Static) {
    input_ = InputQuant{QuantFormat::kNvfp4, false, {}};
  } else {
    return;
  }
  if (!weights.input_scale) {
    throw_bad_input({.what = "static activation quantisation needs a calibrated input scale",
                     .tensor = weights.name + ".input_scale",
                     .expected = "a scalar in the checkpoint",
                     .found = "none",
                     .hint = "use --activations bf16"});
  }
  input_->scale = *weights.input_scale;
}

void Linear::pack(const LinearWeights& weights) {
  rows_.format = row_format(weights);
  rows_.k = padded_row(in_features_);
  rows_.row_bytes = bytes_per_row(rows_.format, rows_.k);
  data_ = AlignedBuffer(static_cast<size_t>(out_features_ * rows_.row_bytes));
  rows_.data = data_.data();
  const int64_t used = bytes_per_row(rows_.format, in_features_);
  for (int64_t n = 0; n < out_features_; ++n) {
    const std::byte* from = weights.weight.row(n);
    std::byte* to = data_.data() + n * rows_.row_bytes;
    if (rows_.format == RowFormat::kF32) {
      convert_to_float(from, weights.weight.dtype, in_features_, reinterpret_cast<float*>(to));
    } else if (rows_.format == RowFormat::kF8) {
      copy_e4m3(from, used, to, weights.name + ".weight");
    } else {
      std::memcpy(to, from, used);
    }
  }
}

void Linear::pack_scales(const LinearWeights& weights) {
  switch (weights.scheme.weight.format) {
    case QuantFormat::kNvfp4: {
      const int64_t padded = rows_.k / kNvfp4Block, used = in_features_ / kNvfp4Block;
      scales_ = AlignedBuffer(static_cast<size_t>(out_features_ * padded));
      for (int64_t n = 0; n < out_features_; ++n) {
        copy_e4m3(weights.scale.row(n), used, scales_.data() + n * padded,
                  weights.name + ".weight_scale");
      }
      rows_.scales = reinterpret_cast<const uint8_t*>(scales_.data());
      row_scale_.assign(out_features_, weights.global_scale.value);
      break;
    }
    case QuantFormat::kFp8Tensor:
      row_scale_.assign(out_features_, weights.global_scale.value * kF8Factor);
      break;
    case QuantFormat::kFp8Channel:
      row_scale_ = to_floats(weights.scale);
      for (float& scale : row_scale_) scale *= kF8Factor;
      break;
    case QuantFormat::kFp8Block128:
      block_scale_ = to_floats(weights.scale);
      for (float& scale : block_scale_) scale *= kF8Factor;
      rows_.block_scale = block_scale_.data();
      rows_.k_blocks = ceil_div(in_features_, 128);
      break;
    default:
      break;
  }
  if (!row_scale_.empty()) rows_.row_scale = row_scale_.data();
}

void Linear::quantize_input(const float* in, float* out) const {
  if (input_->format == QuantFormat::kNvfp4) {
    fake_quantize_nvfp4(in, in_features_, input_->scale, out);
  } else if (!input_->dynamic) {
    fake_quantize_fp8_static(in, in_features_, input_->scale, out);
  } else {
    const int64_t group = input_->format == QuantFormat::kFp8Block128 ? 128 : in_features_;
    fake_quantize_fp8_dynamic(in, in_features_, group, out);
  }
}

void Linear::decode_row(int64_t n, float* out) const {
  const std::byte* row = rows_.data + n * rows_.row_bytes;
  const auto* bytes = reinterpret_cast<const uint8_t*>(row);
  switch (rows_.format) {
    case RowFormat::kF32:
      convert_to_float(row, DType::kF32, in_features_, out);
      break;
    case RowFormat::kBF16:
      convert_to_float(row, DType::kBF16, in_features_, out);
      break;
    case RowFormat::kF8:
      for (int64_t k = 0; k < in_features_; ++k) out[k] = e4m3_to_float(bytes[k]) / kF8Factor;
      break;
    case RowFormat::kNvfp4: {
      const uint8_t* scales = rows_.scales + n * (rows_.k / kNvfp4Block);
      for (int64_t k = 0; k < in_features_; ++k) {
        out[k] = nvfp4_value(nvfp4_code(bytes, k), scales[k / kNvfp4Block], DecodeScale{1.0f});
      }
      break;
    }
  }
  for (int64_t k = 0; k < in_features_; ++k) {
    if (rows_.row_scale != nullptr) out[k] *= rows_.row_scale[n];
    if (rows_.block_scale != nullptr) {
      out[k] *= rows_.block_scale[n / 128 * rows_.k_blocks + k / 128];
    }
  }
}

namespace {

const float* quantized_rows(LayerContext& context, const LinearCall& call, int64_t num_tokens) {
  const Linear& linear = *call.linear;
  const int64_t k = linear.in_features(), stride = linear.rows().k;
  auto* out = context.scratch.take<float>(num_tokens * stride);
  context.threads.parallel_for(num_tokens, 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      float* row = out + t * stride;
      linear.quantize_input(call.x + t * call.x_stride, row);
      std::fill(row + k, row + stride, 0.0f);
    }
  });
  return out;
}

// Rows of each unit of work of a linear.
int64_t chunk_rows(const Linear& linear) {
  const int64_t rows = kChunkBytes / std::max<int64_t>(linear.rows().row_bytes, 1);
  return std::clamp<int64_t>(rows / 8 * 8, 8, 512);
}

}  // namespace

void apply_linears(LayerContext& context, std::span<const LinearCall> calls, int64_t num_tokens) {
  constexpr size_t kMaxCalls = 8;
  MOE4_CHECK(calls.size() <= kMaxCalls);
  if (num_tokens == 0) return;
  Scratch::Frame frame(context.scratch);

  LinearCall ready[kMaxCalls];
  int64_t first_chunk[kMaxCalls + 1] = {};  // running sum over the calls
  int64_t decoded_k = 0, bytes = 0;
  for (size_t i = 0; i < calls.size(); ++i) {
    ready[i] = calls[i];
    const Linear& linear = *calls[i].linear;
    if (linear.quantizes_input()) {
      ready[i].x = quantized_rows(context, calls[i], num_tokens);
      ready[i].x_stride = linear.rows().k;
    }
    first_chunk[i + 1] = first_chunk[i] + ceil_div(linear.out_features(), chunk_rows(linear));
    bytes += linear.out_features() * linear.rows().row_bytes;
    if (linear.rows().format == RowFormat::kF8 || linear.rows().format == RowFormat::kNvfp4) {
      decoded_k = std::max(decoded_k, linear.rows().k);
    }
  }
  const int64_t per_thread = kScratchRows * decoded_k;
  auto* decoded = context.scratch.take<float>(context.threads.size() * per_thread);

  const int64_t chunks = first_chunk[calls.size()];
  const int64_t grain = parallel_grain(chunks, num_tokens * bytes / std::max<int64_t>(chunks, 1));
  context.threads.parallel_for(chunks, grain, [&](int64_t begin, int64_t end, int thread) {
    size_t call = 0;
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      while (chunk >= first_chunk[call + 1]) ++call;
      const LinearCall& c = ready[call];
      const int64_t step = chunk_rows(*c.linear);
      const int64_t row = (chunk - first_chunk[call]) * step;
      context.kernels.linear(c.linear->rows(), c.x, c.x_stride, num_tokens, row,
                             std::min(row + step, c.linear->out_features()), c.y, c.y_stride,
                             decoded + thread * per_thread);
    }
  });
}

}  // namespace moe4
