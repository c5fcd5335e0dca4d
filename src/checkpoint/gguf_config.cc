// Reads what all architectures have, then what each has of its own.
#include "checkpoint/gguf_config.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "base/error.h"
#include "checkpoint/gguf_names.h"

namespace moe4 {
namespace {

// Keys below "ARCHITECTURE."; every one that is read is noted.
class Writer {
 public:
  Writer(const GgufModel& model, const GgufArchitecture& architecture)
      : model_(model),
        metadata_(model.metadata()),
        prefix_(std::string(architecture.name) + "."),
        config_(Json::object()) {
    config_["model_type"] = architecture.model_type;
    config_["architectures"] = {architecture.name};  // for reports
  }

  Json& config() { return config_; }

  std::optional<int64_t> integer(const char* key) { return metadata_.integer(note(key)); }
  int64_t required(const char* key) { return metadata_.required_integer(note(key)); }
  std::optional<double> number(const char* key) { return metadata_.number(note(key)); }
  std::optional<bool> flag(const char* key) { return metadata_.boolean(note(key)); }
  std::optional<std::string> word(const char* key) { return metadata_.string(note(key)); }
  /// One a layer, or one for all.
  std::vector<int64_t> per_layer(const char* key);
  /// The value of all layers that have one; throws where they differ.
  int64_t same_for_all(const char* key);

  void copy(const char* to, std::optional<int64_t> value) {
    if (value) config_[to] = *value;
  }
  void copy(const char* to, std::optional<double> value) {
    if (value) config_[to] = *value;
  }
  void copy(const char* to, std::optional<bool> value) {
    if (value) config_[to] = *value;
  }
  /// Keys that change nothing, whatever they say.
  void disregard(std::initializer_list<const char*> keys) {
    for (const char* key : keys) note(key);
  }
  void require(const char* key, int64_t value) {
    const auto found = integer(key);
    if (found && *found != value) refuse(key, std::to_string(value), std::to_string(*found));
  }
  [[noreturn]] void refuse(const char* key, const std::string& expected,
                           const std::string& found) const {
    metadata_.fail(prefix_ + key, "GGUF value is not supported", expected, found,
                   "use the model's safetensors");
  }

  const GgufTensor* tensor(const std::string& name) const { return model_.find(name); }
  bool has_tensor(const std::string& name) const { return tensor(name) != nullptr; }
  /// Layers of the decoder, without those that draft.
  int64_t num_layers() const { return num_layers_; }

  void read_common();
  /// rope.scaling.*; none is no object.
  void read_scaling();
  void refuse_unread() const;

 private:
  std::string note(const char* key) {
    std::string name = prefix_ + key;
    read_.insert(name);
    return name;
  }

