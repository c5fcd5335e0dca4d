// Results that cannot be written, files that may not be written, signals, and files that are cut.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "checkpoint/safetensors.h"
#include "support/program_process.h"
#include "support/run_program.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::ProgramProcess;
using testing::ProgramResult;
using testing::run_program;
using ::testing::StartsWith;

const std::string kModel = std::string(MOE4_EMBEDDED_MODELS) + "/tiny-qwen3_5-moe-nvfp4";
const std::string kTokens = std::string(MOE4_EMBEDDED_MODELS) + "/heldout_tokens.safetensors";

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

std::string get(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

class Streams : public ::testing::Test {
 protected:
  Streams() { std::ofstream(path("ids")) << "1 2 3"; }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  // A copy of the embedded checkpoint that a test may damage.
  std::string copy_of_model() const {
    fs::copy(kModel, folder_ / "model");
    return path("model");
  }
  ProgramResult forward(const std::string& out, const std::string& model = kModel) const {
    return run_program({"forward", model, "--ids", path("ids"), "--out", out});
  }

  testing::TempDir folder_;
};

// One line on stderr: nothing was loaded, or the plan would stand there, too.
void expect_one_line(const ProgramResult& result, int status, const std::string& words) {
  EXPECT_EQ(result.status, status) << result.err;
  EXPECT_THAT(result.err, AllOf(StartsWith("error: "), HasSubstr(words)));
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
}

TEST_F(Streams, ResultsThatCannotBeWrittenExit4InEveryCommand) {
  std::ofstream(path("messages")) << R"([{"role": "user", "content": "hi"}])";
  const std::vector<std::vector<std::string>> commands = {
      {"--help"},
      {"--version"},
      {"run", "--help"},
      {"inspect", kModel},
      {"inspect", kModel, "--json"},
      {"plan", kModel},
      {"plan", kModel, "--json"},
      {"run", kModel, "-p", "a", "-n", "4", "--ignore-eos"},
      {"run", kModel, "-p", "a", "-n", "4", "--json"},
      {"chat", kModel, "-n", "4", "--temperature", "0"},
      {"template", kModel, "--messages", path("messages")},
      {"eval", kModel, "--tokens", kTokens, "--rows", "1"},
      {"compare", kModel, "--backends", "cpu,cpu", "--tokens", kTokens, "--rows", "1"},
      {"bench", kModel, "-p", "2", "-n", "2", "-r", "1"},
      {"bench-moe", "--preset", "tiny", "--tokens", "1", "--seconds", "0", "--moe-backend", "cpu",
       "--activations", "bf16"},
      {"synth", "--preset", "tiny", path("synth")},
  };
  for (const auto& arguments : commands) {
    SCOPED_TRACE(::testing::PrintToString(arguments));
    ProgramProcess program(arguments, [] { dup2(open("/dev/full", O_WRONLY), STDOUT_FILENO); });
    if (arguments.front() == "chat") program.write("hello\n");
    EXPECT_EQ(program.wait(), 4) << program.err();
    EXPECT_THAT(program.err(), HasSubstr("error: cannot write the results to standard output: "
                                         "No space left on device\n"));
  }
}

TEST_F(Streams, AClosedOutputFailsWhereThereAreResults) {
  ProgramProcess plan({"plan", kModel}, [] { close(STDOUT_FILENO); });
  EXPECT_EQ(plan.wait(), 4);
  EXPECT_THAT(plan.err(), HasSubstr("standard output: Bad file descriptor"));
  // The results go to a file, and that file must not become standard output.
  ProgramProcess forward({"forward", kModel, "--ids", path("ids"), "--out", path("out")},
                         [] { close(STDIN_FILENO), close(STDOUT_FILENO), close(STDERR_FILENO); });
  EXPECT_EQ(forward.wait(), 0);
  EXPECT_EQ(SafetensorsFile::open(path("out"))->tensor("logits").shape.front(), 3);
}

TEST_F(Streams, AReaderThatGoesAwayEndsTheProgramQuietly) {
  ProgramProcess program({"run", kModel, "-q", "-p", "a", "-n", "200", "--ignore-eos"}, [] {
    int ends[2];
    if (pipe(ends) != 0) _exit(126);
    dup2(ends[1], STDOUT_FILENO);
    close(ends[0]), close(ends[1]);
    signal(SIGPIPE, SIG_DFL);
  });
  EXPECT_EQ(program.wait(), 128 + SIGPIPE);
  EXPECT_EQ(program.err(), "");
}

TEST_F(Streams, OutputNeverReplacesAnInputOrTheCheckpoint) {
  const std::string model = copy_of_model();
  const auto expect_refused = [&](const std::string& out) {
    SCOPED_TRACE(out);
    const std::string before = get(out);
    expect_one_line(forward(out, model), 2, "would replace");
    EXPECT_EQ(get(out), before);
  };
  expect_refused(path("ids"));
  for (const auto& entry : fs::directory_iterator(model)) expect_refused(entry.path().string());
  fs::create_symlink("model/config.json", path("link"));
  expect_refused(path("link"));
  fs::create_hard_link(path("model/config.json"), path("hard"));
  expect_refused(path("hard"));
  expect_refused(path("model") + "/../model/./config.json");
}

TEST_F(Streams, OutputInAMissingFolderIsRefusedBeforeLoading) {
  expect_one_line(forward(path("no/out")), 4, "there is no folder");
  expect_one_line(forward(folder_.path().string()), 2, "it is a folder");
  expect_one_line(
      run_program({"experts", kModel, "--layer", "0", "--in", kTokens, "--out", path("no/out")}), 4,
      "there is no folder");
}

TEST_F(Streams, OutputGoesThroughAPipeAndFollowsLinks) {
  ASSERT_EQ(mkfifo(path("pipe").c_str(), 0600), 0);
  std::string received;
  std::thread reader([&] { received = get(path("pipe")); });
  EXPECT_EQ(forward(path("pipe")).status, 0);
  reader.join();
  EXPECT_TRUE(fs::is_fifo(path("pipe")));
  fs::create_symlink("real", path("link"));
  EXPECT_EQ(forward(path("link")).status, 0);
  EXPECT_TRUE(fs::is_symlink(path("link")));
  EXPECT_EQ(get(path("real")), received);
  const ProgramResult streamed = forward("/dev/stdout");
  EXPECT_EQ(streamed.status, 0) << streamed.err;
  EXPECT_EQ(streamed.out, received);
  EXPECT_EQ(forward("/dev/null").status, 0);
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
}

TEST_F(Streams, MistakesAreFoundBeforeLoading) {
  std::ofstream(path("bad")) << "1 4096";
  const std::string out = path("out");
  expect_one_line(run_program({"forward", kModel, "--ids", path("none"), "--out", out}), 3,
                  "cannot read the file");
  expect_one_line(run_program({"forward", kModel, "--ids", path("bad"), "--out", out}), 3,
                  "outside the vocabulary at position 1");
  for (const std::string command : {"eval", "bench"}) {
    expect_one_line(run_program({command, kModel, "--text", path("none")}), 3,
                    "cannot read the file");
    expect_one_line(run_program({command, kModel, "--tokens", path("none")}), 3,
                    "cannot read the file");
    expect_one_line(run_program({command, kModel, "--tokens", path("ids")}), 3, path("ids"));
  }
  expect_one_line(run_program({"compare", kModel, "--backends", "cpu,cpu", "--text", path("none")}),
                  3, "cannot read the file");
  expect_one_line(run_program({"bench", kModel, "--moe-backend", "cpu,nonsense"}), 2, "nonsense");
  expect_one_line(run_program({"bench", kModel, "--activations", "bf16,int8"}), 2, "int8");
  ASSERT_EQ(forward(path("h.safetensors")).status, 0);
  expect_one_line(run_program({"experts", kModel, "--layer", "77", "--in", path("h.safetensors"),
                               "--out", out}),
                  2, "--layer 77");
  expect_one_line(
      run_program({"experts", kModel, "--layer", "1", "--in", path("h.safetensors"), "--out", out}),
      3, "tensor x");
  EXPECT_FALSE(fs::exists(out));
}

TEST_F(Streams, AKilledCommandLeavesNothingBehind) {
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) {
    SCOPED_TRACE(number);
    ProgramProcess program({"synth", "--preset", "qwen3-30b-a3b", path("big")}, [] {
      signal(SIGHUP, SIG_DFL);
      signal(SIGINT, SIG_DFL);
    });
    // Once the first shard is being written.
    const auto shard_is_there = [&] {
      std::error_code error;
      for (const auto& entry : fs::directory_iterator(path("big.partial"), error))
        if (entry.path().extension() == ".partial") return true;
      return false;
    };
    while (!shard_is_there()) {
      ASSERT_EQ(kill(program.pid(), 0), 0);
      std::this_thread::yield();
    }
    ASSERT_EQ(kill(program.pid(), number), 0);
    EXPECT_EQ(program.wait(), 128 + number);
    EXPECT_FALSE(fs::exists(path("big.partial")));
    EXPECT_FALSE(fs::exists(path("big")));
  }
}

