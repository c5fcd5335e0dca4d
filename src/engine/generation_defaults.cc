// Joins what several files say about the end of a turn.
#include "engine/generation_defaults.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "gguf/file.h"

namespace moe4 {

std::vector<int32_t> GenerationDefaults::stop_token_ids() const {
  std::vector<int32_t> ids;
  for (const StopToken& token : stop_tokens) ids.push_back(token.id);
  return ids;
}

namespace {

constexpr char kHarmony[] = "harmony format";

// Older files know of <|return|> alone; and who stops at <|end|> shows thoughts and no answer.
template <typename Add, typename Note>
void apply_harmony(const Tokenizer& tokenizer, std::vector<StopToken>& stop_tokens, const Add& add,
                   const Note& note) {
  const auto end = tokenizer.token_id("<|end|>"), call = tokenizer.token_id("<|call|>"),
             last = tokenizer.token_id("<|return|>");
  if (!end || !call || !last || !tokenizer.token_id("<|channel|>")) return;
  add(*last, kHarmony);
  add(*call, kHarmony);
  if (std::erase_if(stop_tokens, [&](const StopToken& t) { return t.id == *end; }) > 0) {
    note(kHarmony,
         fmt::format("end token {} '<|end|>' closes a channel and not the turn; it is not "
                     "used",
                     *end));
  }
}

}  // namespace

GenerationDefaults read_generation_defaults(const std::filesystem::path& directory,
                                            const Tokenizer& tokenizer, int64_t vocab_size) {
  GenerationDefaults defaults;
  const auto note = [&](const std::string& where, const std::string& message) {
    defaults.notes.push_back(
        {.level = CheckpointNote::Level::kWarning, .where = where, .message = message});
  };
  const auto add = [&](int32_t id, const std::string& source) {
    if (id >= vocab_size) {
      note(source, fmt::format("end token {} is outside the vocabulary of {}; it is not used", id,
                               vocab_size));
      return;
    }
    auto& tokens = defaults.stop_tokens;
    auto found =
        std::find_if(tokens.begin(), tokens.end(), [&](const StopToken& t) { return t.id == id; });
    if (found == tokens.end())
      found = tokens.insert(found, {.id = id, .text = tokenizer.token_bytes(id), .sources = {}});
    found->sources.push_back(source);
  };

  const char* config_file = is_gguf_file(directory) ? "GGUF metadata" : "config.json";
  defaults.config = read_generation_config(directory, defaults.notes);
  for (const int32_t id : defaults.config.eos_token_ids) add(id, "generation_config.json");
  // MiniMax-M2's config.json says 2, which is a letter there.
  const bool knows_special =
      std::any_of(defaults.stop_tokens.begin(), defaults.stop_tokens.end(),
                  [&](const StopToken& t) { return tokenizer.is_special(t.id); });
  for (const int32_t id : read_config_eos_ids(directory, defaults.notes)) {
    if (knows_special && id < vocab_size && !tokenizer.is_special(id)) {
      note(config_file,
           fmt::format("end token {} '{}' is ordinary text, and generation_config.json names other "
                       "ends; it is not used",
                       id, printable(tokenizer.token_bytes(id), 80)));
    } else {
      add(id, config_file);
    }
  }
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const std::string text = read_eos_token(directory / name, defaults.notes);
    if (text.empty()) continue;
    if (const auto id = tokenizer.token_id(text)) {
      add(*id, name);
    } else {
      note(name, fmt::format("eos_token '{}' is not in the vocabulary; it is not used",
                             printable(text, 80)));
    }
  }
  apply_harmony(tokenizer, defaults.stop_tokens, add, note);
  return defaults;
}

std::string to_string(const std::vector<StopToken>& stop_tokens) {
  std::string text;
  for (const StopToken& token : stop_tokens) {
    text += fmt::format("{}{} '{}' ({})", text.empty() ? "" : "; ", token.id,
                        printable(token.text, 80), fmt::join(token.sources, ", "));
  }
  return text.empty() ? "none: no file names an end token" : text;
}

}  // namespace moe4
