// Feeds foreign bytes to the compilers of grammars: the first says which one, the last ones which
// tokens an answer takes, whose masks must agree with the tokens tried alone.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "grammar/token_masks.h"

namespace {

std::shared_ptr<const moe4::Vocabulary> vocabulary() {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  for (const char* token : {"{\"", "\":", "\": \"", "\", \"", "\"}", "\"]", "[{", "}]", ", ", "  ",
                            "true", "false", "null", "12", ".5", "abc", "\\n", "\\u00", "é"}) {
    tokens.emplace_back(token);
  }
  return std::make_shared<const moe4::Vocabulary>(tokens);
}

std::shared_ptr<const moe4::Grammar> compile(uint8_t kind, std::string_view text) {
  if (kind % 8 == 1) return moe4::compile_regex(text);
  if (kind % 8 == 2) {
    const size_t half = text.size() / 2;
    return moe4::compile_choice(
        {std::string(text.substr(0, half)), std::string(text.substr(half))});
  }
  return moe4::compile_json_schema(text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto tokens = vocabulary();
  constexpr size_t kSteps = 6;
  if (size <= kSteps) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const auto masks = std::make_shared<const moe4::TokenMasks>(
        compile(data[0], text.substr(1, size - 1 - kSteps)), tokens);
    moe4::GrammarMatcher matcher(masks);
    std::vector<uint64_t> words(tokens->mask_words());
    for (size_t step = 0; step < kSteps; ++step) {
      matcher.fill_mask(words);
      std::vector<int32_t> allowed;
      for (int32_t id = 0; id < tokens->size(); ++id) {
        const bool in_mask = (words[static_cast<size_t>(id) / 64] >> (id % 64) & 1) != 0;
        moe4::GrammarMatcher alone = matcher;
        if (alone.accept(id) != in_mask) __builtin_trap();
        if (in_mask) allowed.push_back(id);
      }
      // A text that nothing goes on from has ended.
      if (allowed.empty() != matcher.must_end()) __builtin_trap();
      if (allowed.empty() || !matcher.accept(allowed[data[size - 1 - step] % allowed.size()]))
        break;
    }
  } catch (const moe4::Error&) {
    // Refusing is fine; crashing, hanging and leaking are not.
  }
  return 0;
}