  const GgufModel& model_;
  GgufMetadata metadata_;
  std::string prefix_;
  Json config_;
  std::set<std::string, std::less<>> read_;
  int64_t num_layers_ = 0;
};

std::vector<int64_t> Writer::per_layer(const char* key) {
  const auto values = metadata_.integers(note(key));
  if (!values) return {};
  if (values->size() == 1) return std::vector<int64_t>(num_layers_, values->front());
  if (static_cast<int64_t>(values->size()) < num_layers_) {
    metadata_.fail(prefix_ + key, "GGUF array has the wrong length",
                   fmt::format("{} entries", num_layers_), std::to_string(values->size()));
  }
  return {values->begin(), values->begin() + num_layers_};
}

int64_t Writer::same_for_all(const char* key) {
  const std::vector<int64_t> values = per_layer(key);
  int64_t found = 0;
  for (const int64_t value : values) {
    if (value != 0 && found != 0 && value != found) {
      refuse(key, "one number for all layers", fmt::format("{} and {}", found, value));
    }
    if (value != 0) found = value;
  }
  if (found == 0) metadata_.fail(prefix_ + key, "GGUF file lacks a key", "a number", "nothing");
  return found;
}

void Writer::read_common() {
  // Bounded before lists of this length are made.
  constexpr int64_t kMaxLayers = 100'000;
  const int64_t drafts = integer("nextn_predict_layers").value_or(0);
  const int64_t blocks = required("block_count");
  if (blocks < 1 || blocks > kMaxLayers || drafts < 0 || drafts >= blocks) {
    refuse("block_count", fmt::format("1 to {}, and more than nextn_predict_layers", kMaxLayers),
           fmt::format("{} and {}", blocks, drafts));
  }
  num_layers_ = blocks - drafts;
  config_["num_hidden_layers"] = num_layers_;
  config_["hidden_size"] = required("embedding_length");
  copy("max_position_embeddings", integer("context_length"));
  copy("rms_norm_eps", number("attention.layer_norm_rms_epsilon"));
  copy("rope_theta", number("rope.freq_base"));
  copy("num_experts_per_tok", integer("expert_used_count"));
  config_["tie_word_embeddings"] = !has_tensor("output.weight");
  // The rows that are there count; vocab_size is often left out.
  disregard({"vocab_size", "rope.dimension_sections"});
  if (!flag("attention.causal").value_or(true)) refuse("attention.causal", "true", "false");
  constexpr const char* kEmbedding = "token_embd.weight";
  const GgufTensor* embedding = tensor(kEmbedding);
  if (embedding == nullptr || embedding->shape.size() != 2) {
    throw_bad_input({.what = "GGUF file has no embedding",
                     .file = metadata_.file(),
                     .tensor = std::string("tensor ") + kEmbedding,
                     .expected = "two dimensions",
                     .found = embedding == nullptr ? "nothing" : "another shape"});
  }
  config_["vocab_size"] = embedding->shape[0];
}

void Writer::read_scaling() {
  const std::string type = word("rope.scaling.type").value_or("none");
  const auto factor = number("rope.scaling.factor");
  const auto context = integer("rope.scaling.original_context_length");
  const auto attention = number("rope.scaling.yarn_attn_factor");
  const auto fast = number("rope.scaling.yarn_beta_fast");
  const auto slow = number("rope.scaling.yarn_beta_slow");
  if (const auto extension = number("rope.scaling.yarn_ext_factor"); extension && *extension != 1) {
    refuse("rope.scaling.yarn_ext_factor", "1", fmt::format("{}", *extension));
  }
  disregard({"rope.scaling.finetuned"});
  if (type == "none") return;
  if (type != "yarn" && type != "linear") {
    refuse("rope.scaling.type", "none, linear or yarn", type);
  }
  if (!factor) refuse("rope.scaling.factor", "a number", "nothing");
  Json scaling = {{"rope_type", type}, {"factor", *factor}};
  if (type == "yarn") {
    if (!context) refuse("rope.scaling.original_context_length", "a number", "nothing");
    scaling["original_max_position_embeddings"] = *context;
    if (attention) scaling["attention_factor"] = *attention;
    if (fast) scaling["beta_fast"] = *fast;
    if (slow) scaling["beta_slow"] = *slow;
  }
  config_["rope_scaling"] = std::move(scaling);
}

// What a key that is new here does to the numbers is not known.
void Writer::refuse_unread() const {
  for (const auto& [key, value] : model_.files().front()->header().metadata) {
    if (!key.starts_with(prefix_) || read_.contains(key)) continue;
    metadata_.fail(key, "unsupported key of a GGUF architecture", "no such key",
                   std::string(to_string(value.type)), "use the model's safetensors");
  }
}

// Grouped-query attention with one width of head.
void read_attention(Writer& w) {
  Json& config = w.config();
  config["num_attention_heads"] = w.same_for_all("attention.head_count");
  config["num_key_value_heads"] = w.same_for_all("attention.head_count_kv");
  const auto key = w.integer("attention.key_length"), value = w.integer("attention.value_length");
  if (key && value && *key != *value) {
    w.refuse("attention.value_length", std::to_string(*key), std::to_string(*value));
  }
  if (key) config["head_dim"] = *key;
}

// Layers without experts have none among their tensors.
std::vector<uint64_t> dense_layers(const Writer& w) {
  std::vector<uint64_t> layers;
  for (int64_t i = 0; i < w.num_layers(); ++i) {
    if (!w.has_tensor(fmt::format("blk.{}.ffn_down_exps.weight", i)))
      layers.push_back(static_cast<uint64_t>(i));
  }
  return layers;
}

void write_qwen3_moe(Writer& w) {
  Json& config = w.config();
  read_attention(w);
  w.read_scaling();
  config["num_experts"] = w.required("expert_count");
  config["moe_intermediate_size"] = w.required("expert_feed_forward_length");
  w.copy("intermediate_size", w.integer("feed_forward_length"));
  config["mlp_only_layers"] = dense_layers(w);
  // llama.cpp always divides by the sum, and all published models do.
  config["norm_topk_prob"] = w.flag("expert_weights_norm").value_or(true);
  w.disregard({"rope.dimension_count"});  // the whole head
}

void write_gpt_oss(Writer& w) {
  Json& config = w.config();
  read_attention(w);
  w.read_scaling();
  // Neither is in the file, and all published models have them so.
  if (config.contains("rope_scaling")) config["rope_scaling"]["truncate"] = false;
  config["swiglu_limit"] = 7.0;
  config["num_local_experts"] = w.required("expert_count");
  config["intermediate_size"] = w.required("expert_feed_forward_length");
  config["sliding_window"] = w.required("attention.sliding_window");
  w.disregard({"feed_forward_length", "rope.dimension_count"});
}

// gguf-py's ExpertGatingFuncType.
constexpr int64_t kSoftmax = 1, kSigmoid = 2;

// A router with sigmoid scores and a correction bias; `otherwise` is what llama.cpp takes where the
// file says nothing.
void require_sigmoid_router(Writer& w, int64_t otherwise = kSigmoid) {
  const int64_t gating = w.integer("expert_gating_func").value_or(otherwise);
  if (gating != kSigmoid) {
    w.refuse("expert_gating_func", "2 (sigmoid)", std::to_string(gating));
  }
}

void write_deepseek_router(Writer& w) {
  Json& config = w.config();
  config["n_routed_experts"] = w.required("expert_count");
  config["moe_intermediate_size"] = w.required("expert_feed_forward_length");
  config["n_shared_experts"] = w.integer("expert_shared_count").value_or(0);
  config["first_k_dense_replace"] = w.integer("leading_dense_block_count").value_or(0);
  config["routed_scaling_factor"] = w.number("expert_weights_scale").value_or(1.0);
  config["norm_topk_prob"] = w.flag("expert_weights_norm").value_or(false);
  config["n_group"] = w.integer("expert_group_count").value_or(1);
  config["topk_group"] = w.integer("expert_group_used_count").value_or(1);
  w.copy("intermediate_size", w.integer("feed_forward_length"));
}

// The part of a head that is rotated.
void write_partial_rotary(Writer& w) {
  const auto rotated = w.integer("rope.dimension_count");
  const auto head = w.integer("attention.key_length");
  if (!rotated || !head || *head < 1) return;
  w.config()["partial_rotary_factor"] = static_cast<double>(*rotated) / static_cast<double>(*head);
}

void write_glm4_moe(Writer& w) {
  require_sigmoid_router(w);
  read_attention(w);
  w.read_scaling();
  write_deepseek_router(w);
  write_partial_rotary(w);
  w.config()["use_qk_norm"] = w.has_tensor("blk.0.attn_q_norm.weight");
}

void write_minimax_m2(Writer& w) {
  Json& config = w.config();
  read_attention(w);
  w.read_scaling();
  require_sigmoid_router(w);
  config["num_local_experts"] = w.required("expert_count");
  config["intermediate_size"] = w.required("expert_feed_forward_length");
  w.copy("rotary_dim", w.integer("rope.dimension_count"));
  w.disregard({"feed_forward_length"});
}

void write_mixtral(Writer& w) {
  Json& config = w.config();
  read_attention(w);
  w.read_scaling();
  config["num_local_experts"] = w.required("expert_count");
  config["intermediate_size"] = w.required("feed_forward_length");
  config["sliding_window"] = nullptr;  // llama.cpp has none here
  w.disregard({"rope.dimension_count", "expert_feed_forward_length"});
}

void write_deepseek_v3(Writer& w) {
  require_sigmoid_router(w, kSoftmax);  // of DeepSeek-V2
  Json& config = w.config();
  const int64_t heads = w.required("attention.head_count");
  const int64_t rotated = w.required("rope.dimension_count");
  config["num_attention_heads"] = config["num_key_value_heads"] = heads;
  const auto q_rank = w.integer("attention.q_lora_rank");
  config["q_lora_rank"] = q_rank ? Json(*q_rank) : Json();
  config["kv_lora_rank"] = w.required("attention.kv_lora_rank");
  config["qk_rope_head_dim"] = rotated;
  // Widths of a head before absorption; older files have no others.
  const auto key = w.integer("attention.key_length_mla"),
             value = w.integer("attention.value_length_mla");
  const int64_t whole = w.required("attention.key_length"),
                values = w.required("attention.value_length");
  const int64_t query = key.value_or(whole);
  if (rotated < 1 || query <= rotated) {
    w.refuse("rope.dimension_count", fmt::format("less than the {} elements of a query", query),
             std::to_string(rotated));
  }
  config["qk_nope_head_dim"] = query - rotated;
  config["v_head_dim"] = value.value_or(values);
  w.disregard({"attention.head_count_kv"});
  w.read_scaling();
  if (const auto log = w.number("rope.scaling.yarn_log_multiplier");
      log && config.contains("rope_scaling")) {
    // The file has 0.1 mscale_all_dim, and no mscale: published models have both alike.
    const double mscale = std::round(*log * 1e7) / 1e6;
    config["rope_scaling"]["mscale"] = config["rope_scaling"]["mscale_all_dim"] = mscale;
  }
  write_deepseek_router(w);
}

// Gated delta nets, of which every `interval`th layer is none.
void write_delta_nets(Writer& w) {
  Json& config = w.config();
  read_attention(w);
  w.read_scaling();
  write_partial_rotary(w);
  const int64_t values = w.required("ssm.time_step_rank"), inner = w.required("ssm.inner_size");
  if (values < 1 || inner % values != 0) {
    w.refuse("ssm.inner_size", fmt::format("a multiple of ssm.time_step_rank = {}", values),
             std::to_string(inner));
  }
  config["linear_conv_kernel_dim"] = w.required("ssm.conv_kernel");
  config["linear_key_head_dim"] = w.required("ssm.state_size");
  config["linear_num_key_heads"] = w.required("ssm.group_count");
  config["linear_num_value_heads"] = values;
  config["linear_value_head_dim"] = inner / values;
  Json layers = Json::array();
  for (int64_t i = 0; i < w.num_layers(); ++i) {
    const bool is_linear = w.has_tensor(fmt::format("blk.{}.ssm_a", i));
    layers.push_back(is_linear ? "linear_attention" : "full_attention");
  }
  config["layer_types"] = std::move(layers);
  config["num_experts"] = w.required("expert_count");
  config["moe_intermediate_size"] = w.required("expert_feed_forward_length");
  w.copy("shared_expert_intermediate_size", w.integer("expert_shared_feed_forward_length"));
  // The tensors say which layers are which.
  w.disregard({"full_attention_interval", "attention.recurrent_layers"});
}

void write_qwen35_moe(Writer& w) {
  write_delta_nets(w);
  w.disregard({"feed_forward_length"});
}

void write_qwen3_next(Writer& w) {
  write_delta_nets(w);
  w.config()["norm_topk_prob"] = w.flag("expert_weights_norm").value_or(true);
  w.copy("intermediate_size", w.integer("feed_forward_length"));
  w.config()["mlp_only_layers"] = dense_layers(w);
}

void write_nemotron_h(Writer& w) {
  Json& config = w.config();
  read_attention(w);
  // It is not rotated.
  w.disregard({"rope.dimension_count", "rope.scaling.finetuned"});
  const int64_t heads = w.required("ssm.time_step_rank"), inner = w.required("ssm.inner_size");
  if (heads < 1 || inner % heads != 0) {
    w.refuse("ssm.inner_size", fmt::format("a multiple of ssm.time_step_rank = {}", heads),
             std::to_string(inner));
  }
  config["mamba_num_heads"] = heads;
  config["mamba_head_dim"] = inner / heads;
  config["n_groups"] = w.required("ssm.group_count");
  config["ssm_state_size"] = w.required("ssm.state_size");
  config["conv_kernel"] = w.required("ssm.conv_kernel");
  config["layer_norm_epsilon"] = config["rms_norm_eps"];
  config.erase("rms_norm_eps");
  config["mlp_hidden_act"] = "relu2";
  std::string pattern;
  for (int64_t i = 0; i < w.num_layers(); ++i) {
    const auto has = [&](const char* tensor) {
      return w.has_tensor(fmt::format("blk.{}.{}.weight", i, tensor));
    };
    pattern += has("ssm_in") ? 'M' : has("attn_q") ? '*' : has("ffn_up_exps") ? 'E' : '-';
    if (!pattern.ends_with('-')) continue;
    if (const GgufTensor* up = w.tensor(fmt::format("blk.{}.ffn_up.weight", i));
        up != nullptr && !up->shape.empty()) {
      config["intermediate_size"] = up->shape.front();
    }
  }
  config["hybrid_override_pattern"] = pattern;
  require_sigmoid_router(w);
  config["n_routed_experts"] = w.required("expert_count");
  config["moe_intermediate_size"] = w.required("expert_feed_forward_length");
  config["n_shared_experts"] = w.integer("expert_shared_count").value_or(1);
  config["moe_shared_expert_intermediate_size"] = w.required("expert_shared_feed_forward_length");
  config["routed_scaling_factor"] = w.number("expert_weights_scale").value_or(1.0);
  config["norm_topk_prob"] = w.flag("expert_weights_norm").value_or(true);
  config["n_group"] = w.integer("expert_group_count").value_or(1);
  config["topk_group"] = w.integer("expert_group_used_count").value_or(1);
  w.copy("moe_latent_size", w.integer("moe_latent_size"));
  w.disregard({"feed_forward_length", "attention.layer_norm_epsilon"});
}

using Write = void (*)(Writer&);
constexpr std::pair<std::string_view, Write> kWriters[] = {
    {"deepseek2", write_deepseek_v3}, {"glm4moe", write_glm4_moe},
    {"gpt-oss", write_gpt_oss},       {"llama", write_mixtral},
    {"minimax-m2", write_minimax_m2}, {"nemotron_h_moe", write_nemotron_h},
    {"qwen35moe", write_qwen35_moe},  {"qwen3moe", write_qwen3_moe},
    {"qwen3next", write_qwen3_next},
};

}  // namespace

Json gguf_config(const GgufModel& model) {
  const GgufArchitecture& architecture = gguf_architecture(model.metadata());
  Writer writer(model, architecture);
  writer.read_common();
  for (const auto& [name, write] : kWriters) {
    if (name == architecture.name) write(writer);
  }
  writer.refuse_unread();
  return std::move(writer.config());
}

}  // namespace moe4
