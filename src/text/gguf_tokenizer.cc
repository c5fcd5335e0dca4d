// Puts tokenizer.json together again from what the converter took out of it.
#include "text/gguf_tokenizer.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/error.h"

namespace moe4 {
namespace {

using nlohmann::json;

constexpr const char* kModel = "tokenizer.ggml.model";
constexpr const char* kPre = "tokenizer.ggml.pre";
constexpr const char* kTokens = "tokenizer.ggml.tokens";
constexpr const char* kTypes = "tokenizer.ggml.token_type";
constexpr const char* kMerges = "tokenizer.ggml.merges";
constexpr const char* kScores = "tokenizer.ggml.scores";
constexpr const char* kAddSpace = "tokenizer.ggml.add_space_prefix";
constexpr const char* kRemoveSpaces = "tokenizer.ggml.remove_extra_whitespaces";

// gguf-py's TokenType.
enum TokenType : int64_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

// What stands behind a name in tokenizer.ggml.pre.
struct PreTokenizerKind {
  std::vector<std::string> splits;  // one behind the other
  bool nfc = false;
  bool ignore_merges = false;
};

// The patterns of published tokenizer.json files, put together from what they share.
const std::string kTail = R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
const std::string kEndings = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const std::string kThreeDigits = R"(\p{N}{1,3})", kDigit = R"(\p{N})";

std::string words(const std::string& digits) {
  return kEndings + R"(|[^\r\n\p{L}\p{N}]?\p{L}+|)" + digits + R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|)" +
         kTail;
}

// Words that change from lower to upper case are cut; `but` is taken out of the letters.
std::string cased(const std::string& endings, const std::string& digits,
                  const std::string& punctuation, const std::string& but = "") {
  const std::string before = R"([^\r\n\p{L}\p{N}]?)";
  const std::string upper = R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M})" + but + "]";
  const std::string lower = R"([\p{Ll}\p{Lm}\p{Lo}\p{M})" + but + "]";
  return before + upper + "*" + lower + "+" + endings + "|" + before + upper + "+" + lower + "*" +
         endings + "|" + digits + R"(| ?[^\s\p{L}\p{N}]+)" + punctuation + "|" + kTail;
}

const std::vector<std::pair<std::string_view, PreTokenizerKind>>& known_kinds() {
  static const auto* const kinds = [] {
    const PreTokenizerKind llama3{.splits = {words(kThreeDigits)}, .ignore_merges = true};
    const PreTokenizerKind o200k{.splits = {cased(kEndings + "?", kThreeDigits, R"([\r\n/]*)")}};
    const PreTokenizerKind qwen2{.splits = {words(kDigit)}, .nfc = true};
    const PreTokenizerKind glm{.splits = {words(kThreeDigits)}};
    const PreTokenizerKind qwen35{.splits = {kEndings +
                                             R"(|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|)"
                                             R"( ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|)" +
                                             kTail},
                                  .nfc = true};
    const PreTokenizerKind deepseek{
        .splits = {kThreeDigits, "[一-龥぀-ゟ゠-ヿ]+",
                   R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|)"
                   "[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|" +
                       kTail}};
    const PreTokenizerKind tekken{.splits = {cased("", kDigit, R"([\r\n/]*)")},
                                  .ignore_merges = true};
    const PreTokenizerKind kimi{
        .splits = {R"([\p{Han}]+|)" +
                   cased(kEndings + "?", kThreeDigits, R"([\r\n]*)", R"(&&[^\p{Han}])")},
        .ignore_merges = true};
    const PreTokenizerKind laguna{.splits = {R"([\r\n]+)", words(kDigit)}};
    const PreTokenizerKind gpt2{
        .splits = {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|)"
                   R"(\s+(?!\S)|\s+)"}};
    return new std::vector<std::pair<std::string_view, PreTokenizerKind>>{
        {"llama-bpe", llama3},  {"llama3", llama3},
        {"llama-v3", llama3},   {"gpt-4o", o200k},
        {"llama4", o200k},      {"minimax-m2", o200k},
        {"qwen2", qwen2},       {"deepseek-r1-qwen", qwen2},
        {"qwen35", qwen35},     {"deepseek-v3", deepseek},
        {"glm4", glm},          {"glm5", glm},
        {"tekken", tekken},     {"kimi-k2", kimi},
        {"laguna", laguna},     {"gpt-2", gpt2},
        {"joyai-llm", deepseek}};
  }();
  return *kinds;
}

