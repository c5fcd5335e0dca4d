// Forms of answers behind reasoning.
#pragma once

#include <optional>
#include <string_view>

#include "dialog/formats.h"
#include "grammar/grammar.h"

namespace moe4 {

/// What may stand before an answer to `prompt` that has a form, tags spelled as the tokenizer has
/// them. Nothing where the model does not reason, or has done so already: the form holds from the
/// first token on.
std::optional<ReasonedAnswer> reasoned_answer(const Tokenizer& tokenizer,
                                              const FormatChoice& formats, std::string_view prompt);

}  // namespace moe4
