// Golden files for tests: tensors of a safetensors file as vectors.
#pragma once

#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "moe/dequantize.h"
#include "support/relative_error.h"

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

}  // namespace moe4::testing