const PreTokenizerKind& kind_of(const GgufMetadata& metadata) {
  const std::string name = metadata.required_string(kPre);
  std::string known;
  for (const auto& [other, kind] : known_kinds()) {
    if (other == name) return kind;
    known += (known.empty() ? "" : ", ") + std::string(other);
  }
  metadata.fail(kPre, "pre-tokenizer of a GGUF file is not known", known, printable(name, 80),
                "use the model's safetensors");
}

json steps_of(const PreTokenizerKind& kind) {
  json steps = json::array();
  for (const std::string& pattern : kind.splits) {
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", pattern}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  }
  steps.push_back({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}});
  return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
}

using Merges = std::vector<std::pair<std::string, std::string>>;

Merges read_merges(const GgufMetadata& metadata) {
  const auto lines = metadata.strings(kMerges);
  if (!lines) metadata.fail(kMerges, "GGUF file lacks a key", "an array of merges", "nothing");
  Merges merges;
  merges.reserve(lines->size());
  for (const std::string_view line : *lines) {
    const size_t space = line.find(' ');
    if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos) {
      metadata.fail(kMerges, "malformed merge number " + std::to_string(merges.size()),
                    "two tokens", printable(std::string(line.substr(0, 80)), 80));
    }
    merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  }
  return merges;
}

// tokens with their types.
struct Tokens {
  std::vector<std::string_view> texts;
  std::vector<int64_t> types;
};

Tokens read_tokens(const GgufMetadata& metadata) {
  auto texts = metadata.strings(kTokens);
  if (!texts) metadata.fail(kTokens, "GGUF file lacks a key", "an array of tokens", "nothing");
  auto types =
      metadata.integers(kTypes).value_or(std::vector<int64_t>(texts->size(), TokenType::kNormal));
  if (types.size() != texts->size()) {
    metadata.fail(kTypes, "GGUF array has the wrong length",
                  std::to_string(texts->size()) + " as " + kTokens, std::to_string(types.size()));
  }
  return {*std::move(texts), std::move(types)};
}

// An entry of added_tokens.
json added_token(const GgufMetadata& metadata, const Tokens& tokens, size_t id) {
  const std::string text(tokens.texts[id]);
  if (!is_valid_utf8(text)) {
    metadata.fail(kTokens, "text in a GGUF file is not UTF-8", "a special token of valid UTF-8",
                  "token " + std::to_string(id));
  }
  return {{"id", static_cast<uint64_t>(id)},
          {"content", text},
          {"special", tokens.types[id] != TokenType::kUserDefined},
          {"normalized", false}};
}

[[noreturn]] void refuse_type(const GgufMetadata& metadata, const Tokens& tokens, size_t id,
                              const std::string& expected) {
  metadata.fail(kTypes, "unsupported type of a token", expected,
                std::to_string(tokens.types[id]) + " of token " + std::to_string(id));
}

TokenizerParts read_byte_level(const GgufMetadata& metadata) {
  const PreTokenizerKind& kind = kind_of(metadata);
  const Tokens tokens = read_tokens(metadata);
  TokenizerJson bulk{.vocab = {}, .merges = read_merges(metadata)};
  json added = json::array();
  for (size_t id = 0; id < tokens.texts.size(); ++id) {
    switch (tokens.types[id]) {
      case TokenType::kNormal:
        bulk.vocab.emplace_back(tokens.texts[id], static_cast<int32_t>(id));
        break;
      case TokenType::kControl:
      case TokenType::kUserDefined:
        added.push_back(added_token(metadata, tokens, id));
        break;
      case TokenType::kUnused:
        break;
      default:
        refuse_type(metadata, tokens, id, "1, 3, 4 or 5 (normal, control, user-defined, unused)");
    }
  }
  json tree = {{"model", {{"type", "BPE"}, {"ignore_merges", kind.ignore_merges}}},
               {"pre_tokenizer", steps_of(kind)},
               {"decoder", {{"type", "ByteLevel"}}},
               {"added_tokens", std::move(added)}};
  if (kind.nfc) tree["normalizer"] = {{"type", "NFC"}};
  return make_tokenizer_parts(bulk, tree, metadata.file());
}

