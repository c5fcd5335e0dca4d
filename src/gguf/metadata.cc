// Kinds of values, and what is not of the kind that was asked for.
#include "gguf/metadata.h"

#include <fmt/format.h>

#include <limits>

#include "base/error.h"

namespace moe4 {

void GgufMetadata::fail(std::string_view key, const std::string& what, const std::string& expected,
                        const std::string& found, const std::string& hint) const {
  throw_bad_input({.what = what,
                   .file = file_,
                   .tensor = fmt::format("key {}", key),
                   .expected = expected,
                   .found = found,
                   .hint = hint});
}

void GgufMetadata::fail_type(std::string_view key, const GgufValue& value,
                             const std::string& expected) const {
  std::string found(to_string(value.type));
  if (const auto* array = std::get_if<GgufArray>(&value.value)) {
    found = fmt::format("an array of {} {}", array->count, to_string(array->type));
  }
  fail(key, "GGUF value has the wrong type", expected, found);
}

const GgufValue* GgufMetadata::find(std::string_view key) const {
  const auto found = header_->metadata.find(key);
  return found == header_->metadata.end() ? nullptr : &found->second;
}

int64_t GgufMetadata::to_integer(std::string_view key, const GgufValue& value,
                                 const GgufScalar& scalar) const {
  if (const auto* number = std::get_if<int64_t>(&scalar)) return *number;
  const auto* number = std::get_if<uint64_t>(&scalar);
  if (number == nullptr) fail_type(key, value, "a whole number");
  if (*number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    fail(key, "GGUF value is too large", "below 2^63", std::to_string(*number));
  }
  return static_cast<int64_t>(*number);
}

std::optional<int64_t> GgufMetadata::integer(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto* scalar = std::get_if<GgufScalar>(&value->value);
  if (scalar == nullptr) fail_type(key, *value, "a whole number");
  return to_integer(key, *value, *scalar);
}

std::optional<double> GgufMetadata::number(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto* scalar = std::get_if<GgufScalar>(&value->value);
  if (scalar == nullptr) fail_type(key, *value, "a number");
  if (const auto* real = std::get_if<double>(scalar)) {
    if (value->type != GgufValueType::kF32) return *real;
    // The shortest decimal that is this float32: what the number was before it became one.
    return std::stod(fmt::format("{}", static_cast<float>(*real)));
  }
  return static_cast<double>(to_integer(key, *value, *scalar));
}

std::optional<bool> GgufMetadata::boolean(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto* scalar = std::get_if<GgufScalar>(&value->value);
  const auto* flag = scalar != nullptr ? std::get_if<bool>(scalar) : nullptr;
  if (flag == nullptr) fail_type(key, *value, "a bool");
  return *flag;
}

std::optional<std::string> GgufMetadata::string(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto* scalar = std::get_if<GgufScalar>(&value->value);
  const auto* text = scalar != nullptr ? std::get_if<std::string_view>(scalar) : nullptr;
  if (text == nullptr) fail_type(key, *value, "a string");
  if (!is_valid_utf8(*text)) {
    fail(key, "text in a GGUF file is not UTF-8", "valid UTF-8",
         printable(std::string(text->substr(0, 80)), 80));
  }
  return std::string(*text);
}

std::optional<std::vector<int64_t>> GgufMetadata::integers(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  std::vector<int64_t> out;
  if (const auto* scalar = std::get_if<GgufScalar>(&value->value)) {
    out.push_back(to_integer(key, *value, *scalar));
  } else {
    std::get<GgufArray>(value->value).for_each([&](const GgufScalar& element) {
      out.push_back(to_integer(key, *value, element));
    });
  }
  return out;
}

std::optional<std::vector<double>> GgufMetadata::numbers(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto* array = std::get_if<GgufArray>(&value->value);
  if (array == nullptr ||
      (array->type != GgufValueType::kF32 && array->type != GgufValueType::kF64)) {
    fail_type(key, *value, "an array of floats");
  }
  std::vector<double> out;
  array->for_each([&](const GgufScalar& element) { out.push_back(std::get<double>(element)); });
  return out;
}

std::optional<std::vector<bool>> GgufMetadata::booleans(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto* array = std::get_if<GgufArray>(&value->value);
  if (array == nullptr || array->type != GgufValueType::kBool) {
    fail_type(key, *value, "an array of bools");
  }
  std::vector<bool> out;
  array->for_each([&](const GgufScalar& element) { out.push_back(std::get<bool>(element)); });
  return out;
}

std::optional<std::vector<std::string_view>> GgufMetadata::strings(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto* array = std::get_if<GgufArray>(&value->value);
  if (array == nullptr || array->type != GgufValueType::kString) {
    fail_type(key, *value, "an array of strings");
  }
  std::vector<std::string_view> out;
  out.reserve(static_cast<size_t>(array->count));
  array->for_each(
      [&](const GgufScalar& element) { out.push_back(std::get<std::string_view>(element)); });
  return out;
}

int64_t GgufMetadata::required_integer(std::string_view key) const {
  const std::optional<int64_t> value = integer(key);
  if (!value) fail(key, "GGUF file lacks a key", "a whole number", "nothing");
  return *value;
}

std::string GgufMetadata::required_string(std::string_view key) const {
  std::optional<std::string> value = string(key);
  if (!value) fail(key, "GGUF file lacks a key", "a string", "nothing");
  return *std::move(value);
}

bool is_valid_utf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const auto first = static_cast<uint8_t>(text[i]);
    const size_t length = first < 0x80             ? 1
                          : (first & 0xe0) == 0xc0 ? 2
                          : (first & 0xf0) == 0xe0 ? 3
                          : (first & 0xf8) == 0xf0 ? 4
                                                   : 0;
    if (length == 0 || text.size() - i < length) return false;
    uint32_t point = length == 1 ? first : first & (0x7fU >> length);
    for (size_t k = 1; k < length; ++k) {
      const auto byte = static_cast<uint8_t>(text[i + k]);
      if ((byte & 0xc0) != 0x80) return false;
      point = point << 6 | (byte & 0x3fU);
    }
    constexpr uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
    if (point < kLeast[length] || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) {
      return false;
    }
    i += length;
  }
  return true;
}

}  // namespace moe4
