// From the tensors of one linear, as stored in whatever dialect, to LinearWeights.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/tensor_view.h"
#include "checkpoint/quant_config.h"
#include "checkpoint/weight_file.h"
#include "moe/weights.h"

namespace moe4 {

/// A tensor (or a slice of one) with the name and file that messages need.
struct NamedView {
  std::string name;
  std::string file;
  TensorView view;
  const TensorMaker* maker = nullptr;  ///< of the whole tensor, where `view` has no data
  int64_t first = 0;                   ///< element of it that the view begins with

  /// Elements from `element` of this view on, in another shape.
  NamedView part(int64_t element, std::vector<int64_t> shape) const;
};

/// The tensors of one linear before they are understood. `weight` is always there.
struct StoredLinear {
  std::string module;
  NamedView weight;
  /// `weight` is U8 [N, bytes of a row] in ggml's blocks of this format.
  std::optional<QuantFormat> block_format;
  bool is_packed_name = false;  ///< weight_packed, compressed-tensors' spelling
  bool is_transposed = false;   ///< see transposed_linear.h; interpret() takes none
  /// is_transposed: every so many of the file's columns, which are outputs.
  int64_t column_step = 1;
  std::optional<NamedView> scale;               ///< weight_scale, weight_scale_inv or scale
  std::optional<NamedView> second_scale;        ///< weight_scale_2: DecodeScale
  std::optional<NamedView> global_scale;        ///< weight_global_scale: EncodeScale
  std::optional<NamedView> input_scale;         ///< input_scale: DecodeScale
  std::optional<NamedView> input_global_scale;  ///< input_global_scale: EncodeScale
  std::optional<NamedView> bias;
};

/// Appends the names of all tensors of `stored`.
void append_tensor_names(const StoredLinear& stored, std::vector<std::string>& names);

/// Makes the tensors that have to be made, in memory that is added to `memory`.
void make_tensors(StoredLinear& stored, std::vector<std::shared_ptr<const AlignedBuffer>>& memory);
/// The same of one tensor.
void make_tensor(NamedView& tensor, std::vector<std::shared_ptr<const AlignedBuffer>>& memory);

/// The format that dtype and shapes of the tensors show, whatever metadata says. Throws
/// Error(kBadInput) naming the tensor when they show none that moe4 knows.
QuantFormat format_of(const StoredLinear& stored);

struct InterpretOptions {
  bool headers_only = false;
  int64_t fp8_block_rows = 128;
  int64_t fp8_block_columns = 128;
};

/// Checks dtypes, shapes and scales against each other and builds the canonical form. The weight
/// format comes from the tensors; the metadata (`declared`) decides only whether activations are
/// quantised. Throws Error(kBadInput) naming the tensor.
LinearWeights interpret(const StoredLinear& stored, const std::optional<DeclaredQuant>& declared,
                        const InterpretOptions& options);

}  // namespace moe4
