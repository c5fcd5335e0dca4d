// Maps files and keeps the list of mappings.
#include "base/mapped_file.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <string>

#include "base/error.h"
#include "base/signal_safe_list.h"

namespace moe4 {
namespace {

struct Mapping {
  const std::byte* begin;
  const std::byte* end;
  char path[PATH_MAX];
};

constinit SignalSafeList<Mapping> mappings;

}  // namespace

MappedFile::MappedFile(int fd, const struct stat& status, std::filesystem::path path)
    : fd_(fd), status_(status), path_(std::move(path)) {
  const auto bytes = static_cast<size_t>(status.st_size);
  void* mapped = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, fd_, 0);
  if (mapped == MAP_FAILED) {
    const int error = errno;
    close(fd_);
    throw Error(ErrorCode::kUnavailable, "cannot map " + std::to_string(bytes) + " bytes of " +
                                             printable(path_.string(), 512) + ": " +
                                             std::strerror(error));
  }
  data_ = static_cast<const std::byte*>(mapped);
  Mapping entry{.begin = data_, .end = data_ + bytes, .path = {}};
  const std::string name = printable(path_.string(), sizeof entry.path - 16);
  std::memcpy(entry.path, name.c_str(), std::min(name.size(), sizeof entry.path - 1));
  entry_ = mappings.add(entry);
}

MappedFile::~MappedFile() {
  mappings.remove(static_cast<SignalSafeList<Mapping>::Entry*>(entry_));
  munmap(const_cast<std::byte*>(data_), static_cast<size_t>(size()));
  close(fd_);
}

void MappedFile::check_unchanged() const {
  struct stat now;
  if (fstat(fd_, &now) != 0) {
    throw_bad_input({.what = "file changed or cannot be read",
                     .file = path_.string(),
                     .found = std::strerror(errno)});
  }
  const bool same_time = now.st_mtim.tv_sec == status_.st_mtim.tv_sec &&
                         now.st_mtim.tv_nsec == status_.st_mtim.tv_nsec;
  if (now.st_size == status_.st_size && same_time) return;
  throw_bad_input({.what = "file changed while it was read",
                   .file = path_.string(),
                   .expected = std::to_string(status_.st_size) + " bytes, as when it was opened",
                   .found = now.st_size == status_.st_size ? "other contents of that size"
                                                           : std::to_string(now.st_size) + " bytes",
                   .hint = "start again once nobody writes to it"});
}

const char* mapped_file_at(const void* address) noexcept {
  const auto* at = static_cast<const std::byte*>(address);
  const char* found = nullptr;
  mappings.for_each([&](const Mapping& mapping) {
    if (at >= mapping.begin && at < mapping.end) found = mapping.path;
  });
  return found;
}

}  // namespace moe4
