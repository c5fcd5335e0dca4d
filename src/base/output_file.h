// A file the user named for results: nothing is replaced that should not be, and nobody ever sees
// half of it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>

#include "base/unfinished_path.h"

namespace moe4 {

/// Symbolic links are followed. A regular file, or a new one, is written beside its place under the
/// name `FILE.PID.partial` and renamed by finish(); it keeps the mode of the file it replaces. A
/// pipe or character device (/dev/null, /dev/stdout) gets all bytes at once in finish() and is
/// never replaced. Partial files that killed runs left for the same name are removed.
class OutputFile {
 public:
  /// Throws what check_output_path() throws, and Error(kUnavailable) when the file cannot be made.
  explicit OutputFile(const std::filesystem::path& path);
  /// Removes what was written unless finish() was called.
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  /// At any offset, in any order. Throws Error(kUnavailable), e.g. when the disk is full.
  void write_at(int64_t offset, const void* data, int64_t bytes);
  /// Flushes to disk and renames, or sends everything on its way.
  void finish();

 private:
  void open_partial(const std::filesystem::path& target, mode_t mode);
  void send_through();
  [[noreturn]] void fail(int error) const;

  std::filesystem::path path_;     // as the user named it
  std::filesystem::path target_;   // where links lead
  std::filesystem::path partial_;  // empty: bytes wait in an unnamed file and go through
  int descriptor_ = -1;            // of this process, when the path names one (/dev/stdout)
  int fd_ = -1;
  std::unique_ptr<UnfinishedPath> unfinished_;
};

/// What can be known before the results are there. Throws Error(kUsage) for a folder, a socket or a
/// block device, Error(kUnavailable) when the folder is missing or may not be written to.
void check_output_path(const std::filesystem::path& path);

}  // namespace moe4
