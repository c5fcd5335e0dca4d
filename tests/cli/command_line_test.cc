// What scripts rely on: exit statuses, one-line errors, flags and their environment variables.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "support/run_program.h"

namespace moe4 {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::ProgramResult;
using testing::run_program;
using ::testing::StartsWith;

const std::string kModel = std::string(MOE4_EMBEDDED_MODELS) + "/tiny-qwen3_5-moe-nvfp4";
const std::vector<std::string> kCommands = {
    "inspect",          "plan",    "run",   "chat",      "eval",
    "forward",          "experts", "bench", "bench-moe", "bench-serve",
    "bench-throughput", "compare", "synth", "template"};

// The first line says everything and nothing follows on stdout.
void expect_error(const ProgramResult& result, int status) {
  EXPECT_EQ(result.status, status) << result.err;
  EXPECT_THAT(result.err, StartsWith("error: "));
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  EXPECT_EQ(result.out, "");
}

TEST(CommandLine, HelpListsEveryCommandAndExitsWell) {
  const ProgramResult result = run_program({"--help"});
  EXPECT_EQ(result.status, 0);
  for (const std::string& command : kCommands) EXPECT_THAT(result.out, HasSubstr(command));
}

TEST(CommandLine, EveryCommandHasHelpThatNamesItsEnvironmentVariables) {
  for (const std::string& command : kCommands) {
    const ProgramResult result = run_program({command, "--help"});
    EXPECT_EQ(result.status, 0) << command;
    EXPECT_THAT(result.out, HasSubstr("MOE4_")) << command;
  }
}

TEST(CommandLine, ExpertsStayOnTheCpuOnlyBesideLayersOnAGpu) {
  const ProgramResult result = run_program({"run", kModel, "-p", "a", "--cpu-moe", "2"});
  expect_error(result, 2);
  EXPECT_THAT(result.err, AllOf(HasSubstr("--cpu-moe"), HasSubstr("--device cuda")));
}

TEST(CommandLine, VersionIsPrinted) {
  const ProgramResult result = run_program({"--version"});
  EXPECT_EQ(result.status, 0);
  EXPECT_THAT(result.out, StartsWith("moe4 "));
}

TEST(CommandLine, MistakesExitWithStatus2AndOneLine) {
  const std::vector<std::vector<std::string>> mistakes = {
      {},
      {"frobnicate"},
      {"plan"},
      {"plan", kModel, "--no-such-flag"},
      {"plan", kModel, "--device", "gpu"},
      {"plan", kModel, "--moe-backend", "trtllm"},
      {"plan", kModel, "--activations", "int8"},
      {"run", kModel},
      {"run", kModel, "-p", "a", "-n", "many"},
      {"run", kModel, "-p", "a", "--dtype", "float16"},
      {"run", kModel, "-p", "a", "--top-p", "2"},
      {"run", kModel, "-p", "a", "--threads", "-1"},
      {"run", kModel, "-p", "a", "--threads", "1025"},
      {"bench-moe", "--preset", "tiny", "--threads", "1025"},
      {"eval", kModel},
      {"eval", kModel, "--text", "a", "--tokens", "b"},
      {"compare", kModel, "--backends", "cpu"},
      {"experts", kModel, "--in", "x", "--out", "y"},
      {"bench-moe", "--preset", "no-such-model"},
      {"bench-moe", "--preset", "tiny", "--tokens", "0"},
  };
  for (const auto& arguments : mistakes) {
    SCOPED_TRACE(::testing::PrintToString(arguments));
    expect_error(run_program(arguments), 2);
  }
}

TEST(CommandLine, AListIsOneArgumentAndWhatFollowsItIsNot) {
  const std::vector<std::vector<std::string>> lists = {
      {"bench-moe", "--tokens", "1", "4"},
      {"bench-moe", "--moe-backend", "cpu", "reference"},
      {"bench-moe", "--activations", "bf16", "fp4"},
      {"bench-moe", "--moe-tuning", "a=1", "b=2"},
      {"bench", kModel, "--requests", "1", "2"},
      {"bench", kModel, "--moe-backend", "cpu", "reference"},
      {"bench", kModel, "--activations", "bf16", "fp4"},
      {"compare", kModel, "--backends", "cpu,reference", "cpu"},
  };
  for (const auto& arguments : lists) {
    SCOPED_TRACE(::testing::PrintToString(arguments));
    const ProgramResult result = run_program(arguments);
    expect_error(result, 2);
    EXPECT_THAT(result.err, HasSubstr("not expected: " + arguments.back()));
  }
}

TEST(CommandLine, ANumberOutOfRangeIsToldTheRange) {
  const auto error_of = [](std::vector<std::string> arguments, const std::string& flag,
                           const std::string& value) {
    arguments.insert(arguments.end(), {flag, value});
    const ProgramResult result = run_program(arguments);
    expect_error(result, 2);
    return result.err;
  };
  const std::vector<std::string> run = {"run", kModel, "-p", "a"};
  const std::vector<std::string> eval = {"eval", kModel, "--text", "a"};
  // Open to the end of the type, closed, unsigned, and not whole.
  EXPECT_THAT(error_of(run, "-n", "-1"), HasSubstr("'-1' is not a whole number in [0, 2^63)"));
  EXPECT_THAT(error_of(run, "-n", "9223372036854775808"), HasSubstr("whole number in [0, 2^63)"));
  EXPECT_THAT(error_of(run, "-n", "010"), HasSubstr("'010' is not a whole number in [0, 2^63)"));
  EXPECT_THAT(error_of(eval, "--chunk", "0"),
              HasSubstr("'0' is not a whole number in [1, 1048576]"));
  EXPECT_THAT(error_of(run, "--seed", "-1"), HasSubstr("'-1' is not a whole number in [0, 2^64)"));
  EXPECT_THAT(error_of(run, "--top-p", "1.5"), HasSubstr("'1.5' is not a number in [0, 1]"));
}

TEST(CommandLine, AMissingModelIsBadInput) {
  for (const std::string command : {"inspect", "plan"})
    expect_error(run_program({command, "/no/such/folder"}), 3);
  expect_error(run_program({"run", "/no/such/folder", "-p", "a"}), 3);
}

const std::vector<std::string> kShortBench = {"bench-moe", "--seconds", "0", "--threads", "1"};

TEST(CommandLine, AFlagCanComeFromItsEnvironmentVariable) {
  const ProgramResult result =
      run_program(kShortBench, {"MOE4_PRESET=tiny", "MOE4_TOKENS=1", "MOE4_JSON=true"});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("\"preset\": \"tiny\""));
}

