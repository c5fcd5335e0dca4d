// The transformer decoder that all architectures share: embedding, layers of mixer and
// feed-forward, final norm, logits.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "device/memory.h"
#include "layers/feed_forward.h"
#include "layers/mixer.h"
#include "models/model.h"
#include "ops/embed/embed.h"
#include "ops/gated_rows/gated_rows.h"
#include "ops/norm/add_norm.h"
#include "ops/rotary/rotary_angles.h"
#include "ops/streams/streams.h"

namespace moe4 {

/// h = (h + post_norm(part(norm(h)))) * scale. With several residual streams (ops/streams) h is
/// what `mix` makes of them, and the part's result goes to all of them.
struct ResidualBlock {
  std::unique_ptr<Prepared<AddNorm>> norm;
  std::unique_ptr<Prepared<AddNorm>> post_norm = nullptr;  ///< null: there is none
  float scale = 1.0f;
  std::unique_ptr<Prepared<MixStreams>> mix = nullptr;  ///< null: there is one stream
  // One of them.
  std::unique_ptr<Mixer> mixer = nullptr;
  std::unique_ptr<FeedForward> feed_forward = nullptr;
};

/// A mixer and a feed-forward part, or one of them alone (Nemotron-H).
using DecoderLayer = std::vector<ResidualBlock>;

/// What a decoder with several residual streams has besides.
struct StreamParts {
  std::unique_ptr<Prepared<FillStreams>> fill;
  std::unique_ptr<Prepared<AddToStreams>> add;
  std::unique_ptr<Prepared<MixStreams>> head;  ///< what the final norm reads
};

/// What a Builder assembles: embedding, layers, final norm, output head.
struct DecoderParts {
  ModelConfig config;
  std::vector<std::unique_ptr<Prepared<RotaryAngles>>> rotaries;
  std::unique_ptr<Prepared<LinearGroup>> lm_head;
  std::unique_ptr<Prepared<Embed>> embed_tokens;
  std::unique_ptr<Prepared<AddNorm>> final_norm;
  std::unique_ptr<Prepared<SoftCap>> soft_cap;  ///< of the logits; null: there is none
  std::vector<DecoderLayer> layers;
  std::optional<StreamParts> streams;  ///< none: the residual is one stream
  std::vector<MoeLayerPlan> moe_plan;
  int64_t num_chosen_keys = 0;  ///< that indexers of its layers choose for a token; 0: it has none
};

class Decoder final : public Model {
 public:
  /// `threads` outlives it.
  Decoder(DecoderParts parts, const Device& device, ThreadPool& threads);

  const ModelConfig& config() const override { return parts_.config; }
  const std::vector<MoeLayerPlan>& moe_plan() const override { return parts_.moe_plan; }
  const Stream& stream() const override { return stream_.get(); }
  const std::vector<CacheSpec>& caches() const override { return caches_; }
  void reserve(const StepLimits& limits) const override;
  size_t workspace_size(const StepLimits& limits) const override;
  void forward(const Batch& batch, std::span<const LayerCache> caches, const Rows& logits,
               Execution& execution) const override;
  const MoeBlock* moe_block(int64_t layer) const override;
  int64_t bytes_per_token() const override;

 private:
  struct Flow;
  /// What the first norm of `block` reads, given that `flow.waiting` is to be added.
  void enter(const ResidualBlock& block, Flow& flow, Execution& execution) const;
  void see_layer(int64_t layer, const Flow& flow, Execution& execution) const;
  void run_layers(const LayerStep& step, std::span<const LayerCache> caches, Flow& flow,
                  bool observed) const;
  /// Final norm of some rows of the residual (null: of all).
  void finish(const Flow& flow, const int32_t* rows, const Rows& y, Execution& execution) const;

  DecoderParts parts_;
  OwnedStream stream_;
  std::vector<CacheSpec> caches_;
  std::vector<size_t> first_cache_;  // [layers + 1], into caches_
  bool has_post_norms_ = false;
};

}  // namespace moe4
