// Where the checkpoints and golden files of the tests lie. Environment variables win over the paths
// of the build, so that test programs can run on another machine.
#pragma once

#include <cstdlib>
#include <filesystem>

namespace moe4::testing {

inline std::filesystem::path path_from(const char* variable, const char* of_the_build) {
  const char* value = std::getenv(variable);
  return value != nullptr ? value : of_the_build;
}

/// Larger trained checkpoints that tests use in addition; may be empty.
inline std::filesystem::path shared_models() {
  return path_from("MOE4_SHARED_MODELS", MOE4_SHARED_MODELS);
}
/// tests/data.
inline std::filesystem::path test_data() { return path_from("MOE4_TEST_DATA", MOE4_TEST_DATA); }
/// models/.
inline std::filesystem::path embedded_models() {
  return path_from("MOE4_EMBEDDED_MODELS", MOE4_EMBEDDED_MODELS);
}

}  // namespace moe4::testing
