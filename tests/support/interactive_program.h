// The built moe4 program with pipes for stdin and stdout: a test talks with it while it runs.
#pragma once

#include <sys/types.h>

#include <csignal>
#include <string>
#include <vector>

#include "support/run_program.h"
#include "support/temp_dir.h"

namespace moe4::testing {

/// Reads fail the test when nothing comes for a minute. The pipe for stdout holds 4096 bytes, the
/// least that Linux gives: a program that writes more waits for read().
class InteractiveProgram {
 public:
  explicit InteractiveProgram(const std::vector<std::string>& arguments);
  /// Kills the program if it still runs.
  ~InteractiveProgram();
  InteractiveProgram(const InteractiveProgram&) = delete;
  InteractiveProgram& operator=(const InteractiveProgram&) = delete;

  void write(const std::string& text);
  void close_input();
  void send_signal(int signal);
  bool has_ended() const;
  /// Exactly `bytes` of stdout; less at its end.
  std::string read(size_t bytes);
  /// Up to the next newline, which is left out.
  std::string read_line();
  /// Waits for its end; `out` is what was not read before.
  ProgramResult finish();

 private:
  bool read_byte(char& byte);

  TempDir folder_;
  pid_t child_ = -1;
  int in_ = -1, out_ = -1;
};

}  // namespace moe4::testing
