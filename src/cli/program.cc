// The moe4 program: parses the command line and turns every error into one line and an exit status.
#include "cli/program.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <new>
#include <sstream>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/memory_limit.h"
#include "cli/commands.h"
#include "cli/progress.h"
#include "cli/signals.h"
#include "cli/standard_streams.h"
#include "ops/experts/registry.h"

namespace {

// First line of stderr: what went wrong, whatever was being drawn there.
int fail(const std::string& message, moe4::ErrorCode code) {
  moe4::cli::clear_progress();
  std::fflush(stdout);
  std::fprintf(stderr, "error: %s\n", message.c_str());
  return static_cast<int>(code);
}

// CLI11's messages may span lines.
std::string one_line(std::string text) {
  for (char& c : text) {
    if (c == '\n') c = ' ';
  }
  return text;
}

// Runs the command line; errors are thrown.
int run(CLI::App& app, int argc, char** argv) {
  moe4::register_builtin_backends();
  moe4::cli::add_inspect(app);
  moe4::cli::add_plan(app);
  moe4::cli::add_run(app);
  moe4::cli::add_chat(app);
  moe4::cli::add_template(app);
  moe4::cli::add_eval(app);
  moe4::cli::add_forward(app);
  moe4::cli::add_experts(app);
  moe4::cli::add_compare(app);
  moe4::cli::add_bench(app);
  moe4::cli::add_bench_moe(app);
  moe4::cli::add_bench_serve(app);
  moe4::cli::add_bench_throughput(app);
  moe4::cli::add_synth(app);
  moe4::cli::add_serve(app);
  // "bench serve" and "bench throughput" are known from vLLM; a model that is called serve is
  // ./serve.
  std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
  if (arguments.size() > 1 && arguments[0] == "bench" &&
      (arguments[1] == "serve" || arguments[1] == "throughput")) {
    arguments.erase(arguments.begin());
    arguments[0] = "bench-" + arguments[0];
  }
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants them
  int status = 0;
  try {
    app.parse(std::move(arguments));
  } catch (const CLI::Success& help) {
    std::ostringstream text;  // flushed by us, so that what went wrong is known
    status = app.exit(help, text, text);
    moe4::cli::write_streamed(text.str());
  }
  moe4::cli::flush_results();
  return status;
}

}  // namespace

int moe4::cli::run_program(int argc, char** argv) {
  moe4::cli::open_standard_streams();
  moe4::cli::install_signal_handlers();
  CLI::App app{"moe4 runs NVFP4 mixture-of-experts checkpoints as their publishers ship them."};
  app.name("moe4");
  app.set_version_flag("--version", "moe4 " MOE4_VERSION);
  app.require_subcommand(1);
  app.option_defaults()->always_capture_default();
  app.footer(
      "Flags that change no number have an environment variable: --threads is MOE4_THREADS.\n"
      "Exit status: 0 done, 2 wrong command line, 3 bad checkpoint or input, 4 this machine "
      "cannot.");
  try {
    return run(app, argc, argv);
  } catch (const CLI::ParseError& error) {
    return fail(one_line(error.what()) + "; see moe4 --help", moe4::ErrorCode::kUsage);
  } catch (const moe4::Error& error) {
    return fail(error.what(), error.code());
  } catch (const std::bad_alloc&) {
    return fail(
        "out of memory; " + moe4::memory_text(moe4::available_memory().bytes) + " are available",
        moe4::ErrorCode::kUnavailable);
  } catch (const std::system_error& error) {
    const bool printing = std::ferror(stdout) != 0 || std::ferror(stderr) != 0;
    if (!printing)
      return fail(std::string("internal: ") + error.what(), moe4::ErrorCode::kInternal);
    return fail(std::string("cannot write ") +
                    (std::ferror(stdout) != 0 ? "the results to standard output" : "notes") + ": " +
                    error.code().message(),
                moe4::ErrorCode::kUnavailable);
  } catch (const std::exception& error) {
    return fail(std::string("internal: ") + error.what(), moe4::ErrorCode::kInternal);
  }
}
