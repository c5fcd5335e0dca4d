// The list of built-in backends, in priority order: the same order serves every device class, since
// supports() drops what the device cannot do (SM12x: b12x, marlin; SM90: hopper, marlin; other
// GPUs: marlin; CPU: cpu, reference).
#include "ops/experts/registry.h"

#include "moe/selector.h"
#include "ops/experts/b12x/b12x_backend.h"
#include "ops/experts/cpu/cpu_backend.h"
#include "ops/experts/hopper/hopper_backend.h"
#include "ops/experts/marlin/marlin_backend.h"
#include "ops/experts/reference/reference_backend.h"

namespace moe4 {

void register_builtin_backends() {
  static const B12xBackend b12x;
  static const HopperBackend hopper;
  static const MarlinBackend marlin;
  static const CpuBackend cpu;
  static const ReferenceBackend reference;
  set_registered_backends({&b12x, &hopper, &marlin, &cpu, &reference});
}

}  // namespace moe4
