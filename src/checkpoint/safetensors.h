// One .safetensors file: its validated header, and read-only views of its tensors.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/mapped_file.h"
#include "base/tensor_view.h"
#include "checkpoint/weight_file.h"

namespace moe4 {

/// The tensors of a header in the order of their names, and the strings of `__metadata__`.
struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;
  std::map<std::string, std::string> metadata;
  int64_t data_bytes = 0;  ///< end of the last tensor
};

/// Headers above this are refused, as by the reference implementation.
inline constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;

/// Parses the JSON of a header (without the 8 length bytes) and checks everything that can be
/// checked without the data: unique names, shapes, sizes in 64-bit checked arithmetic, and offsets
/// that cover the data from 0 on without gap or overlap. Throws Error(kBadInput) naming `file`.
SafetensorsHeader parse_safetensors_header(std::string_view json, const std::string& file);

/// A mapped file. Views stay valid while the object lives. What happens when another process
/// changes the file meanwhile: see MappedFile.
class SafetensorsFile final : public WeightFile {
 public:
  /// Throws Error(kBadInput) with one line naming the file. `headers_only`: the file may end
  /// anywhere after its header, and views carry no data.
  static std::unique_ptr<SafetensorsFile> open(const std::filesystem::path& path,
                                               bool headers_only = false);
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  /// Sorted by name.
  const std::vector<TensorInfo>& tensors() const override { return header_.tensors; }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  /// Null when absent.
  const TensorInfo* find(std::string_view name) const;
  /// The data may lie at any byte address: use memcpy or byte-wise loads. Throws Error(kBadInput)
  /// when absent or of an unknown type.
  TensorView tensor(std::string_view name) const;
  TensorView view(const TensorInfo& info) const override;
  const std::filesystem::path& path_of(const TensorInfo&) const override { return path_; }
  /// Throws Error(kBadInput) when the file is no longer what was opened.
  void check_unchanged() const override;

 private:
  SafetensorsFile() = default;

  std::filesystem::path path_;
  SafetensorsHeader header_;
  std::unique_ptr<MappedFile> mapping_;  // null in headers_only mode
  const std::byte* data_ = nullptr;      // first byte after the header
};

}  // namespace moe4
