// Parsing and printing of device names.
#include "base/device.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "base/error.h"

namespace moe4 {
namespace {

constexpr std::array kKnownSms = {75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121};

}  // namespace

std::string to_string(const Device& device) {
  return device.is_cpu() ? "cpu" : "sm_" + std::to_string(device.sm);
}

Device parse_device(std::string_view name) {
  if (name == "cpu") return Device::cpu();
  std::string_view digits = name;
  if (digits.starts_with("sm_")) {
    digits.remove_prefix(3);
  } else if (digits.starts_with("sm")) {
    digits.remove_prefix(2);
  } else {
    digits = {};
  }
  if (!digits.empty() && (digits.back() == 'a' || digits.back() == 'f')) digits.remove_suffix(1);
  int sm = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), sm);
  const bool known = std::find(kKnownSms.begin(), kKnownSms.end(), sm) != kKnownSms.end();
  if (digits.empty() || error != std::errc{} || end != digits.data() + digits.size() || !known) {
    throw Error(ErrorCode::kUsage,
                "unknown device '" + printable(std::string(name)) +
                    "': expected cpu, cuda, or sm_75, sm_80, sm_86, sm_87, sm_89, "
                    "sm_90, sm_100, sm_103, sm_110, sm_120, sm_121");
  }
  return Device::cuda_sm(sm);
}

}  // namespace moe4
