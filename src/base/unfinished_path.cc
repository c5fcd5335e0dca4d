// The list of unfinished paths.
#include "base/unfinished_path.h"

#include <unistd.h>

#include <climits>
#include <cstring>

#include "base/signal_safe_list.h"

namespace moe4 {
namespace {

struct Path {
  char text[PATH_MAX];
};

constinit SignalSafeList<Path> paths;

}  // namespace

UnfinishedPath::UnfinishedPath(const std::filesystem::path& path) : entry_(nullptr) {
  Path copy{};
  if (path.native().size() >= sizeof copy.text) return;  // no system call takes it either
  std::memcpy(copy.text, path.c_str(), path.native().size());
  entry_ = paths.add(copy);
}

UnfinishedPath::~UnfinishedPath() {
  if (entry_ != nullptr) paths.remove(static_cast<SignalSafeList<Path>::Entry*>(entry_));
}

void remove_unfinished_paths() noexcept {
  paths.for_each([](const Path& path) { unlink(path.text); });
  paths.for_each([](const Path& path) { rmdir(path.text); });
}

}  // namespace moe4
