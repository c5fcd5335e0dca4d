// Parses the whole text with from_chars.
#include "cli/number_flags.h"

#include <fmt/format.h>

#include <charconv>
#include <string>
#include <string_view>
#include <type_traits>

#include "base/error.h"

namespace moe4::cli {
namespace {

template <typename Number>
CLI::Validator check_number(Number minimum, Number maximum, const std::string& kind,
                            const std::string& range) {
  const auto check = [=](const std::string& text) -> std::string {
    std::string_view digits = text;
    if (digits.starts_with('+')) digits.remove_prefix(1);
    Number value{};
    const char* end = digits.data() + digits.size();
    const auto [stop, error] = std::from_chars(digits.data(), end, value);
    bool good = error == std::errc{} && stop == end && value >= minimum && value <= maximum;
    if constexpr (std::is_integral_v<Number>) {
      // CLI11 would read a leading zero as octal.
      if (digits.starts_with('-')) digits.remove_prefix(1);
      good = good && !(digits.size() > 1 && digits.front() == '0');
    }
    return good ? "" : fmt::format("'{}' is not a {} in {}", printable(text, 80), kind, range);
  };
  return CLI::Validator(check, range, "");
}

}  // namespace

CLI::Validator whole_number(int64_t minimum, int64_t maximum) {
  const std::string range = maximum == INT64_MAX ? fmt::format("[{}, 2^63)", minimum)
                                                 : fmt::format("[{}, {}]", minimum, maximum);
  return check_number(minimum, maximum, "whole number", range);
}

CLI::Validator whole_number_64() {
  return check_number<uint64_t>(0, UINT64_MAX, "whole number", "[0, 2^64)");
}

CLI::Validator number_between(double minimum, double maximum) {
  return check_number(minimum, maximum, "number", fmt::format("[{}, {}]", minimum, maximum));
}

}  // namespace moe4::cli
