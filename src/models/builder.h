// The vocabulary that architecture files are written in. Who listens differs: the Loader packs
// weights, the Describer writes down tensors, problems and who could do them.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "layers/attention.h"
#include "layers/compressed_attention.h"
#include "layers/delta_net.h"
#include "layers/feed_forward.h"
#include "layers/latent_attention.h"
#include "layers/mamba2.h"
#include "models/config_reader.h"
#include "models/decoder.h"
#include "models/description.h"

namespace moe4 {

/// down(activation(gate(x), up(x))): `gate_proj` (not of an activation without a gate), `up_proj`
/// and `down_proj` below its module.
struct DenseMlpSpec {
  int64_t intermediate_size = 0;
  ActivationParams activation;
  BiasRule bias;
};

/// An MLP beside the routed experts, for every token.
struct SharedExpertSpec {
  int64_t intermediate_size = 0;  ///< 0: there is none
  ActivationParams activation;
  std::string module = "shared_expert";  ///< below the block's
  std::string gate_proj = "gate_proj", up_proj = "up_proj", down_proj = "down_proj";
  /// Linear [1, hidden_size] below the block's module whose sigmoid multiplies it; "": added as is.
  std::string gate;
};

/// Router, routed experts, shared expert. Names are below the block's module.
struct MoeSpec {
  RouterConfig router;            ///< without correction_bias, whose values are a tensor's
  int64_t intermediate_size = 0;  ///< of a routed expert
  ActivationParams activation;    ///< of the routed experts
  bool weight_on_input = false;   ///< see MoeProblem
  /// Routed experts work on rows of this width, between `fc1_latent_proj` and `fc2_latent_proj`; 0:
  /// on hidden states. A multiple of kRowPadding.
  int64_t latent_size = 0;
  SharedExpertSpec shared;
  std::string gate = "gate";  ///< the router's linear
  BiasRule gate_bias;
  /// "gate.e_score_correction_bias": [num_experts]; "": none. Where it is called as the router's
  /// own bias would be (DeepSeek-V4), it is none.
  std::string correction_bias;
  /// Of RouterConfig::by_token: [vocab_size, top_k] integers.
  std::string experts_of_token;
  std::string expert_scale;  ///< [num_experts], multiplies weights; "": none
  /// Tensors [hidden_size] of norms of the block's input that the router and the routed experts
  /// read instead of it; "": none. With the first there is neither a shared expert nor a latent.
  std::string router_norm, experts_norm;
  NormSpec router_norm_spec, experts_norm_spec;
  std::string experts = "experts";
};

/// mlp_norm(mlp(norm(h))) + moe_norm(moe(h)): see ParallelMoe.
struct ParallelMoeSpec {
  DenseMlpSpec mlp;
  MoeSpec moe;
  std::string mlp_norm, moe_norm;  ///< modules
  NormSpec norm;                   ///< of both
};

/// h += mixer(norm(h)); h += feed_forward(norm(h)). With post norms, what is added is the norm of
/// that.
struct LayerSpec {
  std::string mixer_norm;  ///< module of a norm: its tensor is `.weight` below
  std::unique_ptr<Mixer> mixer;
  std::string feed_forward_norm;
  std::unique_ptr<FeedForward> feed_forward;
  NormSpec norm = {};                                             ///< of all
  std::string mixer_post_norm = {}, feed_forward_post_norm = {};  ///< modules; "": none
  std::string scalar = {};  ///< tensor [1] that multiplies h at the layer's end; "": none
  /// With several residual streams: what the names of the tensors of their mixtures begin with.
  std::string mixer_streams = {}, feed_forward_streams = {};
};

/// Several residual streams (MixStreams), each beginning as the embedding.
struct StreamsSpec {
  int64_t count = 0;
  int64_t iterations = 1;
  float eps = 1e-6f;
  float norm_eps = 1e-6f;
  /// What the names of tensors of the last mixture, which the final norm reads, begin with.
  std::string head;
};

/// `in_proj`, `conv1d`, `A_log`, `D`, `dt_bias`, `norm` and `out_proj` below its module.
struct Mamba2Spec {
  Ssm::Problem ssm;
  bool conv_bias = true;
  BiasRule bias;  ///< of in_proj and out_proj
};

/// How a file has the inputs of a delta net.
enum class DeltaNetInputs {
  kApart,  ///< `in_proj_{qkv,z,b,a}`
  /// `in_proj_qkvz` and `in_proj_ba`, whose rows are grouped by key head: [q | k | v | z] and
  /// [b | a], v, z, b and a of all its value heads
  kByKeyHead,
};

/// One decoder. Calls come in this order: embedding, rotary, then for every layer its parts and
/// the layer itself, then head. Module names are full names without the prefix of the text model
/// ("layers.0.self_attn"); where a module's tensors or linears have fixed names, the function says
/// which. What a part lacks, a Describer notes and a Loader throws: Error(kBadInput) naming the
/// tensor.
class Builder {
 public:
  virtual ~Builder() = default;
  Builder(const Builder&) = delete;
  Builder& operator=(const Builder&) = delete;

