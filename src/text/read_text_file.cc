// File reading for the text room.
#include "text/read_text_file.h"

#include <fstream>
#include <iterator>

#include "base/error.h"
#include "base/git_lfs.h"

namespace moe4 {

std::optional<std::string> read_text_file(const std::filesystem::path& path, int64_t max_bytes) {
  std::error_code failure;
  if (!std::filesystem::exists(path, failure)) return std::nullopt;
  if (!std::filesystem::is_regular_file(path, failure)) {
    throw_bad_input({.what = "not a regular file", .file = path.string()});
  }
  std::ifstream stream(path, std::ios::binary);
  std::string content;
  char block[1 << 16];
  while (stream.read(block, sizeof block) || stream.gcount() > 0) {
    content.append(block, static_cast<size_t>(stream.gcount()));
    if (static_cast<int64_t>(content.size()) > max_bytes) {
      throw_bad_input({.what = "file is too large",
                       .file = path.string(),
                       .expected = "at most " + std::to_string(max_bytes) + " bytes"});
    }
  }
  if (stream.bad() || !stream.eof()) {
    throw_bad_input({.what = "cannot read the file", .file = path.string()});
  }
  refuse_git_lfs_pointer(content, path.string());
  return content;
}

}  // namespace moe4
