// Settings that would change the numbers are refused by name, not ignored.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "experts/registry.h"
#include "models/model.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;

// Loads a small checkpoint whose config.json has `from` replaced by `to`; returns the error's text.
std::string load_error(const std::string& from, const std::string& to) {
  register_builtin_backends();
  testing::TempDir folder;
  fs::copy(fs::path(MOE4_TEST_DATA) / "checkpoints/qwen3-modelopt-nvfp4", folder.path(),
           fs::copy_options::recursive);
  std::ifstream in(folder.path() / "config.json");
  std::string json{std::istreambuf_iterator<char>(in), {}};
  const size_t at = json.find(from);
  EXPECT_NE(at, std::string::npos);
  json.replace(at, from.size(), to);
  std::ofstream(folder.path() / "config.json") << json;
  ThreadPool threads(1);
  try {
    const auto checkpoint = Checkpoint::open(folder.path());
    Model::load(*checkpoint, {.threads = &threads});
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    return error.what();
  }
  return "";
}

TEST(Refusal, TheUnchangedCheckpointLoads) {
  EXPECT_EQ(load_error("\"rope_type\": \"default\"", "\"rope_type\": \"default\""), "");
}

TEST(Refusal, ScaledRotaryEmbeddingsAreNamed) {
  EXPECT_THAT(load_error("\"rope_type\": \"default\"", "\"rope_type\": \"yarn\", \"factor\": 4.0"),
              ::testing::AllOf(::testing::HasSubstr("rope_type"), ::testing::HasSubstr("yarn"),
                               ::testing::HasSubstr("config.json")));
}

TEST(Refusal, UnknownRouterScoringIsNamed) {
  EXPECT_THAT(
      load_error("\"rope_parameters\"", "\"scoring_func\": \"sqrtsoftplus\", \"rope_parameters\""),
      ::testing::HasSubstr("sqrtsoftplus"));
}

}  // namespace
}  // namespace moe4
