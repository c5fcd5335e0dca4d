// A model in GGUF: one file, or a set NAME-00001-of-0000N.gguf.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/mapped_file.h"
#include "gguf/header.h"
#include "gguf/metadata.h"

namespace moe4 {

/// Whether the path names a regular file that begins as GGUF does. False when it cannot be read.
bool is_gguf_file(const std::filesystem::path& path);

/// One mapped file. Views stay valid while it lives.
class GgufFile {
 public:
  /// Throws Error(kBadInput) naming the file and the key or tensor. `headers_only`: the file may
  /// end anywhere after its header, and tensors have no data.
  static std::unique_ptr<GgufFile> open(const std::filesystem::path& path,
                                        bool headers_only = false);

  const std::filesystem::path& path() const { return path_; }
  const GgufHeader& header() const { return header_; }
  GgufMetadata metadata() const { return {header_, path_.string()}; }
  /// The tensor's bytes; null when headers_only.
  const std::byte* data(const GgufTensor& tensor) const {
    return data_ == nullptr ? nullptr : data_ + tensor.begin;
  }
  /// Throws Error(kBadInput) when the file is no longer what was opened.
  void check_unchanged() const { mapping_->check_unchanged(); }

 private:
  GgufFile() = default;

  std::filesystem::path path_;
  std::unique_ptr<MappedFile> mapping_;
  GgufHeader header_;
  const std::byte* data_ = nullptr;
};

/// The files of a model in order; the first has the metadata.
class GgufModel {
 public:
  /// `path`: the only file, or any of a set. Throws Error(kBadInput) when one is missing, is of
  /// another set, or has a tensor of another one.
  static GgufModel open(const std::filesystem::path& path, bool headers_only = false);

  const std::vector<std::unique_ptr<GgufFile>>& files() const { return files_; }
  GgufMetadata metadata() const { return files_.front()->metadata(); }
  /// Null when no file has it.
  const GgufTensor* find(std::string_view name) const;
  /// Of a tensor that find() gave.
  const GgufFile& file_of(const GgufTensor& tensor) const;

 private:
  void add(std::unique_ptr<GgufFile> file);

  std::vector<std::unique_ptr<GgufFile>> files_;
  struct Place {
    const GgufTensor* tensor;
    const GgufFile* file;
  };
  std::unordered_map<std::string_view, Place> tensors_;
};

/// The first file of the set that `path` is of, or `path`: where the metadata is.
std::filesystem::path first_gguf_file(const std::filesystem::path& path);

}  // namespace moe4
