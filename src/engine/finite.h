// Numbers of a model that are not finite: found, and where in the model they began.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "models/model.h"

namespace moe4 {

/// Index of the first value that is NaN or infinite.
std::optional<size_t> first_not_finite(std::span<const float> values);

/// Throws Error(kBadInput) unless all logits are finite: broken weights or an overflow give numbers
/// that no command may report. `logits` [n, V] are those of the tokens at `first_position` and
/// after; `tokens` is the sequence from its beginning to at least the last of them. The message
/// names the token's position and, by running the sequence again, the first place in the model
/// whose output is not finite. `where` ("row 3") goes first in it, unless empty.
void require_finite_logits(const Model& model, std::span<const int32_t> tokens,
                           std::span<const float> logits, int64_t first_position,
                           const std::string& where = "");

/// Throws Error(kBadInput) naming `name`, row and column of the first value of [rows, width] that
/// is NaN or infinite. `file`: where they were read from; empty for results.
void require_finite_rows(const std::string& name, std::span<const float> values, int64_t width,
                         const std::string& file = "");

}  // namespace moe4
