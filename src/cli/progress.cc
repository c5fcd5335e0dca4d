// Draws the bar.
#include "cli/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

namespace moe4::cli {
namespace {

constexpr int kWidth = 30;
constexpr auto kRedraw = std::chrono::milliseconds(100);

bool watched() {
  static const bool terminal = isatty(STDERR_FILENO) == 1;
  return terminal;
}

}  // namespace

Progress::Progress(std::string label)
    : label_(std::move(label)), start_(std::chrono::steady_clock::now()), drawn_(start_) {}

Progress::~Progress() { clear_progress(); }

void Progress::update(int64_t done, int64_t total) {
  const auto now = std::chrono::steady_clock::now();
  if (!watched() || total <= 0 || now - drawn_ < kRedraw) return;
  drawn_ = now;
  const double share = std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0);
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const double left = share > 0 ? elapsed * (1 - share) / share : 0;
  const int filled = static_cast<int>(share * kWidth);
  fmt::print(stderr, "\r\033[K{} [{}{}] {:3.0f}%  {:.0f} s left", label_, std::string(filled, '#'),
             std::string(kWidth - filled, '.'), share * 100, left);
  std::fflush(stderr);
}

void clear_progress() {
  if (!watched()) return;
  std::fputs("\r\033[K", stderr);
  std::fflush(stderr);
}

}  // namespace moe4::cli
