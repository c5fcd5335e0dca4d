// Peak loops of AVX-512: 24 accumulators hide every latency.
#include <immintrin.h>

#include "bench/peaks.h"

namespace moe4::peaks {
namespace {

// The registers are named by hand, so that no compiler puts an accumulator in memory.
#define MOE4_PEAK_STEP(instruction, register) \
  instruction " %%zmm31, %%zmm30, %%zmm" #register "\n\t"
#define MOE4_PEAK_LOOP(name, instruction)                                                          \
  void name(int64_t rounds) {                                                                      \
    asm volatile(                                                                                \
        "vpxorq %%zmm30, %%zmm30, %%zmm30\n\t"                                                   \
        "vpxorq %%zmm31, %%zmm31, %%zmm31\n\t"                                                   \
        "1:\n\t" MOE4_PEAK_STEP(instruction, 0) MOE4_PEAK_STEP(instruction, 1)                   \
            MOE4_PEAK_STEP(instruction, 2) MOE4_PEAK_STEP(instruction, 3)                        \
                MOE4_PEAK_STEP(instruction, 4) MOE4_PEAK_STEP(instruction, 5)                    \
                    MOE4_PEAK_STEP(instruction, 6) MOE4_PEAK_STEP(instruction, 7)                \
                        MOE4_PEAK_STEP(instruction, 8) MOE4_PEAK_STEP(instruction, 9)            \
                            MOE4_PEAK_STEP(instruction, 10) MOE4_PEAK_STEP(instruction, 11)      \
                                MOE4_PEAK_STEP(instruction, 12) MOE4_PEAK_STEP(instruction, 13)  \
                                    MOE4_PEAK_STEP(instruction, 14)                              \
                                        MOE4_PEAK_STEP(instruction, 15)                          \
                                            MOE4_PEAK_STEP(instruction, 16)                      \
                                                MOE4_PEAK_STEP(instruction, 17)                  \
                                                    MOE4_PEAK_STEP(instruction, 18)              \
                                                        MOE4_PEAK_STEP(instruction, 19)          \
                                                            MOE4_PEAK_STEP(instruction, 20)      \
                                                                MOE4_PEAK_STEP(instruction, 21)  \
                                                                    MOE4_PEAK_STEP(instruction,  \
                                                                                   22)           \
                                                                        MOE4_PEAK_STEP(          \
                                                                            instruction, 23)     \
        "dec %0\n\t"                                                                             \
        "jnz 1b"                                                                                 \
        : "+r"(rounds)                                                                           \
        :                                                                                        \
        : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",        \
          "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18",       \
          "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm30", "xmm31", "cc"); \
  }

MOE4_PEAK_LOOP(run_int8, "vpdpbusd")
MOE4_PEAK_LOOP(run_int16, "vpdpwssd")
MOE4_PEAK_LOOP(run_bf16, "vdpbf16ps")
MOE4_PEAK_LOOP(run_fma, "vfmadd231ps")

}  // namespace

Peak avx512_int8() { return {run_int8, 24 * 128.0}; }
Peak avx512_int16() { return {run_int16, 24 * 64.0}; }
Peak avx512_bf16() { return {run_bf16, 24 * 64.0}; }
Peak avx512_fma() { return {run_fma, 24 * 32.0}; }

}  // namespace moe4::peaks
