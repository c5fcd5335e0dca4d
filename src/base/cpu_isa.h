// Which instruction set the CPU kernels of this process use: detected once, or set by the program.
#pragma once

#include <string_view>
#include <vector>

namespace moe4 {

/// One level is one set of kernel files compiled with its own flags.
enum class CpuIsa {
  kPortable,  ///< plain C++ for the baseline of the architecture
  kAvx2,      ///< AVX2, FMA, F16C (Haswell, Zen and later)
  kAvx512,    ///< AVX-512 F, BW, DQ, VL, VNNI (Cascade Lake, Zen 4 and later)
  kNeon,      ///< AArch64 Advanced SIMD with the dot product (Graviton 2, Grace and later)
};

/// "portable", "avx2", "avx512", "neon".
std::string_view to_string(CpuIsa isa);

/// Levels this machine can run, the best first; always ends with kPortable.
std::vector<CpuIsa> available_cpu_isas();

/// "portable" -> kPortable. Throws Error(kUsage) for an unknown name and Error(kUnavailable) for a
/// level this machine lacks, naming the ones it has.
CpuIsa parse_cpu_isa(std::string_view name);

/// Makes cpu_isa() answer `isa` (one of available_cpu_isas()) from now on: a program says so once,
/// before anything else asks.
void set_cpu_isa(CpuIsa isa);

/// The level in use: the best available one unless set_cpu_isa() said otherwise.
CpuIsa cpu_isa();

/// Extra instructions that a kernel of its level may test for. All false below kAvx512.
struct Avx512Features {
  bool bf16 = false;  ///< vdpbf16ps (Cooper Lake, Zen 4)
  bool vbmi = false;  ///< vpermb (Ice Lake, Zen 4)
};
Avx512Features avx512_features();

/// The same for kNeon.
struct NeonFeatures {
  bool i8mm = false;  ///< smmla (Neoverse V1 and later, Grace)
};
NeonFeatures neon_features();

}  // namespace moe4
