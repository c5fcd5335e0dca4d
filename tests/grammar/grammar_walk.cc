// For scripts/check_schemas.py: compiles schemas, tries texts, and writes random texts of them.
// Reads a line {"schema": TEXT, "texts": [TEXT], "samples": N} after the other; answers
// {"error": TEXT or null, "accepts": [BOOL], "samples": [TEXT]}.
#include <fmt/format.h>

#include <iostream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

#include "base/error.h"
#include "grammar/grammar.h"
#include "grammar/random_text.h"

int main() {
  using Json = nlohmann::json;
  std::mt19937_64 rng(1);
  for (std::string line; std::getline(std::cin, line);) {
    const Json request = Json::parse(line);
    Json answer = {{"error", nullptr}, {"accepts", Json::array()}, {"samples", Json::array()}};
    try {
      const auto grammar = moe4::compile_json_schema(request["schema"].get<std::string>());
      for (const Json& text : request["texts"]) {
        answer["accepts"].push_back(grammar->accepts(text.get<std::string>()));
      }
      for (int i = 0; i < request["samples"].get<int>(); ++i) {
        answer["samples"].push_back(moe4::testing::random_text(*grammar, rng));
      }
    } catch (const moe4::Error& error) {
      answer["error"] = error.what();
    }
    fmt::print("{}\n", answer.dump());
  }
  return 0;
}
