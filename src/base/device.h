// Names a device a plan can be made for, present or not.
#pragma once

#include <string>
#include <string_view>

namespace moe4 {

struct Device {
  enum class Kind { kCpu, kCuda };
  Kind kind = Kind::kCpu;
  int sm = 0;        ///< CUDA compute capability times ten: 80, 90, 121; 0 on the CPU
  int index = 0;     ///< CUDA device ordinal
  int sm_count = 0;  ///< multiprocessors; 0 when the device is only planned for

  bool is_cpu() const { return kind == Kind::kCpu; }
  /// SM100/103 (B200 family) and SM120/121 have FP4 tensor cores.
  bool has_fp4_tensor_cores() const { return kind == Kind::kCuda && sm >= 100; }
  bool is_sm12x() const { return kind == Kind::kCuda && sm / 10 == 12; }

  static Device cpu() { return {}; }
  static Device cuda_sm(int sm) { return {.kind = Kind::kCuda, .sm = sm}; }
};

/// "cpu", "sm_90".
std::string to_string(const Device& device);

/// Accepts "cpu" and "sm_80" ... "sm_121" (with or without the underscore, an `a` or `f` suffix is
/// ignored). "cuda" is resolved by the caller, who can see the machine. Throws Error(kUsage)
/// otherwise.
Device parse_device(std::string_view name);

}  // namespace moe4
