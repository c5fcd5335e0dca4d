// config.json of DeepSeek-V4 as released out of llama.cpp's keys.
#include <fmt/format.h>

#include <algorithm>

#include "checkpoint/gguf_config_families.h"

namespace moe4 {
namespace {

constexpr int64_t kSqrtSoftplus = 4;  // gguf-py's ExpertGatingFuncType

// The same for all layers and for both kinds of experts; files have it a layer.
void read_limit(GgufConfigWriter& w) {
  const std::vector<double> routed = w.numbers("swiglu_clamp_exp");
  if (routed.empty()) w.refuse("swiglu_clamp_exp", "a number a layer", "nothing");
  for (const char* key : {"swiglu_clamp_exp", "swiglu_clamp_shexp"}) {
    const std::vector<double> limits = w.numbers(key);
    const auto other = std::find_if(limits.begin(), limits.end(),
                                    [&](double limit) { return limit != routed.front(); });
    if (other != limits.end()) {
      w.refuse(key, fmt::format("{} for every layer", routed.front()), std::to_string(*other));
    }
  }
  w.config()["swiglu_limit"] = routed.front();
}

}  // namespace

void write_deepseek_v4(GgufConfigWriter& w) {
  Json& config = w.config();
  const int64_t gating = w.required("expert_gating_func");
  if (gating != kSqrtSoftplus) {
    w.refuse("expert_gating_func", "4 (root of softplus)", std::to_string(gating));
  }
  config["scoring_func"] = "sqrtsoftplus";
  config["topk_method"] = "noaux_tc";
  const int64_t head = w.required("attention.key_length");
  w.require("attention.value_length", head);
  w.require("attention.head_count_kv", int64_t{1});
  config["num_attention_heads"] = w.same_for_all("attention.head_count");
  config["num_key_value_heads"] = 1;
  config["head_dim"] = head;
  config["qk_rope_head_dim"] = w.required("rope.dimension_count");
  config["q_lora_rank"] = w.required("attention.q_lora_rank");
  config["o_groups"] = w.required("attention.output_group_count");
  config["o_lora_rank"] = w.required("attention.output_lora_rank");
  config["sliding_window"] = w.required("attention.sliding_window");
  const std::vector<int64_t> ratios = w.per_layer("attention.compress_ratios");
  if (ratios.empty()) w.refuse("attention.compress_ratios", "a number a layer", "nothing");
  config["compress_ratios"] = ratios;
  config["index_n_heads"] = w.required("attention.indexer.head_count");
  config["index_head_dim"] = w.required("attention.indexer.key_length");
  config["index_topk"] = w.required("attention.indexer.top_k");
  w.copy("compress_rope_theta", w.number("attention.compress_rope_freq_base"));
  w.read_scaling();

  config["n_routed_experts"] = w.required("expert_count");
  config["moe_intermediate_size"] = w.required("expert_feed_forward_length");
  config["n_shared_experts"] = w.required("expert_shared_count");
  config["routed_scaling_factor"] = w.number("expert_weights_scale").value_or(1.0);
  config["norm_topk_prob"] = w.flag("expert_weights_norm").value_or(true);
  config["num_hash_layers"] = w.required("hash_layer_count");
  read_limit(w);

  config["hc_mult"] = w.required("hyper_connection.count");
  config["hc_sinkhorn_iters"] = w.required("hyper_connection.sinkhorn_iterations");
  w.copy("hc_eps", w.number("hyper_connection.epsilon"));
  w.disregard({"embedding_length_out", "feed_forward_length"});
}

}  // namespace moe4
