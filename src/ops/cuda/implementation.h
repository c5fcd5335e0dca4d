// What implementations for NVIDIA GPUs have in common.
#pragma once

#include <memory>

#include "ops/op.h"

namespace moe4 {

/// Packs an op for options.device and copies it there. Specialised in ops/<op>/cuda of programs
/// built with CUDA; without, ops/cuda/no_cuda.cc throws Error(kUnavailable).
template <class Op>
std::unique_ptr<Prepared<Op>> prepare_on_cuda(const typename Op::Problem& problem,
                                              const typename Op::Weights& weights,
                                              const OpOptions& options);

/// Kernels of ops/<op>/cuda, for every GPU from SM80 on. supports() is the same in all builds:
/// ops/<op>/cuda/supports.cc.
template <class Op>
class CudaImplementation final : public Implementation<Op> {
 public:
  using Accepts = Support (*)(const typename Op::Problem&);

  constexpr explicit CudaImplementation(Accepts accepts = nullptr) : accepts_(accepts) {}
  std::string_view name() const override { return "cuda"; }
  Support supports(const typename Op::Problem& problem, const Device& device) const override {
    if (device.is_cpu()) return Rejection{Rejection::Kind::kDevice, "it needs an NVIDIA GPU"};
    if (device.sm < 80) return Rejection{Rejection::Kind::kDevice, "it needs sm_80 or later"};
    return accepts_ != nullptr ? accepts_(problem) : std::nullopt;
  }
  std::unique_ptr<Prepared<Op>> prepare(const typename Op::Problem& problem,
                                        const typename Op::Weights& weights,
                                        const OpOptions& options) const override {
    return prepare_on_cuda<Op>(problem, weights, options);
  }

 private:
  Accepts accepts_;
};

}  // namespace moe4
