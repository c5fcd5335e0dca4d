// Lays out, writes and renames safetensors files.
#include "checkpoint/safetensors_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/checked_math.h"
#include "base/error.h"

namespace moe4 {

SafetensorsWriter::SafetensorsWriter(std::filesystem::path path, std::vector<TensorSpec> tensors,
                                     const std::map<std::string, std::string>& metadata)
    : path_(std::move(path)) {
  // Wide elements first, as the reference implementation does: every tensor is aligned to its
  // element when the data begins at a multiple of 8.
  std::sort(tensors.begin(), tensors.end(), [](const TensorSpec& a, const TensorSpec& b) {
    return std::pair(-size_of(a.dtype), std::string_view(a.name)) <
           std::pair(-size_of(b.dtype), std::string_view(b.name));
  });
  nlohmann::json header = nlohmann::json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  int64_t offset = 0;
  for (TensorSpec& spec : tensors) {
    std::optional<int64_t> bytes = size_of(spec.dtype);
    for (int64_t dim : spec.shape) {
      bytes = bytes && dim >= 0 ? checked_mul(*bytes, dim) : std::nullopt;
    }
    const auto end = bytes ? checked_add(offset, *bytes) : std::nullopt;
    if (!end) fail(spec.name + " is too large: " + shape_to_string(spec.shape));
    if (header.contains(spec.name)) {
      throw Error(ErrorCode::kUsage, "two tensors of one name: " + printable(spec.name));
    }
    header[spec.name] = {
        {"dtype", to_string(spec.dtype)}, {"shape", spec.shape}, {"data_offsets", {offset, *end}}};
    tensors_.push_back({.name = std::move(spec.name),
                        .dtype_name = std::string(to_string(spec.dtype)),
                        .dtype = spec.dtype,
                        .shape = std::move(spec.shape),
                        .begin = offset,
                        .end = *end});
    offset = *end;
  }
  std::string json = header.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  json.resize(static_cast<size_t>(round_up(static_cast<int64_t>(json.size()), 8)), ' ');
  data_begin_ = 8 + static_cast<int64_t>(json.size());
  std::sort(tensors_.begin(), tensors_.end(),
            [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
  written_.assign(tensors_.size(), 0);

  file_ = std::make_unique<OutputFile>(path_);
  const uint64_t length = json.size();
  file_->write_at(0, &length, 8);
  file_->write_at(8, json.data(), static_cast<int64_t>(json.size()));
}

void SafetensorsWriter::write(std::string_view name, const void* data, int64_t bytes) {
  const auto it = std::lower_bound(
      tensors_.begin(), tensors_.end(), name,
      [](const TensorInfo& info, std::string_view wanted) { return info.name < wanted; });
  MOE4_CHECK(file_ != nullptr && it != tensors_.end() && it->name == name);
  int64_t& written = written_[static_cast<size_t>(it - tensors_.begin())];
  MOE4_CHECK(bytes >= 0 && bytes <= it->end - it->begin - written);
  file_->write_at(data_begin_ + it->begin + written, data, bytes);
  written += bytes;
}

void SafetensorsWriter::finish() {
  MOE4_CHECK(file_ != nullptr);
  for (size_t i = 0; i < tensors_.size(); ++i) {
    MOE4_CHECK(written_[i] == tensors_[i].end - tensors_[i].begin);
  }
  file_->finish();
  file_.reset();
}

void SafetensorsWriter::fail(const std::string& what) const {
  throw Error(ErrorCode::kUnavailable,
              fmt::format("cannot write {}: {}", printable(path_.string(), 512), what));
}

void write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<TensorSpec> specs;
  for (const NamedTensor& tensor : tensors) {
    MOE4_CHECK(tensor.view.row_stride == 0);
    specs.push_back({tensor.name, tensor.view.dtype, tensor.view.shape});
  }
  SafetensorsWriter writer(path, std::move(specs), metadata);
  for (const NamedTensor& tensor : tensors) {
    writer.write(tensor.name, tensor.view.data, tensor.view.num_bytes());
  }
  writer.finish();
}

}  // namespace moe4