  /// [vocab_size, hidden_size]; the width of everything between layers.
  /// `scale` multiplies rows, not the head's weights where those are tied to them.
  void embedding(const std::string& module, int64_t vocab_size, int64_t hidden_size,
                 float scale = 1.0f);
  /// The residual is several streams; between embedding and layers.
  void streams(const StreamsSpec& spec);
  /// A rotary embedding of the model, made once a step for all layers that name it; the same one
  /// for equal specs. For AttentionSpec::rotary.
  size_t rotary(const RotarySpec& spec);

  /// `{q,k,v,o}_proj` below `module`, and `{q,k}_norm`, `sinks`, `g_proj` and
  /// `index_{q,k}_{proj,norm}` where the spec has them; `bias` is about q, k and v.
  std::unique_ptr<Mixer> attention(const std::string& module, AttentionSpec spec,
                                   const BiasRule& bias = {}, const BiasRule& o_bias = {});
  /// `kv_a_proj_with_mqa`, `kv_a_layernorm`, `kv_b_proj` and `o_proj` below `module`, with
  /// `q_a_proj`, `q_a_layernorm` and `q_b_proj`, or `q_proj` where queries have no latent; `bias`
  /// is about the two down projections and o_proj. With an indexer, `wk`, `k_norm`, `weights_proj`
  /// and `wq_b` below `indexer` too.
  std::unique_ptr<Mixer> latent_attention(const std::string& module, LatentAttentionSpec spec,
                                          const BiasRule& bias = {});
  /// The inputs' linears, `out_proj`, `conv1d`, `A_log`, `dt_bias` and `norm` below `module`.
  std::unique_ptr<Mixer> delta_net(const std::string& module, const DeltaNet::Problem& problem,
                                   DeltaNetInputs inputs = DeltaNetInputs::kApart);
  /// `wq_a`, `q_norm`, `wq_b`, `wkv`, `kv_norm`, `attn_sink`, `wo_a` and `wo_b` below `module`;
  /// with a ratio `wkv`, `wgate`, `ape` and `norm` below `compressor`, and with an index these
  /// below `indexer.compressor`, and `wq_b` and `weights_proj` below `indexer`.
  std::unique_ptr<Mixer> compressed_attention(const std::string& module,
                                              CompressedAttentionSpec spec);
  std::unique_ptr<Mixer> mamba2(const std::string& module, const Mamba2Spec& spec);
  std::unique_ptr<FeedForward> dense_mlp(const std::string& module, const DenseMlpSpec& spec);
  std::unique_ptr<FeedForward> moe(const std::string& module, const MoeSpec& spec);

  /// `mlp_module` and `moe_module` are those of its parts.
  std::unique_ptr<FeedForward> parallel_moe(const std::string& mlp_module,
                                            const std::string& moe_module,
                                            const ParallelMoeSpec& spec);

