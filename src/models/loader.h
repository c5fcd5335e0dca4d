// Turns checkpoint tensors into layers: what architecture files are written with.
#pragma once

#include <string>
#include <unordered_set>
#include <vector>

#include "layers/feed_forward.h"
#include "layers/linear.h"
#include "layers/norm.h"
#include "models/decoder.h"
#include "models/model.h"
#include "models/refusals.h"

namespace moe4 {

/// Names of the tensors that an architecture asks for.
using TensorsAsked = std::unordered_set<std::string>;

/// Reads one checkpoint, or writes down what reading it would ask for. Pages of a tensor are given
/// back to the system once it is packed, so that a model is in memory once. Names are full module
/// or tensor names.
class ModelLoader {
 public:
  ModelLoader(const Checkpoint& checkpoint, const ModelOptions& options);
  /// Reads nothing: adds the names to `asked` and what is missing to `refusals`. What the
  /// architecture makes of it has no weights and must not be run.
  ModelLoader(const Checkpoint& checkpoint, TensorsAsked& asked, std::vector<Refusal>& refusals);

  const Checkpoint& checkpoint() const { return checkpoint_; }
  const ModelConfig& config() const { return checkpoint_.config(); }
  /// A tensor of a layer: "layers.N." + suffix with the checkpoint's prefix.
  std::string name(int64_t layer, const std::string& suffix) const {
    return checkpoint_.layer_name(layer, suffix);
  }

  Linear linear(const std::string& module, int64_t out_features, int64_t in_features);
  Embedding embedding(const std::string& module, int64_t rows, int64_t width);
  std::vector<float> vector(const std::string& tensor, int64_t n);
  /// A tensor of rows * columns values, its rows side by side: [columns, rows].
  std::vector<float> transposed(const std::string& tensor, int64_t rows, int64_t columns);
  /// The model's kind of norm (weight or 1 + weight, as its configuration says).
  RmsNorm norm(const std::string& tensor, int64_t n);
  RmsNorm plain_norm(const std::string& tensor, int64_t n);
  /// prefix.gate_proj, prefix.up_proj, prefix.down_proj.
  MlpWeights mlp(const std::string& prefix, int64_t intermediate_size);
  /// Throws Error(kBadInput) naming `key` unless `value` is a positive multiple of `factor`.
  void require_multiple(const char* key, int64_t value, int64_t factor) const;

  /// Embedding, final norm, output head and an empty list of layers. Checks the sizes that every
  /// architecture needs.
  DecoderParts begin();
  /// Norms of a layer and its feed-forward part: `mlp.*` as the configuration says.
  void finish_layer(DecoderParts& parts, int64_t layer, std::unique_ptr<Mixer> mixer);
  /// Reports that everything is loaded.
  void done();

 private:
  std::unique_ptr<MoeBlock> moe_block(DecoderParts& parts, int64_t layer);
  bool is_describing() const { return asked_ != nullptr; }
  void ask_linear(const std::string& module);
  void ask_tensor(const std::string& tensor);
  void ask_experts(int64_t layer);
  void ask_all_below(const std::string& prefix);
  void refuse_missing(const std::string& where, const Error& error);
  void consumed(const LinearWeights& weights);
  void consumed(const TensorView& view);
  void report() const;

  const Checkpoint& checkpoint_;
  ModelOptions options_;
  TensorsAsked* asked_ = nullptr;  // null: reading
  std::vector<Refusal>* refusals_ = nullptr;
  LinearOptions linear_options_;
  int64_t bytes_done_ = 0;
};

/// Architecture files: one function each.
DecoderParts load_qwen3_moe(ModelLoader& loader);
DecoderParts load_qwen3_5_moe(ModelLoader& loader);

}  // namespace moe4
