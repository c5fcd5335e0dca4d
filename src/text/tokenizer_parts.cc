// The model, the added tokens and what may stand beside them; tokenizer_steps.cc has the rest.
#include "text/tokenizer_parts.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "text/tokenizer_json.h"
#include "text/tokenizer_section.h"
#include "text/tokenizer_steps.h"

namespace moe4 {
namespace {

using nlohmann::json;
using Section = TokenizerSection;

constexpr size_t kMaxAddedTokens = 1 << 20;

// Post-processors add special tokens around a text, which encode() never does, or move offsets.
void check_post_processor(const Section& section) {
  const std::string type = section.type();
  if (type == "Sequence") {
    for (const Section& part : section.children("processors")) check_post_processor(part);
  } else if (type != "ByteLevel" && type != "TemplateProcessing") {
    section.refuse("unsupported post_processor", type, "ByteLevel or TemplateProcessing");
  }
}

BpeModel read_model(const Section& section, const TokenizerJson& bulk, bool byte_level) {
  if (section.has("type") && section.type() != "BPE") {
    section.refuse("unsupported tokenizer model", section.type(), "BPE");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (section.has(key) && !section.text(key).empty()) {
      section.refuse(std::string("unsupported ") + key, section.text(key), "none");
    }
  }
  if (section.has("dropout") && section.at("dropout") != 0) {
    section.refuse("unsupported dropout", section.at("dropout").dump(), "none");
  }
  const std::string unk_token = section.has("unk_token") ? section.text("unk_token") : "";
  const bool byte_fallback = section.flag("byte_fallback", false);
  const bool ignore_merges = section.flag("ignore_merges", false);
  if (!byte_level) {
    return BpeModel(bulk,
                    {.of_text = true,
                     .ignore_merges = ignore_merges,
                     .byte_fallback = byte_fallback,
                     .unk_token = unk_token,
                     .fuse_unk = section.flag("fuse_unk", false)},
                    section.file());
  }
  BpeModel model(bulk, {.ignore_merges = ignore_merges}, section.file());
  if ((!unk_token.empty() || byte_fallback) && !model.covers_all_bytes()) {
    section.refuse(byte_fallback ? "unsupported byte_fallback" : "unsupported unk_token",
                   byte_fallback ? "true" : unk_token,
                   "none behind ByteLevel, or a vocabulary with all 256 bytes");
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

AddedTokens read_added_tokens(const Section& root, const BpeModel& model,
                              const Normalizer& normalizer) {
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
    token.pattern = token.normalized ? normalizer.run(token.content) : token.content;
    if (token.pattern.empty())
      section.refuse("added token is normalised to nothing", token.content);
    added.add(token);
  }
  return added;
}

}  // namespace

TokenizerParts read_tokenizer_parts(std::string_view text, const std::string& name) {
  json tree;
  const TokenizerJson bulk = read_tokenizer_json(text, name, &tree);
  return make_tokenizer_parts(bulk, tree, name);
}

TokenizerParts make_tokenizer_parts(const TokenizerJson& bulk, const json& tree,
                                    const std::string& name) {
  const Section root(tree, "tokenizer", name);
  const PreTokenizer pre_tokenizer =
      root.has("pre_tokenizer") ? read_pre_tokenizer(root.child("pre_tokenizer")) : PreTokenizer();
  BpeModel model = read_model(root.child("model"), bulk, pre_tokenizer.byte_level);
  Normalizer normalizer =
      root.has("normalizer") ? read_normalizer(root.child("normalizer")) : Normalizer();
  if (root.has("post_processor")) check_post_processor(root.child("post_processor"));
  TokenDecoder decoder = read_decoder(root.child("decoder"), pre_tokenizer.byte_level);
  AddedTokens added = read_added_tokens(root, model, normalizer);
  return {std::move(normalizer), pre_tokenizer, std::move(model), std::move(added),
          std::move(decoder)};
}

}  // namespace moe4
