// The JSON-Schema-Test-Suite's verdicts on its instances.
//
// tests/data/grammar/json_schema_suite.json is an extract of
// json-schema-org/JSON-Schema-Test-Suite, Copyright (c) 2012 Julian Berman, MIT licence, made by
// scripts/check_schemas.py: drafts 2020-12 and 7, the schemas that moe4 takes, instances as it
// writes them.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

#include "base/error.h"
#include "grammar/grammar.h"
#include "grammar/random_text.h"

namespace moe4 {
namespace {

TEST(JsonSchemaSuite, InstancesAreAcceptedIfTheSuiteCallsThemValid) {
  using Json = nlohmann::ordered_json;
  std::ifstream file(std::filesystem::path(MOE4_TEST_DATA) / "grammar/json_schema_suite.json");
  const Json schemas = Json::parse(file);
  ASSERT_GE(schemas.size(), 500U);
  size_t valid = 0, invalid = 0, texts = 0;
  std::mt19937_64 rng(5);
  for (const Json& entry : schemas) {
    const std::string schema = entry["schema"].dump();
    const auto grammar = compile_json_schema(schema);
    for (const Json& test : entry["tests"]) {
      const auto text = test[0].get<std::string>();
      EXPECT_EQ(grammar->accepts(text), test[1].get<bool>())
          << entry["from"] << " " << schema << "\n"
          << text;
      ++(test[1].get<bool>() ? valid : invalid);
    }
    // What the grammar writes is JSON; the script holds it against Python's jsonschema.
    const std::string text = testing::random_text(*grammar, rng);
    if (text.empty()) continue;
    EXPECT_TRUE(Json::accept(text)) << schema << "\n" << text;
    ++texts;
  }
  EXPECT_GT(valid, 1'000U);
  EXPECT_GT(invalid, 1'000U);
  EXPECT_GT(texts, 450U);
}

}  // namespace
}  // namespace moe4
