// The built moe4 program as a child process that a test talks to.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

namespace moe4::testing {

/// stdin and stdout are pipes, stderr a pipe that is read at the end.
class ProgramProcess {
 public:
  /// `in_child` runs between fork and exec, after the streams are in place: system calls only.
  explicit ProgramProcess(const std::vector<std::string>& arguments,
                          const std::function<void()>& in_child = {});
  ~ProgramProcess();
  ProgramProcess(const ProgramProcess&) = delete;
  ProgramProcess& operator=(const ProgramProcess&) = delete;

  pid_t pid() const { return pid_; }
  void write(const std::string& text);
  /// Waits for the next byte of stdout; false at its end.
  bool read_byte();
  /// The same of stderr.
  bool read_error_byte();
  /// Closes stdin, reads what is left of both streams and waits. The exit status, 128 + signal when
  /// it was killed.
  int wait();
  const std::string& out() const { return out_; }
  const std::string& err() const { return err_; }

 private:
  pid_t pid_ = -1;
  int in_ = -1, stdout_ = -1, stderr_ = -1;
  std::string out_, err_;
};

}  // namespace moe4::testing
