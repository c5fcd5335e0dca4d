// Two neighbours merge where their bytes together are a token, the lowest id first: the model needs
// no list of merges.
#include "text/tiktoken_model.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/base64.h"
#include "text/byte_alphabet.h"

namespace moe4 {
namespace {

using nlohmann::json;

constexpr int32_t kNumSpecial = 256;
constexpr size_t kMaxTokenBytes = 256;

// Kimi-K2's tokenization_kimi.py: runs of Han; letters other than Han, with a contraction behind;
// digits by threes; the rest as in o200k_base.
constexpr const char* kUpper = R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]])";
constexpr const char* kLower = R"([\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]])";
constexpr const char* kBefore = R"([^\r\n\p{L}\p{N}]?)";
constexpr const char* kAfter = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)";
constexpr const char* kRest = R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

std::string kimi_pattern() {
  const std::string upper = kUpper, lower = kLower;
  return std::string("[\\p{Han}]+|") + kBefore + upper + "*" + lower + "+" + kAfter + "|" +
         kBefore + upper + "+" + lower + "*" + kAfter + kRest;
}

TokenizerJson read_ranks(const TokenizerFile& file) {
  TokenizerJson bulk;
  std::string_view rest = file.text;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.empty()) continue;
    const auto id = static_cast<int32_t>(bulk.vocab.size());
    const size_t space = std::min(line.find(' '), line.size());
    const auto bytes = decode_base64(line.substr(0, space));
    if (!bytes || bytes->empty() || bytes->size() > kMaxTokenBytes ||
        line.substr(std::min(space + 1, line.size())) != std::to_string(id)) {
      throw_bad_input({.what = "not a line of a tiktoken model",
                       .file = file.name,
                       .tensor = "line " + std::to_string(id + 1),
                       .expected = "up to " + std::to_string(kMaxTokenBytes) +
                                   " bytes in base64, a space and the id " + std::to_string(id),
                       .found = printable(std::string(line), 80)});
    }
    bulk.vocab.emplace_back(spelling_of(*bytes), id);
  }
  return bulk;
}

[[noreturn]] void refuse_config(const TokenizerFile& file, const std::string& key,
                                const std::string& expected, const json& found) {
  throw_bad_input({.what = "tokenizer configuration is not understood",
                   .file = file.name,
                   .tensor = key,
                   .expected = expected,
                   .found = printable(found.dump(), 80)});
}

json read_config(const TokenizerFile& file) {
  json config = json::parse(file.text, nullptr, /*allow_exceptions=*/false);
  if (config.is_discarded()) throw_bad_input({.what = "not valid JSON", .file = file.name});
  if (!config.is_object()) throw_bad_input({.what = "not a JSON object", .file = file.name});
  const json name = config.value("tokenizer_class", json());
  if (name != "TikTokenTokenizer") {
    refuse_config(file, "tokenizer_class", "TikTokenTokenizer, whose tiktoken.model is known",
                  name);
  }
  return config;
}

AddedTokens read_special(const TokenizerFile& file, int32_t first) {
  const json config = read_config(file);
  AddedTokens added;
  std::array<bool, kNumSpecial> named{};
  const auto add = [&](int32_t id, const std::string& content, bool special) {
    added.add({.id = id, .content = content, .pattern = content, .special = special});
  };
  const json tokens = config.value("added_tokens_decoder", json::object());
  if (!tokens.is_object()) {
    refuse_config(file, "added_tokens_decoder", "an object of tokens by id", tokens);
  }
  for (const auto& [key, token] : tokens.items()) {
    const std::string path = "added_tokens_decoder." + key;
    int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < first ||
        id >= first + kNumSpecial || named[id - first]) {
      refuse_config(
          file, path,
          "one of the " + std::to_string(kNumSpecial) + " ids from " + std::to_string(first),
          token);
    }
    const json content = token.is_object() ? token.value("content", json()) : json();
    const json special = token.is_object() ? token.value("special", json(true)) : json();
    if (!content.is_string() || content == "" || !special.is_boolean() ||
        content.get<std::string>().size() > AddedTokens::kMaxContentBytes ||
        added.find(content.get<std::string>()) != nullptr) {
      refuse_config(file, path, "a token with a content of its own", token);
    }
    named[id - first] = true;
    add(id, content.get<std::string>(), special.get<bool>());
  }
  for (int32_t i = 0; i < kNumSpecial; ++i) {
    const int32_t id = first + i;
    const std::string reserved = "<|reserved_token_" + std::to_string(id) + "|>";
    if (!named[i] && added.find(reserved) == nullptr) add(id, reserved, true);
  }
  return added;
}

}  // namespace

TokenizerParts read_tiktoken_model(const TokenizerFile& ranks, const TokenizerFile& config) {
  const TokenizerJson bulk = read_ranks(ranks);
  BpeModel model = BpeModel::of_ranks(bulk, ranks.name);
  if (!model.covers_all_bytes()) {
    throw_bad_input({.what = "tiktoken model lacks some of the 256 bytes", .file = ranks.name});
  }
  AddedTokens special = read_special(config, static_cast<int32_t>(bulk.vocab.size()));
  PreTokenizer pre_tokenizer{.byte_level = true};
  pre_tokenizer.steps.emplace_back(
      SplitStep{SplitRegex(kimi_pattern(), /*literal=*/false, ranks.name)});
  return {.normalizer = {},
          .pre_tokenizer = std::move(pre_tokenizer),
          .model = std::move(model),
          .added = std::move(special),
          .decoder = {}};
}

}  // namespace moe4
