// Recognises storage formats by dtype and shape, and checks every scale.
#include "checkpoint/stored_linear.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "base/checked_math.h"
#include "base/error.h"
#include "checkpoint/mxfp4_linear.h"
#include "checkpoint/scale_checks.h"
#include "moe/dequantize.h"
#include "numerics/ggml_blocks.h"

namespace moe4 {
namespace {

[[noreturn]] void fail(const NamedView& tensor, const std::string& what,
                       const std::string& expected, const std::string& found,
                       const std::string& hint = "") {
  throw_bad_input({.what = what,
                   .file = tensor.file,
                   .tensor = "tensor " + tensor.name,
                   .expected = expected,
                   .found = found,
                   .hint = hint});
}

std::string type_and_shape(const TensorView& view) {
  return fmt::format("{} {}", to_string(view.dtype), shape_to_string(view.shape));
}

bool is_float(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16;
}

bool is_scalar(const TensorView& view) { return view.num_elements() == 1; }

int64_t rows_of(const StoredLinear& stored) { return stored.weight.view.shape[0]; }

// The scale tensor of an FP8 weight with its dimensions of size one dropped: ModelOpt writes block
// scales as [N/128, 1, K/128, 1].
std::vector<int64_t> squeezed_block_shape(const TensorView& view) {
  if (view.shape.size() == 4 && view.shape[1] == 1 && view.shape[3] == 1) {
    return {view.shape[0], view.shape[2]};
  }
  return view.shape;
}

float read_scalar(const NamedView& tensor) {
  const TensorView& view = tensor.view;
  if (!is_scalar(view) || !is_float(view.dtype)) {
    fail(tensor, "scale is not a scalar", "one F32, BF16 or F16 value", type_and_shape(view));
  }
  float value = 0.0f;
  convert_to_float(view.data, view.dtype, 1, &value);
  return value;
}

void check_scalar_header(const NamedView& tensor) {
  if (!is_scalar(tensor.view) || !is_float(tensor.view.dtype)) {
    fail(tensor, "scale is not a scalar", "one F32, BF16 or F16 value",
         type_and_shape(tensor.view));
  }
}

[[noreturn]] void fail_scale(const NamedView& tensor, float value) {
  fail(tensor, "unusable scale", "a positive finite number", fmt::format("{}", value),
       "the checkpoint was quantised or converted wrongly");
}

// A weight's second-level scale in decode direction. Zero is legal for a tensor that is all zeros.
DecodeScale weight_global_scale(const StoredLinear& stored) {
  if (stored.second_scale) {
    const float value = read_scalar(*stored.second_scale);
    if (value == 0.0f) {
      const auto* bytes = static_cast<const uint8_t*>(stored.weight.view.data);
      if (!all_codes_are_zero(bytes, stored.weight.view.num_bytes())) {
        fail_scale(*stored.second_scale, value);
      }
    } else if (!(value > 0.0f) || !std::isfinite(value)) {
      fail_scale(*stored.second_scale, value);
    }
    return DecodeScale{value};
  }
  const float value = read_scalar(*stored.global_scale);
  const DecodeScale decode = to_decode(EncodeScale{value});
  if (!(value > 0.0f) || !std::isfinite(value) || !std::isfinite(decode.value)) {
    fail_scale(*stored.global_scale, value);
  }
  return decode;
}

// The calibrated activation scale in decode direction. Zero or an infinite reciprocal means that
// calibration never saw the module: as good as absent.
std::optional<DecodeScale> input_scale(const StoredLinear& stored) {
  if (!stored.input_scale && !stored.input_global_scale) return std::nullopt;
  const NamedView& tensor = stored.input_scale ? *stored.input_scale : *stored.input_global_scale;
  const float value = read_scalar(tensor);
  if (!(value >= 0.0f)) fail_scale(tensor, value);
  const DecodeScale decode =
      stored.input_scale ? DecodeScale{value} : to_decode(EncodeScale{value});
  if (value == 0.0f || decode.value == 0.0f || !std::isfinite(decode.value)) {
    if (stored.input_scale && !std::isfinite(value)) fail_scale(tensor, value);
    return std::nullopt;
  }
  return decode;
}

void check_block_scales(const NamedView& scale) {
  const auto* bytes = static_cast<const uint8_t*>(scale.view.data);
  const int64_t at = find_bad_block_scale(bytes, scale.view.num_bytes());
  if (at < 0) return;
  const int64_t columns = scale.view.shape[1];
  const bool nan = (bytes[at] & 0x7f) == 0x7f;
  fail(scale, nan ? "block scale is NaN" : "block scale is negative", "E4M3 values from 0 to 448",
       fmt::format("byte {:#04x} at [{}, {}]", bytes[at], at / columns, at % columns),
       "the checkpoint was quantised wrongly");
}

void check_float_scales(const NamedView& scale) {
  for (int64_t i = 0; i < scale.view.num_elements(); ++i) {
    float value = 0.0f;
    const auto* at = static_cast<const std::byte*>(scale.view.data) + i * size_of(scale.view.dtype);
    convert_to_float(at, scale.view.dtype, 1, &value);
    if (!(value >= 0.0f) || !std::isfinite(value)) fail_scale(scale, value);
  }
}

LinearWeights interpret_nvfp4(const StoredLinear& stored,
                              const std::optional<DeclaredQuant>& declared, bool headers_only) {
  LinearWeights linear;
  linear.out_features = rows_of(stored);
  const auto in_features = checked_mul(stored.weight.view.shape[1], 2);
  if (!in_features || *in_features % 16 != 0) {
    fail(stored.weight, "packed NVFP4 rows are not whole blocks of 16",
         "a multiple of 8 bytes a row", type_and_shape(stored.weight.view));
  }
  linear.in_features = *in_features;
  const std::vector<int64_t> expected = {linear.out_features, linear.in_features / 16};
  if (!stored.scale) {
    fail(stored.weight, "packed NVFP4 weight has no block scales", stored.module + ".weight_scale",
         "nothing");
  }
  const TensorView& scale = stored.scale->view;
  if (scale.dtype == DType::kF8E4M3 && scale.shape != expected && scale.shape.size() == 2 &&
      scale.shape[0] == linear.out_features && scale.shape[1] > 0 &&
      linear.in_features % scale.shape[1] == 0) {
    fail(*stored.scale,
         fmt::format("NVFP4 in groups of {} is not supported", linear.in_features / scale.shape[1]),
         "groups of 16: F8_E4M3 " + shape_to_string(expected), type_and_shape(scale),
         "use a quantisation with group_size 16");
  }
  if (scale.dtype != DType::kF8E4M3 || scale.shape != expected) {
    fail(*stored.scale, "block scales do not fit the weight",
         "F8_E4M3 " + shape_to_string(expected), type_and_shape(stored.scale->view));
  }
  if (stored.second_scale && stored.global_scale) {
    fail(*stored.global_scale, "weight has two global scales",
         "either weight_scale_2 or weight_global_scale", "both");
  }
  if (!stored.second_scale && !stored.global_scale) {
    fail(stored.weight, "packed NVFP4 weight has no global scale",
         stored.module + (stored.is_packed_name ? ".weight_global_scale" : ".weight_scale_2"),
         "nothing");
  }
  check_scalar_header(stored.second_scale ? *stored.second_scale : *stored.global_scale);
  linear.scheme = kW4A16;
  if (declared && declared->unsupported.empty() && declared->scheme.is_nvfp4()) {
    linear.scheme.activation = declared->scheme.activation;
  }
  if (!headers_only) {
    check_block_scales(*stored.scale);
    linear.global_scale = weight_global_scale(stored);
    if (linear.scheme.activation) linear.input_scale = input_scale(stored);
  }
  linear.scale = stored.scale->view;
  return linear;
}

LinearWeights interpret_ggml(const StoredLinear& stored, QuantFormat format, bool headers_only) {
  const GgmlType& type = *ggml_type_of(format);
  const TensorView& blocks = stored.weight.view;
  LinearWeights linear;
  linear.out_features = rows_of(stored);
  linear.in_features = blocks.shape[1] / type.block_bytes * type.block_elements;
  linear.scheme = {{format, false}, std::nullopt};
  for (int64_t r = 0; !headers_only && r < linear.out_features; ++r) {
    const int64_t at = find_bad_ggml_factor(type.id, blocks.row(r), linear.in_features);
    if (at < 0) continue;
    fail(stored.weight, fmt::format("{} block with a factor that is no number", type.name),
         "finite factors", fmt::format("NaN or infinity in block {} of row {}", at, r),
         "the file was quantised or converted wrongly");
  }
  return linear;
}

LinearWeights interpret_fp8(const StoredLinear& stored, QuantFormat format,
                            const std::optional<DeclaredQuant>& declared,
                            const InterpretOptions& options) {
  LinearWeights linear;
  linear.out_features = rows_of(stored);
  linear.in_features = stored.weight.view.shape[1];
  linear.scheme = {{format, false}, std::nullopt};
  if (declared && declared->unsupported.empty() && declared->scheme.is_fp8()) {
    linear.scheme.activation = declared->scheme.activation;
  }
  if (format == QuantFormat::kFp8Block128) {
    if (options.fp8_block_rows != 128 || options.fp8_block_columns != 128) {
      fail(*stored.scale, "FP8 blocks of this size are not supported",
           "weight_block_size [128, 128]",
           fmt::format("[{}, {}]", options.fp8_block_rows, options.fp8_block_columns));
    }
  }
  if (format == QuantFormat::kFp8Tensor) {
    if (!options.headers_only) {
      linear.global_scale.value = read_scalar(*stored.scale);
      const float value = linear.global_scale.value;
      if (!(value >= 0.0f) || !std::isfinite(value)) fail_scale(*stored.scale, value);
    }
  } else {
    if (!options.headers_only) check_float_scales(*stored.scale);
    linear.scale = stored.scale->view;
    linear.scale.shape = format == QuantFormat::kFp8Channel
                             ? std::vector<int64_t>{linear.out_features, 1}
                             : squeezed_block_shape(stored.scale->view);
  }
  const bool is_static = linear.scheme.activation && !linear.scheme.activation->dynamic;
  if (is_static) {
    if (!options.headers_only) linear.input_scale = input_scale(stored);
    // Nothing to quantise activations with: they stay BF16.
    const bool absent = options.headers_only ? !stored.input_scale && !stored.input_global_scale
                                             : !linear.input_scale;
    if (absent) linear.scheme.activation.reset();
  }
  return linear;
}

}  // namespace

void append_tensor_names(const StoredLinear& stored, std::vector<std::string>& names) {
  names.push_back(stored.weight.name);
  for (const std::optional<NamedView>* tensor :
       {&stored.scale, &stored.second_scale, &stored.global_scale, &stored.input_scale,
        &stored.input_global_scale, &stored.bias}) {
    if (*tensor) names.push_back((*tensor)->name);
  }
}

NamedView NamedView::part(int64_t element, std::vector<int64_t> shape) const {
  NamedView out = *this;
  out.view.shape = std::move(shape);
  out.view.row_stride = 0;
  out.first += element;
  if (view.data != nullptr) {
    out.view.data = static_cast<const std::byte*>(view.data) + element * size_of(view.dtype);
  }
  return out;
}

void make_tensor(NamedView& tensor, std::vector<std::shared_ptr<const AlignedBuffer>>& memory) {
  if (tensor.maker == nullptr) return;
  auto buffer = std::make_shared<AlignedBuffer>(static_cast<size_t>(tensor.view.num_bytes()));
  tensor.maker->make(tensor.first, tensor.view.num_elements(), buffer->data());
  tensor.view.data = buffer->data();
  tensor.maker = nullptr;
  memory.push_back(std::move(buffer));
}

void make_tensors(StoredLinear& stored, std::vector<std::shared_ptr<const AlignedBuffer>>& memory) {
  make_tensor(stored.weight, memory);
  for (std::optional<NamedView>* tensor :
       {&stored.scale, &stored.second_scale, &stored.global_scale, &stored.input_scale,
        &stored.input_global_scale, &stored.bias}) {
    if (*tensor) make_tensor(**tensor, memory);
  }
}

QuantFormat format_of(const StoredLinear& stored) {
  const NamedView& weight = stored.weight;
  if (weight.view.shape.size() != 2) {
    fail(weight, "weight is not a matrix", "2 dimensions", type_and_shape(weight.view));
  }
  const int64_t rows = weight.view.shape[0];
  const int64_t columns = weight.view.shape[1];
  if (rows == 0 || columns == 0) {
    fail(weight, "weight is empty", "a matrix", type_and_shape(weight.view));
  }
  if (stored.block_format) return *stored.block_format;
  switch (weight.view.dtype) {
    case DType::kF32:
    case DType::kBF16:
    case DType::kF16:
      if (stored.scale) {
        fail(*stored.scale, "unquantised weight has a scale", "no scale beside " + weight.name,
             type_and_shape(stored.scale->view));
      }
      return QuantFormat::kFloat;
    case DType::kU8: {
      if (!stored.scale) {
        fail(weight, "packed weight has no scales", stored.module + ".weight_scale", "nothing",
             "the quantisation of this checkpoint is not known");
      }
      const TensorView& scale = stored.scale->view;
      // MXFP4 has one scale for 32 codes, in U8 too; one for 16 is NVFP4's.
      if (scale.dtype == DType::kU8 && scale.shape == std::vector<int64_t>{rows, columns / 8}) {
        fail(*stored.scale, "block scales are stored as U8",
             "F8_E4M3 " + shape_to_string(scale.shape), type_and_shape(scale),
             "E4M3 bytes under another type: correct the type in the file's header");
      }
      if (is_e8m0(scale.dtype)) return QuantFormat::kMxfp4;
      return QuantFormat::kNvfp4;
    }
    case DType::kI8:
      if (stored.scale && is_mxfp4(DType::kI8, stored.scale->view.dtype))
        return QuantFormat::kMxfp4;
      fail(weight, "8-bit integer weights are not supported",
           "BF16, F16, F32, F8_E4M3, U8 (packed NVFP4 or MXFP4), or I8 (packed MXFP4) with F8_E8M0 "
           "scales",
           type_and_shape(weight.view));
    case DType::kF8E4M3: {
      if (!stored.scale) {
        fail(weight, "FP8 weight has no scale", stored.module + ".weight_scale", "nothing");
      }
      const TensorView& scale = stored.scale->view;
      const std::vector<int64_t> blocks = {ceil_div(rows, 128), ceil_div(columns, 128)};
      const std::vector<int64_t> shape = squeezed_block_shape(scale);
      if (scale.dtype == DType::kU8 || scale.dtype == DType::kF8E8M0) {
        fail(*stored.scale,
             shape == blocks ? "FP8 blocks with power-of-two scales are not supported"
                             : "MXFP8 weights are not supported",
             "an F32 or BF16 scale", type_and_shape(scale));
      }
      if (scale.dtype != DType::kF32 && scale.dtype != DType::kBF16) {
        fail(*stored.scale, "FP8 scale has a type that is not supported", "F32 or BF16",
             type_and_shape(scale));
      }
      if (scale.shape.empty() || scale.shape == std::vector<int64_t>{1}) {
        return QuantFormat::kFp8Tensor;
      }
      if (scale.shape == std::vector<int64_t>{rows, 1} || scale.shape == std::vector{rows}) {
        return QuantFormat::kFp8Channel;
      }
      if (shape == blocks) return QuantFormat::kFp8Block128;
      if (is_scalar(scale)) return QuantFormat::kFp8Tensor;
      fail(*stored.scale, "FP8 scale does not fit the weight",
           fmt::format("a scalar, [{}, 1] or {}", rows, shape_to_string(blocks)),
           type_and_shape(scale));
    }
    default:
      fail(weight, "weights of this type are not supported",
           "BF16, F16, F32, F8_E4M3, or U8 (packed NVFP4 or MXFP4)", type_and_shape(weight.view));
  }
}

LinearWeights interpret(const StoredLinear& stored, const std::optional<DeclaredQuant>& declared,
                        const InterpretOptions& options) {
  const QuantFormat format = format_of(stored);
  LinearWeights linear;
  if (format == QuantFormat::kNvfp4) {
    linear = interpret_nvfp4(stored, declared, options.headers_only);
  } else if (format == QuantFormat::kMxfp4) {
    linear = interpret_mxfp4(stored, declared, options.headers_only);
  } else if (ggml_type_of(format) != nullptr) {
    linear = interpret_ggml(stored, format, options.headers_only);
  } else if (format == QuantFormat::kFloat) {
    linear.out_features = stored.weight.view.shape[0];
    linear.in_features = stored.weight.view.shape[1];
  } else {
    linear = interpret_fp8(stored, format, declared, options);
  }
  linear.name = stored.module;
  linear.weight = stored.weight.view;
  if (format == QuantFormat::kMxfp4) linear.weight.dtype = DType::kU8;  // I8 in DeepSeek-V4
  if (stored.bias) {
    if (!is_float(stored.bias->view.dtype) ||
        stored.bias->view.shape != std::vector<int64_t>{linear.out_features}) {
      fail(*stored.bias, "bias does not fit the weight",
           fmt::format("BF16, F16 or F32 [{}]", linear.out_features),
           type_and_shape(stored.bias->view));
    }
    linear.bias = stored.bias->view;
  }
  return linear;
}

}  // namespace moe4
