// Draws the bar.
#include "cli/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <utility>

namespace moe4::cli {
namespace {

constexpr int kBarWidth = 30, kShortestBar = 5;
constexpr auto kRedraw = std::chrono::milliseconds(100);

bool watched() {
  static const bool terminal = [] {
    const char* term = std::getenv("TERM");
    const bool dumb = term == nullptr || *term == '\0' || std::string_view(term) == "dumb";
    return !dumb && isatty(STDERR_FILENO) == 1;
  }();
  return terminal;
}

// The last column stays free: writing there would wrap.
int usable_columns() {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 79;
  return size.ws_col - 1;
}

// Whole characters of UTF-8, control characters left out.
std::string cut(const std::string& text, int columns) {
  std::string out;
  int width = 0;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) continue;
    if ((byte & 0xc0) != 0x80 && ++width > columns) break;
    out += c;
  }
  return out;
}

int width_of(const std::string& text) {
  return static_cast<int>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

}  // namespace

std::string progress_line(const std::string& label, double share, double seconds_left, int columns,
                          double gigabytes) {
  const std::string percent = fmt::format("{:3.0f}%", share * 100);
  if (columns < width_of(percent)) return "";
  const std::string left = fmt::format("  {:.0f} s left", seconds_left);
  const std::string speed = gigabytes > 0 ? fmt::format("  {:.1f} GB/s", gigabytes) : "";
  int room = columns - width_of(percent);
  std::string tail = percent;
  if (room >= width_of(speed) + width_of(left)) {
    tail += speed + left;
  } else if (room >= width_of(left)) {
    tail += left;
  }
  room = columns - width_of(tail);
  const std::string name = room > 1 ? cut(label, room - 1) + " " : "";
  room -= width_of(name);
  const int bar = std::min(kBarWidth, room - 3);  // brackets and a space
  if (bar < kShortestBar) return name + tail;
  const int filled = static_cast<int>(share * bar);
  return name + "[" + std::string(filled, '#') + std::string(bar - filled, '.') + "] " + tail;
}

Progress::Progress(std::string label, Counts counts)
    : label_(std::move(label)),
      counts_(counts),
      start_(std::chrono::steady_clock::now()),
      drawn_(start_) {}

Progress::~Progress() { clear_progress(); }

void Progress::update(int64_t done, int64_t total) {
  const auto now = std::chrono::steady_clock::now();
  if (!watched() || total <= 0 || now - drawn_ < kRedraw) return;
  drawn_ = now;
  const double share = std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0);
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const double left = share > 0 ? elapsed * (1 - share) / share : 0;
  const double speed =
      counts_ == Counts::kBytes && elapsed > 0 ? static_cast<double>(done) * 1e-9 / elapsed : 0;
  fmt::print(stderr, "\r\033[K{}", progress_line(label_, share, left, usable_columns(), speed));
  std::fflush(stderr);
}

void clear_progress() {
  if (!watched()) return;
  std::fputs("\r\033[K", stderr);
  std::fflush(stderr);
}

}  // namespace moe4::cli
