// The list of built-in backends.
#include "experts/registry.h"

#include "experts/reference/reference_backend.h"
#include "moe/selector.h"

namespace moe4 {

void register_builtin_backends() {
  static const ReferenceBackend reference;
  set_registered_backends({&reference});
}

}  // namespace moe4
