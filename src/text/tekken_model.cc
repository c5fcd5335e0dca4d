// Merges as in tiktoken's files: the ids of special tokens come first, ranks behind them.
#include "text/tekken_model.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "text/base64.h"
#include "text/byte_alphabet.h"

namespace moe4 {
namespace {

using nlohmann::json;

constexpr size_t kMaxTokenBytes = 1024;
constexpr int64_t kMaxVocab = 1 << 24;

// The special tokens of files without a list of them, ids 0 to 19.
constexpr std::array<const char*, 20> kOldSpecialTokens = {"<unk>",
                                                           "<s>",
                                                           "</s>",
                                                           "[INST]",
                                                           "[/INST]",
                                                           "[AVAILABLE_TOOLS]",
                                                           "[/AVAILABLE_TOOLS]",
                                                           "[TOOL_RESULTS]",
                                                           "[/TOOL_RESULTS]",
                                                           "[TOOL_CALLS]",
                                                           "[IMG]",
                                                           "<pad>",
                                                           "[IMG_BREAK]",
                                                           "[IMG_END]",
                                                           "[PREFIX]",
                                                           "[MIDDLE]",
                                                           "[SUFFIX]",
                                                           "[SYSTEM_PROMPT]",
                                                           "[/SYSTEM_PROMPT]",
                                                           "[TOOL_CONTENT]"};

class Reader {
 public:
  explicit Reader(const TokenizerFile& file) : file_(file) {
    root_ = json::parse(file.text, nullptr, /*allow_exceptions=*/false);
    if (root_.is_discarded()) throw_bad_input({.what = "not valid JSON", .file = file.name});
    if (!root_.is_object()) throw_bad_input({.what = "not a JSON object", .file = file.name});
    config_ = root_.value("config", json());
    if (!config_.is_object()) refuse("config", "an object", config_);
    const int64_t vocab_size = count("default_vocab_size");
    num_special_ = count("default_num_special_tokens");
    num_ranks_ = vocab_size - num_special_;
    if (num_ranks_ < 256)
      refuse("config.default_vocab_size", "256 more than special tokens", config_);
  }

  BpeModel model() const {
    const json& tokens = at("vocab");
    if (!tokens.is_array() || tokens.size() < static_cast<size_t>(num_ranks_)) {
      refuse("vocab", "a list of at least " + std::to_string(num_ranks_) + " tokens",
             tokens.is_array() ? json(tokens.size()) : tokens);
    }
    TokenizerJson bulk;
    bulk.vocab.reserve(static_cast<size_t>(num_ranks_));
    for (int64_t rank = 0; rank < num_ranks_; ++rank) {
      bulk.vocab.emplace_back(spelling_of(token_bytes(tokens[static_cast<size_t>(rank)], rank)),
                              static_cast<int32_t>(rank + num_special_));
    }
    BpeModel model = BpeModel::of_ranks(bulk, file_.name);
    if (!model.covers_all_bytes()) {
      throw_bad_input({.what = "tekken model lacks some of the 256 bytes", .file = file_.name});
    }
    return model;
  }

  AddedTokens special_tokens() const {
    std::vector<std::string> names(static_cast<size_t>(num_special_));
    if (root_.contains("special_tokens") && !root_["special_tokens"].is_null()) {
      name_listed(&names);
    } else {
      for (size_t id = 0; id < std::min(names.size(), kOldSpecialTokens.size()); ++id) {
        names[id] = kOldSpecialTokens[id];
      }
    }
    AddedTokens added;
    size_t total_bytes = 0;
    for (size_t id = 0; id < names.size(); ++id) {
      std::string& name = names[id];
      if (name.empty()) name = "<SPECIAL_" + std::to_string(id) + ">";
      total_bytes += name.size();
      if (added.find(name) != nullptr || total_bytes > AddedTokens::kMaxTotalBytes) {
        refuse("special_tokens", "names that differ, 16 MiB of them at most", name);
      }
      added.add(
          {.id = static_cast<int32_t>(id), .content = name, .pattern = name, .special = true});
    }
    return added;
  }

  PreTokenizer pre_tokenizer() const {
    const json pattern = config_.value("pattern", json());
    if (!pattern.is_string() || pattern == "") refuse("config.pattern", "a pattern", pattern);
    PreTokenizer result{.byte_level = true};
    result.steps.emplace_back(
        SplitStep{SplitRegex(pattern.get<std::string>(), /*literal=*/false, file_.name)});
    return result;
  }

 private:
  [[noreturn]] void refuse(const std::string& path, const std::string& expected,
                           const json& found) const {
    throw_bad_input({.what = "tekken model is not understood",
                     .file = file_.name,
                     .tensor = path,
                     .expected = expected,
                     .found = printable(found.dump(), 80)});
  }

  const json& at(const char* key) const {
    static const json kNone;
    const auto found = root_.find(key);
    return found == root_.end() ? kNone : *found;
  }

  int64_t count(const char* key) const {
    const json value = config_.value(key, json());
    if (!value.is_number_unsigned() || value.get<uint64_t>() > static_cast<uint64_t>(kMaxVocab)) {
      refuse(std::string("config.") + key, "a number up to " + std::to_string(kMaxVocab), value);
    }
    return value.get<int64_t>();
  }

  std::string token_bytes(const json& token, int64_t rank) const {
    const std::string path = "vocab[" + std::to_string(rank) + "]";
    if (!token.is_object() || token.value("rank", json()) != rank) {
      refuse(path, "rank " + std::to_string(rank), token);
    }
    const json text = token.value("token_bytes", json());
    const auto bytes = text.is_string() ? decode_base64(text.get_ref<const std::string&>())
                                        : std::optional<std::string>();
    if (!bytes || bytes->size() > kMaxTokenBytes) {
      refuse(path + ".token_bytes", "up to 1024 bytes in base64", text);
    }
    return *bytes;
  }

  void name_listed(std::vector<std::string>* names) const {
    const json& listed = at("special_tokens");
    if (!listed.is_array()) refuse("special_tokens", "a list", listed);
    for (const json& token : listed) {
      const json rank = token.is_object() ? token.value("rank", json()) : json();
      const json name = token.is_object() ? token.value("token_str", json()) : json();
      if (!rank.is_number_unsigned() || rank.get<uint64_t>() >= names->size() ||
          !name.is_string() || name == "" ||
          name.get_ref<const std::string&>().size() > AddedTokens::kMaxContentBytes ||
          !(*names)[rank.get<size_t>()].empty()) {
        refuse("special_tokens",
               "token_str and a rank of its own below " + std::to_string(num_special_), token);
      }
      (*names)[rank.get<size_t>()] = name.get<std::string>();
    }
  }

  const TokenizerFile& file_;
  json root_;
  json config_;
  int64_t num_special_ = 0;
  int64_t num_ranks_ = 0;
};

}  // namespace

TokenizerParts read_tekken_model(const TokenizerFile& file) {
  const Reader reader(file);
  return {.normalizer = {},
          .pre_tokenizer = reader.pre_tokenizer(),
          .model = reader.model(),
          .added = reader.special_tokens(),
          .decoder = {}};
}

}  // namespace moe4
