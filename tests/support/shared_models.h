// Where the larger trained checkpoints lie, for tests that use them in addition.
#pragma once

#include <cstdlib>
#include <filesystem>

namespace moe4::testing {

/// The environment variable MOE4_SHARED_MODELS, else the CMake option of that name; may be empty.
inline std::filesystem::path shared_models() {
  const char* variable = std::getenv("MOE4_SHARED_MODELS");
  return variable != nullptr ? variable : MOE4_SHARED_MODELS;
}

}  // namespace moe4::testing
