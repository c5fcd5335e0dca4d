// Turns checkpoint tensors into layers: what architecture files are written with.
#pragma once

#include <string>
#include <unordered_set>
#include <vector>

#include "layers/attention.h"
#include "layers/delta_net.h"
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

  /// What the layers' KV caches hold.
  DType cache_dtype() const {
    return options_.compute_dtype == DType::kF32 ? DType::kF32 : DType::kF16;
  }
  /// The model's kind of norm (weight or 1 + weight, as its configuration says).
  NormSpec norm_spec() const {
    return {.eps = config().rms_norm_eps, .one_plus = config().one_plus_weight_norm};
  }
  /// self_attn.{q,k,v,o}_proj and self_attn.{q,k}_norm of a layer.
  std::unique_ptr<Mixer> attention(int64_t layer, const AttentionSpec& spec);
  /// linear_attn.{in_proj_qkv,in_proj_z,in_proj_b,in_proj_a,out_proj}, its conv1d, A_log, dt_bias
  /// and norm.
  std::unique_ptr<Mixer> delta_net(int64_t layer, const DeltaNet::Problem& problem);
  /// Throws Error(kBadInput) naming `key` unless `value` is a positive multiple of `factor`.
  void require_multiple(const char* key, int64_t value, int64_t factor) const;

  /// Rotary embedding, token embedding, final norm, output head and an empty list of layers. Checks
  /// the sizes that every architecture needs.
  DecoderParts begin();
  /// Norms of a layer and its feed-forward part: `mlp.*` as the configuration says.
  void finish_layer(DecoderParts& parts, int64_t layer, std::unique_ptr<Mixer> mixer);
  /// Reports that everything is loaded.
  void done();

 private:
  /// Ops are prepared for these.
  OpOptions op_options() const { return {.threads = options_.threads}; }
  /// Linears that read the same rows, packed as one op. This and what follows: nothing (null) while
  /// describing.
  struct LinearSpec {
    std::string module;
    int64_t out_features = 0;
    bool exact = false;  // its input is never quantised, whatever the options say
  };
  std::unique_ptr<Prepared<LinearGroup>> linears(const std::vector<LinearSpec>& specs,
                                                 int64_t in_features);
  TensorRef tensor(const std::string& name);
  std::unique_ptr<Prepared<AddNorm>> norm(const std::string& tensor);
  std::unique_ptr<Prepared<Embed>> embedding(const std::string& module);
  std::unique_ptr<Prepared<Embed>> tied_embedding(const Prepared<LinearGroup>* lm_head);
  std::unique_ptr<DenseMlp> dense_mlp(const std::string& prefix, int64_t intermediate_size);
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
