// The two halves of a layer, as models see them: a mixer of tokens and a feed-forward part.
//
// What ops hand each other is in Execution::activations(), unless a header says otherwise. Layers
// are compositions of ops: they take rows from the arena and call ops, and touch neither
// memory nor devices themselves. With a measuring arena they only count.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ops/batch.h"
#include "ops/execution.h"
#include "ops/norm/add_norm.h"

namespace moe4 {

/// What all layers of a step share.
struct LayerStep {
  const Batch& batch;
  std::span<const Rows> angles;  ///< [T, dim] of each RotarySpec of the model
  /// [T, hidden_size] float32: of what a part's x is the norm. For parts that read it themselves.
  Rows residual;
  Execution& execution;
  /// What the last indexer chose: see ChooseKeys. Null: the model has none.
  int32_t* chosen_keys = nullptr;

  /// Tokens at the front that were generated: LinearGroup::Args::num_decode_tokens.
  int64_t num_decode_tokens() const { return batch.num_decodes * batch.query_of_decode; }
};

class Mixer {
 public:
  virtual ~Mixer() = default;
  /// What it keeps of every sequence.
  virtual std::vector<CacheSpec> caches() const = 0;
  /// Appends the step's tokens to their sequences. x, y: [T, hidden_size] activations;
  /// y is overwritten and does not alias x. `caches`: the memory for caches(), in that order.
  virtual void forward(const LayerStep& step, const Rows& x, std::span<const LayerCache> caches,
                       const Rows& y) const = 0;
  /// Weight bytes read for one token.
  virtual int64_t weight_bytes() const = 0;
};

class MoeBlock;

class FeedForward {
 public:
  virtual ~FeedForward() = default;
  /// The routed experts inside, or null.
  virtual const MoeBlock* routed() const { return nullptr; }
  /// x, y: [T, hidden_size] of the step's tokens; y is overwritten and does not alias x.
  virtual void forward(const LayerStep& step, const Rows& x, const Rows& y) const = 0;
  /// The same behind `norm` of the step's tokens, whose y is x. Parts that do both at once need not
  /// call it.
  virtual void forward_normed(const LayerStep& step, const Prepared<AddNorm>& norm,
                              const AddNorm::Args& args, const Rows& y) const {
    run(norm, args, step.execution);
    forward(step, args.y, y);
  }
  /// Weight bytes read for one token.
  virtual int64_t weight_bytes() const = 0;
};

}  // namespace moe4
