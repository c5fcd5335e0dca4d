// A regular file mapped read-only, and what is known when it changes under the mapping.
#pragma once

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>

namespace moe4 {

/// A file that another process cuts while it is mapped cannot be read any more: touching the lost
/// pages raises SIGBUS, and the rest of its last page reads as zeros. A program that handles SIGBUS
/// finds the file with mapped_file_at(); the library installs no handler. check_unchanged() finds
/// what raises no signal.
class MappedFile {
 public:
  /// Maps the whole file behind `fd`, which this object then owns, at the size of `status` (from
  /// fstat). Throws Error(kUnavailable) naming `path`.
  MappedFile(int fd, const struct stat& status, std::filesystem::path path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return data_; }
  int64_t size() const { return status_.st_size; }
  /// Throws Error(kBadInput) when the file's size or time of modification is not what it was.
  void check_unchanged() const;

 private:
  int fd_;
  struct stat status_;
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  void* entry_ = nullptr;
};

/// The printable path of the file mapped at `address`; null when there is none. Async-signal-safe.
const char* mapped_file_at(const void* address) noexcept;

}  // namespace moe4
