// UTF-8 decoding after table 3-7 of the Unicode standard (well-formed byte sequences).
#include "text/utf8.h"

#include <cstdint>

namespace moe4 {
namespace {

struct Lead {
  int length;          // bytes of the character, 0 when no character starts with this byte
  unsigned low, high;  // range of the second byte
};

Lead classify(unsigned char byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

}  // namespace

size_t append_utf8_lossy(std::string_view bytes, bool final, std::string* out) {
  size_t position = 0;
  size_t clean_begin = 0;  // [clean_begin, position) is valid and not copied yet
  while (position < bytes.size()) {
    const Lead lead = classify(static_cast<unsigned char>(bytes[position]));
    size_t good = lead.length == 0 ? 0 : 1;
    while (good > 0 && good < static_cast<size_t>(lead.length) && position + good < bytes.size()) {
      const auto next = static_cast<unsigned char>(bytes[position + good]);
      const unsigned low = good == 1 ? lead.low : 0x80;
      const unsigned high = good == 1 ? lead.high : 0xBF;
      if (next < low || next > high) break;
      ++good;
    }
    if (good > 0 && good == static_cast<size_t>(lead.length)) {
      position += good;
      continue;
    }
    out->append(bytes.substr(clean_begin, position - clean_begin));
    clean_begin = position;
    const bool cut_off = good > 0 && position + good == bytes.size();
    if (cut_off && !final) return position;
    out->append(kReplacement);
    position += good > 0 ? good : 1;
    clean_begin = position;
  }
  out->append(bytes.substr(clean_begin));
  return bytes.size();
}

std::string utf8_lossy(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  append_utf8_lossy(bytes, true, &text);
  return text;
}

char32_t next_code_point(std::string_view valid, size_t* position) {
  const auto byte = [&](size_t i) {
    return static_cast<uint32_t>(static_cast<unsigned char>(valid[*position + i]));
  };
  const uint32_t lead = byte(0);
  char32_t code_point = lead;
  size_t length = 1;
  if (lead >= 0xF0) {
    code_point =
        (lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
    length = 4;
  } else if (lead >= 0xE0) {
    code_point = (lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    length = 3;
  } else if (lead >= 0x80) {
    code_point = (lead & 0x1F) << 6 | (byte(1) & 0x3F);
    length = 2;
  }
  *position += length;
  return code_point;
}

void append_code_point(char32_t code_point, std::string* out) {
  const auto put = [out](uint32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | code_point >> 12);
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | code_point >> 18);
    put(0x80 | (code_point >> 12 & 0x3F));
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

}  // namespace moe4
