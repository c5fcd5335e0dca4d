// The visible list of backends; adding one is a line in registry.cc.
#pragma once

namespace moe4 {

/// Makes all built-in backends known to the selector. Idempotent; call it first in main().
void register_builtin_backends();

}  // namespace moe4
