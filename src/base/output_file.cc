// Resolves, writes and renames output files.
#include "base/output_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/error.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxLinks = 40;  // as the kernel's own limit

[[noreturn]] void refuse(ErrorCode code, const fs::path& path, const std::string& why) {
  throw Error(code, "cannot write " + printable(path.string(), 512) + ": " + why);
}

// Where a path leads.
struct Target {
  enum class Kind { kFile, kThrough, kDescriptor } kind = Kind::kFile;
  fs::path path;
  bool exists = false;
  mode_t mode = 0666;
  int descriptor = -1;
};

fs::path folder_of(const fs::path& file) {
  return file.has_parent_path() ? file.parent_path() : fs::path(".");
}

// The number of an open file of this process when `path` is its entry in /proc (what /dev/stdout
// and /dev/fd/3 lead to), else -1: such a link is not to be followed by name.
int own_descriptor(const fs::path& path) {
  std::error_code error;
  const fs::path folder = fs::canonical(folder_of(path), error);
  if (error || folder != "/proc/" + std::to_string(getpid()) + "/fd") return -1;
  const std::string name = path.filename().string();
  int number = -1;
  const auto [end, bad] = std::from_chars(name.data(), name.data() + name.size(), number);
  return bad == std::errc{} && end == name.data() + name.size() ? number : -1;
}

Target resolve(const fs::path& path) {
  if (path.empty()) throw Error(ErrorCode::kUsage, "the name of the output file is empty");
  Target target{.path = path};
  for (int links = 0;; ++links) {
    struct stat status;
    if (lstat(target.path.c_str(), &status) != 0) {
      if (errno != ENOENT) refuse(ErrorCode::kUnavailable, path, std::strerror(errno));
      return target;
    }
    if (!S_ISLNK(status.st_mode)) {
      target.exists = true;
      target.mode = status.st_mode & 07777;
      if (S_ISDIR(status.st_mode)) refuse(ErrorCode::kUsage, path, "it is a folder; name a file");
      if (S_ISBLK(status.st_mode)) refuse(ErrorCode::kUsage, path, "it is a block device");
      if (S_ISSOCK(status.st_mode)) refuse(ErrorCode::kUsage, path, "it is a socket");
      if (!S_ISREG(status.st_mode)) target.kind = Target::Kind::kThrough;
      return target;
    }
    target.descriptor = own_descriptor(target.path);
    if (target.descriptor >= 0) {
      target.kind = Target::Kind::kDescriptor;
      return target;
    }
    std::error_code error;
    const fs::path next = fs::read_symlink(target.path, error);
    if (error) refuse(ErrorCode::kUnavailable, path, error.message());
    if (links == kMaxLinks) refuse(ErrorCode::kUnavailable, path, std::strerror(ELOOP));
    target.path = next.is_absolute() ? next : folder_of(target.path) / next;
  }
}

Target checked(const fs::path& path) {
  Target target = resolve(path);
  if (target.kind == Target::Kind::kDescriptor) {
    const int flags = fcntl(target.descriptor, F_GETFL);
    if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY)
      refuse(ErrorCode::kUnavailable, path, std::strerror(EBADF));
    return target;
  }
  if (target.exists && access(target.path.c_str(), W_OK) != 0)
    refuse(ErrorCode::kUnavailable, path, std::strerror(errno));
  if (target.kind == Target::Kind::kThrough) return target;
  if (!target.path.has_filename()) refuse(ErrorCode::kUsage, path, "it names a folder, not a file");
  const fs::path folder = folder_of(target.path);
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    refuse(ErrorCode::kUnavailable, path,
           "there is no folder " + printable(folder.string(), 512) + "; create it first");
  }
  if (access(folder.c_str(), W_OK | X_OK) != 0) {
    refuse(ErrorCode::kUnavailable, path,
           "its folder may not be written to (" + std::string(std::strerror(errno)) + ")");
  }
  return target;
}

// Whoever writes a partial file holds its lock, in whatever container: one that can be locked was
// left by a killed run.
void remove_stale_partials(const fs::path& target) {
  const std::string prefix = target.filename().string() + ".", suffix = ".partial";
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder_of(target), error)) {
    const std::string name = entry.path().filename().string();
    if (name.size() <= prefix.size() + suffix.size() || !name.starts_with(prefix) ||
        !name.ends_with(suffix))
      continue;
    const std::string pid = name.substr(prefix.size(), name.size() - prefix.size() - suffix.size());
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    const int fd =
        open(entry.path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) continue;
    struct stat status;
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && flock(fd, LOCK_EX | LOCK_NB) == 0)
      unlink(entry.path().c_str());
    close(fd);
  }
}

