// Compares files by device and inode.
#include "cli/output_path.h"

#include <sys/stat.h>

#include <filesystem>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/output_file.h"

namespace moe4::cli {
namespace {

namespace fs = std::filesystem;

using FileId = std::pair<dev_t, ino_t>;

// Of regular files only: /dev/null may be input and output.
std::optional<FileId> id_of(const fs::path& path) {
  struct stat status;
  if (stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return std::nullopt;
  return FileId(status.st_dev, status.st_ino);
}

[[noreturn]] void refuse(const std::string& out, const std::string& what) {
  throw Error(ErrorCode::kUsage,
              "--out " + printable(out, 512) + " would replace " + what + "; name another file");
}

}  // namespace

void check_output(const std::string& out, const std::string& model,
                  const std::vector<InputPath>& inputs) {
  check_output_path(out);
  const std::optional<FileId> id = id_of(out);
  if (!id) return;
  for (const InputPath& input : inputs) {
    if (id_of(input.path) == id) refuse(out, "the file of " + std::string(input.flag));
  }
  if (id_of(model) == id) refuse(out, "the checkpoint");
  std::error_code error;
  const fs::path folder =
      fs::is_directory(model, error) ? fs::path(model) : fs::path(model).parent_path();
  for (const auto& entry : fs::directory_iterator(folder.empty() ? "." : folder, error)) {
    if (id_of(entry.path()) == id) {
      refuse(out, "a file of the checkpoint's folder, " +
                      printable(entry.path().filename().string(), 255));
    }
  }
}

}  // namespace moe4::cli