// Replaces spaces by the visible one, as a step of a normalizer, and back, as one of a decoder.
json replace(const char* text, const char* by) {
  return {{"type", "Replace"}, {"pattern", {{"String", text}}}, {"content", by}};
}

// Gemma-4's tokenizer.json: BPE over characters, bytes for those that are no token. Tokens that no
// merge makes are found in the text before; the file does not mark them. Added tokens come first
// where both would do, which the file does not say either.
TokenizerParts read_gemma4(const GgufMetadata& metadata) {
  const Tokens tokens = read_tokens(metadata);
  TokenizerJson bulk{.vocab = {}, .merges = read_merges(metadata)};
  std::unordered_set<std::string> made;
  for (const auto& [left, right] : bulk.merges) made.insert(left + right);
  const auto is_reached = [&](std::string_view token) {
    const auto characters =
        std::count_if(token.begin(), token.end(), [](char c) { return (c & 0xc0) != 0x80; });
    return characters < 2 || made.contains(std::string(token));
  };
  json added = json::array();
  for (size_t id = 0; id < tokens.texts.size(); ++id) {
    const int64_t type = tokens.types[id];
    if (type == TokenType::kUnused) continue;
    if (type < TokenType::kNormal || type > TokenType::kByte) {
      refuse_type(metadata, tokens, id, "1 to 6");
    }
    bulk.vocab.emplace_back(tokens.texts[id], static_cast<int32_t>(id));
    if (type == TokenType::kByte || (type == TokenType::kNormal && is_reached(tokens.texts[id]))) {
      continue;
    }
    added.push_back(added_token(metadata, tokens, id));
    if (type == TokenType::kNormal) added.back()["special"] = false;
  }
  const char* const visible = "▁";
  const json tree = {
      {"model", {{"type", "BPE"}, {"byte_fallback", true}, {"fuse_unk", true}}},
      {"normalizer", replace(" ", visible)},
      {"pre_tokenizer",
       {{"type", "Split"},
        {"pattern", {{"String", " "}}},
        {"behavior", "MergedWithPrevious"},
        {"invert", false}}},
      {"decoder",
       {{"type", "Sequence"},
        {"decoders", {replace(visible, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}}}}},
      {"added_tokens", std::move(added)}};
  return make_tokenizer_parts(bulk, tree, metadata.file());
}

// SentencePiece joins the neighbours whose whole has the best score: as merges, every way to cut a
// piece into two pieces, the best whole first, as transformers makes them of such a model.
Merges merges_of_scores(const GgufMetadata& metadata, const Tokens& tokens) {
  constexpr size_t kMaxPieceBytes = 256;
  const auto scores = metadata.numbers(kScores);
  if (!scores || scores->size() != tokens.texts.size()) {
    metadata.fail(kScores, "scores of a GGUF tokenizer do not fit its tokens",
                  std::to_string(tokens.texts.size()) + " scores",
                  scores ? std::to_string(scores->size()) : "nothing");
  }
  std::unordered_map<std::string_view, size_t> ids;
  for (size_t id = 0; id < tokens.texts.size(); ++id) ids.emplace(tokens.texts[id], id);
  const auto is_start = [](char byte) { return (byte & 0xc0) != 0x80; };
  const auto length = [&](std::string_view text) {
    return std::count_if(text.begin(), text.end(), is_start);
  };
  struct Cut {
    size_t whole, left, right;
    std::ptrdiff_t left_length, right_length;
  };
  std::vector<Cut> cuts;
  for (size_t id = 0; id < tokens.texts.size(); ++id) {
    const std::string_view piece = tokens.texts[id];
    if (tokens.types[id] != TokenType::kNormal) continue;
    if (piece.size() > kMaxPieceBytes || !std::isfinite((*scores)[id])) {
      metadata.fail(kTokens, "unusable token of a GGUF tokenizer",
                    "at most " + std::to_string(kMaxPieceBytes) + " bytes and a finite score",
                    "token " + std::to_string(id));
    }
    const size_t first = cuts.size();
    for (size_t at = 1; at < piece.size(); ++at) {
      if (!is_start(piece[at])) continue;
      const auto left = ids.find(piece.substr(0, at)), right = ids.find(piece.substr(at));
      if (left == ids.end() || right == ids.end()) continue;
      cuts.push_back({id, left->second, right->second, length(left->first), length(right->first)});
    }
    std::sort(cuts.begin() + static_cast<std::ptrdiff_t>(first), cuts.end(),
              [](const Cut& a, const Cut& b) {
                return std::pair(a.left, a.right) < std::pair(b.left, b.right);
              });
  }
  std::stable_sort(cuts.begin(), cuts.end(), [&](const Cut& a, const Cut& b) {
    return std::tuple((*scores)[a.whole], a.left_length, a.right_length) >
           std::tuple((*scores)[b.whole], b.left_length, b.right_length);
  });
  Merges merges;
  merges.reserve(cuts.size());
  for (const Cut& cut : cuts) merges.emplace_back(tokens.texts[cut.left], tokens.texts[cut.right]);
  return merges;
}