TEST(CommandLine, BenchMoeTakesAllBackendsThatRunHere) {
  std::vector<std::string> arguments = kShortBench;
  arguments.insert(arguments.end(), {"--preset", "tiny", "--tokens", "1", "--activations", "bf16",
                                     "--moe-backend", "all", "--json"});
  const ProgramResult result = run_program(arguments);
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("\"cpu\""));
  EXPECT_THAT(result.out, HasSubstr("\"reference\""));
}

TEST(CommandLine, TheFlagWinsOverItsEnvironmentVariable) {
  std::vector<std::string> arguments = kShortBench;
  arguments.insert(arguments.end(), {"--preset", "tiny", "--tokens", "1"});
  const ProgramResult result = run_program(arguments, {"MOE4_PRESET=nonsense"});
  EXPECT_EQ(result.status, 0) << result.err;
}

TEST(CommandLine, ABadEnvironmentVariableIsAUsageError) {
  expect_error(run_program(kShortBench, {"MOE4_PRESET=nonsense"}), 2);
  expect_error(run_program(kShortBench, {"MOE4_PRESET=tiny", "MOE4_TOKENS=-1"}), 2);
}

TEST(CommandLine, NoEnvironmentVariableChangesNumbers) {
  const std::vector<std::string> run = {"run", kModel, "-p",     "a", "-n",
                                        "8",   "-q",   "--seed", "3", "--temperature=1"};
  const ProgramResult plain = run_program(run);
  ASSERT_EQ(plain.status, 0) << plain.err;
  const ProgramResult same = run_program(
      run, {"MOE4_DEVICE=nonsense", "MOE4_MOE_BACKEND=nonsense", "MOE4_ACTIVATIONS=fp4",
            "MOE4_FP8_ACTIVATIONS=true", "MOE4_BATCH_INVARIANT=nonsense", "MOE4_DTYPE=float32",
            "MOE4_TOP_K=1", "MOE4_TOP_P=0.1", "MOE4_MIN_P=1", "MOE4_REPETITION_PENALTY=9",
            "MOE4_PRESENCE_PENALTY=2", "MOE4_FREQUENCY_PENALTY=2", "MOE4_LOGIT_BIAS=1=100",
            "MOE4_MIN_TOKENS=nonsense", "MOE4_CPU_ISA=nonsense", "MOE4_MOE_TUNING=nonsense"});
  EXPECT_EQ(same.status, 0) << same.err;
  EXPECT_EQ(same.out, plain.out);
}

