// A language model: immutable weights, and a forward pass over a batch of tokens of many sequences.
// Layers run on one device, routed experts there too or on the CPU.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "layers/feed_forward.h"
#include "moe/routed_experts.h"
#include "moe/selector.h"
#include "ops/batch.h"
#include "ops/execution.h"

namespace moe4 {

/// On the CPU arithmetic is float32 throughout; on a GPU sums are, and what ops hand each other is
/// BF16. kBF16, the default: the KV cache takes 16 bits a value (F16), and expert backends that
/// take BF16 hidden states only get them rounded. kF32: nothing is rounded (`--dtype float32`; for
/// comparisons, on the CPU).
struct ModelOptions {
  DType compute_dtype = DType::kBF16;
  SelectorOptions moe;  ///< its device is that of the layers
  /// Of the layers with routed experts, counted from the first: how many have them on the CPU
  /// though the layers are on a GPU (`--cpu-moe`).
  int64_t cpu_moe = 0;
  /// Of keys and values; nothing: kF16, or kF32 where nothing is rounded. kF8E4M3 where the
  /// device's ops take it, with the checkpoint's scales (`--kv-cache-dtype`).
  std::optional<DType> cache_dtype = {};
  ThreadPool* threads = nullptr;  ///< not null; outlives the model
  Tuning tuning;                  ///< for every prepare()
  /// Called while loading with bytes done and in all.
  std::function<void(int64_t done, int64_t total)> progress;
};

/// ModelOptions::cache_dtype, or what stands for nothing.
DType cache_dtype(const ModelOptions& options);

/// What one MoE layer is and was given.
struct MoeLayerPlan {
  int64_t layer = 0;
  QuantScheme scheme;
  MoeProblem problem;
  Selection selection;
};

/// The largest step that a workspace must hold.
struct StepLimits {
  int64_t max_tokens = 0;
  int64_t max_seqs = 0;
  int64_t max_context = 0;  ///< tokens of any sequence
  int64_t max_logits = 0;   ///< rows of logits
  int64_t max_masked = 0;   ///< of them, rows from which a token is chosen among some only
};

class Model {
 public:
  virtual ~Model() = default;
  /// Picks the architecture by model_type, selects and prepares every layer. Throws
  /// Error(kBadInput) naming an unknown architecture and the known ones.
  static std::unique_ptr<Model> load(const Checkpoint& checkpoint, const ModelOptions& options);

  virtual const ModelConfig& config() const = 0;
  virtual const std::vector<MoeLayerPlan>& moe_plan() const = 0;
  /// The stream that its ops were prepared for.
  virtual const Stream& stream() const = 0;
  /// What all layers keep of a sequence, in the order that forward() takes their memory.
  virtual const std::vector<CacheSpec>& caches() const = 0;
  /// Allocates what forward() needs beside its arena for steps within the limits: pinned memory
  /// for experts that the CPU computes for layers on a GPU. Once, before the first step.
  virtual void reserve(const StepLimits& /*limits*/) const {}
  /// Bytes of the arena that forward() needs for steps within the limits. Pure.
  virtual size_t workspace_size(const StepLimits& limits) const = 0;
  /// Appends the batch's tokens to their sequences and writes logits [num_logits, vocab_size] of
  /// batch.logits_rows. Allocates nothing. One call at a time per stream.
  virtual void forward(const Batch& batch, std::span<const LayerCache> caches, const Rows& logits,
                       Execution& execution) const = 0;
  /// The MoE block of a layer; null for a dense layer or one that there is not.
  virtual const MoeBlock* moe_block(int64_t layer) const = 0;
  /// Weight bytes one generated token reads (active experts only).
  virtual int64_t bytes_per_token() const = 0;
};

/// model_type values that Model::load knows.
std::vector<std::string> known_architectures();

}  // namespace moe4
