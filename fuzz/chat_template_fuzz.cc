// Feeds foreign bytes to the template engine: a template, a NUL byte, and maybe a context; and the
// same template bytes as a format and as a text to the functions that take these.
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/error.h"
#include "text/chat_template.h"

namespace {

constexpr const char* kContext =
    R"({"messages":[{"role":"user","content":"Hi"}],"n":2,"d":{"a":[1,"b"]},"s":"a b"})";

// Reaches the languages of str.format and % without the fuzzer having to write a template first.
void use_as_text(const std::string& text) {
  static const std::array<std::unique_ptr<moe4::ChatTemplate>, 6> kTemplates = {
      moe4::ChatTemplate::parse("{{ f.format(n, s, d, x, a=f) }}", "fuzz"),
      moe4::ChatTemplate::parse("{{ f % (n, s, x, b, d) }}", "fuzz"),
      moe4::ChatTemplate::parse("{{ f % d }}", "fuzz"),
      moe4::ChatTemplate::parse("{{ ('{:' ~ f ~ '}').format(x) }}", "fuzz"),
      moe4::ChatTemplate::parse("{{ f|int }}{{ f|float }}{{ f|int ** 3 // 7 }}", "fuzz"),
      moe4::ChatTemplate::parse("{{ f|title }}{{ f.title() }}{{ f.lower() }}{{ f.capitalize() }}"
                                "{{ f.find('a', n) }}{{ f|truncate(5) }}{{ f|urlencode }}",
                                "fuzz")};
  moe4::TemplateContext context;
  context.add_object(kContext, "fuzz");
  context.set("x", "-1234.5", "fuzz");
  context.set("b", "12345678901234567890123", "fuzz");
  context.set("f",
              nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
              "fuzz");
  for (const auto& one : kTemplates) {
    try {
      one->render(context);
    } catch (const moe4::Error&) {
      // Refusing is fine; crashing, hanging and leaking are not.
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = input.find('\0');
  const std::string context =
      end == std::string_view::npos ? kContext : std::string(input.substr(end + 1));
  try {
    moe4::ChatTemplate::parse(input.substr(0, end), "fuzz")->render(context);
  } catch (const moe4::Error&) {
  }
  use_as_text(std::string(input.substr(0, end)));
  return 0;
}
