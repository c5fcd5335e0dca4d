// Numbers that are not finite are reported by no command, whatever made them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "support/run_program.h"
#include "support/scripted_checkpoint.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::ProgramResult;
using testing::run_program;
using testing::ScriptedTensors;
using ::testing::StartsWith;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

class NotFinite : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  std::string model(const std::function<void(ScriptedTensors&)>& edit) {
    const std::string folder = path("model" + std::to_string(++count_));
    testing::write_checkpoint(folder, {.edit = edit});
    return folder;
  }
  void expect_refused(const std::vector<std::string>& arguments, const std::string& place,
                      const std::string& input = "") {
    SCOPED_TRACE(::testing::PrintToString(arguments));
    const ProgramResult result = run_program(arguments, {}, input);
    EXPECT_EQ(result.status, 3) << result.out;
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, AllOf(HasSubstr("error: "), HasSubstr("finite"), HasSubstr(place)));
  }

  testing::TempDir folder_;
  int count_ = 0;
};

TEST_F(NotFinite, EveryCommandThatReportsNumbersStopsAndSaysWhere) {
  struct Kind {
    const char* place;
    std::function<void(ScriptedTensors&)> edit;
  };
  const Kind kinds[] = {
      {"layer 1", [](auto& t) { t["model.layers.1.input_layernorm.weight"].values[3] = kNan; }},
      {"layer 0",
       [](auto& t) {
         t["model.layers.0.self_attn.v_proj.weight"].values[9] = kInfinity;
         t["model.layers.0.self_attn.o_proj.weight"].values[9] = 1;
       }},
      {"the final norm", [](auto& t) { t["model.norm.weight"].values[0] = -kInfinity; }},
      {"the embedding",
       [](auto& t) { t["model.embed_tokens.weight"].values['a' * 64 + 5] = kInfinity; }},
      {"of lm_head", [](auto& t) { t["lm_head.weight"].values[200 * 64] = kNan; }},
      {"layer 1",
       [](auto& t) {
         t["model.layers.1.mlp.experts.0.down_proj.weight"].values[0] = kNan;
         t["model.layers.1.mlp.experts.1.down_proj.weight"].values[0] = kNan;
         t["model.layers.1.mlp.experts.2.down_proj.weight"].values[0] = kNan;
       }},
      {"layer 0", [](auto& t) { t["model.layers.0.mlp.gate.weight"].values[64] = kNan; }},
      // Finite weights whose products overflow.
      {"of lm_head",
       [](auto& t) {
         for (float& w : t["model.norm.weight"].values) w = 1e30f;
         for (float& w : t["lm_head.weight"].values) w *= 1e30f;
       }},
  };
  std::ofstream(path("text")) << "aaaaaa";
  std::ofstream(path("ids")) << "97 97 97";
  for (const Kind& kind : kinds) {
    const std::string m = model(kind.edit);
    expect_refused({"run", m, "-p", "aa", "-n", "2"}, kind.place);
    expect_refused({"eval", m, "--text", path("text")}, kind.place);
    expect_refused({"forward", m, "--ids", path("ids"), "--out", path("out")}, kind.place);
    EXPECT_FALSE(std::filesystem::exists(path("out")));
  }
  const std::string m = model(kinds[0].edit);
  const std::string place = kinds[0].place;
  expect_refused({"run", m, "-p", "aa", "-n", "2", "--json"}, place);
  expect_refused({"run", m, "-p", "aa", "-n", "2", "--temperature", "1"}, place);
  expect_refused({"chat", m}, place, "hi\n");
  expect_refused({"eval", m, "--text", path("text"), "--json"}, place);
  expect_refused({"eval", m, "--text", path("text"), "--chunk", "1"}, place);
  expect_refused({"compare", m, "--backends", "reference,cpu", "--text", path("text")}, place);
  expect_refused({"compare", m, "--backends", "cpu,cpu", "--text", path("text"), "--json"}, place);
  for (const char* how : {"--json", "--quiet"}) {
    expect_refused({"bench", m, "-p", "0", "-n", "0", "-r", "1", "--text", path("text"), how},
                   place);
  }
  expect_refused({"forward", m, "--ids", path("ids"), "--out", path("out"), "--hidden"}, place);
}

TEST_F(NotFinite, TheFirstTokenOfTheTroubleIsNamed) {
  std::ofstream(path("ids")) << "98 99 100 97 98";
  expect_refused(
      {"forward", model([](auto& t) { t["model.embed_tokens.weight"].values['a' * 64] = kNan; }),
       "--ids", path("ids"), "--out", path("out")},
      "token 3, first after the embedding");
}

TEST_F(NotFinite, ExpertsRefuseSuchInputsAndResults) {
  const auto write_x = [&](float value) {
    std::vector<float> x(3 * 64, 0.5f);
    x[64 + 7] = value;
    const NamedTensor tensor[] = {{"x", {x.data(), DType::kF32, {3, 64}}}};
    write_safetensors(path("x"), tensor);
  };
  const std::vector<std::string> tail = {"--layer", "0", "--in", path("x"), "--out", path("y")};
  const auto run = [&](const std::string& m) {
    std::vector<std::string> arguments = {"experts", m};
    arguments.insert(arguments.end(), tail.begin(), tail.end());
    return arguments;
  };
  const std::string sound = model({});
  write_x(1.0f);
  EXPECT_EQ(run_program(run(sound)).status, 0);
  std::filesystem::remove(path("y"));
  for (const float bad : {kNan, kInfinity, -kInfinity}) {
    write_x(bad);
    expect_refused(run(sound), "x row 1 column 7");
  }
  write_x(1.0f);
  expect_refused(run(model([](auto& t) {
                   for (int e = 0; e < 4; ++e) {
                     t["model.layers.0.mlp.experts." + std::to_string(e) + ".down_proj.weight"]
                         .values[2 * 32] = kNan;
                   }
                 })),
                 "y row 0 column 2");
  expect_refused(run(model([](auto& t) { t["model.layers.0.mlp.gate.weight"].values[0] = kNan; })),
                 "layer 0, row 0 of x");
  EXPECT_FALSE(std::filesystem::exists(path("y")));
}

}  // namespace
}  // namespace moe4
