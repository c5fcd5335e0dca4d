// Opens and maps GGUF files.
#include "gguf/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/git_lfs.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;

// More parts than any model has; also bounds what a name makes us look for.
constexpr int64_t kMaxParts = 10'000;

// O_NONBLOCK: opening a named pipe must not wait for its writer.
int open_file(const fs::path& path) {
  return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
}

// "model-00002-of-00007.gguf" as its parts.
struct PartName {
  std::string stem;
  int64_t number = 0, total = 0;
};

std::optional<PartName> parse_part(std::string_view name) {
  constexpr std::string_view kSuffix = ".gguf", kOf = "-of-";
  constexpr size_t kDigits = 5;
  if (!name.ends_with(kSuffix)) return std::nullopt;
  name.remove_suffix(kSuffix.size());
  const auto take_number = [&]() -> std::optional<int64_t> {
    if (name.size() < kDigits) return std::nullopt;
    const std::string_view text = name.substr(name.size() - kDigits);
    int64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + kDigits, number);
    if (error != std::errc() || end != text.data() + kDigits || number < 1) return std::nullopt;
    name.remove_suffix(kDigits);
    return number;
  };
  const auto total = take_number();
  if (!total || *total > kMaxParts || !name.ends_with(kOf)) return std::nullopt;
  name.remove_suffix(kOf.size());
  const auto number = take_number();
  if (!number || *number > *total || !name.ends_with("-")) return std::nullopt;
  name.remove_suffix(1);
  return PartName{std::string(name), *number, *total};
}

fs::path part_path(const fs::path& folder, const PartName& name, int64_t number) {
  return folder / fmt::format("{}-{:05}-of-{:05}.gguf", name.stem, number, name.total);
}

void check_split(const GgufFile& file, int64_t number, int64_t total) {
  const GgufMetadata metadata = file.metadata();
  const int64_t said_total = metadata.integer("split.count").value_or(total);
  if (said_total != total) {
    metadata.fail("split.count", "GGUF file is of another set of parts", std::to_string(total),
                  std::to_string(said_total), "download the set again");
  }
  const int64_t said_number = metadata.integer("split.no").value_or(number);
  if (said_number != number) {
    metadata.fail("split.no", "GGUF file is another part than its name says",
                  std::to_string(number), std::to_string(said_number), "download the set again");
  }
}

}  // namespace

bool is_gguf_file(const fs::path& path) {
  const int fd = open_file(path);
  if (fd < 0) return false;
  struct stat status;
  std::array<char, kGgufMagic.size()> begin;
  const bool is_gguf =
      fstat(fd, &status) == 0 && S_ISREG(status.st_mode) &&
      pread(fd, begin.data(), begin.size(), 0) == static_cast<ssize_t>(begin.size()) &&
      std::string_view(begin.data(), begin.size()) == kGgufMagic;
  close(fd);
  return is_gguf;
}

std::unique_ptr<GgufFile> GgufFile::open(const fs::path& path, bool headers_only) {
  const std::string name = path.string();
  const int fd = open_file(path);
  if (fd < 0) {
    throw_bad_input({.what = "cannot open file", .file = name, .found = std::strerror(errno)});
  }
  struct stat status;
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size == 0) {
    close(fd);
    throw_bad_input({.what = "not a regular file with contents", .file = name});
  }
  std::unique_ptr<GgufFile> file(new GgufFile);
  file->path_ = path;
  file->mapping_ = std::make_unique<MappedFile>(fd, status, path);
  const int64_t size = file->mapping_->size();
  const std::string_view bytes(reinterpret_cast<const char*>(file->mapping_->data()),
                               static_cast<size_t>(size));
  refuse_git_lfs_pointer(bytes.substr(0, 256), name);
  file->header_ = parse_gguf_header(bytes, name);
  if (headers_only) return file;
  const GgufHeader& header = file->header_;
  for (const GgufTensor& tensor : header.tensors) {
    // Unknown types have no size here, but begin inside the file all the same.
    if (size - header.data_begin >= tensor.begin + tensor.bytes) continue;
    throw_bad_input(
        {.what = "GGUF file is shorter than its header says",
         .file = name,
         .tensor = "tensor " + tensor.name,
         .expected = fmt::format("{} bytes", header.data_begin + tensor.begin + tensor.bytes),
         .found = fmt::format("{} bytes", size),
         .hint = "download the file again"});
  }
  // A file without tensors may end before the padding.
  if (size > header.data_begin) file->data_ = file->mapping_->data() + header.data_begin;
  return file;
}

fs::path first_gguf_file(const fs::path& path) {
  const auto part = parse_part(path.filename().string());
  return part ? part_path(path.parent_path(), *part, 1) : path;
}

const GgufTensor* GgufModel::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : found->second.tensor;
}

const GgufFile& GgufModel::file_of(const GgufTensor& tensor) const {
  return *tensors_.at(tensor.name).file;
}

void GgufModel::add(std::unique_ptr<GgufFile> file) {
  for (const GgufTensor& tensor : file->header().tensors) {
    if (tensors_.emplace(tensor.name, Place{&tensor, file.get()}).second) continue;
    throw_bad_input({.what = "tensor lies in two parts",
                     .file = file->path().string(),
                     .tensor = "tensor " + tensor.name,
                     .hint = "download the set again"});
  }
  files_.push_back(std::move(file));
}

GgufModel GgufModel::open(const fs::path& path, bool headers_only) {
  GgufModel model;
  const auto part = parse_part(path.filename().string());
  if (!part || part->total == 1) {
    model.add(GgufFile::open(path, headers_only));
    check_split(*model.files_.front(), 0, 1);
    return model;
  }
  for (int64_t i = 1; i <= part->total; ++i) {
    const fs::path file = part_path(path.parent_path(), *part, i);
    if (!fs::exists(fs::symlink_status(file))) {
      throw_bad_input({.what = "part of a GGUF model is missing",
                       .file = file.string(),
                       .expected = fmt::format("{} files", part->total),
                       .hint = "download the missing file"});
    }
    model.add(GgufFile::open(file, headers_only));
    check_split(*model.files_.back(), i - 1, part->total);
  }
  const auto said = model.metadata().integer("split.tensors.count");
  if (said && *said != static_cast<int64_t>(model.tensors_.size())) {
    model.metadata().fail("split.tensors.count", "parts of a GGUF model do not add up",
                          fmt::format("{} tensors", *said), std::to_string(model.tensors_.size()),
                          "download the set again");
  }
  return model;
}

}  // namespace moe4
