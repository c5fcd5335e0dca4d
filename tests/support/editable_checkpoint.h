// A small checkpoint in memory: change its names, tensors and configuration, write it to a folder.
#pragma once

#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/safetensors.h"
#include "checkpoint/safetensors_writer.h"

namespace moe4::testing {

struct EditableTensor {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::vector<std::byte> bytes;
};

class EditableCheckpoint {
 public:
  using Tensors = std::map<std::string, EditableTensor>;

  /// Of tests/data/checkpoints, e.g. "qwen3-modelopt-nvfp4".
  explicit EditableCheckpoint(const std::string& name) {
    namespace fs = std::filesystem;
    for (const auto& entry :
         fs::directory_iterator(fs::path(MOE4_TEST_DATA) / "checkpoints" / name)) {
      if (!entry.is_regular_file()) continue;
      const std::string file = entry.path().filename().string();
      if (file.ends_with(".safetensors")) {
        read_tensors(entry.path());
      } else if (file == "config.json") {
        config = nlohmann::json::parse(std::ifstream(entry.path()));
      } else if (!file.ends_with(".index.json")) {
        side_files_.push_back(entry.path());
      }
    }
  }

  nlohmann::json config;
  Tensors tensors;

  void rename(const std::function<std::string(std::string)>& to) {
    Tensors renamed;
    for (auto& [name, tensor] : tensors) renamed[to(name)] = std::move(tensor);
    tensors = std::move(renamed);
  }
  /// A tensor of floats.
  void add(const std::string& name, std::vector<int64_t> shape, const std::vector<float>& values) {
    const auto* bytes = reinterpret_cast<const std::byte*>(values.data());
    tensors[name] = {DType::kF32, std::move(shape), {bytes, bytes + values.size() * sizeof(float)}};
  }

  /// Everything in model.safetensors.
  void write(const std::filesystem::path& folder) const {
    write_config(folder);
    write_tensors(folder / "model.safetensors", [](const std::string&) { return true; });
  }
  void write_config(const std::filesystem::path& folder) const {
    std::filesystem::create_directories(folder);
    for (const auto& file : side_files_) {
      std::filesystem::copy_file(file, folder / file.filename(),
                                 std::filesystem::copy_options::overwrite_existing);
    }
    std::ofstream(folder / "config.json") << config.dump();
  }
  void write_tensors(const std::filesystem::path& file,
                     const std::function<bool(const std::string&)>& wanted) const {
    std::vector<NamedTensor> named;
    for (const auto& [name, tensor] : tensors) {
      if (!wanted(name)) continue;
      named.push_back(
          {name, {.data = tensor.bytes.data(), .dtype = tensor.dtype, .shape = tensor.shape}});
    }
    write_safetensors(file, named);
  }

 private:
  void read_tensors(const std::filesystem::path& path) {
    const auto file = SafetensorsFile::open(path);
    for (const TensorInfo& info : file->tensors()) {
      const TensorView view = file->view(info);
      const auto* data = static_cast<const std::byte*>(view.data);
      tensors[info.name] = {view.dtype, view.shape, {data, data + view.num_bytes()}};
    }
  }

  std::vector<std::filesystem::path> side_files_;
};

/// `text` with every `from` replaced.
inline std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
  return text;
}

}  // namespace moe4::testing
