// Reads a whole small file, with a bound on its size.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace moe4 {

/// nullopt when there is no such file; Error(kBadInput) when it cannot be read or is larger than
/// `max_bytes`.
std::optional<std::string> read_text_file(const std::filesystem::path& path, int64_t max_bytes);

}  // namespace moe4
