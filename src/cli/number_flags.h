// Checks of numbers on the command line that CLI11 lets through: text beyond 64 bits, octal, NaN.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>

namespace moe4::cli {

/// A decimal whole number from `minimum` to `maximum`.
CLI::Validator whole_number(int64_t minimum, int64_t maximum = INT64_MAX);
/// A decimal whole number from 0 to 2^64 - 1, for seeds.
CLI::Validator whole_number_64();
/// A number from `minimum` to `maximum`, both finite; NaN is none.
CLI::Validator number_between(double minimum, double maximum);

}  // namespace moe4::cli
