// Feeds foreign bytes to the tokenizer: a tokenizer.json, a NUL byte, and a text to encode with it.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = input.find('\0');
  const std::string_view text =
      end == std::string_view::npos ? "Hi, you're 12\n" : input.substr(end + 1);
  try {
    const auto tokenizer = moe4::Tokenizer::parse(input.substr(0, end), "fuzz");
    const auto ids = tokenizer->encode(text);
    const std::string whole = tokenizer->decode(ids, false);
    moe4::StreamDecoder stream(*tokenizer, false);
    std::string streamed;
    for (const int32_t id : ids) streamed += stream.push(id);
    if (streamed + stream.finish() != whole) __builtin_trap();
  } catch (const moe4::Error&) {
    // Refusing is fine; crashing, hanging and leaking are not.
  }
  return 0;
}
