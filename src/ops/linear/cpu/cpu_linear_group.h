// The CPU's LinearGroup.
#pragma once

#include <vector>

#include "ops/linear/cpu/packed_linear.h"
#include "panels/work_ranges.h"

namespace moe4 {

class CpuLinearGroup final : public Prepared<LinearGroup> {
 public:
  CpuLinearGroup(const LinearGroup::Problem& problem, const LinearGroup::Weights& weights,
                 const OpOptions& options);

  size_t workspace_size(const LinearGroup::Args& bound) const override;
  void run(const LinearGroup::Args& args, std::span<std::byte> workspace,
           const Stream& stream) const override;
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override;

  /// Member `i`, for tables that share its weights (Embed).
  const PackedLinear& member(size_t i) const { return linears_.at(i); }

 private:
  struct Buffers;

  Buffers take_buffers(Arena& arena, const LinearGroup::Args& args) const;
  bool takes_rows_as_they_are(const PackedLinear& linear, const Rows& x) const;
  void make_rows(const PackedLinear& linear, const Rows& x, std::byte* memory,
                 const std::byte** rows, const Stream& stream) const;
  void run_item(const LinearGroup::Args& args, const Buffers& buffers, int64_t item,
                int thread) const;

  const cpu::Kernels& kernels_;
  int64_t threads_;
  std::vector<PackedLinear> linears_;
  std::vector<size_t> rows_of_;  // [members]: the first member whose rows this one can share
};

}  // namespace moe4
