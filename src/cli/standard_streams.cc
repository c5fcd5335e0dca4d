// Checks of standard output.
#include "cli/standard_streams.h"

#include <fcntl.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <string>

#include "base/error.h"

namespace moe4::cli {

void open_standard_streams() {
  // In order: open() takes the lowest number that is free. Standard output is opened for reading,
  // so that writes fail as they would on the closed one.
  for (const auto& [fd, mode] : {std::pair(0, O_RDONLY), {1, O_RDONLY}, {2, O_WRONLY}}) {
    if (fcntl(fd, F_GETFD) < 0 && errno == EBADF) static_cast<void>(open("/dev/null", mode));
  }
}

namespace {

[[noreturn]] void fail_to_write() {
  const std::string why = errno != 0 ? std::strerror(errno) : "an earlier write failed";
  throw Error(ErrorCode::kUnavailable, "cannot write the results to standard output: " + why);
}

}  // namespace

void write_streamed(std::string_view text) {
  errno = 0;
  // More than a buffer of text is written here, and the reason is known only now.
  if (std::fwrite(text.data(), 1, text.size(), stdout) < text.size()) fail_to_write();
  flush_results();
}

void flush_results() {
  errno = 0;
  std::cout.flush();
  const bool flushed = std::fflush(stdout) == 0;
  if (!flushed || std::ferror(stdout) != 0) fail_to_write();
}

}  // namespace moe4::cli