  void layer(LayerSpec spec);
  /// A layer of one part alone: h += mixer(norm(h)), or h += feed_forward(norm(h)).
  void layer(const std::string& norm_module, std::unique_ptr<Mixer> mixer, const NormSpec& norm);
  void layer(const std::string& norm_module, std::unique_ptr<FeedForward> feed_forward,
             const NormSpec& norm);

  /// Final norm and output head [vocab_size, hidden_size]; `module` may lie at the top or inside
  /// the language model of a wrapper, whatever the text model's prefix is. `tied`: the embedding's
  /// weights instead, and a stored copy is left unread. `soft_cap`: see SoftCap; 0: none.
  void head(const std::string& norm_module, const NormSpec& norm, const std::string& module,
            bool tied, float soft_cap = 0);
  /// Tensors that are no part of this model, by full name with * and ?; all others that nobody
  /// reads are refused. Parts that wrappers carry (vision, audio, draft layers) need no mention:
  /// checkpoint/ignored_tensors.h.
  void ignore(const std::string& glob) { ignored_.push_back(glob); }

 protected:
  struct Settings {
    OpOptions ops;
    LinearOptions linears;
    DType cache_dtype = DType::kF16;
  };
  Builder(const Checkpoint& checkpoint, Settings settings);

  /// A linear of a group, and what its checkpoint module must be.
  struct LinearSpec {
    std::string module;
    int64_t out_features = 0;
    BiasRule bias = {};
    bool exact = false;        ///< its input is never quantised, whatever the options say
    bool leaves_bias = false;  ///< what is stored as its bias is something else
  };
  const Checkpoint& checkpoint() const { return checkpoint_; }
  const std::vector<std::string>& ignored() const { return ignored_; }
  /// Layers begun so far: the number of the one whose parts are being made.
  int64_t layer_number() const { return static_cast<int64_t>(parts_.layers.size()); }
  DecoderParts& parts() { return parts_; }
  const DecoderParts& parts() const { return parts_; }
  /// What ops are prepared for.
  const Device& device() const { return settings_.ops.device; }

  // What the parts are made of; modules and tensors by full names.

  /// The name with the text model's prefix.
  std::string full_name(const std::string& name) const { return checkpoint_.text_prefix() + name; }
  /// Linears that read the same rows, as one op. Null: describing, or some are missing.
  std::unique_ptr<Prepared<LinearGroup>> linears(const std::string& role,
                                                 const std::vector<LinearSpec>& specs,
                                                 int64_t in_features);
  /// The same of linears at hand, with the options that a file's have.
  std::unique_ptr<Prepared<LinearGroup>> group(const std::string& role,
                                               const LinearGroup::Weights& weights);
  /// What several residual streams are mixed by; `prefix` is that of its tensors' names. Null for
  /// one stream.
  std::unique_ptr<Prepared<MixStreams>> mix_streams(const std::string& role,
                                                    const std::string& prefix, bool is_head);
  /// The two linears of a compressor; `at` with a dot at its end.
  static void add_compressor(const std::string& at, const CompressToCache::Problem& problem,
                             bool exact, std::vector<LinearSpec>& inputs);
  std::unique_ptr<Prepared<CompressToCache>> compressor(const std::string& role,
                                                        const std::string& at,
                                                        const CompressToCache::Problem& problem);
  /// Of an MLP's first product, `module` with a dot at its end.
  static std::vector<LinearSpec> gate_and_up(const std::string& module, int64_t width,
                                             const ActivationParams& activation,
                                             const BiasRule& bias);
  /// Of a shared expert's; `at` is the block's module with a dot at its end.
  static std::vector<LinearSpec> gate_and_up(const std::string& at, const SharedExpertSpec& spec);
  /// A small tensor of this many elements; its view is empty while describing.
  virtual TensorRef tensor(const std::string& name, int64_t num_elements) = 0;
  /// A router's table of experts by token: see Route::Weights. Empty while describing.
  std::vector<int32_t> expert_table(const std::string& name, const RouterConfig& router);
  /// The first implementation that can; null while describing.
  template <class Op>
  std::unique_ptr<Prepared<Op>> prepare(const std::string& role,
                                        const typename Op::Problem& problem,
                                        const typename Op::Weights& weights) {
    OpSelection<Op> selection = ask<Op>(problem, device());
    const Implementation<Op>* chosen = selection.implementation;
    chose({.role = role,
           .op = Op::kName,
           .implementation = chosen != nullptr ? chosen->name() : std::string_view(),
           .verdicts = std::move(selection.verdicts)});
    return is_describing() ? nullptr : chosen->prepare(problem, weights, settings_.ops);
  }

