// Typed access to the metadata of a GGUF file; messages name the file and the key.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/header.h"

namespace moe4 {

/// Refers to a header and its bytes, which outlive it. Whole numbers of every width and sign are
/// one kind here, as they are in the files of different converters. All functions throw
/// Error(kBadInput) when a key is there with another kind of value.
class GgufMetadata {
 public:
  GgufMetadata(const GgufHeader& header, std::string file)
      : header_(&header), file_(std::move(file)) {}

  const std::string& file() const { return file_; }
  bool has(std::string_view key) const { return find(key) != nullptr; }
  /// Null when absent.
  const GgufValue* find(std::string_view key) const;

  std::optional<int64_t> integer(std::string_view key) const;
  std::optional<double> number(std::string_view key) const;
  std::optional<bool> boolean(std::string_view key) const;
  /// Valid UTF-8.
  std::optional<std::string> string(std::string_view key) const;
  /// Of an array; a single number counts as an array of one.
  std::optional<std::vector<int64_t>> integers(std::string_view key) const;
  /// Of an array of floats.
  std::optional<std::vector<double>> numbers(std::string_view key) const;
  std::optional<std::vector<bool>> booleans(std::string_view key) const;
  /// Views of the file's bytes, of any content.
  std::optional<std::vector<std::string_view>> strings(std::string_view key) const;

  /// The same for keys without which nothing can be done.
  int64_t required_integer(std::string_view key) const;
  std::string required_string(std::string_view key) const;

  [[noreturn]] void fail(std::string_view key, const std::string& what, const std::string& expected,
                         const std::string& found, const std::string& hint = "") const;

 private:
  [[noreturn]] void fail_type(std::string_view key, const GgufValue& value,
                              const std::string& expected) const;
  int64_t to_integer(std::string_view key, const GgufValue& value, const GgufScalar& scalar) const;

  const GgufHeader* header_;
  std::string file_;
};

/// Whether `text` is valid UTF-8.
bool is_valid_utf8(std::string_view text);

}  // namespace moe4
