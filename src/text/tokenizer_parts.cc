// One function a section of tokenizer.json.
#include "text/tokenizer_parts.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/normalizer.h"
#include "text/tokenizer_json.h"
#include "text/utf8.h"

namespace moe4 {
namespace {

using nlohmann::json;

// What the ByteLevel pre-tokenizer splits by when use_regex is set (GPT-2's pattern).
constexpr const char* kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

constexpr size_t kMaxSplits = 64;
constexpr size_t kMaxAddedTokens = 1 << 20;

/// A JSON object of the file with its path, so that every complaint says where.
class Section {
 public:
  Section(const json& value, std::string path, const std::string& file)
      : value_(value), path_(std::move(path)), file_(file) {
    if (!value.is_object()) refuse("not a JSON object", value_.type_name());
  }

  [[noreturn]] void refuse(const std::string& what, const std::string& found,
                           const std::string& expected = "") const {
    throw_bad_input(
        {.what = what, .file = file_, .tensor = path_, .expected = expected, .found = found});
  }

  bool has(const char* key) const {
    const auto found = value_.find(key);
    return found != value_.end() && !found->is_null();
  }

  std::string text(const char* key) const {
    if (!has(key) || !value_[key].is_string()) refuse("missing string", "no " + std::string(key));
    return value_[key].get<std::string>();
  }

  std::string type() const { return text("type"); }

  bool flag(const char* key, bool otherwise) const {
    if (!has(key)) return otherwise;
    if (!value_[key].is_boolean()) refuse("not a boolean", key);
    return value_[key].get<bool>();
  }

  Section child(const char* key) const {
    if (!has(key)) refuse("missing section", "no " + std::string(key));
    return Section(value_[key], path_ + "." + key, file_);
  }

  std::vector<Section> children(const char* key) const {
    if (!has(key) || !value_[key].is_array()) refuse("missing array", "no " + std::string(key));
    std::vector<Section> sections;
    for (const json& element : value_[key]) {
      sections.emplace_back(element,
                            path_ + "." + key + "[" + std::to_string(sections.size()) + "]", file_);
    }
    return sections;
  }

  const json& at(const char* key) const { return value_[key]; }
  const std::string& file() const { return file_; }

