// Packing of linears and their products.
#include "ops/linear/cpu/packed_linear.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "base/error.h"
#include "moe/dequantize.h"

namespace moe4 {
namespace {

cpu::PanelFormat panel_format(const LinearWeights& weights) {
  switch (weights.scheme.weight.format) {
    case QuantFormat::kNvfp4:
      return cpu::PanelFormat::kNvfp4;
    case QuantFormat::kMxfp4:
      return cpu::PanelFormat::kMxfp4;
    case QuantFormat::kFp8Block128:
      return cpu::PanelFormat::kFp8Groups;
    case QuantFormat::kFloat:
      // F16 that is finite everywhere could stay so; it is rare enough to become float32.
      return weights.weight.dtype == DType::kBF16 ? cpu::PanelFormat::kBf16
                                                  : cpu::PanelFormat::kF32;
    case QuantFormat::kQ8_0:
      return cpu::PanelFormat::kQ8_0;
    default:
      return cpu::PanelFormat::kFp8;
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

PackedLinear::PackedLinear(const LinearWeights& weights, const LinearOptions& options,
                           ThreadPool* threads)
    : out_features_(weights.out_features),
      in_features_(weights.in_features),
      format_(panel_format(weights)),
      panel_bytes_(cpu::panel_bytes(format_, in_features_)),
      input_(input_quant_of(weights, options)) {
  if (format_ == cpu::PanelFormat::kNvfp4 || format_ == cpu::PanelFormat::kMxfp4) {
    row_format_ = input_                 ? cpu::RowFormat::kFp4
                  : options.exact_inputs ? cpu::RowFormat::kFloat
                                         : cpu::RowFormat::kInt16;
  }
  choose_scales(weights);
  if (!weights.bias.empty()) {
    for (int64_t n = 0; n < out_features_; ++n) bias_.push_back(bias_at(weights, n));
  }
  pack(weights, threads);
  weight_bytes_ =
      static_cast<int64_t>(panels_.size() + (row_scale_.size() + bias_.size()) * sizeof(float));
}

void PackedLinear::choose_scales(const LinearWeights& weights) {
  if (weights.scheme.weight.format == QuantFormat::kFp8Channel) {
    row_scale_ = to_floats(weights.scale);
  } else if (weights.scheme.weight.format == QuantFormat::kNvfp4 ||
             weights.scheme.weight.format == QuantFormat::kFp8Tensor) {
    scale_ = weights.global_scale.value;
  } else if (weights.scheme.is_mxfp4()) {
    exponent_shift_ = cpu::panel_exponent_shift(weights);
    scale_ = std::ldexp(1.0f, -exponent_shift_);
  }
  if (row_format_ == cpu::RowFormat::kInt16) sum_unit_ = cpu::kInt16SumUnit;
  if (row_format_ == cpu::RowFormat::kFp4) sum_unit_ = cpu::kFp4SumUnit * input_->scale.value;
}

void PackedLinear::pack(const LinearWeights& weights, ThreadPool* threads) {
  panels_ = AlignedBuffer(static_cast<size_t>(num_panels() * panel_bytes_));
  std::atomic<bool> good{true};
  const auto pack_panels = [&](int64_t begin, int64_t end, int) {
    for (int64_t p = begin; p < end; ++p) {
      cpu::PanelRows rows;
      for (int r = 0; r < cpu::kPanelRows; ++r) {
        const int64_t row = p * cpu::kPanelRows + r;
        if (row < out_features_) rows[r] = {&weights, row, exponent_shift_};
      }
      if (!cpu::pack_panel(format_, rows, in_features_, panels_.data() + p * panel_bytes_)) {
        good.store(false, std::memory_order_relaxed);
      }
    }
  };
  if (threads != nullptr) {
    threads->parallel_for(num_panels(), 4, pack_panels);
  } else {
    pack_panels(0, num_panels(), 0);
  }
  if (good.load(std::memory_order_relaxed)) return;
  cpu::check_block_scales(weights);
  throw_bad_input({.what = weights.scheme.is_ggml() ? "block with a factor that is no number"
                                                    : "NaN in an FP8 tensor",
                   .tensor = weights.name + ".weight",
                   .expected = "finite values and scales",
                   .hint = "download or export the checkpoint again"});
}

void PackedLinear::decode_row(int64_t n, float* out) const {
  const std::byte* panel = panels_.data() + n / cpu::kPanelRows * panel_bytes_;
  const float scale = row_scale_.empty() ? scale_ : row_scale_[n];
  for (int64_t k = 0; k < in_features_; ++k) {
    out[k] =
        cpu::panel_value(format_, panel, in_features_, static_cast<int>(n % cpu::kPanelRows), k) *
        scale;
  }
}

PackedLinear::InputKind PackedLinear::input_kind() const {
  InputKind kind{.format = row_format_, .k = in_features_};
  if (row_format_ == cpu::RowFormat::kFp4) kind.fp4_global = input_->scale.value;
  if (row_format_ == cpu::RowFormat::kFloat && input_) kind.owner = this;
  return kind;
}

void PackedLinear::make_row(const cpu::Kernels& kernels, const float* in, std::byte* row) const {
  switch (row_format_) {
    case cpu::RowFormat::kInt16:
      kernels.quantize_int16(in, in_features_, row);
      return;
    case cpu::RowFormat::kFp4:
      kernels.quantize_fp4(in, in_features_, input_->scale.value, row);
      return;
    case cpu::RowFormat::kFloat: {
      auto* out = reinterpret_cast<float*>(row);
      if (input_) {
        quantize_input(*input_, in, in_features_, out);
      } else {
        std::copy_n(in, in_features_, out);
      }
      std::fill(out + in_features_, out + cpu::padded_inputs(in_features_), 0.0f);
      return;
    }
  }
}

namespace {

void (*panel_kernel(const cpu::Kernels& kernels, cpu::PanelFormat weights,
                    cpu::RowFormat rows))(const cpu::PanelArgs&) {
  switch (weights) {
    case cpu::PanelFormat::kNvfp4:
      return rows == cpu::RowFormat::kInt16 ? kernels.nvfp4_int16
             : rows == cpu::RowFormat::kFp4 ? kernels.nvfp4_fp4
                                            : kernels.dense_nvfp4;
    case cpu::PanelFormat::kMxfp4:
      return rows == cpu::RowFormat::kInt16 ? kernels.mxfp4_int16 : kernels.dense_mxfp4;
    case cpu::PanelFormat::kBf16:
      return kernels.dense_bf16;
    case cpu::PanelFormat::kF16:
      return kernels.dense_f16;
    case cpu::PanelFormat::kF32:
      return kernels.dense_f32;
    case cpu::PanelFormat::kFp8:
      return kernels.dense_fp8;
    case cpu::PanelFormat::kFp8Groups:
      return kernels.dense_fp8_groups;
    case cpu::PanelFormat::kQ8_0:
      return kernels.dense_q8_0;
  }
  return nullptr;
}

}  // namespace

void PackedLinear::multiply_panel(const cpu::Kernels& kernels, int64_t panel,
                                  const std::byte* const* rows, int64_t num_tokens, float* y,
                                  int64_t y_stride, float* sums, std::byte* scratch) const {
  panel_kernel(kernels, format_, row_format_)({.panel = panels_.data() + panel * panel_bytes_,
                                               .in_features = in_features_,
                                               .rows = rows,
                                               .num_tokens = num_tokens,
                                               .sums = sums,
                                               .scratch = scratch});
  const int64_t first = panel * cpu::kPanelRows;
  const int64_t n = std::min<int64_t>(cpu::kPanelRows, out_features_ - first);
  float scale[cpu::kPanelRows], bias[cpu::kPanelRows] = {};
  for (int64_t r = 0; r < n; ++r) {
    scale[r] = sum_unit_ * (row_scale_.empty() ? scale_ : row_scale_[first + r]);
    if (!bias_.empty()) bias[r] = bias_[first + r];
  }
  for (int64_t t = 0; t < num_tokens; ++t) {
    const float* from = sums + t * cpu::kPanelRows;
    float* to = y + t * y_stride + first;
    for (int64_t r = 0; r < n; ++r) to[r] = from[r] * scale[r] + bias[r];
  }
}

}  // namespace moe4
