// Writes GGUF files byte by byte, right ones and wrong ones.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

namespace moe4::testing {

/// Appends values as files have them.
class GgufBytes {
 public:
  template <typename T>
  GgufBytes& raw(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  GgufBytes& text(const std::string& text) {
    raw(static_cast<uint64_t>(text.size()));
    bytes_ += text;
    return *this;
  }
  GgufBytes& append(const std::string& bytes) {
    bytes_ += bytes;
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

/// A file out of its parts. Tensors follow each other with the padding that they need.
class GgufWriter {
 public:
  uint32_t version = 3;
  uint64_t alignment = 32;
  /// Added to what the header says, to make it lie.
  uint64_t more_keys = 0, more_tensors = 0;

  GgufWriter& key(const std::string& name, uint32_t type, const std::string& value) {
    keys_.append(GgufBytes().text(name).raw(type).bytes()).append(value);
    ++num_keys_;
    return *this;
  }
  GgufWriter& u32(const std::string& name, uint32_t value) {
    return key(name, 4, GgufBytes().raw(value).bytes());
  }
  GgufWriter& f32(const std::string& name, float value) {
    return key(name, 6, GgufBytes().raw(value).bytes());
  }
  GgufWriter& text(const std::string& name, const std::string& value) {
    return key(name, 8, GgufBytes().text(value).bytes());
  }
  GgufWriter& texts(const std::string& name, const std::vector<std::string>& values) {
    GgufBytes array;
    array.raw(uint32_t{8}).raw(static_cast<uint64_t>(values.size()));
    for (const std::string& value : values) array.text(value);
    return key(name, 9, array.bytes());
  }
  GgufWriter& i32s(const std::string& name, const std::vector<int32_t>& values) {
    GgufBytes array;
    array.raw(uint32_t{5}).raw(static_cast<uint64_t>(values.size()));
    for (const int32_t value : values) array.raw(value);
    return key(name, 9, array.bytes());
  }
  GgufWriter& f32s(const std::string& name, const std::vector<float>& values) {
    GgufBytes array;
    array.raw(uint32_t{6}).raw(static_cast<uint64_t>(values.size()));
    for (const float value : values) array.raw(value);
    return key(name, 9, array.bytes());
  }
  /// `dims`: fastest first, as in files.
  GgufWriter& tensor(const std::string& name, const std::vector<uint64_t>& dims, uint32_t type,
                     const std::string& data) {
    data_.resize((data_.size() + alignment - 1) / alignment * alignment);
    return tensor_at(name, dims, type, data_.size(), data);
  }
  GgufWriter& tensor_at(const std::string& name, const std::vector<uint64_t>& dims, uint32_t type,
                        uint64_t offset, const std::string& data) {
    GgufBytes entry;
    entry.text(name).raw(static_cast<uint32_t>(dims.size()));
    for (const uint64_t dim : dims) entry.raw(dim);
    entry.raw(type).raw(offset);
    tensors_ += entry.bytes();
    data_ += data;
    ++num_tensors_;
    return *this;
  }
  GgufWriter& floats(const std::string& name, const std::vector<uint64_t>& dims,
                     const std::vector<float>& values) {
    return tensor(name, dims, 0,
                  {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
  }

  std::string bytes() const {
    GgufBytes file;
    file.append("GGUF").raw(version).raw(num_tensors_ + more_tensors).raw(num_keys_ + more_keys);
    std::string out = file.bytes() + keys_.bytes() + tensors_;
    out.resize((out.size() + alignment - 1) / alignment * alignment);
    return out + data_;
  }
  void write(const std::filesystem::path& path) const {
    std::ofstream(path, std::ios::binary) << bytes();
  }

 private:
  GgufBytes keys_;
  uint64_t num_keys_ = 0, num_tensors_ = 0;
  std::string tensors_, data_;
};

}  // namespace moe4::testing
