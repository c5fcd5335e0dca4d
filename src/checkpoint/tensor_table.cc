// Finds, opens and cross-checks the safetensors files of a folder.
#include "checkpoint/tensor_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/git_lfs.h"
#include "checkpoint/ignored_tensors.h"
#include "checkpoint/json_reader.h"
#include "checkpoint/weight_files.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;

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

TensorTable TensorTable::open(const fs::path& path, const TensorTableOptions& options,
                              std::vector<CheckpointNote>& notes) {
  TensorTable table;
  try {
    if (fs::is_directory(path)) {
      table.open_folder(path, options, notes);
    } else {
      table.main_file_ = path;
      table.add_safetensors(path, options.headers_only);
    }
  } catch (const fs::filesystem_error& error) {
    throw_bad_input(
        {.what = "cannot read folder", .file = path.string(), .found = error.code().message()});
  }
  table.list_names();
  return table;
}

TensorTable TensorTable::of(std::unique_ptr<WeightFile> file, const fs::path& main_file) {
  TensorTable table;
  table.main_file_ = main_file;
  table.add_file(std::move(file));
  table.list_names();
  return table;
}

void TensorTable::list_names() {
  names_.reserve(entries_.size());
  for (const auto& [name, entry] : entries_) {
    names_.emplace_back(name);
    total_bytes_ += entry.info->end - entry.info->begin;
  }
  std::sort(names_.begin(), names_.end());
}

void TensorTable::open_folder(const fs::path& folder, const TensorTableOptions& options,
                              std::vector<CheckpointNote>& notes) {
  const WeightFiles files = find_weight_files(folder, options.headers_only, notes);
  main_file_ = files.main;
  switch (files.kind) {
    case WeightFiles::Kind::kNone:
      is_partial_ = true;
      notes.push_back({.where = folder.string(),
                       .message = "no weights here; everything said is from the metadata"});
      break;
    case WeightFiles::Kind::kFile:
      add_shard(files.main, options, notes);
      break;
    case WeightFiles::Kind::kShards:
      for (const fs::path& shard : files.shards) add_shard(shard, options, notes);
      is_partial_ |= !files.is_complete;
      break;
    case WeightFiles::Kind::kIndex:
      open_index(files.main, options, notes);
      break;
  }
  note_unread_files(folder, notes);
}

// Opens the file, or notes why it counts as absent (headers_only: a Git LFS pointer).
void TensorTable::add_shard(const fs::path& file, const TensorTableOptions& options,
                            std::vector<CheckpointNote>& notes) {
  if (options.headers_only && is_git_lfs_pointer_file(file)) {
    is_partial_ = true;
    notes.push_back({.where = file.filename().string(),
                     .message = "shard is a Git LFS pointer; its tensors are unknown"});
    return;
  }
  add_safetensors(file, options.headers_only);
}

// Weights of another version of the model may lie beside those that were read.
void TensorTable::note_unread_files(const fs::path& folder,
                                    std::vector<CheckpointNote>& notes) const {
  std::vector<std::string> unread;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (!name.ends_with(".safetensors")) continue;
    const bool read = std::any_of(read_.begin(), read_.end(),
                                  [&](const fs::path& file) { return file.filename() == name; });
    if (!read) unread.push_back(name);
  }
  // Without any file read, all of them are absent or pointers, which was said.
  if (unread.empty() || files_.empty()) return;
  std::sort(unread.begin(), unread.end());
  // A model.safetensors is what other programs may take.
  const bool is_model =
      std::find(unread.begin(), unread.end(), "model.safetensors") != unread.end();
  notes.push_back(
      {.level = is_model ? CheckpointNote::Level::kWarning : CheckpointNote::Level::kInfo,
       .where = is_model ? "model.safetensors" : unread.front(),
       .message = fmt::format(
           "is not read{}: the model is {}",
           unread.size() == 1 ? "" : fmt::format(", nor are {} other files", unread.size() - 1),
           main_file_.filename().string())});
}

void TensorTable::add_safetensors(const fs::path& path, bool headers_only) {
  add_file(SafetensorsFile::open(path, headers_only));
  read_.push_back(path);
}

void TensorTable::add_file(std::unique_ptr<WeightFile> file) {
  for (const TensorInfo& info : file->tensors()) {
    const auto [it, fresh] = entries_.try_emplace(info.name, Entry{&info, file.get()});
    if (!fresh) {
      throw_bad_input({.what = "tensor lies in two shards",
                       .file = file->path_of(info).string(),
                       .tensor = "tensor " + info.name,
                       .found = "also in " + path_of(it->second).filename().string(),
                       .hint = "remove one of the two"});
    }
  }
  files_.push_back(std::move(file));
}

