// GatedRows, AddScaled and SoftCap on NVIDIA GPUs: what they take.
#include "ops/cuda/implementation.h"
#include "ops/gated_rows/gated_rows.h"

namespace moe4 {

const Implementation<GatedRows>& cuda_gated_rows() {
  static const CudaImplementation<GatedRows> implementation;
  return implementation;
}

const Implementation<AddScaled>& cuda_add_scaled() {
  static const CudaImplementation<AddScaled> implementation;
  return implementation;
}

const Implementation<SoftCap>& cuda_soft_cap() {
  static const CudaImplementation<SoftCap> implementation;
  return implementation;
}

}  // namespace moe4
