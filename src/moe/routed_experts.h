// Experts as layers of a model call them.
#pragma once

#include <memory>

#include "moe/experts.h"

namespace moe4 {

/// Pointers of ExpertsArgs are memory of the layer's device, whose stream is ExpertsArgs::stream;
/// where the experts themselves are is their own affair.
class RoutedExperts {
 public:
  virtual ~RoutedExperts() = default;
  /// Allocates what run() needs beyond the workspace for up to `max_tokens` tokens.
  virtual void reserve(int64_t /*max_tokens*/) {}
  /// Bytes of the layer's device that run() needs for up to `max_tokens` tokens.
  virtual size_t workspace_size(int64_t max_tokens) const = 0;
  /// As PreparedExperts::apply(). One run() at a time.
  virtual void run(const ExpertsArgs& args) = 0;
  virtual bool accepts_float32() const = 0;
  virtual BatchInvariance batch_invariant() const = 0;
  virtual int64_t weight_bytes() const = 0;
};

/// Experts on the device of their layer.
std::unique_ptr<RoutedExperts> routed_experts(std::unique_ptr<PreparedExperts> experts);

}  // namespace moe4
