// Experts as layers on the CPU call them: host pointers, and done when the call returns.
#pragma once

#include <memory>

#include "moe/experts.h"

namespace moe4 {

/// Unlike PreparedExperts it may allocate in run() (device buffers that grow with the largest batch
/// seen) and it waits for the device. One run() at a time.
class HostExperts {
 public:
  virtual ~HostExperts() = default;
  /// Bytes of host workspace that run() needs for up to `max_tokens` tokens; 0 is possible.
  virtual size_t workspace_size(int64_t max_tokens) const = 0;
  /// As PreparedExperts::apply(), but every pointer is host memory and `stream` is not used. The
  /// output is complete on return. Throws Error(kUnavailable) when device memory is short.
  virtual void run(const ExpertsArgs& args) = 0;
  virtual bool accepts_float32() const = 0;
  virtual BatchInvariance batch_invariant() const = 0;
  virtual int64_t weight_bytes() const = 0;
};

/// A layer of a CPU backend, which takes host memory as it is.
std::unique_ptr<HostExperts> host_experts(std::unique_ptr<PreparedExperts> layer);

}  // namespace moe4