TEST_F(Streams, AShardThatIsCutWhileItIsReadIsNamed) {
  const std::string model = copy_of_model();
  // Every backend loads from the file that was mapped for the first.
  ProgramProcess program(
      {"compare", model, "--tokens", kTokens, "--backends", "cpu,reference,cpu,reference,cpu"});
  ASSERT_TRUE(program.read_error_byte());  // the plan of the first
  ASSERT_EQ(truncate((model + "/model.safetensors").c_str(), 65536), 0);
  EXPECT_EQ(program.wait(), 3);
  EXPECT_EQ(program.out(), "");
  EXPECT_THAT(program.err(), HasSubstr("error: file changed or cannot be read (file " + model +
                                       "/model.safetensors)"));
}

TEST_F(Streams, ThreadsThatCannotBeCreatedExit4) {
  if (kSanitized) GTEST_SKIP() << "sanitizers need the address space";
  ProgramProcess program({"run", kModel, "-p", "a", "-n", "1", "--threads", "1000"}, [] {
    const rlimit limit{.rlim_cur = size_t{2} << 30, .rlim_max = size_t{2} << 30};
    setrlimit(RLIMIT_AS, &limit);
  });
  EXPECT_EQ(program.wait(), 4);
  EXPECT_THAT(program.err(), StartsWith("error: cannot start 1000 threads, only "));
}

