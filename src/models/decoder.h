// The transformer decoder that all architectures share: embedding, layers of mixer and
// feed-forward, final norm, logits.
#pragma once

#include <optional>

#include "layers/embedding.h"
#include "layers/feed_forward.h"
#include "layers/linear.h"
#include "layers/mixer.h"
#include "layers/norm.h"
#include "layers/rotary.h"
#include "models/model.h"

namespace moe4 {

struct DecoderLayer {
  RmsNorm input_norm;
  RmsNorm post_attention_norm;
  std::unique_ptr<Mixer> mixer;
  std::unique_ptr<FeedForward> feed_forward;
  const MoeBlock* moe = nullptr;  ///< feed_forward when it is one
};

/// What an architecture file assembles from a checkpoint.
struct DecoderParts {
  ModelConfig config;
  Rotary rotary;
  std::optional<Embedding> embed_tokens;  ///< absent: lm_head's rows serve
  Linear lm_head;
  RmsNorm final_norm;
  std::vector<DecoderLayer> layers;
  std::vector<MoeLayerPlan> moe_plan;
};

/// One call at a time; steps of the same size allocate nothing after the first.
class Decoder final : public Model {
 public:
  Decoder(DecoderParts parts, const ModelOptions& options);

  const ModelConfig& config() const override { return parts_.config; }
  const std::vector<MoeLayerPlan>& moe_plan() const override { return parts_.moe_plan; }
  std::unique_ptr<SequenceState> new_sequence(int64_t capacity) const override;
  void forward(std::span<const int32_t> ids, SequenceState& state, LogitsFor which,
               std::vector<float>& logits, HiddenStates* hidden) override;
  void run_experts(int64_t layer, std::span<const float> x, std::vector<int32_t>& topk_ids,
                   std::vector<float>& topk_weights, std::vector<float>& y) override;
  int64_t bytes_per_token() const override;

 private:
  class State;

  void check_ids(std::span<const int32_t> ids) const;
  void forward_chunk(std::span<const int32_t> ids, State& state, LogitsFor which, float* logits,
                     HiddenStates* hidden);
  Positions make_positions(int64_t start, int64_t num_tokens);

  DecoderParts parts_;
  Scratch scratch_;
  LayerContext context_;
  DType kv_dtype_;
};

}  // namespace moe4
