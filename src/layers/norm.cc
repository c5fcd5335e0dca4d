// RMS normalisation and the residual addition before it.
#include "layers/norm.h"

#include "base/error.h"
#include "moe/dequantize.h"

namespace moe4 {

std::vector<float> float_vector(const TensorView& tensor, const std::string& name, int64_t n) {
  if (tensor.num_elements() != n) {
    throw_bad_input({.what = "wrong shape",
                     .tensor = name,
                     .expected = std::to_string(n) + " elements",
                     .found = shape_to_string(tensor.shape)});
  }
  std::vector<float> values(n);
  convert_to_float(tensor.data, tensor.dtype, n, values.data());
  return values;
}

RmsNorm::RmsNorm(const TensorView& weight, const std::string& name, int64_t n, float eps,
                 bool one_plus)
    : weight_(float_vector(weight, name, n)), eps_(eps) {
  if (n % 16 != 0) {
    throw_bad_input({.what = "unsupported width of a norm",
                     .tensor = name,
                     .expected = "a multiple of 16",
                     .found = std::to_string(n)});
  }
  if (one_plus) {
    for (float& w : weight_) w += 1.0f;
  }
}

void add_and_normalize(LayerContext& context, const RmsNorm& norm, const float* delta,
                       int64_t num_tokens, float* residual, const Activations& x) {
  const int64_t width = norm.size();
  const int64_t grain = parallel_grain(num_tokens, 3 * width * int64_t{sizeof(float)});
  context.threads.parallel_for(num_tokens, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      float* row = residual + t * width;
      if (delta != nullptr) context.kernels.axpy(1.0f, delta + t * width, width, row);
      norm.apply(context.kernels, row, x.row(t));
    }
  });
}

}  // namespace moe4
