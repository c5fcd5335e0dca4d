// NFC on utf8proc's tables, texts put in front, replacements. Reordering of marks is done here,
// because utf8proc's own is quadratic in the length of a run of marks.
#include "text/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "text/utf8.h"

namespace moe4 {
namespace {

int combining_class(utf8proc_int32_t code_point) {
  return utf8proc_get_property(code_point)->combining_class;
}

void order_marks(std::vector<utf8proc_int32_t>* text) {
  auto begin = text->begin();
  while (begin != text->end()) {
    if (combining_class(*begin) == 0) {
      ++begin;
      continue;
    }
    const auto end = std::find_if(begin, text->end(),
                                  [](utf8proc_int32_t c) { return combining_class(c) == 0; });
    std::stable_sort(begin, end, [](utf8proc_int32_t a, utf8proc_int32_t b) {
      return combining_class(a) < combining_class(b);
    });
    begin = end;
  }
}

}  // namespace

std::string normalize_nfc(std::string_view valid_utf8) {
  // Nothing below U+0300 (lead bytes up to 0xCB) composes or decomposes under NFC.
  const bool unchanged = std::none_of(valid_utf8.begin(), valid_utf8.end(), [](char byte) {
    return static_cast<unsigned char>(byte) >= 0xCC;
  });
  if (unchanged) return std::string(valid_utf8);

  std::vector<utf8proc_int32_t> text;
  text.reserve(valid_utf8.size());
  for (size_t position = 0; position < valid_utf8.size();) {
    const auto code_point = static_cast<utf8proc_int32_t>(next_code_point(valid_utf8, &position));
    utf8proc_int32_t parts[32];  // the longest canonical decomposition has 4
    int last_boundary = 0;
    const auto count =
        utf8proc_decompose_char(code_point, parts, 32, UTF8PROC_DECOMPOSE, &last_boundary);
    MOE4_CHECK(count >= 0 && count <= 32);
    text.insert(text.end(), parts, parts + count);
  }
  order_marks(&text);
  const auto length =
      utf8proc_normalize_utf32(text.data(), static_cast<utf8proc_ssize_t>(text.size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
  MOE4_CHECK(length >= 0);
  std::string result;
  result.reserve(valid_utf8.size());
  for (utf8proc_ssize_t i = 0; i < length; ++i) {
    append_code_point(static_cast<char32_t>(text[static_cast<size_t>(i)]), &result);
  }
  return result;
}

std::string Normalizer::run(std::string_view valid_utf8) const {
  // No published normalizer makes more than three bytes of one.
  const size_t most = 64 * valid_utf8.size() + 65536;
  std::string text(valid_utf8);
  for (const NormalizerStep& step : steps_) {
    if (text.empty()) break;
    if (std::holds_alternative<NfcStep>(step)) {
      text = normalize_nfc(text);
    } else if (const auto* prepend = std::get_if<PrependStep>(&step)) {
      text.insert(0, prepend->text);
    } else {
      text = std::get<Replacement>(step).apply(text);
    }
    if (text.size() > most) {
      throw_bad_input({.what = "normalizer makes a text too long",
                       .expected = "at most " + std::to_string(most) + " bytes",
                       .found = std::to_string(text.size())});
    }
  }
  return text;
}

}  // namespace moe4
