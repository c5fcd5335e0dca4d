// Feeds foreign bytes to the reader of tiktoken.model: the model, a NUL byte, a
// tokenizer_config.json, a NUL byte, and a text to encode.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "text/tiktoken_model.h"
#include "text/utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view input(reinterpret_cast<const char*>(data), size);
  const auto take = [&] {
    const std::string_view part = input.substr(0, input.find('\0'));
    input.remove_prefix(std::min(part.size() + 1, input.size()));
    return part;
  };
  const std::string_view ranks = take(), config = take();
  const std::string text = moe4::utf8_lossy(input);
  try {
    const moe4::TokenizerParts parts =
        moe4::read_tiktoken_model({ranks, "ranks"}, {config, "config"});
    moe4::BpeScratch scratch;
    std::string bytes;
    parts.pre_tokenizer.split(text, true, [&](std::string_view piece) {
      std::vector<int32_t> ids;
      parts.model.encode(piece, &scratch, &ids);
      for (const int32_t id : ids) bytes += parts.model.bytes(id);
    });
    if (bytes != text) __builtin_trap();
  } catch (const moe4::Error&) {
    // Refusing is fine; crashing, hanging and leaking are not.
  }
  return 0;
}
