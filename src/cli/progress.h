// A progress bar on stderr, drawn only when a person is watching.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace moe4::cli {

/// "label [####....]  40%  3.1 GB/s  12 s left" in at most `columns` characters of a terminal: what
/// does not fit is left out, the percentage last. `share`: 0 to 1. `gigabytes`: a second; 0: what
/// is counted are no bytes.
std::string progress_line(const std::string& label, double share, double seconds_left, int columns,
                          double gigabytes = 0);

/// Redraws at most ten times a second; silent when stderr is not a terminal or one that cannot move
/// its cursor (TERM=dumb). Fits the terminal's width, also when that changes. The bar is wiped when
/// the object goes away.
class Progress {
 public:
  enum class Counts { kSteps, kBytes };
  explicit Progress(std::string label, Counts counts = Counts::kSteps);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(int64_t done, int64_t total);

 private:
  std::string label_;
  Counts counts_;
  std::chrono::steady_clock::time_point start_, drawn_;
};

/// Wipes a bar that an exception left on the screen.
void clear_progress();

}  // namespace moe4::cli
