// Foreign JSON files: bounded parsing and typed access whose errors name the file and the key.
#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moe4 {

using Json = nlohmann::json;

/// The largest JSON file that is read: quantization configs of real checkpoints reach 3 MB, indices
/// 20 MB.
inline constexpr int64_t kMaxJsonBytes = 100'000'000;

/// Parses a whole document. Python's NaN and Infinity are accepted as numbers where they are not
/// used. Throws Error(kBadInput) for syntax errors, invalid UTF-8, duplicate keys and nesting
/// deeper than 64 levels. `group_order`, when given, receives the keys of objects named
/// "config_groups" in the file's order, which Json does not keep.
Json parse_json(std::string text, const std::string& file,
                std::vector<std::string>* group_order = nullptr);

/// Reads and parses a regular file of at most kMaxJsonBytes.
Json read_json_file(const std::filesystem::path& file,
                    std::vector<std::string>* group_order = nullptr);

/// Reads a regular file of at most `max_bytes`; anything else is Error(kBadInput).
std::string read_json_text(const std::filesystem::path& file, int64_t max_bytes);

/// Typed access to one JSON object. A key whose value is null counts as absent. Where several
/// spellings of a key are given, those present must agree. All functions throw Error(kBadInput)
/// naming file and key.
class JsonReader {
 public:
  using Keys = std::initializer_list<const char*>;

  /// `path`: what leads to the object inside the file, "" for the root. `object` must outlive the
  /// reader.
  JsonReader(const Json& object, std::string file, std::string path = "");

  const std::string& file() const { return file_; }
  const Json& json() const { return *object_; }
  bool has(const char* key) const { return get(key) != nullptr; }
  /// The value, or null when absent.
  const Json* get(const char* key) const;
  /// "text_config.num_experts".
  std::string path_of(std::string_view key) const;

  /// A whole number in [minimum, maximum]. Without a fallback the key is required.
  int64_t integer(Keys keys, int64_t minimum, int64_t maximum,
                  std::optional<int64_t> fallback = std::nullopt) const;
  /// A size: 1 to 2^31 - 1.
  int64_t size(Keys keys, std::optional<int64_t> fallback = std::nullopt) const;
  double number(Keys keys, double fallback, double minimum, double maximum) const;
  bool boolean(Keys keys, bool fallback) const;
  std::string string(Keys keys, const std::string& fallback) const;
  /// The object under `key`; nullopt when absent.
  std::optional<JsonReader> object(const char* key) const;
  /// The array under `key`, or null when absent.
  const Json* array(const char* key) const;

  [[noreturn]] void fail(std::string_view key, const std::string& what, const std::string& expected,
                         const std::string& found) const;

 private:
  const Json* object_;
  std::string file_;
  std::string path_;
};

/// A JSON value as a short piece of a message.
std::string describe(const Json& value);

}  // namespace moe4
