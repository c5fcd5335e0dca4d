// The families by the beginning of their model_type.
#include "checkpoint/family.h"

#include <algorithm>
#include <initializer_list>

namespace moe4 {
namespace {

bool is_any_of(std::string_view text, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), text) != words.end();
}

bool starts_with_any_of(std::string_view text, std::initializer_list<std::string_view> prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(),
                     [&](std::string_view prefix) { return text.starts_with(prefix); });
}

}  // namespace

Family family_of(std::string_view type) {
  Family family;
  family.is_qwen35 = starts_with_any_of(type, {"qwen3_5_moe", "qwen3_5_text", "qwen3_5"});
  family.is_qwen3_next = type == "qwen3_next";
  family.is_gpt_oss = type == "gpt_oss";
  family.is_nemotron_h = type == "nemotron_h";
  family.is_gemma4 = type.starts_with("gemma4");
  family.is_step = type.starts_with("step3");
  family.is_deepseek_v4 = type.starts_with("deepseek_v4");
  const bool is_llama4 = type.starts_with("llama4");
  const bool is_minimax = type.starts_with("minimax");
  const bool is_hybrid_qwen = family.is_qwen35 || family.is_qwen3_next;

  family.needs_experts = is_hybrid_qwen || is_any_of(type, {"qwen3_moe", "qwen2_moe", "mixtral"});
  family.expert_width_is_intermediate_size =
      is_minimax || is_llama4 ||
      is_any_of(type, {"mixtral", "gpt_oss", "phimoe", "granitemoe", "olmoe"});
  family.renormalize =
      !is_llama4 && !is_any_of(type, {"qwen3_moe", "qwen2_moe", "olmoe", "deepseek_v2"});
  family.weight_on_input = is_llama4;
  if (is_llama4) family.stacked_experts = StackedExperts::kRowsOrColumns;
  if (family.is_gpt_oss) family.stacked_experts = StackedExperts::kAlternatingColumns;
  family.one_plus_norms = is_hybrid_qwen || family.is_step || type.starts_with("minimax_m3");
  family.oai_activation = family.is_gpt_oss || type.starts_with("minimax_m3");
  if (starts_with_any_of(type, {"deepseek_v3", "kimi", "glm4_moe", "glm_moe", "minimax_m", "step3",
                                "nemotron_h", "mimo", "laguna", "hy_v3", "dots1"})) {
    family.scoring_name = "sigmoid";
    family.correction_bias = true;
  } else if (is_llama4) {
    family.scoring_name = "sigmoid";
  } else if (family.is_gpt_oss) {
    family.scoring = ScoringFunction::kSoftmaxOverSelected;
    family.scoring_name = "softmax over the chosen";
  } else if (family.is_deepseek_v4) {
    family.scoring_name = "sqrtsoftplus";
    family.correction_bias = true;
  } else if (type.starts_with("ernie4_5")) {
    family.correction_bias = true;
  }
  if (type == "mixtral" || type == "phimoe" || is_minimax) {
    family.experts_module = "block_sparse_moe.experts";
    family.up_projection = "w3";
  } else if (family.is_nemotron_h) {
    family.experts_module = "mixer.experts";
  } else if (family.is_deepseek_v4) {
    family.experts_module = "ffn.experts";
    family.up_projection = "w3";
  } else if (is_llama4) {
    family.experts_module = "feed_forward.experts";
  } else if (family.is_gemma4) {
    family.experts_module = "experts";
  } else if (family.is_step) {
    family.experts_module = "moe";
  }
  return family;
}

}  // namespace moe4
