// Finds, opens and cross-checks the safetensors files of a folder.
#include "checkpoint/tensor_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "checkpoint/json_reader.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kIndexSuffix = ".safetensors.index.json";

struct WeightFiles {
  fs::path file;
  bool is_index = false;
};

// The folder itself when it has no weights and need not have any.
WeightFiles find_weight_files(const fs::path& folder, bool may_be_absent) {
  if (fs::exists(fs::symlink_status(folder / "model.safetensors"))) {
    return {folder / "model.safetensors"};
  }
  if (fs::exists(fs::symlink_status(folder / "model.safetensors.index.json"))) {
    return {folder / "model.safetensors.index.json", true};
  }
  std::vector<fs::path> indices;
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(kIndexSuffix)) indices.push_back(entry.path());
    if (name.ends_with(".safetensors")) files.push_back(entry.path());
  }
  if (indices.size() == 1) return {indices[0], true};
  if (indices.empty() && files.size() == 1) return {files[0]};
  if (may_be_absent && indices.empty() && files.empty()) return {folder};
  const bool ambiguous = !indices.empty();
  throw_bad_input(
      {.what = ambiguous       ? "several safetensors indices and none is the model's"
               : files.empty() ? "no safetensors files"
                               : "several safetensors files and no index",
       .file = folder.string(),
       .expected = "model.safetensors or model.safetensors.index.json",
       .hint = ambiguous || !files.empty() ? "add the missing index" : "check the path"});
}

std::string common_prefix_winner(std::string_view name, const std::vector<std::string>& names) {
  const auto it = std::lower_bound(names.begin(), names.end(), name);
  const auto shared = [&](const std::string& other) {
    return std::mismatch(name.begin(), name.end(), other.begin(), other.end()).first - name.begin();
  };
  if (names.empty()) return "";
  if (it == names.end()) return names.back();
  if (it == names.begin()) return *it;
  return shared(*(it - 1)) > shared(*it) ? *(it - 1) : *it;
}

}  // namespace

TensorTable TensorTable::open(const fs::path& path, bool headers_only,
                              std::vector<CheckpointNote>& notes) {
  TensorTable table;
  try {
    const WeightFiles files =
        fs::is_directory(path) ? find_weight_files(path, headers_only) : WeightFiles{path};
    table.main_file_ = files.file;
    if (files.file == path && fs::is_directory(path)) {
      table.is_partial_ = true;
      notes.push_back({.where = path.string(),
                       .message = "no weights here; everything said is from the metadata"});
      return table;
    }
    if (files.is_index) {
      table.open_index(files.file, headers_only, notes);
    } else {
      table.add_file(SafetensorsFile::open(files.file, headers_only));
    }
  } catch (const fs::filesystem_error& error) {
    throw_bad_input(
        {.what = "cannot read folder", .file = path.string(), .found = error.code().message()});
  }
  table.names_.reserve(table.entries_.size());
  for (const auto& [name, entry] : table.entries_) {
    table.names_.emplace_back(name);
    table.total_bytes_ += entry.info->end - entry.info->begin;
  }
  std::sort(table.names_.begin(), table.names_.end());
  return table;
}

void TensorTable::add_file(std::unique_ptr<SafetensorsFile> file) {
  for (const TensorInfo& info : file->tensors()) {
    const auto [it, fresh] = entries_.try_emplace(info.name, Entry{&info, file.get()});
    if (!fresh) {
      throw_bad_input({.what = "tensor lies in two shards",
                       .file = file->path().string(),
                       .tensor = "tensor " + info.name,
                       .found = "also in " + it->second.file->path().filename().string(),
                       .hint = "remove one of the two"});
    }
  }
  files_.push_back(std::move(file));
}

void TensorTable::open_index(const fs::path& index, bool headers_only,
                             std::vector<CheckpointNote>& notes) {
  const Json root = read_json_file(index);
  const JsonReader reader(root, index.string());
  const auto weight_map = reader.object("weight_map");
  if (!weight_map || weight_map->json().empty()) {
    reader.fail("weight_map", "safetensors index has no tensors", "tensor names and file names",
                "nothing");
  }
  std::map<std::string, int64_t> shards;  // file name -> tensors the index puts there
  for (const auto& [tensor, value] : weight_map->json().items()) {
    if (!value.is_string()) {
      weight_map->fail(tensor, "safetensors index is not usable", "a file name", describe(value));
    }
    const std::string& name = value.get_ref<const std::string&>();
    // Names must stay inside the folder.
    if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos ||
        name.find('\0') != std::string::npos) {
      weight_map->fail(tensor, "safetensors index names a file outside its folder",
                       "a plain file name", printable(name, 80));
    }
    ++shards[name];
  }
  std::map<std::string, bool> present;
  for (const auto& [name, count] : shards) {
    const fs::path file = index.parent_path() / name;
    const bool exists = fs::exists(fs::symlink_status(file));
    present[name] = exists;
    if (!exists && headers_only) {
      is_partial_ = true;
      notes.push_back(
          {.where = name,
           .message = fmt::format("shard is absent; its {} tensors are unknown", count)});
      continue;
    }
    if (!exists) {
      throw_bad_input(
          {.what = "shard is missing",
           .file = file.string(),
           .expected = fmt::format("{} tensors named in {}", count, index.filename().string()),
           .hint = "download the missing file"});
    }
    add_file(SafetensorsFile::open(file, headers_only));
  }
  for (const auto& [tensor, value] : weight_map->json().items()) {
    const std::string& shard = value.get_ref<const std::string&>();
    if (!present[shard]) {
      absent_names_.push_back(tensor);  // in order: Json sorts its keys
      continue;
    }
    const auto it = entries_.find(tensor);
    if (it == entries_.end() || it->second.file->path().filename() != shard) {
      throw_bad_input({.what = "safetensors index and shard disagree",
                       .file = index.string(),
                       .tensor = "tensor " + tensor,
                       .expected = "the tensor in " + shard,
                       .found = it == entries_.end()
                                    ? "it in no shard"
                                    : "it in " + it->second.file->path().filename().string(),
                       .hint = "index and shards are of different versions; download them again"});
    }
  }
  for (const auto& [name, entry] : entries_) {
    if (!weight_map->json().contains(name)) {
      notes.push_back({.where = std::string(name),
                       .message = "tensor is in " + entry.file->path().filename().string() +
                                  " but not in the index"});
    }
  }
}

const TensorInfo* TensorTable::find(std::string_view name) const {
  const auto it = entries_.find(name);
  return it == entries_.end() ? nullptr : it->second.info;
}

const TensorTable::Entry& TensorTable::at(const std::string& name) const {
  const auto it = entries_.find(name);
  if (it == entries_.end()) {
    const std::string nearest = common_prefix_winner(name, names_);
    throw_bad_input({.what = "tensor is missing",
                     .file = main_file_.string(),
                     .tensor = "tensor " + name,
                     .hint = nearest.empty() ? "" : "the nearest name is " + printable(nearest)});
  }
  return it->second;
}

TensorView TensorTable::view(const std::string& name) const {
  const Entry& entry = at(name);
  return entry.file->view(*entry.info);
}

const fs::path& TensorTable::file_of(const std::string& name) const {
  return at(name).file->path();
}

bool TensorTable::has_prefix(std::string_view prefix) const {
  for (const std::vector<std::string>* names : {&names_, &absent_names_}) {
    const auto it = std::lower_bound(names->begin(), names->end(), prefix);
    if (it != names->end() && it->starts_with(prefix)) return true;
  }
  return false;
}

}  // namespace moe4
