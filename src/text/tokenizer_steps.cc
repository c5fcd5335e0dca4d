// One function a section; Sequences are flattened.
#include "text/tokenizer_steps.h"

#include <algorithm>
#include <utility>

#include "text/utf8.h"

namespace moe4 {
namespace {

using Section = TokenizerSection;

// What the ByteLevel pre-tokenizer splits by when use_regex is set (GPT-2's pattern).
constexpr const char* kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

constexpr size_t kMaxSteps = 64;

void check_count(const Section& section, size_t count) {
  if (count < kMaxSteps) return;
  section.refuse("too many steps", section.type(), "at most " + std::to_string(kMaxSteps));
}

std::string read_character(const Section& section, const char* key) {
  const std::string text = section.text(key);
  size_t end = 0;
  if (!text.empty()) next_code_point(text, &end);
  if (text.empty() || end != text.size()) section.refuse("not one character", text, key);
  return text;
}

SplitRegex read_pattern(const Section& section) {
  const Section pattern = section.child("pattern");
  const bool literal = pattern.has("String");
  const std::string text = pattern.text(literal ? "String" : "Regex");
  if (text.empty()) pattern.refuse("empty pattern", "\"\"");
  return SplitRegex(text, literal, section.file());
}

std::string short_text(const Section& section, const char* key) {
  std::string text = section.text(key);
  if (text.size() > Replacement::kMaxContentBytes) {
    section.refuse("text is too long", std::to_string(text.size()) + " bytes",
                   "at most " + std::to_string(Replacement::kMaxContentBytes));
  }
  return text;
}

Replacement read_replacement(const Section& section) {
  return Replacement(read_pattern(section), short_text(section, "content"));
}

void add_normalizer(const Section& section, std::vector<NormalizerStep>* steps) {
  const std::string type = section.type();
  check_count(section, steps->size());
  if (type == "NFC") {
    steps->emplace_back(NfcStep{});
  } else if (type == "Prepend") {
    steps->emplace_back(PrependStep{short_text(section, "prepend")});
  } else if (type == "Replace") {
    steps->emplace_back(read_replacement(section));
  } else if (type == "Sequence") {
    for (const Section& part : section.children("normalizers")) add_normalizer(part, steps);
  } else {
    section.refuse("unsupported normalizer", type, "NFC, Prepend, Replace, or a Sequence of them");
  }
}

SplitBehavior read_behavior(const Section& section) {
  const std::string word = section.text("behavior");
  if (word == "Isolated") return SplitBehavior::kIsolated;
  if (word == "Removed") return SplitBehavior::kRemoved;
  if (word == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (word == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (word == "Contiguous") return SplitBehavior::kContiguous;
  section.refuse("unsupported behavior of a Split", word,
                 "Isolated, Removed, MergedWithPrevious, MergedWithNext or Contiguous");
}

// Files of before prepend_scheme have add_prefix_space.
MetaspaceStep::Prepend read_prepend_scheme(const Section& section) {
  const bool prefix = section.flag("add_prefix_space", true);
  const std::string word = section.has("prepend_scheme") ? section.text("prepend_scheme")
                           : prefix                      ? "always"
                                                         : "never";
  if (word == "never") return MetaspaceStep::Prepend::kNever;
  if (!prefix) section.refuse("add_prefix_space is false, but not prepend_scheme never", word);
  if (word == "always") return MetaspaceStep::Prepend::kAlways;
  if (word == "first") return MetaspaceStep::Prepend::kFirst;
  section.refuse("unsupported prepend_scheme", word, "always, first or never");
}

MetaspaceStep read_metaspace(const Section& section) {
  MetaspaceStep step{.replacement = read_character(section, "replacement"),
                     .prepend = read_prepend_scheme(section)};
  if (section.flag("split", true)) {
    step.split.push_back({SplitRegex(step.replacement, /*literal=*/true, section.file()),
                          SplitBehavior::kMergedWithNext});
  }
  return step;
}

void add_pre_tokenizer(const Section& section, PreTokenizer* result) {
  const std::string type = section.type();
  if (result->byte_level) section.refuse("unsupported pre-tokenizer after ByteLevel", type);
  check_count(section, result->steps.size());
  if (type == "Sequence") {
    for (const Section& part : section.children("pretokenizers")) add_pre_tokenizer(part, result);
  } else if (type == "Split") {
    result->steps.emplace_back(
        SplitStep{read_pattern(section), read_behavior(section), section.flag("invert", false)});
  } else if (type == "Digits") {
    const bool one_by_one = section.flag("individual_digits", false);
    result->steps.emplace_back(
        SplitStep{SplitRegex(one_by_one ? "\\p{N}" : "\\p{N}+", false, section.file())});
  } else if (type == "Metaspace") {
    result->steps.emplace_back(read_metaspace(section));
  } else if (type == "ByteLevel") {
    result->byte_level = true;
    result->add_prefix_space = section.flag("add_prefix_space", true);
    if (section.flag("use_regex", true)) {
      result->byte_level_split.push_back({SplitRegex(kByteLevelPattern, false, section.file())});
    }
  } else {
    section.refuse("unsupported pre-tokenizer", type,
                   "Sequence, Split, Digits, Metaspace or ByteLevel");
  }
}

int64_t read_count(const Section& section, const char* key) {
  const nlohmann::json value = section.has(key) ? section.at(key) : nlohmann::json();
  constexpr uint64_t kMost = 1 << 20;
  if (!value.is_number_unsigned() || value.get<uint64_t>() > kMost) {
    section.refuse("not a small number", value.dump(), key);
  }
  return value.get<int64_t>();
}

DecodeStep read_decode_step(const Section& section, const std::string& type) {
  if (type == "Replace") return read_replacement(section);
  if (type == "ByteFallback") return ByteFallbackStep{};
  if (type == "Fuse") return FuseStep{};
  if (type == "Strip") {
    return StripStep{.content = read_character(section, "content"),
                     .start = read_count(section, "start"),
                     .stop = read_count(section, "stop")};
  }
  if (type == "Metaspace") {
    return MetaspaceDecodeStep{
        .replacement = read_character(section, "replacement"),
        .drop_first = read_prepend_scheme(section) != MetaspaceStep::Prepend::kNever};
  }
  section.refuse("unsupported decoder", type,
                 "Replace, ByteFallback, Fuse, Strip, Metaspace, or a Sequence of them");
}

void add_decoder(const Section& section, std::vector<DecodeStep>* steps) {
  const std::string type = section.type();
  check_count(section, steps->size());
  if (type == "Sequence") {
    for (const Section& part : section.children("decoders")) add_decoder(part, steps);
    return;
  }
  const bool fused = std::any_of(steps->begin(), steps->end(), [](const DecodeStep& step) {
    return std::holds_alternative<FuseStep>(step);
  });
  const bool of_whole = type == "Fuse" || type == "Strip";
  if (fused && !of_whole) section.refuse("unsupported decoder behind Fuse", type);
  steps->push_back(read_decode_step(section, type));
}

void check_byte_level_decoder(const Section& section) {
  const std::string type = section.type();
  if (type == "Sequence") {
    const auto parts = section.children("decoders");
    if (parts.size() != 1) section.refuse("unsupported decoder", type, "ByteLevel alone");
    check_byte_level_decoder(parts.front());
  } else if (type != "ByteLevel") {
    section.refuse("unsupported decoder", type, "ByteLevel");
  }
}

}  // namespace

Normalizer read_normalizer(const TokenizerSection& section) {
  std::vector<NormalizerStep> steps;
  add_normalizer(section, &steps);
  return Normalizer(std::move(steps));
}

PreTokenizer read_pre_tokenizer(const TokenizerSection& section) {
  PreTokenizer result;
  add_pre_tokenizer(section, &result);
  return result;
}

TokenDecoder read_decoder(const TokenizerSection& section, bool byte_level) {
  if (byte_level) {
    check_byte_level_decoder(section);
    return {};
  }
  std::vector<DecodeStep> steps;
  add_decoder(section, &steps);
  return TokenDecoder(std::move(steps));
}

}  // namespace moe4
