// A program for scripts/check_tokenizers.py: encodes and decodes the cases of a file with one
// tokenizer. tokenize_cases FOLDER CASES.json RESULTS.json; a case is {"hex": text in hexadecimal}
// or {"ids": [...], "skip_special": bool}, its result a list of ids or a text.
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "text/tokenizer.h"

namespace {

using nlohmann::json;

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

json decode(const moe4::Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip_special) {
  std::string text = tokenizer.decode(ids, skip_special);
  moe4::StreamDecoder stream(tokenizer, skip_special);
  std::string streamed;
  for (const int32_t id : ids) streamed += stream.push(id);
  streamed += stream.finish();
  if (streamed != text) return "streamed differently: " + streamed;
  return text;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: tokenize_cases FOLDER CASES.json RESULTS.json\n";
    return 2;
  }
  try {
    const auto tokenizer = moe4::Tokenizer::load(argv[1]);
    json results = json::array();
    for (const json& one : json::parse(std::ifstream(argv[2]))) {
      if (one.contains("hex")) {
        results.push_back(tokenizer->encode(from_hex(one["hex"].get<std::string>())));
      } else {
        results.push_back(decode(*tokenizer, one["ids"].get<std::vector<int32_t>>(),
                                 one["skip_special"].get<bool>()));
      }
    }
    std::ofstream(argv[3]) << results.dump();
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 3;
  }
  return 0;
}
