// Derives several hundred damaged checkpoints from the small ones.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

namespace moe4::testing {

struct Damage {
  std::string name;     ///< of the folder it is written to: "safetensors-truncated-at-8"
  std::string file;     ///< base name of the file at fault, which the error must name
  std::string mention;  ///< tensor or key that the error must name; may be empty
};

/// Writes every damaged checkpoint to `out`/NAME in turn and calls `visit` with it. `visit` may
/// delete the folder. `checkpoints`: tests/data/checkpoints.
void for_each_damage(
    const std::filesystem::path& checkpoints, const std::filesystem::path& out,
    const std::function<void(const Damage&, const std::filesystem::path& folder)>& visit);

}  // namespace moe4::testing
