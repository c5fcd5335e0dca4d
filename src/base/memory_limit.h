// How much memory there is, and the error when it is not enough.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "base/error.h"

namespace moe4 {

/// An allocation of `bytes` failed.
class OutOfMemory : public Error {
 public:
  explicit OutOfMemory(int64_t bytes);
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_;
};

struct AvailableMemory {
  int64_t bytes = 0;
  std::string limited_by;  ///< "the machine", "the control group", "ulimit -v"
};

/// What this process can still get: the least of the machine's available memory and swap, what its
/// control group leaves (v1 and v2) and its address space limit. `root`: where /proc and /sys are
/// looked for.
AvailableMemory available_memory(const std::filesystem::path& root = "/");

/// "12.3 GiB", "45 MiB".
std::string memory_text(int64_t bytes);

}  // namespace moe4
