// What a synthetic checkpoint consists of: the list of its tensors and its other files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "synth/synth.h"

namespace moe4 {

/// What a tensor is filled with.
enum class Fill {
  kNormal,    ///< BF16, F16 or F32, normal with standard deviation `param`
  kConstant,  ///< BF16, F16 or F32, every element `param`
  kUniform,   ///< BF16, F16 or F32, uniform in [param, param2]
  kCodes,     ///< U8 or I8, two codes of E2M1 a byte as a normal distribution with three quarters
              ///< of the range as two sigma gives
  kBlockScales,  ///< F8_E4M3, normal numbers between 64 and 448
  kPowersOfTwo,  ///< F8_E8M0 or U8, two neighbours whose root mean square is near `param`
  kFp8Normal,    ///< F8_E4M3, normal with standard deviation 96
  kExpertIds,    ///< I64 or I32, ids below `param`, no two of `param` that follow each other equal
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

/// A small file, and its text without the newline at its end.
struct SynthText {
  std::string name;
  std::string text;
};

struct SynthPlan {
  std::vector<SynthTensor> tensors;
  std::vector<SynthText> texts;
  std::vector<std::filesystem::path> copies;  ///< files that are copied as they are
};

/// Of one of synth_presets(). Throws what write_synthetic_checkpoint() does.
SynthPlan make_synth_plan(const SynthOptions& options);

/// tokenizer.json, tokenizer_config.json and generation_config.json of synth_tokenizer_json().
std::vector<SynthText> synth_tokenizer_files(int64_t vocab_size);

}  // namespace moe4
