// Notes of keys and refusals around a JsonReader.
#include "models/config_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "checkpoint/layer_layout.h"

namespace moe4 {
namespace {

constexpr const char* kHint = "moe4 plan and inspect still work on this checkpoint";

std::string any_of(std::initializer_list<std::string_view> words) {
  return fmt::format("{}", fmt::join(words, " or "));
}

bool is_one_of(const Json& value, std::initializer_list<std::string_view> words) {
  return value.is_string() &&
         std::find(words.begin(), words.end(), value.get_ref<const std::string&>()) != words.end();
}

}  // namespace

ConfigReader::ConfigReader(const Checkpoint& checkpoint) : reader_(checkpoint.text_config()) {
  const JsonReader root = checkpoint.root_config();
  if (&root.json() != &reader_.json()) wrapper_ = root;
}

void ConfigReader::note(Keys keys) const {
  const char* misplaced = nullptr;
  bool found = false;
  for (const char* key : keys) {
    read_.insert(key);
    found |= reader_.json().contains(key);
    if (wrapper_ && misplaced == nullptr && wrapper_->has(key)) misplaced = key;
  }
  if (found || misplaced == nullptr) return;
  if (!refused_.insert(misplaced).second) return;
  refusals_.push_back(
      Refusal::from("unsupported-setting", {.what = "setting of the text model outside of it",
                                            .file = reader_.file(),
                                            .tensor = "key " + std::string(misplaced),
                                            .expected = "the key " + reader_.path_of(misplaced),
                                            .found = describe(*wrapper_->get(misplaced)),
                                            .hint = kHint}));
}

void ConfigReader::require_agreement(Keys keys) const {
  const char* first = nullptr;
  for (const char* key : keys) {
    if (!reader_.has(key)) continue;
    if (first == nullptr) {
      first = key;
    } else if (*reader_.get(key) != *reader_.get(first)) {
      refuse(key, describe(*reader_.get(first)) + " as " + first, describe(*reader_.get(key)));
    }
  }
}

void ConfigReader::refuse(std::string_view key, const std::string& expected,
                          const std::string& found) const {
  if (!refused_.insert(std::string(key)).second) return;
  refusals_.push_back(
      Refusal::from("unsupported-setting", {.what = fmt::format("unsupported {}", key),
                                            .file = reader_.file(),
                                            .tensor = reader_.path_of(key),
                                            .expected = expected,
                                            .found = found,
                                            .hint = kHint}));
}

bool ConfigReader::has(const char* key) const {
  note({key});
  return reader_.has(key);
}

bool ConfigReader::is_null(const char* key) const {
  note({key});
  const auto at = reader_.json().find(key);
  return at != reader_.json().end() && at->is_null();
}

int64_t ConfigReader::size(Keys keys, std::optional<int64_t> fallback) const {
  note(keys);
  return reader_.size(keys, fallback);
}

int64_t ConfigReader::integer(Keys keys, int64_t minimum, int64_t maximum,
                              std::optional<int64_t> fallback) const {
  note(keys);
  return reader_.integer(keys, minimum, maximum, fallback);
}

double ConfigReader::number(Keys keys, double fallback, double minimum, double maximum) const {
  note(keys);
  require_agreement(keys);
  return reader_.number(keys, fallback, minimum, maximum);
}

bool ConfigReader::flag(Keys keys, bool fallback) const {
  note(keys);
  require_agreement(keys);
  return reader_.boolean(keys, fallback);
}

std::string ConfigReader::word(Keys keys, const std::string& fallback) const {
  note(keys);
  require_agreement(keys);
  return reader_.string(keys, fallback);
}

bool ConfigReader::lists(const char* key, int64_t number) const {
  note({key});
  const Json* value = reader_.get(key);
  if (value != nullptr && value->is_string()) {
    std::string text = "," + value->get<std::string>() + ",";
    std::erase(text, ' ');
    return text.find(fmt::format(",{},", number)) != std::string::npos;
  }
  const Json* list = reader_.array(key);
  return list != nullptr && std::find(list->begin(), list->end(), number) != list->end();
}

BiasRule ConfigReader::bias(Keys keys) const {
  note(keys);
  require_agreement(keys);
  for (const char* key : keys) {
    if (reader_.has(key)) return {reader_.path_of(key), reader_.boolean({key}, false)};
  }
  return {};
}

bool ConfigReader::tie_word_embeddings(bool otherwise) const {
  constexpr const char* kKey = "tie_word_embeddings";
  read_.insert(kKey);
  const bool own = reader_.boolean({kKey}, otherwise);
  return wrapper_ ? wrapper_->boolean({kKey}, own) : own;
}

std::string ConfigReader::layer_type(int64_t layer, std::initializer_list<std::string_view> words,
                                     std::string_view otherwise, const char* key) const {
  note({key});
  const Json* types = reader_.array(key);
  if (types == nullptr) return std::string(otherwise);
  if (layer >= static_cast<int64_t>(types->size())) {
    reader_.fail(key, "configuration array has the wrong length", "an entry a layer",
                 std::to_string(types->size()));
  }
  const Json& word = (*types)[static_cast<size_t>(layer)];
  if (is_one_of(word, words)) return word.get<std::string>();
  refuse(key, any_of(words), fmt::format("{} in layer {}", describe(word), layer));
  return std::string(otherwise);
}

int64_t ConfigReader::layer_size(int64_t layer, const char* key, int64_t otherwise) const {
  note({key});
  const Json* sizes = reader_.array(key);
  if (sizes == nullptr) return otherwise;
  if (layer >= static_cast<int64_t>(sizes->size())) {
    reader_.fail(key, "configuration array has the wrong length", "an entry a layer",
                 std::to_string(sizes->size()));
  }
  const Json& size = (*sizes)[static_cast<size_t>(layer)];
  constexpr uint64_t kMost = std::numeric_limits<int32_t>::max();
  if (!size.is_number_unsigned() || size == 0 || size.get<uint64_t>() > kMost) {
    reader_.fail(key, "configuration value is not usable", "sizes of 1 to 2147483647",
                 fmt::format("{} in layer {}", describe(size), layer));
  }
  return size.get<int64_t>();
}

bool ConfigReader::layer_flag(int64_t layer, const char* key, bool otherwise) const {
  note({key});
  const Json* flags = reader_.array(key);
  if (flags == nullptr || flags->empty()) return otherwise;
  if (layer >= static_cast<int64_t>(flags->size())) {
    reader_.fail(key, "configuration array has the wrong length", "an entry a layer",
                 std::to_string(flags->size()));
  }
  const Json& flag = (*flags)[static_cast<size_t>(layer)];
  if (flag != true && flag != false && flag != 1 && flag != 0) {
    reader_.fail(key, "configuration value is not usable", "0 or 1",
                 fmt::format("{} in layer {}", describe(flag), layer));
  }
  return flag == true || flag == 1;
}

double ConfigReader::layer_number(int64_t layer, const char* key, double otherwise) const {
  note({key});
  const Json* list = reader_.get(key);
  if (list == nullptr) return otherwise;
  if (list->is_array() && layer >= static_cast<int64_t>(list->size())) {
    reader_.fail(key, "configuration array has the wrong length", "an entry a layer",
                 std::to_string(list->size()));
  }
  const Json& value = list->is_array() ? (*list)[static_cast<size_t>(layer)] : *list;
  if (value.is_null()) return otherwise;
  if (!value.is_number() || std::abs(value.get<double>()) > 1e30) {
    reader_.fail(key, "configuration value is not usable", "numbers",
                 fmt::format("{} in layer {}", describe(value), layer));
  }
  return value.get<double>();
}

std::string ConfigReader::hybrid_layers() const {
  note({"hybrid_override_pattern", "layers_block_type", "layer_types", "num_hidden_layers"});
  const std::optional<HybridPattern> pattern = hybrid_pattern(reader_);
  if (!pattern) {
    refuse("hybrid_override_pattern", "a pattern of M, E, * and -", "none");
    return "";
  }
  if (pattern->unknown.empty()) return pattern->layers;
  refuse(pattern->key,
         std::string_view(pattern->key) == "hybrid_override_pattern"
             ? "M, E, * or -"
             : "mamba, linear_attention, moe, attention, full_attention or mlp",
         printable(pattern->unknown, 80));
  return "";
}

std::array<float, 2> ConfigReader::interval(const char* key, std::array<float, 2> fallback) const {
  note({key});
  const Json* list = reader_.array(key);
  if (list == nullptr) return fallback;
  const auto bad = [&] {
    reader_.fail(key, "configuration value is not usable", "two rising numbers", describe(*list));
  };
  if (list->size() != 2) bad();
  std::array<float, 2> bounds;
  for (size_t i = 0; i < 2; ++i) {
    const Json* item = &(*list)[i];
    if (item->is_object() && item->contains("__float__")) item = &item->at("__float__");
    const bool infinite = *item == "Infinity" || *item == "inf";
    if (!infinite && !item->is_number()) bad();
    const double number = infinite ? std::numeric_limits<double>::max() : item->get<double>();
    const bool fits = number <= static_cast<double>(std::numeric_limits<float>::max());
    bounds[i] = fits ? static_cast<float>(number) : std::numeric_limits<float>::infinity();
  }
  if (!(bounds[0] <= bounds[1])) bad();
  return bounds;
}

void ConfigReader::require_flag(const char* key, bool value) const {
  note({key});
  const Json* found = reader_.get(key);
  if (found != nullptr && *found != value) refuse(key, value ? "true" : "false", describe(*found));
}

void ConfigReader::require(const char* key, double value) const {
  note({key});
  const Json* found = reader_.get(key);
  if (found != nullptr && *found != value) refuse(key, fmt::format("{}", value), describe(*found));
}

void ConfigReader::require(const char* key, std::initializer_list<std::string_view> words) const {
  note({key});
  const Json* found = reader_.get(key);
  if (found != nullptr && !is_one_of(*found, words)) refuse(key, any_of(words), describe(*found));
}

void ConfigReader::require_multiple(const char* key, int64_t value, int64_t factor) const {
  if (value > 0 && value % factor == 0) return;
  refuse(key, fmt::format("a positive multiple of {}", factor), std::to_string(value));
}

void ConfigReader::disregard(Keys keys) const {
  for (const char* key : keys) read_.insert(key);
}

bool ConfigReader::was_read(std::string_view key) const { return read_.contains(key); }

}  // namespace moe4