TEST(CommandLine, InstructionSetAndTuningComeFromTheCommandLineAlone) {
  const auto with = [](const std::vector<std::string>& flags,
                       const std::vector<std::string>& environment = {}) {
    std::vector<std::string> arguments = {"run", kModel, "-p", "a", "-n", "1", "--threads", "1"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    return run_program(arguments, environment);
  };
  // Whatever the variable says, it is not asked.
  const ProgramResult portable = with({"--cpu-isa", "portable"}, {"MOE4_CPU_ISA=nonsense"});
  EXPECT_EQ(portable.status, 0) << portable.err;
  EXPECT_THAT(portable.err, HasSubstr("CPU kernels: portable, as asked"));
  expect_error(with({"--cpu-isa", "sse9"}), 2);
#if defined(__x86_64__)
  const ProgramResult lacking = with({"--cpu-isa", "neon"});
  expect_error(lacking, 4);
  EXPECT_THAT(lacking.err, HasSubstr("portable"));
#endif
  expect_error(with({"--moe-tuning", "nonsense"}), 2);
  expect_error(run_program({"bench-moe", "--moe-tuning", "hopper.tile=16"}), 2);
}

TEST(CommandLine, AForcedBackendThatCannotRunExits4NamingTheAlternatives) {
  for (const char* backend : {"marlin", "b12x", "hopper", "flashinfer_b12x"}) {
    const ProgramResult result = run_program({"run", kModel, "-p", "a", "--moe-backend", backend});
    expect_error(result, 4);
    EXPECT_THAT(result.err, AllOf(HasSubstr("since"), HasSubstr("cpu, reference")));
  }
}

TEST(CommandLine, AWholeModelOnAGpuIsRefusedClearly) {
  expect_error(run_program({"run", kModel, "-p", "a", "--device", "sm_121"}), 4);
}

TEST(CommandLine, MoreThreadsThanCoresAreNoted) {
  const std::vector<std::string> run = {"run", kModel, "-p", "a", "-n", "1", "--threads"};
  const auto with_threads = [&](const std::string& threads) {
    std::vector<std::string> arguments = run;
    arguments.push_back(threads);
    return run_program(arguments);
  };
  const ProgramResult many = with_threads("64");
  EXPECT_EQ(many.status, 0) << many.err;
  EXPECT_THAT(many.err, HasSubstr("note: --threads 64 on "));
  EXPECT_THAT(with_threads("1").err, Not(HasSubstr("--threads")));
}

TEST(CommandLine, UnknownTokensInAnIdListAreBadInput) {
  const std::string here = __FILE__;  // a text file that is no list of ids
  expect_error(run_program({"forward", kModel, "--ids", here, "--out", "/dev/null"}), 3);
}

}  // namespace
}  // namespace moe4