TEST_F(Streams, MemoryThatRunsOutIsExplained) {
  if (kSanitized) GTEST_SKIP() << "sanitizers need the address space";
  ProgramProcess program({"bench", kModel, "-p", "0", "-n", "4000000000", "-r", "1"}, [] {
    const rlimit limit{.rlim_cur = size_t{2} << 30, .rlim_max = size_t{2} << 30};
    setrlimit(RLIMIT_AS, &limit);
  });
  EXPECT_EQ(program.wait(), 4);
  EXPECT_THAT(program.err(), AllOf(HasSubstr("error: not enough memory: about "),
                                   HasSubstr("needed in all"), HasSubstr("4000000000 tokens"),
                                   HasSubstr("limited by ulimit -v"), HasSubstr("lower -p or -n")));
}

// 3 layers keep a latent of 32 and a rotated key of 16 values of 16 bits: 288 bytes a token.
TEST_F(Streams, MemoryForTheCachesIsWhatTheLayersKeep) {
  if (kSanitized) GTEST_SKIP() << "sanitizers need the address space";
  const std::string model = MOE4_TEST_DATA "/checkpoints/glm4_moe_lite-modelopt-nvfp4";
  ProgramProcess program({"bench", model, "-p", "0", "-n", "400000000", "-r", "1"}, [] {
    const rlimit limit{.rlim_cur = size_t{2} << 30, .rlim_max = size_t{2} << 30};
    setrlimit(RLIMIT_AS, &limit);
  });
  EXPECT_EQ(program.wait(), 4);
  EXPECT_THAT(program.err(), HasSubstr("107.3 GiB of cache for 400000000 tokens"));
}

TEST_F(Streams, AChatForgetsItsOldestTurnsWhenTheyNoLongerFit) {
  std::string lines;
  for (int i = 0; i < 6; ++i) lines += "And what does the word light mean?\n";
  std::string endless = "light";
  for (int i = 0; i < 200; ++i) endless += " and light";
  lines += endless + "\nAnd light?\n";
  const ProgramResult result =
      run_program({"chat", kModel, "-n", "8", "--ctx", "90", "--temperature", "0"}, {}, lines);
  EXPECT_EQ(result.status, 0) << result.err;
  const std::string forgot = "note: the conversation no longer fits the context; forgot ";
  EXPECT_THAT(result.err, AllOf(HasSubstr(forgot + "its oldest turn\n"),
                                HasSubstr("note: this turn is not answered: ")));
  EXPECT_EQ(result.err.substr(0, result.err.find("generation: ")).find("note: "), std::string::npos)
      << "the first turn fits: " << result.err;
  size_t answers = 0;
  for (size_t at = 0; (at = result.err.find("generation: ", at)) != std::string::npos; ++at)
    ++answers;
  EXPECT_EQ(answers, 7u) << result.err;
}

// What the program writes to a terminal called `term`.
std::string on_terminal(const std::string& term) {
  const int terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  EXPECT_EQ(grantpt(terminal), 0);
  EXPECT_EQ(unlockpt(terminal), 0);
  const std::string name = ptsname(terminal);
  const int slave = open(name.c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC);
  ProgramProcess program({"eval", kModel, "--tokens", kTokens, "--rows", "1"}, [&] {
    dup2(slave, STDERR_FILENO);
    setenv("TERM", term.c_str(), 1);
  });
  EXPECT_EQ(program.wait(), 0);
  fcntl(terminal, F_SETFL, O_NONBLOCK);
  std::string text(65536, '\0');
  const ssize_t n = read(terminal, text.data(), text.size());
  text.resize(n > 0 ? static_cast<size_t>(n) : 0);
  close(slave), close(terminal);
  return text;
}

TEST_F(Streams, ADumbTerminalGetsNoEscapeSequences) {
  EXPECT_THAT(on_terminal("xterm"), HasSubstr("\x1b["));
  for (const std::string term : {"dumb", ""}) {
    const std::string text = on_terminal(term);
    EXPECT_THAT(text, AllOf(HasSubstr("layers"), Not(HasSubstr("\x1b"))));
  }
}

}  // namespace
}  // namespace moe4
