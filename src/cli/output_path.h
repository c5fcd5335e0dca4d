// Checks of --out before anything is computed.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace moe4::cli {

/// A file that a command reads: the flag that named it, and its path.
struct InputPath {
  std::string_view flag;
  std::string path;
};

/// Throws what check_output_path() throws, and Error(kUsage) when `out` is one of the inputs or an
/// existing file of the checkpoint's folder, under whatever name or link.
void check_output(const std::string& out, const std::string& model,
                  const std::vector<InputPath>& inputs);

}  // namespace moe4::cli
