// What a synthetic checkpoint consists of: the list of its tensors and its JSON files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "synth/synth.h"

namespace moe4 {

/// What a tensor is filled with.
enum class Fill {
  kNormal,       ///< BF16, normal with standard deviation `param`
  kConstant,     ///< BF16 or F32, every element `param`
  kUniform,      ///< BF16, uniform in [param, param2]
  kNvfp4Codes,   ///< U8, two codes a byte as a normal distribution with three quarters of the range
                 ///< as two sigma gives
  kBlockScales,  ///< F8_E4M3, normal numbers between 64 and 448
  kFp8Normal,    ///< F8_E4M3, normal with standard deviation 96
};

struct SynthTensor {
  std::string name;
  DType dtype = DType::kBF16;
  std::vector<int64_t> shape;
  Fill fill = Fill::kNormal;
  float param = 0.0f;
  float param2 = 0.0f;

  int64_t num_bytes() const;
};

struct SynthPlan {
  std::vector<SynthTensor> tensors;
  std::string config_json;
  std::string hf_quant_config_json;  ///< empty: the dialect has none
  std::string generation_config_json;
  std::string tokenizer_json;
  std::string tokenizer_config_json;
};

SynthPlan make_synth_plan(const SynthOptions& options);

}  // namespace moe4