 private:
  const json& value_;
  std::string path_;
  const std::string& file_;
};

bool read_normalizer(const Section& section) {
  const std::string type = section.type();
  if (type == "NFC") return true;
  if (type == "Sequence") {
    bool nfc = false;
    for (const Section& part : section.children("normalizers")) nfc = read_normalizer(part) || nfc;
    return nfc;
  }
  section.refuse("unsupported normalizer", type, "NFC, or a Sequence of it");
}

SplitStep read_split(const Section& section) {
  const Section pattern = section.child("pattern");
  const bool literal = pattern.has("String");
  const std::string behavior = section.text("behavior");
  if (behavior != "Isolated" && behavior != "Removed") {
    section.refuse("unsupported behavior of a Split", behavior, "Isolated or Removed");
  }
  const bool removed = behavior == "Removed";
  const bool invert = section.flag("invert", false);
  return {SplitRegex(pattern.text(literal ? "String" : "Regex"), literal, section.file()),
          removed && !invert, removed && invert};
}

void read_pre_tokenizer(const Section& section, bool* byte_level, PreTokenizer* result) {
  const std::string type = section.type();
  if (*byte_level) section.refuse("unsupported pre-tokenizer after ByteLevel", type);
  if (result->splits.size() >= kMaxSplits) {
    section.refuse("too many pre-tokenizers", type, "at most " + std::to_string(kMaxSplits));
  }
  if (type == "Sequence") {
    for (const Section& part : section.children("pretokenizers")) {
      read_pre_tokenizer(part, byte_level, result);
    }
  } else if (type == "Split") {
    result->splits.push_back(read_split(section));
  } else if (type == "Digits") {
    const bool one_by_one = section.flag("individual_digits", false);
    result->splits.push_back(
        {SplitRegex(one_by_one ? "\\p{N}" : "\\p{N}+", false, section.file())});
  } else if (type == "ByteLevel") {
    *byte_level = true;
    result->add_prefix_space = section.flag("add_prefix_space", true);
    if (section.flag("use_regex", true)) {
      result->byte_level_split.push_back({SplitRegex(kByteLevelPattern, false, section.file())});
    }
  } else {
    section.refuse("unsupported pre-tokenizer", type, "Sequence, Split, Digits or ByteLevel");
  }
}

// Post-processors add special tokens around a text, which encode() never does, or move offsets.
void check_post_processor(const Section& section) {
  const std::string type = section.type();
  if (type == "Sequence") {
    for (const Section& part : section.children("processors")) check_post_processor(part);
  } else if (type != "ByteLevel" && type != "TemplateProcessing") {
    section.refuse("unsupported post_processor", type, "ByteLevel or TemplateProcessing");
  }
}

void check_decoder(const Section& section) {
  const std::string type = section.type();
  if (type == "Sequence") {
    const auto parts = section.children("decoders");
    if (parts.size() != 1) section.refuse("unsupported decoder", type, "ByteLevel alone");
    check_decoder(parts.front());
  } else if (type != "ByteLevel") {
    section.refuse("unsupported decoder", type, "ByteLevel");
  }
}

BpeModel read_model(const Section& section, const TokenizerJson& bulk) {
  if (section.has("type") && section.type() != "BPE") {
    section.refuse("unsupported tokenizer model", section.type(), "BPE");
  }
  if (section.flag("byte_fallback", false)) {
    section.refuse("unsupported byte_fallback", "true", "byte-level BPE, which never needs it");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (section.has(key) && !section.text(key).empty()) {
      section.refuse(std::string("unsupported ") + key, section.text(key), "none");
    }
  }
  if (section.has("dropout") && section.at("dropout") != 0) {
    section.refuse("unsupported dropout", section.at("dropout").dump(), "none");
  }
  BpeModel model(bulk, section.flag("ignore_merges", false), section.file());
  if (section.has("unk_token") && !model.covers_all_bytes()) {
    section.refuse("unsupported unk_token", section.text("unk_token"),
                   "none, or a vocabulary with all 256 bytes");
  }
  return model;
}

int32_t read_added_id(const Section& section, int64_t limit) {
  const json& id = section.has("id") ? section.at("id") : json();
  if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(limit)) {
    section.refuse("id of an added token is out of range", id.dump(),
                   "0 to " + std::to_string(limit - 1));
  }
  return static_cast<int32_t>(id.get<uint64_t>());
}

AddedTokens read_added_tokens(const Section& root, const BpeModel& model, bool nfc) {
  AddedTokens added;
  if (!root.has("added_tokens")) return added;
  const std::vector<Section> sections = root.children("added_tokens");
  if (sections.size() > kMaxAddedTokens) {
    root.refuse("too many added tokens", std::to_string(sections.size()));
  }
  // As in the vocabulary: some holes are normal, a table that is mostly holes is not.
  const int64_t id_limit = 2 * (model.id_limit() + static_cast<int64_t>(sections.size())) + 65536;
  size_t total_bytes = 0;
  for (const Section& section : sections) {
    AddedToken token;
    token.id = read_added_id(section, id_limit);
    token.content = section.text("content");
    token.special = section.flag("special", false);
    token.single_word = section.flag("single_word", false);
    token.lstrip = section.flag("lstrip", false);
    token.rstrip = section.flag("rstrip", false);
    token.normalized = section.flag("normalized", !token.special);
    if (token.content.empty()) continue;  // upstream ignores these too
    if (token.content.size() > AddedTokens::kMaxContentBytes) {
      section.refuse("added token is too long", std::to_string(token.content.size()) + " bytes",
                     "at most " + std::to_string(AddedTokens::kMaxContentBytes));
    }
    total_bytes += token.content.size();
    if (total_bytes > AddedTokens::kMaxTotalBytes) {
      section.refuse("added tokens are too long together", std::to_string(total_bytes) + " bytes");
    }
    if (added.find(token.id) != nullptr || added.find(token.content) != nullptr) {
      section.refuse("added token is given twice", token.content);
    }
    const auto in_vocab = model.find_spelling(token.content);
    if (in_vocab ? *in_vocab != token.id : !model.bytes(token.id).empty()) {
      section.refuse("added token disagrees with the vocabulary about its id",
                     token.content + " with id " + std::to_string(token.id));
    }
    token.pattern = nfc && token.normalized ? normalize_nfc(token.content) : token.content;
    added.add(token);
  }
  return added;
}

}  // namespace

TokenizerParts read_tokenizer_parts(std::string_view text, const std::string& name) {
  json tree;
  const TokenizerJson bulk = read_tokenizer_json(text, name, &tree);
  const Section root(tree, "tokenizer", name);
  BpeModel model = read_model(root.child("model"), bulk);

  const bool nfc = root.has("normalizer") && read_normalizer(root.child("normalizer"));
  PreTokenizer pre_tokenizer;
  bool byte_level = false;
  read_pre_tokenizer(root.child("pre_tokenizer"), &byte_level, &pre_tokenizer);
  if (!byte_level) {
    root.refuse("not a byte-level tokenizer", "a pre_tokenizer without ByteLevel",
                "ByteLevel as the last pre-tokenizer");
  }
  if (root.has("post_processor")) check_post_processor(root.child("post_processor"));
  check_decoder(root.child("decoder"));
  AddedTokens added = read_added_tokens(root, model, nfc);
  return {nfc, std::move(pre_tokenizer), std::move(model), std::move(added)};
}

}  // namespace moe4
