// What a table of tensors needs of a file, whatever its format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/tensor_view.h"
#include "moe/quant.h"

namespace moe4 {

/// One tensor of a file. In safetensors checked: begin <= end, both inside the file's data, and the
/// size is what dtype and shape say.
struct TensorInfo {
  std::string name;
  std::string dtype_name;      ///< as spelled in the file
  std::optional<DType> dtype;  ///< nullopt: a type moe4 does not know (an error only when used)
  std::vector<int64_t> shape;
  int64_t begin = 0;  ///< bytes after the header
  int64_t end = 0;
};

/// The elements of a tensor whose file has them in another form. Thread-safe.
class TensorMaker {
 public:
  virtual ~TensorMaker() = default;
  /// Writes elements [first, first + count), row-major: whole rows, unless there is one row or
  /// none.
  virtual void make(int64_t first, int64_t count, std::byte* to) const = 0;
};

/// A matrix in ggml's blocks: U8 [rows, bytes of a row's blocks].
struct BlockRows {
  QuantFormat format = QuantFormat::kQ8_0;
  TensorView view;
  const TensorMaker* maker = nullptr;  ///< where the view has no data; null: headers_only
};

class WeightFile {
 public:
  virtual ~WeightFile() = default;
  /// In the order of their names.
  virtual const std::vector<TensorInfo>& tensors() const = 0;
  /// One of tensors(). Without data where it has to be made. Throws Error(kBadInput) when the type
  /// is unknown.
  virtual TensorView view(const TensorInfo& info) const = 0;
  /// Null: view() has the data, or nobody has (headers_only).
  virtual const TensorMaker* maker(const TensorInfo&) const { return nullptr; }
  /// The same numbers as view() or maker() give, in the precision that the file has them in;
  /// nullopt where that is theirs.
  virtual std::optional<BlockRows> block_rows(const TensorInfo&) const { return std::nullopt; }
  /// The file that it lies in.
  virtual const std::filesystem::path& path_of(const TensorInfo& info) const = 0;
  /// Throws Error(kBadInput) when a file is no longer what was opened.
  virtual void check_unchanged() const = 0;
};

}  // namespace moe4