void TensorTable::open_index(const fs::path& index, const TensorTableOptions& options,
                             std::vector<CheckpointNote>& notes) {
  const Json root = read_json_file(index);
  const JsonReader reader(root, index.string());
  const auto weight_map = reader.object("weight_map");
  if (!weight_map || weight_map->json().empty()) {
    reader.fail("weight_map", "safetensors index has no tensors", "tensor names and file names",
                "nothing");
  }
  struct Shard {
    int64_t tensors = 0;       // that the index puts there
    const char* ignored = "";  // why the model can do without it; null when it cannot
    bool is_present = false;
  };
  std::map<std::string, Shard> shards;  // by file name
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
    Shard& shard = shards[name];
    ++shard.tensors;
    if (shard.ignored != nullptr) shard.ignored = ignored_because(tensor, options.num_layers);
  }
  const fs::path folder = index.parent_path();
  const auto exists = [&](const std::string& name) {
    return fs::exists(fs::symlink_status(folder / name));
  };
  const bool any = std::any_of(shards.begin(), shards.end(),
                               [&](const auto& shard) { return exists(shard.first); });
  if (!any && exists("model.safetensors")) {
    // An index left over from a version in shards.
    notes.push_back({.where = index.filename().string(),
                     .message = "none of its shards is here; model.safetensors is read"});
    main_file_ = folder / "model.safetensors";
    add_shard(main_file_, options, notes);
    return;
  }
  for (auto& [name, shard] : shards) {
    const fs::path file = folder / name;
    if (exists(name) && !(options.headers_only && is_git_lfs_pointer_file(file))) {
      shard.is_present = true;
      add_safetensors(file, options.headers_only);
      continue;
    }
    if (shard.ignored != nullptr) {
      notes.push_back({.level = CheckpointNote::Level::kInfo,
                       .where = name,
                       .message = fmt::format("shard is absent; the {} tensors that the index puts "
                                              "there are not needed ({})",
                                              shard.tensors, shard.ignored)});
    } else if (options.headers_only) {
      is_partial_ = true;
      notes.push_back(
          {.where = name,
           .message = fmt::format("shard is {}; its {} tensors are unknown",
                                  exists(name) ? "a Git LFS pointer" : "absent", shard.tensors)});
    } else {
      throw_bad_input({.what = "shard is missing",
                       .file = file.string(),
                       .expected = fmt::format("{} tensors named in {}", shard.tensors,
                                               index.filename().string()),
                       .hint = "download the missing file"});
    }
  }
  for (const auto& [tensor, value] : weight_map->json().items()) {
    const std::string& shard = value.get_ref<const std::string&>();
    if (!shards[shard].is_present) {
      absent_names_.push_back(tensor);  // in order: Json sorts its keys
      continue;
    }
    const auto it = entries_.find(tensor);
    if (it == entries_.end() || path_of(it->second).filename() != shard) {
      throw_bad_input({.what = "safetensors index and shard disagree",
                       .file = index.string(),
                       .tensor = "tensor " + tensor,
                       .expected = "the tensor in " + shard,
                       .found = it == entries_.end()
                                    ? "it in no shard"
                                    : "it in " + path_of(it->second).filename().string(),
                       .hint = "index and shards are of different versions; download them again"});
    }
  }
  for (const auto& [name, entry] : entries_) {
    if (!weight_map->json().contains(name)) {
      notes.push_back({.where = std::string(name),
                       .message = "tensor is in " + path_of(entry).filename().string() +
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
    throw MissingTensor(
        to_string({.what = "tensor is missing",
                   .file = main_file_.string(),
                   .tensor = "tensor " + name,
                   .hint = nearest.empty() ? "" : "the nearest name is " + printable(nearest)}));
  }
  return it->second;
}

TensorView TensorTable::view(const std::string& name) const {
  const Entry& entry = at(name);
  return entry.file->view(*entry.info);
}

const fs::path& TensorTable::file_of(const std::string& name) const { return path_of(at(name)); }

const TensorMaker* TensorTable::maker(const std::string& name) const {
  const Entry& entry = at(name);
  return entry.file->maker(*entry.info);
}

std::optional<BlockRows> TensorTable::block_rows(const std::string& name) const {
  const Entry& entry = at(name);
  return entry.file->block_rows(*entry.info);
}

void TensorTable::check_unchanged() const {
  for (const auto& file : files_) file->check_unchanged();
}

bool TensorTable::has_prefix(std::string_view prefix) const {
  for (const std::vector<std::string>* names : {&names_, &absent_names_}) {
    const auto it = std::lower_bound(names->begin(), names->end(), prefix);
    if (it != names->end() && it->starts_with(prefix)) return true;
  }
  return false;
}

}  // namespace moe4
