// Bounds on the work of one rendering, so that no template can hang or eat the machine.
#pragma once

#include <cstdint>

#include "text/jinja/error.h"

namespace moe4::jinja {

inline constexpr int64_t kMaxSteps = 20'000'000;             // a long real conversation takes 100k
inline constexpr int64_t kMaxTextBytes = int64_t{32} << 20;  // of one string, and of the output
inline constexpr int kMaxRecursion = 1000;     // nested statements and expressions at work
inline constexpr int kMaxNesting = 200;        // ... as written
inline constexpr int kMaxValueDepth = 100;     // lists in lists
inline constexpr int64_t kMaxRange = 100'000;  // as jinja2's sandbox has it
inline constexpr int64_t kBytesPerStep = 32;

class Budget {
 public:
  void charge(int64_t steps = 1) {
    steps_ += steps;
    if (steps_ > kMaxSteps) throw TemplateError("the template runs for too long");
  }

  /// For a string about to be made.
  void charge_text(int64_t bytes) {
    if (bytes > kMaxTextBytes) throw TemplateError("the template makes a text that is too long");
    charge(1 + bytes / kBytesPerStep);
  }

 private:
  int64_t steps_ = 0;
};

}  // namespace moe4::jinja
