// marlin's schedule for one packed layer: which kernels run for a number of tokens.
#pragma once

#include <cstdint>
#include <optional>

#include "moe/experts.h"
#include "ops/experts/gpu/packed_layer.h"
#include "ops/experts/marlin/marlin_params.h"

namespace moe4::cuda {

/// The two ways to do FC2; both give the same bits.
enum class Fc2Structure {
  kRows,     ///< row-stationary, sum over slots inside: few pairs
  kExperts,  ///< expert-wise with float32 y in the workspace and a combine kernel
};

/// Does not own the weights, so that a backend with another path for large batches shares them.
/// The device of the layer must be current in every call.
class MarlinLayer {
 public:
  /// Throws Error(kUsage) for a value of "marlin.fc2" that it does not know. A forced structure
  /// takes one token through the kernels of larger batches too.
  explicit MarlinLayer(const PackedLayer& layer, const Tuning& tuning = {});

  size_t workspace_size(int64_t max_tokens) const;
  void apply(const ExpertsArgs& args) const;

  Fc2Structure structure(int64_t num_tokens) const;

 private:
  struct Workspace;
  Workspace take_workspace(Arena& arena, int64_t num_tokens) const;
  int64_t chunk_tokens() const;
  size_t row_shared_bytes(int64_t num_pairs) const;
  void apply_chunk(const ExpertsArgs& args, int64_t begin, int64_t num_tokens) const;

  /// What does not depend on the batch. The K splits are fixed by the shape, so that sums have one
  /// order.
  MarlinParams base_params() const;

  const PackedLayer& layer_;
  SumOrder order_;
  int sm_count_;
  // Whether the row-stationary FC2 exists for this shape, and is worth it.
  bool can_rows_, rows_fill_device_;
  size_t max_row_shared_bytes_;
  bool dependent_launch_;                         // SM90 and later: programmatic dependent launch
  bool bulk_copies_;                              // weights through shared memory
  bool one_token_tiles_;                          // one_token_tiles.cu takes single tokens
  std::optional<Fc2Structure> forced_structure_;  // "marlin.fc2"
};

/// Throws Error(kUsage) for dtypes, workspace or alignment that a BF16 GPU backend does not take.
void check_device_args(const ExpertsArgs& args, size_t workspace_size, const char* backend);

}  // namespace moe4::cuda
