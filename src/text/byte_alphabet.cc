// Both directions of the alphabet, from the rule that GPT-2's encoder.py states.
#include "text/byte_alphabet.h"

#include <array>
#include <cstdint>

#include "text/utf8.h"

namespace moe4 {
namespace {

constexpr bool prints_as_itself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) ||
         (byte >= 0xAE && byte <= 0xFF);
}

constexpr int kLastChar = 0x143;  // 256 + 68 - 1

struct Tables {
  std::array<uint16_t, 256> char_of_byte{};
  std::array<int16_t, kLastChar + 1> byte_of_char{};
};

constexpr Tables make_tables() {
  Tables tables;
  for (auto& byte : tables.byte_of_char) byte = -1;
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const int code = prints_as_itself(byte) ? byte : next++;
    tables.char_of_byte[byte] = static_cast<uint16_t>(code);
    tables.byte_of_char[code] = static_cast<int16_t>(byte);
  }
  return tables;
}

constexpr Tables kTables = make_tables();

}  // namespace

char32_t byte_to_char(unsigned char byte) { return kTables.char_of_byte[byte]; }

std::string spelling_of(std::string_view bytes) {
  std::string spelling;
  for (const char byte : bytes) {
    append_code_point(byte_to_char(static_cast<unsigned char>(byte)), &spelling);
  }
  return spelling;
}

std::optional<std::string> bytes_of_spelling(std::string_view valid_utf8) {
  std::string bytes;
  bytes.reserve(valid_utf8.size());
  for (size_t position = 0; position < valid_utf8.size();) {
    const char32_t code_point = next_code_point(valid_utf8, &position);
    if (code_point > kLastChar || kTables.byte_of_char[code_point] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(kTables.byte_of_char[code_point]));
  }
  return bytes;
}

}  // namespace moe4
