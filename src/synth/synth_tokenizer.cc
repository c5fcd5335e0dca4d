// A vocabulary of bytes and short words, each word by one merge from the word that it begins with.
#include "synth/synth_tokenizer.h"

#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "text/byte_alphabet.h"

namespace moe4 {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array kSpecialTokens = {"<|endoftext|>", "<|im_end|>", "<|im_start|>"};
constexpr int64_t kFirstSpecial = kSynthPadToken;
constexpr int64_t kFirstWord = kFirstSpecial + static_cast<int64_t>(kSpecialTokens.size());
static_assert(kFirstWord == kSynthFewestIds);

// Letters of word `index`: those of one letter, then those of two, each in the alphabet's order.
std::string letters_of(int64_t index) {
  std::string letters;
  for (int64_t left = index + 1; left > 0; left = (left - 1) / 26) {
    letters.insert(letters.begin(), static_cast<char>('a' + (left - 1) % 26));
  }
  return letters;
}

}  // namespace

std::string synth_tokenizer_json(int64_t vocab_size) {
  MOE4_CHECK(vocab_size >= kFirstWord);
  // Members are appended: ordered_json's operator[] searches all before.
  Json::object_t vocab;
  Json merges = Json::array();
  for (int byte = 0; byte < 256; ++byte) {
    const char one = static_cast<char>(byte);
    vocab.emplace_back(spelling_of({&one, 1}), byte);
  }
  const std::string space = spelling_of(" ");
  for (int64_t id = kFirstWord; id < vocab_size; ++id) {
    std::string word = space + letters_of(id - kFirstWord);
    merges.push_back(word.substr(0, word.size() - 1) + " " + word.back());
    vocab.emplace_back(std::move(word), id);
  }
  Json added = Json::array();
  for (const char* token : kSpecialTokens) {
    added.push_back({{"id", kFirstSpecial + static_cast<int64_t>(added.size())},
                     {"content", token},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", true}};
  Json model = {{"type", "BPE"}};
  model["vocab"] = std::move(vocab);
  model["merges"] = std::move(merges);
  Json tokenizer = {{"version", "1.0"},          {"added_tokens", std::move(added)},
                    {"normalizer", nullptr},     {"pre_tokenizer", byte_level},
                    {"post_processor", nullptr}, {"decoder", byte_level}};
  tokenizer["model"] = std::move(model);
  return tokenizer.dump(1);
}

}  // namespace moe4
