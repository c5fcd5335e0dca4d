// Feeds foreign bytes to the template engine: a template, a NUL byte, and maybe a context.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = input.find('\0');
  const std::string context =
      end == std::string_view::npos
          ? R"({"messages":[{"role":"user","content":"Hi"}],"n":2,"d":{"a":[1,"b"]},"s":"a b"})"
          : std::string(input.substr(end + 1));
  try {
    moe4::ChatTemplate::parse(input.substr(0, end), "fuzz")->render(context);
  } catch (const moe4::Error&) {
    // Refusing is fine; crashing, hanging and leaking are not.
  }
  return 0;
}
