// What a model family means by a config.json that leaves keys out, and how it names its experts.
#pragma once

#include <string_view>

#include "checkpoint/stacked_experts.h"
#include "moe/routing.h"

namespace moe4 {

/// Defaults of one family, transformers' own unless said otherwise.
struct Family {
  bool is_qwen35 = false;      ///< qwen3_5_moe: shared expert gate, output gate, delta net
  bool is_qwen3_next = false;  ///< the same blocks, dense layers possible
  bool is_gpt_oss = false;
  bool is_nemotron_h = false;
  bool is_gemma4 = false;
  bool is_step = false;
  bool is_deepseek_v4 = false;
  bool needs_experts = false;                      ///< a file without a number of experts is wrong
  bool expert_width_is_intermediate_size = false;  ///< there is no moe_intermediate_size key
  bool renormalize = true;                         ///< of norm_topk_prob
  bool weight_on_input = false;
  StackedExperts stacked_experts = StackedExperts::kRows;
  bool oai_activation = false;  ///< whatever hidden_act says
  bool correction_bias = false;
  bool one_plus_norms = false;  ///< multiply by 1 + w (all but a delta net's own)
  ScoringFunction scoring = ScoringFunction::kSoftmax;
  std::string_view scoring_name = "softmax";
  std::string_view experts_module = "mlp.experts";
  std::string_view up_projection = "up_proj";
};

/// `model_type` of the text model; an unknown one gets the defaults above.
Family family_of(std::string_view model_type);

}  // namespace moe4
