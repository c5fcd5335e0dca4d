// What implementations for the CPU have in common.
#pragma once

#include <memory>

#include "base/dtype.h"
#include "ops/op.h"

namespace moe4 {

/// Prepares a `PreparedOp(problem, weights, options)` where the device is the CPU and `accepts`,
/// when there is one, has nothing against the problem.
template <class Op, class PreparedOp>
class CpuImplementation final : public Implementation<Op> {
 public:
  using Accepts = Support (*)(const typename Op::Problem&);

  constexpr explicit CpuImplementation(std::string_view name, Accepts accepts = nullptr)
      : name_(name), accepts_(accepts) {}
  std::string_view name() const override { return name_; }
  Support supports(const typename Op::Problem& problem, const Device& device) const override {
    if (!device.is_cpu()) return Rejection{Rejection::Kind::kDevice, "it runs on the CPU only"};
    return accepts_ != nullptr ? accepts_(problem) : std::nullopt;
  }
  std::unique_ptr<Prepared<Op>> prepare(const typename Op::Problem& problem,
                                        const typename Op::Weights& weights,
                                        const OpOptions& options) const override {
    return std::make_unique<PreparedOp>(problem, weights, options);
  }

 private:
  std::string_view name_;
  Accepts accepts_;
};

/// For references: the judge of the others in tests, too slow to be anybody's choice.
template <class Problem>
Support only_for_tests(const Problem&) {
  return Rejection{Rejection::Kind::kNotSelected, "it is the float64 judge of the others"};
}

/// Problems whose widths are whole vectors of the CPU's kernels.
inline Support require_multiple_of_16(const char* what, int64_t value) {
  if (value > 0 && value % 16 == 0) return std::nullopt;
  return Rejection{Rejection::Kind::kShape,
                   std::string(what) + " " + std::to_string(value) + " is not a multiple of 16"};
}

/// Caches that the CPU reads: their elements are the numbers.
inline Support require_plain_cache(DType dtype) {
  if (dtype == DType::kF16 || dtype == DType::kF32) return std::nullopt;
  return Rejection{Rejection::Kind::kPrecision,
                   "its caches are F16 or F32, not " + std::string(to_string(dtype))};
}

}  // namespace moe4
