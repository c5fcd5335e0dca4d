// Opens and maps safetensors files.
#include "checkpoint/safetensors.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/git_lfs.h"

namespace moe4 {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data is little-endian");

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() {
    if (fd_ >= 0) close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

bool read_at(int fd, void* out, size_t bytes, off_t offset) {
  auto* to = static_cast<char*>(out);
  while (bytes > 0) {
    const ssize_t n = pread(fd, to, bytes, offset);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    to += n;
    offset += n;
    bytes -= static_cast<size_t>(n);
  }
  return true;
}

}  // namespace

std::unique_ptr<SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path,
                                                       bool headers_only) {
  const std::string name = path.string();
  // O_NONBLOCK: opening a named pipe must not wait for its writer.
  FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (fd.get() < 0) {
    throw_bad_input({.what = "cannot open file", .file = name, .found = std::strerror(errno)});
  }
  struct stat status;
  if (fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
    throw_bad_input({.what = "not a regular file", .file = name});
  }
  const int64_t file_bytes = status.st_size;
  uint64_t header_bytes = 0;
  if (file_bytes < 8 || !read_at(fd.get(), &header_bytes, 8, 0)) {
    throw_bad_input({.what = "safetensors file is too short",
                     .file = name,
                     .expected = "at least 8 bytes",
                     .found = fmt::format("{} bytes", file_bytes),
                     .hint = "download the file again"});
  }
  if (header_bytes > static_cast<uint64_t>(kMaxSafetensorsHeaderBytes)) {
    // Text, or another format's magic number.
    std::string begin(static_cast<size_t>(std::min<int64_t>(file_bytes, 64)), '\0');
    if (read_at(fd.get(), begin.data(), begin.size(), 0)) refuse_git_lfs_pointer(begin, name);
    if (begin.starts_with("GGUF")) {
      throw_bad_input({.what = "this is a GGUF file, not a safetensors file",
                       .file = name,
                       .hint = "use a safetensors checkpoint of this model"});
    }
    throw_bad_input({.what = "safetensors header length is absurd",
                     .file = name,
                     .expected = fmt::format("at most {} bytes", kMaxSafetensorsHeaderBytes),
                     .found = fmt::format("{} bytes", header_bytes),
                     .hint = "this is not a safetensors file, or its first bytes are damaged"});
  }
  const int64_t data_begin = 8 + static_cast<int64_t>(header_bytes);
  std::string json;
  if (data_begin <= file_bytes) json.resize(header_bytes);
  if (data_begin > file_bytes || !read_at(fd.get(), json.data(), header_bytes, 8)) {
    throw_bad_input({.what = "truncated safetensors header",
                     .file = name,
                     .expected = fmt::format("{} bytes", data_begin),
                     .found = fmt::format("{} bytes", file_bytes),
                     .hint = "download the file again"});
  }

  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile);
  file->path_ = path;
  file->header_ = parse_safetensors_header(json, name);
  const int64_t expected = file->header_.data_bytes;
  const int64_t found = file_bytes - data_begin;
  if (found > expected || (found < expected && !headers_only)) {
    throw_bad_input({.what = found < expected ? "truncated safetensors file"
                                              : "safetensors file has bytes after its last tensor",
                     .file = name,
                     .expected = fmt::format("{} bytes of data", expected),
                     .found = fmt::format("{} bytes", found),
                     .hint = "download the file again"});
  }
  if (headers_only) return file;
  file->mapping_ = std::make_unique<MappedFile>(fd.release(), status, path);
  file->data_ = file->mapping_->data() + data_begin;
  return file;
}

void SafetensorsFile::check_unchanged() const {
  if (mapping_) mapping_->check_unchanged();
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  const auto it = std::lower_bound(
      header_.tensors.begin(), header_.tensors.end(), name,
      [](const TensorInfo& info, std::string_view wanted) { return info.name < wanted; });
  return it != header_.tensors.end() && it->name == name ? &*it : nullptr;
}

TensorView SafetensorsFile::tensor(std::string_view name) const {
  const TensorInfo* info = find(name);
  if (info == nullptr) {
    throw_bad_input({.what = "tensor is missing",
                     .file = path_.string(),
                     .tensor = "tensor " + std::string(name)});
  }
  return view(*info);
}

TensorView SafetensorsFile::view(const TensorInfo& info) const {
  if (!info.dtype) {
    throw_bad_input({.what = "unknown element type",
                     .file = path_.string(),
                     .tensor = "tensor " + info.name,
                     .expected = "a type such as BF16, F8_E4M3 or U8",
                     .found = info.dtype_name});
  }
  return {.data = data_ == nullptr ? nullptr : data_ + info.begin,
          .dtype = *info.dtype,
          .shape = info.shape};
}

}  // namespace moe4
