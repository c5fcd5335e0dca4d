// Looks at file names only.
#include "checkpoint/weight_files.h"

#include <fmt/format.h>

#include <charconv>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "base/error.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSuffix = ".safetensors";
constexpr std::string_view kIndexSuffix = ".safetensors.index.json";
// More shards than any index could name; also bounds the list of missing numbers.
constexpr int64_t kMaxShards = 100'000;

// "model-00002-of-00007.safetensors".
struct ShardName {
  std::string stem;
  int64_t number = 0, total = 0;
};

std::optional<int64_t> take_number(std::string_view& name) {
  const size_t digits =
      name.size() - std::min(name.size(), name.find_last_not_of("0123456789") + 1);
  const std::string_view text = name.substr(name.size() - digits);
  int64_t number = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), number).ec != std::errc()) {
    return std::nullopt;
  }
  name.remove_suffix(digits);
  return number;
}

std::optional<ShardName> parse_shard(std::string_view name) {
  constexpr std::string_view kOf = "-of-";
  if (!name.ends_with(kSuffix)) return std::nullopt;
  name.remove_suffix(kSuffix.size());
  const auto total = take_number(name);
  if (!total || *total < 1 || *total > kMaxShards || !name.ends_with(kOf)) return std::nullopt;
  name.remove_suffix(kOf.size());
  const auto number = take_number(name);
  if (!number || *number < 1 || *number > *total || !name.ends_with("-")) return std::nullopt;
  name.remove_suffix(1);
  return ShardName{std::string(name), *number, *total};
}

WeightFiles numbered_shards(const fs::path& folder, const std::string& stem, int64_t total,
                            const std::map<int64_t, fs::path>& files, bool headers_only,
                            std::vector<CheckpointNote>& notes) {
  WeightFiles out{.kind = WeightFiles::Kind::kShards, .main = files.begin()->second};
  for (const auto& [number, file] : files) out.shards.push_back(file);
  const int64_t missing = total - static_cast<int64_t>(files.size());
  std::string numbers;
  for (int64_t i = 1, shown = 0; i <= total && shown < 8 && shown < missing; ++i) {
    if (files.contains(i)) continue;
    numbers += (shown++ == 0 ? "" : ", ") + std::to_string(i);
  }
  out.is_complete = missing == 0;
  if (missing > 0 && !headers_only) {
    throw_bad_input({.what = "shards are missing and there is no index",
                     .file = folder.string(),
                     .expected = fmt::format("{} files {}-*-of-*.safetensors", total, stem),
                     .found = fmt::format("{} of them; missing: number {}{}", files.size(), numbers,
                                          missing > 8 ? ", ..." : ""),
                     .hint = "download the missing files"});
  }
  notes.push_back({.where = folder.string(),
                   .message = fmt::format(
                       "no model.safetensors.index.json; the tensors are those in the "
                       "headers of {} shards{}",
                       files.size(), missing > 0 ? " (missing: number " + numbers + ")" : "")});
  return out;
}

}  // namespace

WeightFiles find_weight_files(const fs::path& folder, bool headers_only,
                              std::vector<CheckpointNote>& notes) {
  using Kind = WeightFiles::Kind;
  const auto exists = [](const fs::path& file) { return fs::exists(fs::symlink_status(file)); };
  if (const fs::path index = folder / "model.safetensors.index.json"; exists(index)) {
    return {.kind = Kind::kIndex, .main = index};
  }
  if (const fs::path file = folder / "model.safetensors"; exists(file)) {
    return {.kind = Kind::kFile, .main = file};
  }
  std::vector<fs::path> indices;
  std::vector<fs::path> files;
  std::map<std::pair<std::string, int64_t>, std::map<int64_t, fs::path>> sets;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(kIndexSuffix)) indices.push_back(entry.path());
    if (!name.ends_with(kSuffix)) continue;
    files.push_back(entry.path());
    if (const auto shard = parse_shard(name)) {
      sets[{shard->stem, shard->total}][shard->number] = entry.path();
    }
  }
  if (indices.size() == 1) return {.kind = Kind::kIndex, .main = indices[0]};
  if (indices.empty() && sets.size() == 1) {
    const auto& [key, shards] = *sets.begin();
    return numbered_shards(folder, key.first, key.second, shards, headers_only, notes);
  }
  if (indices.empty() && files.size() == 1) return {.kind = Kind::kFile, .main = files[0]};
  if (headers_only && indices.empty() && files.empty()) {
    return {.kind = Kind::kNone, .main = folder};
  }
  const bool ambiguous = !indices.empty();
  throw_bad_input(
      {.what = ambiguous         ? "several safetensors indices and none is the model's"
               : sets.size() > 1 ? "several sets of shards and no index"
               : files.empty()   ? "no safetensors files"
                                 : "several safetensors files and no index",
       .file = folder.string(),
       .expected = "model.safetensors or model.safetensors.index.json",
       .hint = ambiguous || !files.empty() ? "add the missing index" : "check the path"});
}

}  // namespace moe4
