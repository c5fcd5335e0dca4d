// Loops that do nothing but one instruction, for ceilings.cc.
#pragma once

#include <cstdint>

namespace moe4::peaks {

/// Each runs `rounds` rounds of 24 independent instructions; operations per round follow.
struct Peak {
  void (*run)(int64_t rounds);
  double operations_per_round;
};

#if defined(__x86_64__)
Peak avx512_int8();
Peak avx512_int16();
Peak avx512_bf16();
Peak avx512_fma();
#endif

}  // namespace moe4::peaks
