// What every architecture calls its tensors; names are those of gguf-py's tensor_mapping.
#include "checkpoint/gguf_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>

namespace moe4 {
namespace {

// `shared`, then what a family has of its own.
template <size_t kShared, size_t kOwn>
constexpr auto with(const std::array<GgufRule, kShared>& shared, const GgufRule (&own)[kOwn]) {
  std::array<GgufRule, kShared + kOwn> rules;
  std::copy_n(own, kOwn, std::copy_n(shared.begin(), kShared, rules.begin()));
  return rules;
}

// What most families name alike: plain attention and dense layers, and experts beside those.
constexpr auto kPlain = std::to_array<GgufRule>({
    {"token_embd", "model.embed_tokens"},
    {"output", "lm_head"},
    {"blk.attn_q", "self_attn.q_proj"},
    {"blk.attn_k", "self_attn.k_proj"},
    {"blk.attn_v", "self_attn.v_proj"},
    {"blk.attn_output", "self_attn.o_proj"},
    {"blk.ffn_gate", "mlp.gate_proj"},
    {"blk.ffn_up", "mlp.up_proj"},
    {"blk.ffn_down", "mlp.down_proj"},
});
constexpr auto kPlainExperts =
    with(kPlain, {
                     {"blk.ffn_gate_exps", "mlp.experts.gate_proj"},
                     {"blk.ffn_up_exps", "mlp.experts.up_proj"},
                     {"blk.ffn_gate_up_exps", "mlp.experts.gate_up_proj"},
                     {"blk.ffn_down_exps", "mlp.experts.down_proj"},
                 });

constexpr auto kQwen3Moe = with(kPlainExperts, {
                                                   {"output_norm", "model.norm"},
                                                   {"blk.attn_norm", "input_layernorm"},
                                                   {"blk.ffn_norm", "post_attention_layernorm"},
                                                   {"blk.attn_q_norm", "self_attn.q_norm"},
                                                   {"blk.attn_k_norm", "self_attn.k_norm"},
                                                   {"blk.ffn_gate_inp", "mlp.gate"},
                                               });

constexpr GgufRule kGptOss[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
    {"blk.attn_norm", "input_layernorm"},
    {"blk.post_attention_norm", "post_attention_layernorm"},
    {"blk.attn_q", "self_attn.q_proj"},
    {"blk.attn_k", "self_attn.k_proj"},
    {"blk.attn_v", "self_attn.v_proj"},
    {"blk.attn_output", "self_attn.o_proj"},
    {"blk.attn_sinks.weight", "self_attn.sinks"},
    {"blk.ffn_gate_inp", "mlp.router"},
    {"blk.ffn_gate_exps", "mlp.experts.gate_proj"},
    {"blk.ffn_up_exps", "mlp.experts.up_proj"},
    {"blk.ffn_gate_up_exps", "mlp.experts.gate_up_proj"},
    {"blk.ffn_down_exps", "mlp.experts.down_proj"},
};

constexpr GgufRule kMinimaxM2[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
    {"blk.attn_norm", "input_layernorm"},
    {"blk.ffn_norm", "post_attention_layernorm"},
    {"blk.attn_q", "self_attn.q_proj"},
    {"blk.attn_k", "self_attn.k_proj"},
    {"blk.attn_v", "self_attn.v_proj"},
    {"blk.attn_output", "self_attn.o_proj"},
    {"blk.attn_q_norm", "self_attn.q_norm"},
    {"blk.attn_k_norm", "self_attn.k_norm"},
    {"blk.ffn_gate_inp", "block_sparse_moe.gate"},
    {"blk.exp_probs_b.bias", "block_sparse_moe.e_score_correction_bias"},
    {"blk.ffn_gate_exps", "block_sparse_moe.experts.gate_proj"},
    {"blk.ffn_up_exps", "block_sparse_moe.experts.up_proj"},
    {"blk.ffn_gate_up_exps", "block_sparse_moe.experts.gate_up_proj"},
    {"blk.ffn_down_exps", "block_sparse_moe.experts.down_proj"},
};

constexpr auto kGlm4Moe =
    with(kPlainExperts, {
                            {"output_norm", "model.norm"},
                            {"blk.attn_norm", "input_layernorm"},
                            {"blk.post_attention_norm", "post_attention_layernorm"},
                            {"blk.attn_q_norm", "self_attn.q_norm"},
                            {"blk.attn_k_norm", "self_attn.k_norm"},
                            {"blk.ffn_gate_inp", "mlp.gate"},
                            {"blk.exp_probs_b.bias", "mlp.gate.e_score_correction_bias"},
                            {"blk.ffn_gate_shexp", "mlp.shared_experts.gate_proj"},
                            {"blk.ffn_up_shexp", "mlp.shared_experts.up_proj"},
                            {"blk.ffn_down_shexp", "mlp.shared_experts.down_proj"},
                        });

// The oldest architecture, of which only files with experts are read: Mixtral.
constexpr GgufRule kLlama[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
    {"blk.attn_norm", "input_layernorm"},
    {"blk.ffn_norm", "post_attention_layernorm"},
    {"blk.attn_q", "self_attn.q_proj", GgufForm::kQueryPairs},
    {"blk.attn_k", "self_attn.k_proj", GgufForm::kKeyPairs},
    {"blk.attn_v", "self_attn.v_proj"},
    {"blk.attn_output", "self_attn.o_proj"},
    {"blk.ffn_gate_inp", "block_sparse_moe.gate"},
    {"blk.ffn_gate_exps", "block_sparse_moe.experts.gate_proj"},
    {"blk.ffn_up_exps", "block_sparse_moe.experts.up_proj"},
    {"blk.ffn_gate_up_exps", "block_sparse_moe.experts.gate_up_proj"},
    {"blk.ffn_down_exps", "block_sparse_moe.experts.down_proj"},
};

constexpr auto kLatent = std::to_array<GgufRule>({
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
    {"blk.attn_norm", "input_layernorm"},
    {"blk.ffn_norm", "post_attention_layernorm"},
    {"blk.attn_q", "self_attn.q_proj"},
    {"blk.attn_q_a", "self_attn.q_a_proj"},
    {"blk.attn_q_a_norm", "self_attn.q_a_layernorm"},
    {"blk.attn_q_b", "self_attn.q_b_proj"},
    {"blk.attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"},
    {"blk.attn_kv_a_norm", "self_attn.kv_a_layernorm"},
    {"blk.attn_kv_b", "self_attn.kv_b_proj"},
    {"blk.attn_output", "self_attn.o_proj"},
    {"blk.ffn_gate_inp", "mlp.gate"},
    {"blk.exp_probs_b.bias", "mlp.gate.e_score_correction_bias"},
    {"blk.ffn_gate_exps", "mlp.experts.gate_proj"},
    {"blk.ffn_up_exps", "mlp.experts.up_proj"},
    {"blk.ffn_gate_up_exps", "mlp.experts.gate_up_proj"},
    {"blk.ffn_down_exps", "mlp.experts.down_proj"},
    {"blk.ffn_gate", "mlp.gate_proj"},
    {"blk.ffn_up", "mlp.up_proj"},
    {"blk.ffn_down", "mlp.down_proj"},
    {"blk.ffn_gate_shexp", "mlp.shared_experts.gate_proj"},
    {"blk.ffn_up_shexp", "mlp.shared_experts.up_proj"},
    {"blk.ffn_down_shexp", "mlp.shared_experts.down_proj"},
});

// Both families with gated delta nets.
constexpr auto kQwenHybrid = with(
    kPlainExperts, {
                       {"output_norm", "model.norm", GgufForm::kPlusOne},
                       {"blk.attn_norm", "input_layernorm", GgufForm::kPlusOne},
                       {"blk.post_attention_norm", "post_attention_layernorm", GgufForm::kPlusOne},
                       {"blk.attn_q_norm", "self_attn.q_norm", GgufForm::kPlusOne},
                       {"blk.attn_k_norm", "self_attn.k_norm", GgufForm::kPlusOne},
                       {"blk.ffn_gate_inp", "mlp.gate"},
                       {"blk.ffn_gate_shexp", "mlp.shared_expert.gate_proj"},
                       {"blk.ffn_up_shexp", "mlp.shared_expert.up_proj"},
                       {"blk.ffn_down_shexp", "mlp.shared_expert.down_proj"},
                       {"blk.ffn_gate_inp_shexp", "mlp.shared_expert_gate", GgufForm::kOneRow},
                       {"blk.ssm_norm", "linear_attn.norm"},
                   });

constexpr auto kQwen3Next =
    with(kQwenHybrid, {
                          {"blk.attn_qkv", "linear_attn.in_proj_qkv"},
                          {"blk.attn_gate", "linear_attn.in_proj_z"},
                          {"blk.ssm_ba", "linear_attn.in_proj_b", GgufForm::kBetaOfGroups},
                          {"blk.ssm_ba", "linear_attn.in_proj_a", GgufForm::kAlphaOfGroups},
                          {"blk.ssm_conv1d", "linear_attn.conv1d"},
                          {"blk.ssm_a", "linear_attn.A_log", GgufForm::kMinusExp},
                          {"blk.ssm_dt.bias", "linear_attn.dt_bias"},
                          {"blk.ssm_out", "linear_attn.out_proj"},
                      });

constexpr auto kQwen35Moe =
    with(kQwenHybrid, {
                          {"blk.attn_qkv", "linear_attn.in_proj_qkv", GgufForm::kTiledMixed},
                          {"blk.attn_gate", "linear_attn.in_proj_z", GgufForm::kTiledValues},
                          {"blk.ssm_beta", "linear_attn.in_proj_b", GgufForm::kTiledHeads},
                          {"blk.ssm_alpha", "linear_attn.in_proj_a", GgufForm::kTiledHeads},
                          {"blk.ssm_conv1d", "linear_attn.conv1d", GgufForm::kTiledMixed},
                          {"blk.ssm_a", "linear_attn.A_log", GgufForm::kTiledDecay},
                          {"blk.ssm_dt.bias", "linear_attn.dt_bias", GgufForm::kTiledHeads},
                          {"blk.ssm_out", "linear_attn.out_proj", GgufForm::kTiledInputs},
                      });

// Queries and keys are permuted although nothing rotates.
constexpr GgufRule kNemotronH[] = {
    {"token_embd", "model.embeddings"},
    {"output_norm", "model.norm_f"},
    {"output", "lm_head"},
    {"blk.attn_norm", "norm"},
    {"blk.attn_q", "mixer.q_proj", GgufForm::kQueryPairs},
    {"blk.attn_k", "mixer.k_proj", GgufForm::kKeyPairs},
    {"blk.attn_v", "mixer.v_proj"},
    {"blk.attn_output", "mixer.o_proj"},
    {"blk.ssm_in", "mixer.in_proj"},
    {"blk.ssm_conv1d", "mixer.conv1d"},
    {"blk.ssm_a", "mixer.A_log", GgufForm::kMinusExp},
    {"blk.ssm_d", "mixer.D"},
    {"blk.ssm_dt.bias", "mixer.dt_bias"},
    {"blk.ssm_norm", "mixer.norm"},
    {"blk.ssm_out", "mixer.out_proj"},
    {"blk.ffn_gate_inp", "mixer.gate"},
    {"blk.exp_probs_b.bias", "mixer.gate.e_score_correction_bias"},
    {"blk.ffn_up_exps", "mixer.experts.up_proj"},
    {"blk.ffn_down_exps", "mixer.experts.down_proj"},
    {"blk.ffn_up_shexp", "mixer.shared_experts.up_proj"},
    {"blk.ffn_down_shexp", "mixer.shared_experts.down_proj"},
    {"blk.ffn_up", "mixer.up_proj"},
    {"blk.ffn_down", "mixer.down_proj"},
    {"blk.ffn_latent_down", "mixer.fc1_latent_proj"},
    {"blk.ffn_latent_up", "mixer.fc2_latent_proj"},
};

// What Ernie, Hy3, Laguna and MiMo call alike.
constexpr auto kGrouped = with(kPlainExperts, {
                                                  {"output_norm", "model.norm"},
                                                  {"blk.attn_norm", "input_layernorm"},
                                                  {"blk.ffn_norm", "post_attention_layernorm"},
                                                  {"blk.attn_q_norm", "self_attn.q_norm"},
                                                  {"blk.attn_k_norm", "self_attn.k_norm"},
                                              });

constexpr auto kErnie45Moe =
    with(kGrouped, {
                       {"blk.ffn_gate_inp", "mlp.gate"},
                       {"blk.exp_probs_b.bias", "mlp.moe_statics.e_score_correction_bias"},
                       {"blk.ffn_gate_shexp", "mlp.shared_experts.gate_proj"},
                       {"blk.ffn_up_shexp", "mlp.shared_experts.up_proj"},
                       {"blk.ffn_down_shexp", "mlp.shared_experts.down_proj"},
                   });

constexpr auto kHyV3 = with(kGrouped, {
                                          {"blk.ffn_gate_inp", "mlp.router.gate"},
                                          {"blk.exp_probs_b", "mlp.expert_bias"},
                                          {"blk.exp_probs_b.bias", "mlp.expert_bias"},
                                          {"blk.ffn_gate_shexp", "mlp.shared_mlp.gate_proj"},
                                          {"blk.ffn_up_shexp", "mlp.shared_mlp.up_proj"},
                                          {"blk.ffn_down_shexp", "mlp.shared_mlp.down_proj"},
                                      });

constexpr auto kLaguna =
    with(kGrouped, {
                       {"blk.attn_gate", "self_attn.g_proj"},
                       {"blk.ffn_gate_inp", "mlp.gate"},
                       {"blk.exp_probs_b.bias", "mlp.experts.e_score_correction_bias"},
                       {"blk.ffn_gate_shexp", "mlp.shared_expert.gate_proj"},
                       {"blk.ffn_up_shexp", "mlp.shared_expert.up_proj"},
                       {"blk.ffn_down_shexp", "mlp.shared_expert.down_proj"},
                   });

constexpr auto kMimo2 =
    with(kGrouped, {
                       {"blk.attn_sinks.weight", "self_attn.attention_sink_bias"},
                       {"blk.ffn_gate_inp", "mlp.gate"},
                       {"blk.exp_probs_b.bias", "mlp.gate.e_score_correction_bias"},
                   });

// The factors of rotary frequencies are in the configuration then.
constexpr GgufRule kRopeFactors = {"rope_freqs.weight", "model.rotary_emb.inv_freq"};

constexpr GgufRule kLlama4[] = {
    kRopeFactors,
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
    {"blk.attn_norm", "input_layernorm"},
    {"blk.ffn_norm", "post_attention_layernorm"},
    {"blk.attn_q", "self_attn.q_proj"},
    {"blk.attn_k", "self_attn.k_proj"},
    {"blk.attn_v", "self_attn.v_proj"},
    {"blk.attn_output", "self_attn.o_proj"},
    {"blk.ffn_gate_inp", "feed_forward.router"},
    {"blk.ffn_gate_exps", "feed_forward.experts.gate_proj"},
    {"blk.ffn_up_exps", "feed_forward.experts.up_proj"},
    {"blk.ffn_gate_up_exps", "feed_forward.experts.gate_up_proj"},
    {"blk.ffn_down_exps", "feed_forward.experts.down_proj"},
    {"blk.ffn_gate", "feed_forward.gate_proj"},
    {"blk.ffn_up", "feed_forward.up_proj"},
    {"blk.ffn_down", "feed_forward.down_proj"},
    {"blk.ffn_gate_shexp", "feed_forward.shared_expert.gate_proj"},
    {"blk.ffn_up_shexp", "feed_forward.shared_expert.up_proj"},
    {"blk.ffn_down_shexp", "feed_forward.shared_expert.down_proj"},
};

constexpr auto kStep35 =
    with(kPlain, {
                     kRopeFactors,
                     {"output_norm", "model.norm", GgufForm::kPlusOne},
                     {"blk.attn_norm", "input_layernorm", GgufForm::kPlusOne},
                     {"blk.ffn_norm", "post_attention_layernorm", GgufForm::kPlusOne},
                     {"blk.attn_gate", "self_attn.g_proj"},
                     {"blk.attn_q_norm", "self_attn.q_norm", GgufForm::kPlusOne},
                     {"blk.attn_k_norm", "self_attn.k_norm", GgufForm::kPlusOne},
                     {"blk.ffn_gate_inp", "moe.gate"},
                     {"blk.exp_probs_b.bias", "moe.router_bias"},
                     {"blk.ffn_gate_exps", "moe.gate_proj"},
                     {"blk.ffn_up_exps", "moe.up_proj"},
                     {"blk.ffn_gate_up_exps", "moe.gate_up_proj"},
                     {"blk.ffn_down_exps", "moe.down_proj"},
                     {"blk.ffn_gate_shexp", "share_expert.gate_proj"},
                     {"blk.ffn_up_shexp", "share_expert.up_proj"},
                     {"blk.ffn_down_shexp", "share_expert.down_proj"},
                 });

constexpr auto kMinimaxM3 =
    with(kPlain, {
                     {"output_norm", "model.norm", GgufForm::kPlusOne},
                     {"blk.attn_norm", "input_layernorm", GgufForm::kPlusOne},
                     {"blk.ffn_norm", "post_attention_layernorm", GgufForm::kPlusOne},
                     {"blk.attn_q_norm", "self_attn.q_norm", GgufForm::kPlusOne},
                     {"blk.attn_k_norm", "self_attn.k_norm", GgufForm::kPlusOne},
                     {"blk.indexer.q_proj", "self_attn.index_q_proj"},
                     {"blk.indexer.k_proj", "self_attn.index_k_proj"},
                     {"blk.indexer.q_norm", "self_attn.index_q_norm", GgufForm::kPlusOne},
                     {"blk.indexer.k_norm", "self_attn.index_k_norm", GgufForm::kPlusOne},
                     {"blk.ffn_gate_inp", "block_sparse_moe.gate"},
                     {"blk.exp_probs_b.bias", "block_sparse_moe.e_score_correction_bias"},
                     {"blk.ffn_gate_exps", "block_sparse_moe.experts.gate_proj"},
                     {"blk.ffn_up_exps", "block_sparse_moe.experts.up_proj"},
                     {"blk.ffn_gate_up_exps", "block_sparse_moe.experts.gate_up_proj"},
                     {"blk.ffn_down_exps", "block_sparse_moe.experts.down_proj"},
                     {"blk.ffn_gate_shexp", "block_sparse_moe.shared_experts.gate_proj"},
                     {"blk.ffn_up_shexp", "block_sparse_moe.shared_experts.up_proj"},
                     {"blk.ffn_down_shexp", "block_sparse_moe.shared_experts.down_proj"},
                 });

constexpr auto kLatentIndexed =
    with(kLatent, {
                      {"blk.indexer.k_norm", "self_attn.indexer.k_norm"},
                      {"blk.indexer.proj", "self_attn.indexer.weights_proj"},
                      {"blk.indexer.attn_k", "self_attn.indexer.wk"},
                      {"blk.indexer.attn_q_b", "self_attn.indexer.wq_b"},
                  });

// Norms around every part. The scales of experts stand beside their last projection.
constexpr auto kGemma4 =
    with(kPlain, {
                     kRopeFactors,
                     {"output_norm", "model.norm"},
                     {"blk.attn_norm", "input_layernorm"},
                     {"blk.attn_q_norm", "self_attn.q_norm"},
                     {"blk.attn_k_norm", "self_attn.k_norm"},
                     {"blk.post_attention_norm", "post_attention_layernorm"},
                     {"blk.ffn_norm", "pre_feedforward_layernorm"},
                     {"blk.post_ffw_norm_1", "post_feedforward_layernorm_1"},
                     {"blk.pre_ffw_norm_2", "pre_feedforward_layernorm_2"},
                     {"blk.post_ffw_norm_2", "post_feedforward_layernorm_2"},
                     {"blk.post_ffw_norm", "post_feedforward_layernorm"},
                     {"blk.layer_output_scale.weight", "layer_scalar"},
                     {"blk.ffn_gate_inp", "router.proj"},
                     {"blk.ffn_gate_inp.scale", "router.scale"},
                     {"blk.ffn_down_exps.scale", "router.per_expert_scale", GgufForm::kExpertScale},
                     {"blk.ffn_gate_exps", "experts.gate_proj"},
                     {"blk.ffn_up_exps", "experts.up_proj"},
                     {"blk.ffn_gate_up_exps", "experts.gate_up_proj"},
                     {"blk.ffn_down_exps", "experts.down_proj"},
                 });

// As released, without a prefix but for the layers'.
constexpr GgufRule kDeepseek4[] = {
    {"token_embd", "model.embed"},
    {"output_norm", "model.norm"},
    {"output", "head"},
    {"output_hc_fn.weight", "model.hc_head_fn"},
    {"output_hc_base.weight", "model.hc_head_base"},
    {"output_hc_scale.weight", "model.hc_head_scale"},
    {"blk.hc_attn_fn.weight", "hc_attn_fn"},
    {"blk.hc_attn_base.weight", "hc_attn_base"},
    {"blk.hc_attn_scale.weight", "hc_attn_scale"},
    {"blk.hc_ffn_fn.weight", "hc_ffn_fn"},
    {"blk.hc_ffn_base.weight", "hc_ffn_base"},
    {"blk.hc_ffn_scale.weight", "hc_ffn_scale"},
    {"blk.attn_norm", "attn_norm"},
    {"blk.ffn_norm", "ffn_norm"},
    {"blk.attn_sinks.weight", "attn.attn_sink"},
    {"blk.attn_q_a", "attn.wq_a"},
    {"blk.attn_q_a_norm", "attn.q_norm"},
    {"blk.attn_q_b", "attn.wq_b"},
    {"blk.attn_kv", "attn.wkv"},
    {"blk.attn_kv_a_norm", "attn.kv_norm"},
    {"blk.attn_output_a", "attn.wo_a"},
    {"blk.attn_output_b", "attn.wo_b"},
    {"blk.attn_compressor_kv", "attn.compressor.wkv"},
    {"blk.attn_compressor_gate", "attn.compressor.wgate"},
    {"blk.attn_compressor_ape.weight", "attn.compressor.ape"},
    {"blk.attn_compressor_norm", "attn.compressor.norm"},
    {"blk.indexer.proj", "attn.indexer.weights_proj"},
    {"blk.indexer.attn_q_b", "attn.indexer.wq_b"},
    {"blk.indexer_compressor_kv", "attn.indexer.compressor.wkv"},
    {"blk.indexer_compressor_gate", "attn.indexer.compressor.wgate"},
    {"blk.indexer_compressor_ape.weight", "attn.indexer.compressor.ape"},
    {"blk.indexer_compressor_norm", "attn.indexer.compressor.norm"},
    {"blk.ffn_gate_inp", "ffn.gate"},
    {"blk.exp_probs_b.bias", "ffn.gate.bias"},
    {"blk.ffn_gate_tid2eid.weight", "ffn.gate.tid2eid"},
    {"blk.ffn_gate_exps", "ffn.experts.gate_proj"},
    {"blk.ffn_up_exps", "ffn.experts.up_proj"},
    {"blk.ffn_down_exps", "ffn.experts.down_proj"},
    {"blk.ffn_gate_shexp", "ffn.shared_experts.w1"},
    {"blk.ffn_up_shexp", "ffn.shared_experts.w3"},
    {"blk.ffn_down_shexp", "ffn.shared_experts.w2"},
};

constexpr std::array kArchitectures = {
    GgufArchitecture{"deepseek2", "deepseek_v3", kLatent},
    GgufArchitecture{"deepseek32", "deepseek_v32", kLatentIndexed},
    GgufArchitecture{"deepseek4", "deepseek_v4", kDeepseek4},
    GgufArchitecture{"ernie4_5-moe", "ernie4_5_moe", kErnie45Moe},
    GgufArchitecture{"gemma4", "gemma4_text", kGemma4},
    GgufArchitecture{"glm-dsa", "glm_moe_dsa", kLatentIndexed},
    GgufArchitecture{"glm4moe", "glm4_moe", kGlm4Moe},
    GgufArchitecture{"gpt-oss", "gpt_oss", kGptOss},
    GgufArchitecture{"hy_v3", "hy_v3", kHyV3},
    GgufArchitecture{"laguna", "laguna", kLaguna},
    GgufArchitecture{"llama", "mixtral", kLlama},
    GgufArchitecture{"llama4", "llama4_text", kLlama4},
    GgufArchitecture{"mimo2", "mimo_v2_flash", kMimo2},
    GgufArchitecture{"minimax-m2", "minimax_m2", kMinimaxM2},
    GgufArchitecture{"minimax-m3", "minimax_m3", kMinimaxM3},
    GgufArchitecture{"mistral4", "mistral4", kLatent},
    GgufArchitecture{"nemotron_h_moe", "nemotron_h", kNemotronH},
    GgufArchitecture{"qwen35moe", "qwen3_5_moe_text", kQwen35Moe},
    GgufArchitecture{"qwen3moe", "qwen3_moe", kQwen3Moe},
    GgufArchitecture{"qwen3next", "qwen3_next", kQwen3Next},
    GgufArchitecture{"qwen3vlmoe", "qwen3_vl_moe_text", kQwen3Moe},
    GgufArchitecture{"step35", "step3p5", kStep35},
};

}  // namespace

const GgufArchitecture& gguf_architecture(const GgufMetadata& metadata) {
  constexpr std::string_view kKey = "general.architecture";
  const std::string name = metadata.required_string(kKey);
  const auto* found =
      std::find_if(kArchitectures.begin(), kArchitectures.end(),
                   [&](const GgufArchitecture& known) { return known.name == name; });
  if (found != kArchitectures.end()) return *found;
  std::string known;
  for (const GgufArchitecture& one : kArchitectures) {
    known += fmt::format("{}{}", known.empty() ? "" : ", ", one.name);
  }
  metadata.fail(kKey, "GGUF architecture is not supported", known, name,
                "use the model's safetensors");
}

}  // namespace moe4