int unnamed_file() {
  std::error_code error;
  fs::path folder = fs::temp_directory_path(error);
  if (error) folder = "/tmp";
  const int fd = open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd >= 0) return fd;
  std::string name = (folder / "moe4-XXXXXX").string();  // not every file system has O_TMPFILE
  const int named = mkostemp(name.data(), O_CLOEXEC);
  if (named >= 0) unlink(name.c_str());
  return named;
}

}  // namespace

void check_output_path(const fs::path& path) { checked(path); }

OutputFile::OutputFile(const fs::path& path) : path_(path) {
  const Target target = checked(path);
  target_ = target.path;
  if (target.kind == Target::Kind::kFile) {
    remove_stale_partials(target.path);
    open_partial(target.path, target.mode);
    // The mode is the owner's choice; a file system that has none is no reason to stop.
    if (target.exists) static_cast<void>(fchmod(fd_, target.mode) == 0);
    return;
  }
  descriptor_ = target.descriptor;
  fd_ = unnamed_file();
  if (fd_ < 0) fail(errno);
}

// The same folder, so that the rename stays within one file system.
void OutputFile::open_partial(const fs::path& target, mode_t mode) {
  partial_ = target;
  partial_ += "." + std::to_string(getpid()) + ".partial";
  // First of all: a signal may come as soon as the file is there.
  unfinished_ = std::make_unique<UnfinishedPath>(partial_);
  for (int attempt = 0; attempt < 10; ++attempt) {
    fd_ = open(partial_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode & 0666);
    if (fd_ < 0) {
      const int why = errno;
      unfinished_.reset();
      fail(why);
    }
    // Another run that removes stale files may have come between the two calls.
    struct stat status;
    const bool locked = flock(fd_, LOCK_EX | LOCK_NB) == 0;
    const bool no_locks = !locked && errno != EWOULDBLOCK;
    if ((locked || no_locks) && fstat(fd_, &status) == 0 && status.st_nlink > 0) return;
    unlink(partial_.c_str());
    close(fd_);
    fd_ = -1;
  }
  unfinished_.reset();
  fail(EBUSY);
}

OutputFile::~OutputFile() {
  if (fd_ < 0) return;
  close(fd_);
  if (!partial_.empty()) unlink(partial_.c_str());
}

void OutputFile::write_at(int64_t offset, const void* data, int64_t bytes) {
  MOE4_CHECK(fd_ >= 0);
  const auto* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n = pwrite(fd_, from, static_cast<size_t>(bytes), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail(n < 0 ? errno : EIO);
    from += n;
    offset += n;
    bytes -= n;
  }
}

void OutputFile::finish() {
  MOE4_CHECK(fd_ >= 0);
  if (partial_.empty()) {
    send_through();
  } else {
    if (fsync(fd_) != 0 && errno != EINVAL) fail(errno);
    if (rename(partial_.c_str(), target_.c_str()) != 0) fail(errno);
    unfinished_.reset();
  }
  close(fd_);
  fd_ = -1;
}

void OutputFile::send_through() {
  // A named pipe opens once somebody reads it.
  const int to = descriptor_ >= 0 ? fcntl(descriptor_, F_DUPFD_CLOEXEC, 3)
                                  : open(target_.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY);
  if (to < 0) fail(errno);
  std::vector<char> buffer(1 << 16);
  int error = 0;
  for (off_t offset = 0; error == 0;) {
    const ssize_t n = pread(fd_, buffer.data(), buffer.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) error = errno;
    if (n <= 0) break;
    offset += n;
    for (ssize_t sent = 0; sent < n && error == 0;) {
      const ssize_t m = write(to, buffer.data() + sent, static_cast<size_t>(n - sent));
      if (m >= 0) {
        sent += m;
      } else if (errno != EINTR) {
        error = errno;
      }
    }
  }
  if (close(to) != 0 && error == 0 && errno != EINTR) error = errno;
  if (error != 0) fail(error);
}

void OutputFile::fail(int error) const {
  refuse(ErrorCode::kUnavailable, path_, std::strerror(error));
}

}  // namespace moe4
