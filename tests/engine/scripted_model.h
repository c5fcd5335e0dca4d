// A model whose logits are a function of the tokens seen, and which writes down what it was asked.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/thread_pool.h"
#include "models/model.h"
#include "support/sequence.h"

namespace moe4::testing {

/// Logits [vocab_size] after the tokens so far.
using Script = std::function<std::vector<float>(const std::vector<int32_t>& tokens)>;

/// Logits 0 but for `id`, which has `logit`.
inline std::vector<float> only(int32_t id, int64_t vocab_size, float logit = 10.0f) {
  std::vector<float> logits(static_cast<size_t>(vocab_size), 0.0f);
  logits.at(static_cast<size_t>(id)) = logit;
  return logits;
}

/// Takes steps of one sequence.
class ScriptedModel final : public Model {
 public:
  ScriptedModel(int64_t vocab_size, int64_t context, Script script) : script_(std::move(script)) {
    config_.vocab_size = vocab_size;
    config_.hidden_size = 1;
    config_.max_position_embeddings = context;
  }

  const ModelConfig& config() const override { return config_; }
  const std::vector<MoeLayerPlan>& moe_plan() const override { return plan_; }
  const Stream& stream() const override { return stream_; }
  const std::vector<CacheSpec>& caches() const override { return caches_; }
  size_t workspace_size(const StepLimits& limits) const override {
    capacity = limits.max_context;
    return 0;
  }
  void forward(const Batch& batch, std::span<const LayerCache>, const Rows& logits,
               Execution&) const override {
    MOE4_CHECK(batch.num_seqs == 1);
    const auto which = batch.num_logits == 0 ? LogitsFor::kNone
                       : batch.num_logits == batch.num_tokens && batch.num_tokens > 1
                           ? LogitsFor::kAllTokens
                           : LogitsFor::kLastToken;
    steps.push_back({batch.num_tokens, which});
    int64_t row = 0;
    for (int64_t t = 0; t < batch.num_tokens; ++t) {
      seen.resize(static_cast<size_t>(batch.positions[t]));
      seen.push_back(batch.token_ids[t]);
      if (row == batch.num_logits || batch.logits_rows[row] != t) continue;
      const std::vector<float> values = script_(seen);
      std::copy(values.begin(), values.end(), logits.row(row++));
    }
  }
  const MoeBlock* moe_block(int64_t) const override { return nullptr; }
  int64_t bytes_per_token() const override { return 0; }

  struct Step {
    int64_t tokens;
    LogitsFor which;
  };
  mutable std::vector<Step> steps;    ///< of all sequences
  mutable std::vector<int32_t> seen;  ///< by the sequence of the last step
  mutable int64_t capacity = 0;       ///< of the sequence made last

 private:
  ModelConfig config_;
  std::vector<MoeLayerPlan> plan_;
  std::shared_ptr<ThreadPool> threads_ = std::make_shared<ThreadPool>(1);
  Stream stream_ = Stream::cpu(*threads_);
  std::vector<CacheSpec> caches_;
  Script script_;
};

}  // namespace moe4::testing
