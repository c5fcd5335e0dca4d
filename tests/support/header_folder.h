// A checkpoint without its weights: what `moe4 synth --headers` takes.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace moe4::testing {

/// Copies the files of `from`, .safetensors files to the end of their headers only.
inline void copy_headers(const std::filesystem::path& from, const std::filesystem::path& to) {
  namespace fs = std::filesystem;
  fs::create_directories(to);
  for (const auto& entry : fs::directory_iterator(from)) {
    if (!entry.is_regular_file()) continue;
    const fs::path copy = to / entry.path().filename();
    fs::copy_file(entry.path(), copy);
    if (copy.extension() != ".safetensors") continue;
    uint64_t length = 0;
    std::ifstream(copy, std::ios::binary).read(reinterpret_cast<char*>(&length), sizeof length);
    fs::resize_file(copy, 8 + length);
  }
}

}  // namespace moe4::testing
