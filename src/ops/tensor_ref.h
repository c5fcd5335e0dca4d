// A tensor of a checkpoint with its name, for messages.
#pragma once

#include <string>
#include <vector>

#include "base/tensor_view.h"

namespace moe4 {

/// A view; nothing is owned.
struct TensorRef {
  std::string name;
  TensorView view;
};

/// A small float tensor as a vector; throws Error(kBadInput) naming it unless it has n elements.
std::vector<float> float_vector(const TensorRef& tensor, int64_t n);

}  // namespace moe4
