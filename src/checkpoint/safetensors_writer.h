// Writes safetensors files, so that no half-written one is ever seen.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/output_file.h"
#include "base/tensor_view.h"
#include "checkpoint/safetensors.h"

namespace moe4 {

/// A tensor to come: its data is given to SafetensorsWriter::write later.
struct TensorSpec {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
};

/// For files larger than memory: all names and shapes first, then the data in any order and in
/// pieces.
///
///     SafetensorsWriter writer("out.safetensors", {{"x", DType::kF32, {2, 2}}});
///     writer.write("x", values.data(), 16);
///     writer.finish();
class SafetensorsWriter {
 public:
  /// Opens `path` as OutputFile does, with its errors. Throws Error(kUsage) for two tensors of one
  /// name. What was written goes away unless finish() is called.
  SafetensorsWriter(std::filesystem::path path, std::vector<TensorSpec> tensors,
                    const std::map<std::string, std::string>& metadata = {});
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  /// Appends `bytes` to the data of tensor `name`. Several threads may write different tensors at
  /// once.
  void write(std::string_view name, const void* data, int64_t bytes);
  /// Every tensor must be complete.
  void finish();

 private:
  [[noreturn]] void fail(const std::string& what) const;

  std::filesystem::path path_;
  std::unique_ptr<OutputFile> file_;  // null once finished
  int64_t data_begin_ = 0;
  std::vector<TensorInfo> tensors_;  // sorted by name
  std::vector<int64_t> written_;     // bytes, of each
};

/// A tensor in memory; the name and dense data to write.
struct NamedTensor {
  std::string name;
  TensorView view;
};

/// Writes a whole file at once.
void write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace moe4
