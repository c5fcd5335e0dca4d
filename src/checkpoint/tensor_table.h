// All tensors of a checkpoint, whichever of its files they lie in.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"

namespace moe4 {

struct TensorTableOptions {
  bool headers_only = false;  ///< see CheckpointOptions; a folder without weights is an empty table
  int64_t num_layers = 0;     ///< of the model: shards with later layers only may be absent
};

class TensorTable {
 public:
  /// `path`: a folder, or one .safetensors file. Which files of a folder: see find_weight_files().
  /// Shards that hold only tensors of ignored_because() may be absent.
  static TensorTable open(const std::filesystem::path& path, const TensorTableOptions& options,
                          std::vector<CheckpointNote>& notes);

  /// The tensors of one file or set of files, `main_file` being the first.
  static TensorTable of(std::unique_ptr<WeightFile> file, const std::filesystem::path& main_file);

  /// Sorted.
  const std::vector<std::string>& names() const { return names_; }
  /// Null when absent.
  const TensorInfo* find(std::string_view name) const;
  /// Without data where there is a maker. Throws Error(kBadInput) naming the nearest tensor when
  /// absent.
  TensorView view(const std::string& name) const;
  /// See WeightFile. Throws when absent.
  const TensorMaker* maker(const std::string& name) const;
  /// See WeightFile. Throws when absent.
  std::optional<BlockRows> block_rows(const std::string& name) const;
  const std::filesystem::path& file_of(const std::string& name) const;
  /// Whether any tensor name begins with `prefix`, in absent shards too.
  bool has_prefix(std::string_view prefix) const;
  /// Throws Error(kBadInput) when a file is no longer what was opened.
  void check_unchanged() const;
  int64_t total_bytes() const { return total_bytes_; }
  /// The index, or the only file: where a missing tensor should have been.
  const std::filesystem::path& main_file() const { return main_file_; }
  /// Whether shards that the index names, or all weights, are absent (headers_only mode only).
  bool is_partial() const { return is_partial_; }

 private:
  struct Entry {
    const TensorInfo* info;
    const WeightFile* file;
  };

  void open_folder(const std::filesystem::path& folder, const TensorTableOptions& options,
                   std::vector<CheckpointNote>& notes);
  void open_index(const std::filesystem::path& index, const TensorTableOptions& options,
                  std::vector<CheckpointNote>& notes);
  void add_shard(const std::filesystem::path& file, const TensorTableOptions& options,
                 std::vector<CheckpointNote>& notes);
  void add_file(std::unique_ptr<WeightFile> file);
  void add_safetensors(const std::filesystem::path& path, bool headers_only);
  void list_names();
  static const std::filesystem::path& path_of(const Entry& entry) {
    return entry.file->path_of(*entry.info);
  }
  void note_unread_files(const std::filesystem::path& folder,
                         std::vector<CheckpointNote>& notes) const;
  const Entry& at(const std::string& name) const;

  std::filesystem::path main_file_;
  std::vector<std::unique_ptr<WeightFile>> files_;
  std::vector<std::filesystem::path> read_;  // safetensors files
  std::unordered_map<std::string_view, Entry> entries_;
  std::vector<std::string> names_;
  std::vector<std::string> absent_names_;  // in absent shards, sorted
  int64_t total_bytes_ = 0;
  bool is_partial_ = false;
};

}  // namespace moe4
