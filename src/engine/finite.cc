// Looks for NaN and infinity, and on a find for its origin.
#include "engine/finite.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/error.h"
#include "engine/sequence.h"

namespace moe4 {
namespace {

// Tokens of a piece when a sequence is run again: bounds the memory of its hidden states.
constexpr int64_t kPiece = 128;

bool all_finite(std::span<const float> values) {
  // One comparison for NaN and both infinities; no dependence from one element to the next.
  constexpr float kLargest = std::numeric_limits<float>::max();
  bool bad = false;
  for (const float value : values) bad |= !(std::abs(value) <= kLargest);
  return !bad;
}

struct Origin {
  std::string place;
  int64_t position;  // of the token
};

// The first place whose output is not finite, going through tokens piece by piece.
std::optional<Origin> find_origin(const Model& model, std::span<const int32_t> tokens) {
  const auto size = static_cast<int64_t>(tokens.size());
  Sequence sequence(model, size);
  const int64_t width = model.config().hidden_size;
  std::vector<float> logits;
  for (int64_t begin = 0; begin < size; begin += kPiece) {
    HiddenStates hidden;
    sequence.forward(tokens.subspan(begin, std::min(kPiece, size - begin)), LogitsFor::kNone,
                     logits, &hidden);
    const auto look = [&](std::span<const float> values,
                          const std::string& place) -> std::optional<Origin> {
      const auto at = first_not_finite(values);
      if (!at) return std::nullopt;
      return Origin{place, begin + static_cast<int64_t>(*at) / width};
    };
    if (auto found = look(hidden.embed, "the embedding")) return found;
    for (size_t layer = 0; layer < hidden.layers.size(); ++layer) {
      if (auto found = look(hidden.layers[layer], fmt::format("layer {}", layer))) return found;
    }
    if (auto found = look(hidden.final_norm, "the final norm")) return found;
  }
  return std::nullopt;
}

}  // namespace

std::optional<size_t> first_not_finite(std::span<const float> values) {
  if (all_finite(values)) return std::nullopt;
  const auto at =
      std::find_if(values.begin(), values.end(), [](float x) { return !std::isfinite(x); });
  return static_cast<size_t>(at - values.begin());
}

void require_finite_logits(const Model& model, std::span<const int32_t> tokens,
                           std::span<const float> logits, int64_t first_position,
                           const std::string& where) {
  const auto at = first_not_finite(logits);
  if (!at) return;
  const int64_t vocab = model.config().vocab_size;
  const int64_t position = first_position + static_cast<int64_t>(*at) / vocab;
  const auto origin = find_origin(model, tokens.first(static_cast<size_t>(position) + 1));
  const std::string prefix = where.empty() ? "" : where + ", ";
  throw_bad_input({.what = "the model's numbers are not finite",
                   .tensor = origin ? fmt::format("{}token {}, first after {}", prefix,
                                                  origin->position, origin->place)
                                    : fmt::format("{}token {}, logit {} of lm_head", prefix,
                                                  position, static_cast<int64_t>(*at) % vocab),
                   .found = fmt::format("{}", logits[*at]),
                   .hint = "weights of the checkpoint are broken, or values overflow"});
}

void require_finite_rows(const std::string& name, std::span<const float> values, int64_t width,
                         const std::string& file) {
  const auto at = first_not_finite(values);
  if (!at) return;
  const auto index = static_cast<int64_t>(*at);
  throw_bad_input(
      {.what = file.empty() ? "a result is not finite" : "a number is not finite",
       .file = file,
       .tensor = fmt::format("{} row {} column {}", name, index / width, index % width),
       .expected = "finite numbers",
       .found = fmt::format("{}", values[*at]),
       .hint = file.empty() ? "weights of the checkpoint are broken, or values overflow" : ""});
}

}  // namespace moe4
