// A model whose logits are a function of the tokens seen, and which writes down what it was asked.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "base/error.h"
#include "models/model.h"

namespace moe4::testing {

/// Logits [vocab_size] after the tokens so far.
using Script = std::function<std::vector<float>(const std::vector<int32_t>& tokens)>;

/// Logits 0 but for `id`, which has `logit`.
inline std::vector<float> only(int32_t id, int64_t vocab_size, float logit = 10.0f) {
  std::vector<float> logits(static_cast<size_t>(vocab_size), 0.0f);
  logits.at(static_cast<size_t>(id)) = logit;
  return logits;
}

class ScriptedModel final : public Model {
 public:
  ScriptedModel(int64_t vocab_size, int64_t context, Script script) : script_(std::move(script)) {
    config_.vocab_size = vocab_size;
    config_.hidden_size = 1;
    config_.max_position_embeddings = context;
  }

  struct State final : SequenceState {
    int64_t length() const override { return static_cast<int64_t>(tokens.size()); }
    int64_t capacity() const override { return most; }
    std::vector<int32_t> tokens;
    int64_t most = 0;
  };

  const ModelConfig& config() const override { return config_; }
  const std::vector<MoeLayerPlan>& moe_plan() const override { return plan_; }
  std::unique_ptr<SequenceState> new_sequence(int64_t capacity) const override {
    auto state = std::make_unique<State>();
    state->most = capacity;
    return state;
  }
  void forward(std::span<const int32_t> ids, SequenceState& sequence, LogitsFor which,
               std::vector<float>& logits, HiddenStates*) override {
    auto& state = dynamic_cast<State&>(sequence);
    steps.push_back({static_cast<int64_t>(ids.size()), which});
    logits.clear();
    for (const int32_t id : ids) {
      state.tokens.push_back(id);
      if (which != LogitsFor::kAllTokens) continue;
      const std::vector<float> row = script_(state.tokens);
      logits.insert(logits.end(), row.begin(), row.end());
    }
    if (which == LogitsFor::kLastToken) logits = script_(state.tokens);
    MOE4_CHECK(state.length() <= state.capacity());
    seen = state.tokens;
    capacity = state.capacity();
  }
  void run_experts(int64_t, std::span<const float>, std::vector<int32_t>&, std::vector<float>&,
                   std::vector<float>&) override {
    throw Error(ErrorCode::kUsage, "a script has no experts");
  }
  int64_t bytes_per_token() const override { return 0; }

  struct Step {
    int64_t tokens;
    LogitsFor which;
  };
  std::vector<Step> steps;    ///< of all sequences
  std::vector<int32_t> seen;  ///< by the sequence of the last step
  int64_t capacity = 0;       ///< of that sequence

 private:
  ModelConfig config_;
  std::vector<MoeLayerPlan> plan_;
  Script script_;
};

}  // namespace moe4::testing