// As transformers' tokenizer.json of Llama-2 and Mixtral.
TokenizerParts read_sentencepiece(const GgufMetadata& metadata) {
  const Tokens tokens = read_tokens(metadata);
  if (metadata.boolean(kRemoveSpaces).value_or(false)) {
    metadata.fail(kRemoveSpaces, "GGUF value is not supported", "false", "true");
  }
  const char* const space = "▁";
  TokenizerJson bulk{.vocab = {}, .merges = merges_of_scores(metadata, tokens)};
  json added = json::array(), model = {{"type", "BPE"}, {"fuse_unk", true}};
  bool has_bytes = false;
  for (size_t id = 0; id < tokens.texts.size(); ++id) {
    const int64_t type = tokens.types[id];
    if (type == TokenType::kUnused) continue;
    if (type < TokenType::kNormal || type > TokenType::kByte) {
      refuse_type(metadata, tokens, id, "1 to 6");
    }
    bulk.vocab.emplace_back(tokens.texts[id], static_cast<int32_t>(id));
    has_bytes |= type == TokenType::kByte;
    if (type == TokenType::kNormal || type == TokenType::kByte) continue;
    added.push_back(added_token(metadata, tokens, id));
    if (type == TokenType::kUnknown) model["unk_token"] = added.back()["content"];
  }
  model["byte_fallback"] = has_bytes;
  json steps = json::array();
  if (metadata.boolean(kAddSpace).value_or(true)) {
    steps.push_back({{"type", "Prepend"}, {"prepend", space}});
  }
  steps.push_back(replace(" ", space));
  json decoders = json::array();
  decoders.push_back(replace(space, " "));
  decoders.push_back({{"type", "ByteFallback"}});
  decoders.push_back({{"type", "Fuse"}});
  if (steps.size() == 2) {
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1U}, {"stop", 0U}});
  }
  const json tree = {{"model", std::move(model)},
                     {"normalizer", {{"type", "Sequence"}, {"normalizers", std::move(steps)}}},
                     {"decoder", {{"type", "Sequence"}, {"decoders", std::move(decoders)}}},
                     {"added_tokens", std::move(added)}};
  return make_tokenizer_parts(bulk, tree, metadata.file());
}

}  // namespace

TokenizerParts read_gguf_tokenizer(const GgufMetadata& metadata) {
  const std::string model = metadata.required_string(kModel);
  if (model == "gpt2") return read_byte_level(metadata);
  if (model == "llama") return read_sentencepiece(metadata);
  if (model == "gemma4") return read_gemma4(metadata);
  metadata.fail(kModel, "tokenizer of a GGUF file is not supported", "gpt2, llama or gemma4",
                printable(model, 80), "use the model's safetensors");
}

}  // namespace moe4
