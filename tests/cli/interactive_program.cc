// Pipes for two streams, a file for stderr.
#include "support/interactive_program.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <iterator>

namespace moe4::testing {

InteractiveProgram::InteractiveProgram(const std::vector<std::string>& arguments) {
  int in[2], out[2];
  if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0)
    throw std::runtime_error("cannot make pipes");
  fcntl(out[1], F_SETPIPE_SZ, 4096);
  const std::string errors = (folder_ / "err").string();
  std::vector<char*> argv = {const_cast<char*>(program_path().c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  child_ = fork();
  if (child_ == 0) {
    signal(SIGINT, SIG_DFL);  // shells have background jobs ignore it
    const int err = open(errors.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (dup2(in[0], STDIN_FILENO) < 0 || dup2(out[1], STDOUT_FILENO) < 0 ||
        dup2(err, STDERR_FILENO) < 0)
      _exit(126);
    execv(program_path().c_str(), argv.data());
    _exit(127);
  }
  close(in[0]);
  close(out[1]);
  in_ = in[1];
  out_ = out[0];
}

InteractiveProgram::~InteractiveProgram() {
  close_input();
  if (child_ > 0) {
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
  }
  close(out_);
}

void InteractiveProgram::write(const std::string& text) {
  ASSERT_EQ(::write(in_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
}

void InteractiveProgram::close_input() {
  if (in_ >= 0) close(in_);
  in_ = -1;
}

void InteractiveProgram::send_signal(int signal) { kill(child_, signal); }

bool InteractiveProgram::has_ended() const {
  siginfo_t info{};
  return waitid(P_PID, child_, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == child_;
}

bool InteractiveProgram::read_byte(char& byte) {
  pollfd ready{.fd = out_, .events = POLLIN, .revents = 0};
  if (poll(&ready, 1, 60000) <= 0) {
    ADD_FAILURE() << "nothing came on stdout for a minute";
    kill(child_, SIGKILL);
    return false;
  }
  return ::read(out_, &byte, 1) == 1;
}

std::string InteractiveProgram::read(size_t bytes) {
  std::string text;
  for (char byte; text.size() < bytes && read_byte(byte);) text += byte;
  return text;
}

std::string InteractiveProgram::read_line() {
  std::string line;
  for (char byte; read_byte(byte) && byte != '\n';) line += byte;
  return line;
}

ProgramResult InteractiveProgram::finish() {
  ProgramResult result;
  for (char byte; read_byte(byte);) result.out += byte;
  int status = 0;
  waitpid(child_, &status, 0);
  child_ = -1;
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  std::ifstream err(folder_ / "err");
  result.err = {std::istreambuf_iterator<char>(err), {}};
  return result;
}

}  // namespace moe4::testing
