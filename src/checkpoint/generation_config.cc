// Reads advice about generation, key by key, so that one bad value costs no other.
#include "checkpoint/generation_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "gguf/documents.h"
#include "gguf/file.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;
using Notes = std::vector<CheckpointNote>;

constexpr int64_t kMaxId = std::numeric_limits<int32_t>::max();

// Settings that change which tokens come and that moe4 does not apply, with the number that asks
// for nothing, as null, false and what is empty do.
struct NotApplied {
  const char* key;
  double neutral;
};
constexpr NotApplied kNotApplied[] = {
    {"num_beams", 1},
    {"num_beam_groups", 1},
    {"penalty_alpha", 0},
    {"typical_p", 1},
    {"epsilon_cutoff", 0},
    {"eta_cutoff", 0},
    {"guidance_scale", 1},
    {"no_repeat_ngram_size", 0},
    {"encoder_repetition_penalty", 1},
    {"encoder_no_repeat_ngram_size", 0},
    {"min_length", 0},
    {"min_new_tokens", 0},
    {"presence_penalty", 0},
    {"frequency_penalty", 0},
    {"bad_words_ids", 0},
    {"suppress_tokens", 0},
    {"begin_suppress_tokens", 0},
    {"forced_bos_token_id", -1},
    {"forced_eos_token_id", -1},
    {"sequence_bias", 0},
    {"exponential_decay_length_penalty", 0},
    {"stop_strings", 0},
};

void note(Notes& notes, const fs::path& file, const std::string& message) {
  notes.push_back({.level = CheckpointNote::Level::kWarning,
                   .where = file.filename().string(),
                   .message = message + "; it is not used"});
}

// Runs `read`; what it cannot use becomes a note.
template <typename Read>
void attempt(Notes& notes, const fs::path& file, const Read& read) {
  try {
    read();
  } catch (const Error& error) {
    note(notes, file, error.what());
  }
}

// The whole document, or null when there is no such file or it is not usable.
Json read_document(const fs::path& file, Notes& notes) {
  Json root;
  std::error_code error;
  if (!fs::exists(fs::symlink_status(file, error))) return root;
  attempt(notes, file, [&] {
    root = read_json_file(file);
    JsonReader(root, file.string());
  });
  return root.is_object() ? root : Json();
}

// eos_token_id of `object`: a number, a list of numbers or null. `path` leads to the object.
void add_eos_ids(const Json& object, const fs::path& file, const std::string& path, Notes& notes,
                 std::vector<int32_t>& ids) {
  const auto value = object.find("eos_token_id");
  if (value == object.end()) return;
  const auto add = [&](const Json& id) {
    if (id.is_null()) return;
    attempt(notes, file, [&] {
      const Json one = {{"eos_token_id", id}};
      const auto number = static_cast<int32_t>(
          JsonReader(one, file.string(), path).integer({"eos_token_id"}, 0, kMaxId));
      if (std::find(ids.begin(), ids.end(), number) == ids.end()) ids.push_back(number);
    });
  };
  if (!value->is_array()) return add(*value);
  for (const Json& id : *value) add(id);
}

bool asks_for_nothing(const Json& value, const NotApplied& setting) {
  if (value.is_null() || (value.is_structured() && value.empty())) return true;
  if (value.is_boolean()) return !value.get<bool>();
  if (!value.is_number()) return false;
  return value.get<double>() == setting.neutral;
}

}  // namespace

GenerationConfig parse_generation_config(const Json& root_json, const std::string& file,
                                         Notes& notes) {
  GenerationConfig config;
  attempt(notes, file, [&] { JsonReader(root_json, file); });
  if (!root_json.is_object()) return config;
  const JsonReader root(root_json, file);
  add_eos_ids(root_json, file, "", notes, config.eos_token_ids);
  const auto number = [&](const char* key, float& value, double minimum, double maximum) {
    attempt(notes, file, [&] {
      value = static_cast<float>(root.number({key}, static_cast<double>(value), minimum, maximum));
    });
  };
  attempt(notes, file, [&] { config.do_sample = root.boolean({"do_sample"}, config.do_sample); });
  attempt(notes, file,
          [&] { config.top_k = std::max<int64_t>(root.integer({"top_k"}, -1, kMaxId, 0), 0); });
  number("temperature", config.temperature, 0.0, 100.0);
  number("top_p", config.top_p, 0.0, 1.0);
  number("min_p", config.min_p, 0.0, 1.0);
  number("repetition_penalty", config.repetition_penalty, 1e-3, 1e3);
  for (const NotApplied& setting : kNotApplied) {
    const auto found = root_json.find(setting.key);
    if (found == root_json.end() || asks_for_nothing(*found, setting)) continue;
    note(notes, file, fmt::format("moe4 does not apply {} = {}", setting.key, describe(*found)));
  }
  return config;
}

GenerationConfig read_generation_config(const fs::path& directory, Notes& notes) {
  if (is_gguf_file(directory)) {
    return parse_generation_config(gguf_generation_config(directory), directory.string(), notes);
  }
  const fs::path file = directory / "generation_config.json";
  const Json root = read_document(file, notes);
  return root.is_null() ? GenerationConfig{} : parse_generation_config(root, file.string(), notes);
}

std::vector<int32_t> read_config_eos_ids(const fs::path& directory, Notes& notes) {
  std::vector<int32_t> ids;
  if (is_gguf_file(directory)) {
    for (const auto& [id, key] : gguf_end_tokens(directory)) {
      add_eos_ids({{"eos_token_id", id}}, directory, key, notes, ids);
    }
    return ids;
  }
  const fs::path file = directory / "config.json";
  const Json root = read_document(file, notes);
  if (root.is_null()) return ids;
  const auto add = [&](const auto& self, const Json& object, const std::string& path) -> void {
    add_eos_ids(object, file, path, notes, ids);
    for (const char* key : {"text_config", "llm_config", "language_config", "thinker_config"}) {
      const auto nested = object.find(key);
      if (nested == object.end() || !nested->is_object()) continue;
      self(self, *nested, path.empty() ? std::string(key) : path + "." + key);
    }
  };
  add(add, root, "");
  return ids;
}

std::string read_eos_token(const fs::path& file, Notes& notes) {
  const Json root = read_document(file, notes);
  const auto found = root.find("eos_token");
  if (root.is_null() || found == root.end() || found->is_null()) return "";
  if (found->is_string()) return found->get<std::string>();
  if (found->is_object() && found->contains("content") && (*found)["content"].is_string())
    return (*found)["content"].get<std::string>();
  note(notes, file,
       fmt::format("eos_token is neither a text nor an object with `content`: {}",
                   describe(*found)));
  return "";
}

}  // namespace moe4
