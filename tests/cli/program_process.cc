// fork, exec and three pipes.
#include "support/program_process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/run_program.h"

namespace moe4::testing {

ProgramProcess::ProgramProcess(const std::vector<std::string>& arguments,
                               const std::function<void()>& in_child) {
  int in[2], out[2], err[2];
  EXPECT_EQ(pipe2(in, O_CLOEXEC), 0);
  EXPECT_EQ(pipe2(out, O_CLOEXEC), 0);
  EXPECT_EQ(pipe2(err, O_CLOEXEC), 0);
  std::vector<char*> argv = {const_cast<char*>(program_path().c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  pid_ = fork();
  if (pid_ == 0) {
    dup2(in[0], STDIN_FILENO);
    dup2(out[1], STDOUT_FILENO);
    dup2(err[1], STDERR_FILENO);
    alarm(300);  // a program that hangs is killed
    if (in_child) in_child();
    execv(program_path().c_str(), argv.data());
    _exit(127);
  }
  close(in[0]), close(out[1]), close(err[1]);
  in_ = in[1], stdout_ = out[0], stderr_ = err[0];
}

ProgramProcess::~ProgramProcess() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  for (const int fd : {in_, stdout_, stderr_}) {
    if (fd >= 0) close(fd);
  }
}

void ProgramProcess::write(const std::string& text) {
  EXPECT_EQ(::write(in_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
}

bool ProgramProcess::read_byte() {
  char byte = 0;
  if (read(stdout_, &byte, 1) != 1) return false;
  out_ += byte;
  return true;
}

bool ProgramProcess::read_error_byte() {
  char byte = 0;
  if (read(stderr_, &byte, 1) != 1) return false;
  err_ += byte;
  return true;
}

int ProgramProcess::wait() {
  close(in_);
  in_ = -1;
  pollfd streams[] = {{stdout_, POLLIN, 0}, {stderr_, POLLIN, 0}};
  std::string* texts[] = {&out_, &err_};
  for (int open = 2; open > 0;) {
    if (poll(streams, 2, -1) < 0) break;
    for (int i = 0; i < 2; ++i) {
      if (streams[i].fd < 0 || streams[i].revents == 0) continue;
      char buffer[4096];
      const ssize_t n = read(streams[i].fd, buffer, sizeof buffer);
      if (n > 0) {
        texts[i]->append(buffer, static_cast<size_t>(n));
      } else {
        streams[i].fd = -1;
        --open;
      }
    }
  }
  int status = 0;
  waitpid(pid_, &status, 0);
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace moe4::testing
