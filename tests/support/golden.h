// Golden files for tests: tensors of a safetensors file as vectors, and how far two are apart.
#pragma once

#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "moe/dequantize.h"

namespace moe4::testing {

class Golden {
 public:
  explicit Golden(const std::filesystem::path& path) : file_(SafetensorsFile::open(path)) {}

  bool has(const std::string& name) const { return file_->find(name) != nullptr; }
  std::vector<float> floats(const std::string& name) const {
    const TensorView view = file_->tensor(name);
    std::vector<float> values(view.num_elements());
    convert_to_float(view.data, view.dtype, view.num_elements(), values.data());
    return values;
  }
  std::vector<int32_t> ints(const std::string& name) const {
    const TensorView view = file_->tensor(name);
    std::vector<int32_t> values(view.num_elements());
    std::memcpy(values.data(), view.data, view.num_bytes());
    return values;
  }

 private:
  std::unique_ptr<SafetensorsFile> file_;
};

/// Relative Frobenius error ||a - b|| / ||b||; infinity when the sizes differ or a value is NaN.
inline double relative_error(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return INFINITY;
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    norm += double{b[i]} * b[i];
  }
  if (difference == 0) return 0;
  const double error = std::sqrt(difference / norm);
  return std::isnan(error) ? INFINITY : error;
}

}  // namespace moe4::testing
