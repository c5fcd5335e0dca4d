// Small tensors as vectors.
#include "ops/tensor_ref.h"

#include "base/error.h"
#include "moe/dequantize.h"

namespace moe4 {

std::vector<float> float_vector(const TensorRef& tensor, int64_t n) {
  if (tensor.view.num_elements() != n) {
    throw_bad_input({.what = "wrong shape",
                     .tensor = tensor.name,
                     .expected = std::to_string(n) + " elements",
                     .found = shape_to_string(tensor.view.shape)});
  }
  std::vector<float> values(n);
  convert_to_float(tensor.view.data, tensor.view.dtype, n, values.data());
  return values;
}

}  // namespace moe4
