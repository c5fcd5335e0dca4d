// A language model: token ids in, logits out, with per-sequence state. Layers run on the CPU,
// routed experts where the selector puts them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "moe/host_experts.h"
#include "moe/selector.h"

namespace moe4 {

/// Arithmetic is float32 throughout. kBF16, the default: the KV cache takes 16 bits a value (F16),
/// and expert backends that take BF16 hidden states only get them rounded. kF32: nothing is rounded
/// (`--dtype float32`; for comparisons).
struct ModelOptions {
  DType compute_dtype = DType::kBF16;
  SelectorOptions moe;
  ThreadPool* threads = nullptr;  ///< not null; outlives the model
  /// Prepares experts on a GPU so that they take host memory (prepare_for_host() of
  /// experts/host_bridge.h). Empty: CPU only.
  std::function<std::unique_ptr<HostExperts>(const ExpertsBackend&, const MoeLayerWeights&,
                                             const PrepareOptions&)>
      prepare_on_gpu;
  Tuning tuning;  ///< for every prepare()
  /// Called while loading with bytes done and in all.
  std::function<void(int64_t done, int64_t total)> progress;
};

/// KV cache and delta-net state of one sequence.
class SequenceState {
 public:
  virtual ~SequenceState() = default;
  virtual int64_t length() const = 0;    ///< tokens seen
  virtual int64_t capacity() const = 0;  ///< most tokens it can hold
};

enum class LogitsFor { kNone, kLastToken, kAllTokens };

/// Hidden states of one forward call, [T, hidden_size] float32 each, for `moe4 forward --hidden`
/// and tests.
struct HiddenStates {
  std::vector<float> embed;
  std::vector<std::vector<float>> layers;  ///< residual stream after each layer
  std::vector<float> final_norm;
  std::vector<std::vector<float>> router_logits;  ///< [T, num_experts] a layer; empty if dense
};

/// What one MoE layer is and was given.
struct MoeLayerPlan {
  int64_t layer = 0;
  QuantScheme scheme;
  MoeProblem problem;
  Selection selection;
};

class Model {
 public:
  virtual ~Model() = default;
  /// Picks the architecture by model_type, selects and prepares every layer. Throws
  /// Error(kBadInput) naming an unknown architecture and the known ones.
  static std::unique_ptr<Model> load(const Checkpoint& checkpoint, const ModelOptions& options);

  virtual const ModelConfig& config() const = 0;
  virtual const std::vector<MoeLayerPlan>& moe_plan() const = 0;
  /// Throws Error(kUnavailable) when memory is short.
  virtual std::unique_ptr<SequenceState> new_sequence(int64_t capacity) const = 0;
  /// Appends `ids` to the sequence. `logits`: [1, V] or [T, V] float32 as asked. Throws
  /// Error(kBadInput) for an id outside the vocabulary and Error(kUsage) past the capacity.
  virtual void forward(std::span<const int32_t> ids, SequenceState& state, LogitsFor which,
                       std::vector<float>& logits, HiddenStates* hidden = nullptr) = 0;
  /// Routed experts of one layer alone on x [T, H] float32 (`moe4 experts`): the router decides
  /// when ids is empty. Fills ids and weights [T, k]; y [T, H] float32.
  virtual void run_experts(int64_t layer, std::span<const float> x, std::vector<int32_t>& topk_ids,
                           std::vector<float>& topk_weights, std::vector<float>& y) = 0;
  /// Weight bytes one generated token reads (active experts only).
  virtual int64_t bytes_per_token() const = 0;
};

/// model_type values that Model::load knows.
std::vector<std::string> known_architectures();

}  // namespace moe4
