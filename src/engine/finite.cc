// Looks for NaN and infinity, and on a find for its origin.
#include "engine/finite.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "base/error.h"
#include "engine/evaluator.h"
#include "engine/hidden_states.h"

namespace moe4 {
namespace {

// Tokens of a step when a sequence is run again: bounds the memory of its hidden states.
constexpr int64_t kStepTokens = 128;

bool all_finite(std::span<const float> values) {
  // One comparison for NaN and both infinities; no dependence from one element to the next.
  constexpr float kLargest = std::numeric_limits<float>::max();
  uint32_t bad = 0;  // as wide as a float, so that lanes need no packing
  for (const float value : values) bad |= std::abs(value) <= kLargest ? 0u : 1u;
  return bad == 0;
}

struct Origin {
  std::string place;
  int64_t position;  // of the token
};

// Keeps the hidden states of a step and looks at them when the step is over: the first place whose
// output is not finite comes first in a layer, not in a token.
class OriginFinder final : public Observer {
 public:
  OriginFinder(int64_t num_layers, int64_t width) : hidden_(num_layers), width_(width) {}

  void see(Point point, int64_t layer, const Rows& rows) override {
    if (point == Point::kRouter || found_) return;
    hidden_.see(point, layer, rows);
    if (point != Point::kFinalNorm) return;
    look(hidden_.embed, "the embedding");
    for (size_t i = 0; i < hidden_.layers.size(); ++i) {
      look(hidden_.layers[i], fmt::format("layer {}", i));
    }
    look(hidden_.final_norm, "the final norm");
    first_ += rows.rows;
    hidden_.clear(static_cast<int64_t>(hidden_.layers.size()));
  }
  const std::optional<Origin>& found() const { return found_; }

 private:
  void look(std::span<const float> values, const std::string& place) {
    const auto at = found_ ? std::nullopt : first_not_finite(values);
    if (at) found_ = Origin{place, first_ + static_cast<int64_t>(*at) / width_};
  }

  HiddenStates hidden_;
  int64_t width_;
  int64_t first_ = 0;  // position of the step's first token
  std::optional<Origin> found_;
};

// The first place whose output is not finite, going through tokens step by step.
std::optional<Origin> find_origin(const Model& model, std::span<const int32_t> tokens) {
  OriginFinder finder(model.config().num_layers, model.config().hidden_size);
  Evaluator(model, static_cast<int64_t>(tokens.size()), kStepTokens).run(tokens, {}, &finder);
  return finder.found();
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
