// Reads JSON files and gives typed access to their objects.
#include "checkpoint/json_reader.h"

#include <fmt/format.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"

namespace moe4 {
std::string read_json_text(const std::filesystem::path& file, int64_t max_bytes) {
  std::error_code error;
  const auto status = std::filesystem::status(file, error);
  if (error || !std::filesystem::exists(status)) {
    throw_bad_input({.what = "cannot open file",
                     .file = file.string(),
                     .found = error ? error.message() : "no such file"});
  }
  if (!std::filesystem::is_regular_file(status)) {
    throw_bad_input({.what = "not a regular file", .file = file.string()});
  }
  const auto size = std::filesystem::file_size(file, error);
  if (!error && size > static_cast<uintmax_t>(max_bytes)) {
    throw_bad_input({.what = "file is too large",
                     .file = file.string(),
                     .expected = fmt::format("at most {} bytes", max_bytes),
                     .found = fmt::format("{} bytes", size)});
  }
  std::ifstream stream(file, std::ios::binary);
  std::string text(error ? 0 : static_cast<size_t>(size), '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (error || !stream) throw_bad_input({.what = "cannot read file", .file = file.string()});
  return text;
}

Json read_json_file(const std::filesystem::path& file, std::vector<std::string>* group_order) {
  return parse_json(read_json_text(file, kMaxJsonBytes), file.string(), group_order);
}

std::string describe(const Json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return fmt::format("an array of {}", value.size());
  // `replace`: foreign strings may hold anything, and dump() would throw on it.
  return printable(value.dump(-1, ' ', false, Json::error_handler_t::replace), 80);
}

JsonReader::JsonReader(const Json& object, std::string file, std::string path)
    : object_(&object), file_(std::move(file)), path_(std::move(path)) {
  if (!object.is_object()) {
    throw_bad_input({.what = "JSON value is not an object",
                     .file = file_,
                     .tensor = path_,
                     .expected = "an object",
                     .found = describe(object)});
  }
}

const Json* JsonReader::get(const char* key) const {
  const auto it = object_->find(key);
  return it == object_->end() || it->is_null() ? nullptr : &*it;
}

std::string JsonReader::path_of(std::string_view key) const {
  return path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key);
}

void JsonReader::fail(std::string_view key, const std::string& what, const std::string& expected,
                      const std::string& found) const {
  throw_bad_input({.what = what,
                   .file = file_,
                   .tensor = "key " + path_of(key),
                   .expected = expected,
                   .found = found});
}

int64_t JsonReader::integer(Keys keys, int64_t minimum, int64_t maximum,
                            std::optional<int64_t> fallback) const {
  std::optional<int64_t> result;
  const char* first_key = nullptr;
  for (const char* key : keys) {
    const Json* value = get(key);
    if (value == nullptr) continue;
    const bool whole_float =
        value->is_number_float() && std::trunc(value->get<double>()) == value->get<double>();
    const bool in_range =
        whole_float ? value->get<double>() >= static_cast<double>(minimum) &&
                          value->get<double>() <= static_cast<double>(maximum)
        : value->is_number_unsigned()
            ? value->get<uint64_t>() <= static_cast<uint64_t>(std::max<int64_t>(maximum, 0)) &&
                  (minimum <= 0 || value->get<uint64_t>() >= static_cast<uint64_t>(minimum))
            : value->is_number_integer() && value->get<int64_t>() >= minimum &&
                  value->get<int64_t>() <= maximum;
    if (!in_range) {
      fail(key, "configuration value is not usable",
           fmt::format("a whole number from {} to {}", minimum, maximum), describe(*value));
    }
    const int64_t number = value->get<int64_t>();
    if (result && *result != number) {
      fail(key, fmt::format("configuration disagrees with its other spelling {}", first_key),
           std::to_string(*result), std::to_string(number));
    }
    if (!result) first_key = key;
    result = number;
  }
  if (result) return *result;
  if (fallback) return *fallback;
  fail(*keys.begin(), "configuration key is missing",
       fmt::format("a whole number from {} to {}", minimum, maximum), "nothing");
}

int64_t JsonReader::size(Keys keys, std::optional<int64_t> fallback) const {
  return integer(keys, 1, std::numeric_limits<int32_t>::max(), fallback);
}

double JsonReader::number(Keys keys, double fallback, double minimum, double maximum) const {
  for (const char* key : keys) {
    const Json* value = get(key);
    if (value == nullptr) continue;
    if (!value->is_number() || !(value->get<double>() >= minimum) ||
        !(value->get<double>() <= maximum)) {
      fail(key, "configuration value is not usable",
           fmt::format("a number from {} to {}", minimum, maximum), describe(*value));
    }
    return value->get<double>();
  }
  return fallback;
}

bool JsonReader::boolean(Keys keys, bool fallback) const {
  for (const char* key : keys) {
    const Json* value = get(key);
    if (value == nullptr) continue;
    if (!value->is_boolean()) {
      fail(key, "configuration value is not usable", "true or false", describe(*value));
    }
    return value->get<bool>();
  }
  return fallback;
}

std::string JsonReader::string(Keys keys, const std::string& fallback) const {
  for (const char* key : keys) {
    const Json* value = get(key);
    if (value == nullptr) continue;
    if (!value->is_string()) {
      fail(key, "configuration value is not usable", "a string", describe(*value));
    }
    return value->get<std::string>();
  }
  return fallback;
}

std::optional<JsonReader> JsonReader::object(const char* key) const {
  const Json* value = get(key);
  if (value == nullptr) return std::nullopt;
  return JsonReader(*value, file_, path_of(key));
}

const Json* JsonReader::array(const char* key) const {
  const Json* value = get(key);
  if (value != nullptr && !value->is_array()) {
    fail(key, "configuration value is not usable", "an array", describe(*value));
  }
  return value;
}

}  // namespace moe4
