// Detection through the compiler's CPU model (x86) and the kernel's capability bits (AArch64).
#include "base/cpu_isa.h"

#include <atomic>
#include <string>

#include "base/error.h"

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace moe4 {
namespace {

bool has(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kPortable:
      return true;
#if defined(__x86_64__)
    case CpuIsa::kAvx2:
      // Every CPU with these two has F16C as well, which clang 14 cannot ask for by name.
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case CpuIsa::kAvx512:
      return has(CpuIsa::kAvx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
#elif defined(__aarch64__) && defined(__linux__)
    case CpuIsa::kNeon:
      return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#endif
    default:
      return false;
  }
}

std::atomic<CpuIsa>& chosen() {
  static std::atomic<CpuIsa> isa = available_cpu_isas().front();
  return isa;
}

}  // namespace

std::string_view to_string(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kPortable:
      return "portable";
    case CpuIsa::kAvx2:
      return "avx2";
    case CpuIsa::kAvx512:
      return "avx512";
    case CpuIsa::kNeon:
      return "neon";
  }
  return "?";
}

std::vector<CpuIsa> available_cpu_isas() {
  std::vector<CpuIsa> isas;
  for (CpuIsa isa : {CpuIsa::kAvx512, CpuIsa::kAvx2, CpuIsa::kNeon, CpuIsa::kPortable}) {
    if (has(isa)) isas.push_back(isa);
  }
  return isas;
}

CpuIsa parse_cpu_isa(std::string_view name) {
  for (CpuIsa isa : {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512, CpuIsa::kNeon}) {
    if (to_string(isa) != name) continue;
    if (has(isa)) return isa;
    std::string available;
    for (const CpuIsa other : available_cpu_isas()) {
      available += (available.empty() ? "" : ", ") + std::string(to_string(other));
    }
    throw Error(ErrorCode::kUnavailable, "this machine lacks the instructions of '" +
                                             std::string(name) + "'; it has " + available);
  }
  throw Error(ErrorCode::kUsage, "unknown instruction set '" + printable(std::string(name)) +
                                     "': expected portable, avx2, avx512 or neon");
}

void set_cpu_isa(CpuIsa isa) {
  MOE4_CHECK(has(isa));
  chosen() = isa;
}

CpuIsa cpu_isa() { return chosen(); }

Avx512Features avx512_features() {
#if defined(__x86_64__)
  if (cpu_isa() == CpuIsa::kAvx512) {
    return {.bf16 = __builtin_cpu_supports("avx512bf16") != 0,
            .vbmi = __builtin_cpu_supports("avx512vbmi") != 0};
  }
#endif
  return {};
}

NeonFeatures neon_features() {
#if defined(__aarch64__) && defined(__linux__)
  if (cpu_isa() == CpuIsa::kNeon) return {.i8mm = (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0};
#endif
  return {};
}

}  // namespace moe4
