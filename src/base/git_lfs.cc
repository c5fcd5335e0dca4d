// The first line of a pointer is fixed by the specification of Git LFS.
#include "base/git_lfs.h"

#include <fstream>

#include "base/error.h"

namespace moe4 {
namespace {

constexpr std::string_view kFirstLine = "version https://git-lfs.github.com/spec/";

}  // namespace

bool is_git_lfs_pointer(std::string_view bytes) { return bytes.starts_with(kFirstLine); }

bool is_git_lfs_pointer_file(const std::filesystem::path& file) {
  std::error_code error;
  // Not every file may be opened without waiting: a named pipe has no beginning to look at.
  if (!std::filesystem::is_regular_file(file, error)) return false;
  char bytes[64] = {};
  std::ifstream stream(file, std::ios::binary);
  stream.read(bytes, sizeof bytes);
  return is_git_lfs_pointer({bytes, static_cast<size_t>(stream.gcount())});
}

void refuse_git_lfs_pointer(std::string_view bytes, const std::string& file) {
  if (!is_git_lfs_pointer(bytes)) return;
  throw_bad_input({.what = "this is a Git LFS pointer, not the file it stands for",
                   .file = file,
                   .hint = "run git lfs pull in the checkpoint's folder"});
}

}  // namespace moe4
