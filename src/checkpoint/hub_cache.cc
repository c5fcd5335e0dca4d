// Follows refs/main to a snapshot.
#include "checkpoint/hub_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>

#include "base/error.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;

// The revision that refs/main names; empty when there is none. Only a plain name may become part of
// a path.
std::string main_revision(const fs::path& root) {
  std::string revision(128, '\0');
  std::ifstream stream(root / "refs" / "main", std::ios::binary);
  stream.read(revision.data(), static_cast<std::streamsize>(revision.size()));
  revision.resize(static_cast<size_t>(stream.gcount()));
  while (!revision.empty() && (revision.back() == '\n' || revision.back() == '\r')) {
    revision.pop_back();
  }
  const bool plain = std::all_of(revision.begin(), revision.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '-' || c == '_';
  });
  return plain ? revision : "";
}

}  // namespace

fs::path resolve_hub_cache(const fs::path& path, std::vector<CheckpointNote>& notes) {
  std::error_code error;
  const fs::path snapshots = path / "snapshots";
  if (!fs::is_directory(snapshots, error) || fs::exists(path / "config.json", error)) return path;
  fs::path chosen;
  std::string all;
  int64_t count = 0;
  for (const auto& entry : fs::directory_iterator(snapshots, error)) {
    if (!entry.is_directory(error)) continue;
    chosen = entry.path();
    if (count++ < 4) all += (all.empty() ? "" : ", ") + entry.path().filename().string();
  }
  const std::string revision = main_revision(path);
  if (!revision.empty() && fs::is_directory(snapshots / revision, error)) {
    chosen = snapshots / revision;
  } else if (count != 1) {
    throw_bad_input({.what = "a download cache without a usable refs/main",
                     .file = path.string(),
                     .expected = "one snapshot, or refs/main with the name of one",
                     .found = count == 0 ? "no snapshot" : fmt::format("{}: {}", count, all),
                     .hint = "give the snapshot's own folder"});
  }
  notes.push_back({.level = CheckpointNote::Level::kInfo,
                   .where = path.string(),
                   .message = "read from snapshots/" + chosen.filename().string()});
  return chosen;
}

}  // namespace moe4