  virtual bool is_describing() const = 0;
  /// The linear with its sizes checked; nullopt when describing one that is missing.
  virtual std::optional<LinearWeights> linear(const LinearSpec& spec, int64_t in_features) = 0;
  /// Its weights are packed.
  virtual void packed(const LinearWeights& weights) = 0;
  /// A mixer keeps this of every sequence.
  virtual void keeps(const CacheSpec&) {}
  /// The routed experts below `module` and behind them those of `shared`, which every token takes;
  /// `problem` is that of the routed ones alone. Null while describing.
  virtual std::unique_ptr<RoutedExperts> experts(const std::string& module,
                                                 const MoeProblem& problem,
                                                 std::span<const ExpertWeights> shared) = 0;
  /// How experts would be computed.
  struct ExpertsKind {
    QuantScheme scheme;
    Device device;
    ActivationPrecision precision;
  };
  /// Of experts(module, problem) with so many shared ones. nullopt: they are missing, or nobody
  /// can.
  virtual std::optional<ExpertsKind> experts_kind(const std::string& module,
                                                  const MoeProblem& problem,
                                                  int64_t num_shared) = 0;
  /// Throws Error(kUnavailable) when nobody can, unless it is describing.
  virtual void chose(OpChoice choice) = 0;
  /// What was chosen since the last call is part of a layer, or of the model outside of layers.
  enum class Whole { kLayer, kModel };
  virtual void complete(Whole) {}

 private:
  std::unique_ptr<Prepared<AddNorm>> norm(const std::string& role, const std::string& module,
                                          const NormSpec& spec);
  /// The norm whose weight is this tensor, by its full name; null for "".
  std::unique_ptr<Prepared<AddNorm>> norm_of(const std::string& role,
                                             const std::string& tensor_name, const NormSpec& spec);
  /// What an attention with a block index has instead of one to all keys; `at` with a dot at its
  /// end.
  void attend_to_blocks(const std::string& at, const AttentionSpec& spec, AttentionParts& parts);
  /// The block of a feed-forward part, which may begin with its norm.
  ResidualBlock feed_forward_block(const std::string& norm_module,
                                   std::unique_ptr<FeedForward> feed_forward, const NormSpec& spec);
  void add_layer(DecoderLayer layer);
  /// The shared expert as so many more experts of the size of routed ones; 0, with the reason in
  /// `why`, where it is none.
  int64_t shared_experts(const std::string& at, const MoeSpec& spec, const MoeProblem& routed,
                         Support& why);
  /// Its parts; without weights while describing.
  std::vector<ExpertWeights> shared_expert_weights(const std::string& at, const MoeSpec& spec,
                                                   const MoeProblem& routed, int64_t count);
  /// in_proj_{qkv,z,b,a} out of projections that are grouped by key head.
  std::unique_ptr<Prepared<LinearGroup>> inputs_by_key_head(const std::string& at,
                                                            const DeltaNet::Problem& problem);

  const Checkpoint& checkpoint_;
  Settings settings_;
  DecoderParts parts_;
  // Of the part that the next layer takes: set where its router alone reads the layer's norm before
  // the experts do.
  std::optional<NormRoute::Problem> norm_route_;
  std::vector<std::string> ignored_;
  std::vector<RotarySpec> rotaries_;
  std::optional<StreamsSpec> streams_;
  std::string embedding_;  // full name of the module
  int64_t vocab_size_ = 0, hidden_size_ = 0;
  float embedding_scale_ = 1.0f;
};

}  // namespace moe4
