// Files and folders that must not stay behind when a signal ends the program.
#pragma once

#include <filesystem>

namespace moe4 {

/// While it lives, remove_unfinished_paths() removes the path. Removes nothing by itself.
class UnfinishedPath {
 public:
  explicit UnfinishedPath(const std::filesystem::path& path);
  ~UnfinishedPath();
  UnfinishedPath(const UnfinishedPath&) = delete;
  UnfinishedPath& operator=(const UnfinishedPath&) = delete;

 private:
  void* entry_;
};

/// Removes the files, then the folders. Async-signal-safe: for a program's handler of SIGINT and
/// SIGTERM. The library installs none.
void remove_unfinished_paths() noexcept;

}  // namespace moe4
