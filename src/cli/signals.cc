// Signal handlers; everything they call is async-signal-safe.
#include "cli/signals.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

#include "base/error.h"
#include "base/mapped_file.h"
#include "base/unfinished_path.h"

namespace moe4::cli {
namespace {

void say(const char* text) {
  if (write(STDERR_FILENO, text, std::strlen(text)) < 0) return;  // nobody to tell
}

// The default action, once this handler returns.
void end_by(int signal_number) {
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

void end_cleanly(int signal_number) {
  remove_unfinished_paths();
  end_by(signal_number);
}

void on_bus_error(int signal_number, siginfo_t* info, void*) {
  const char* path = mapped_file_at(info->si_addr);
  if (path == nullptr) {
    signal(signal_number, SIG_DFL);  // the instruction fails again
    return;
  }
  // Threads that read the same file fail together: the first one speaks and ends the process.
  static std::atomic_flag is_ending = ATOMIC_FLAG_INIT;
  if (is_ending.test_and_set()) {
    for (;;) pause();
  }
  remove_unfinished_paths();
  if (isatty(STDERR_FILENO) == 1) say("\r\n");  // below a progress bar
  say("error: file changed or cannot be read (file ");
  say(path);
  say("): it was cut while it was in use, or its disk failed; start again once the file is "
      "whole\n");
  _exit(static_cast<int>(ErrorCode::kBadInput));
}

}  // namespace

void install_signal_handlers() {
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction old {};
    if (sigaction(number, nullptr, &old) == 0 && old.sa_handler == SIG_IGN) continue;
    struct sigaction action {};
    action.sa_handler = end_cleanly;
    sigaction(number, &action, nullptr);
  }
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGBUS, &action, nullptr);
}

}  // namespace moe4::cli
