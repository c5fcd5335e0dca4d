// Writes full-shape checkpoints with random but sane weights in the real formats, for speed work.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace moe4 {

enum class SynthFormat {
  kModelOptMixed,  ///< as NVIDIA ships Qwen3.6: experts and lm_head W4A16_NVFP4, attention FP8, the
                   ///< rest BF16
  kModelOptNvfp4,  ///< routed experts W4A4 with calibrated input scales, the rest BF16
  kCompressedTensors,  ///< routed experts NVFP4A16 (`nvfp4-pack-quantized`), the rest BF16
};

struct SynthOptions {
  std::string preset;       ///< one of synth_presets()
  int64_t num_layers = 0;   ///< 0: the preset's own
  int64_t num_experts = 0;  ///< 0: the preset's own
  SynthFormat format = SynthFormat::kModelOptMixed;
  uint64_t seed = 1;
  /// Called with bytes written and in all.
  std::function<void(int64_t done, int64_t total)> progress;
};

struct SynthResult {
  int64_t bytes = 0;
  int64_t tensors = 0;
  int64_t shards = 0;
};

/// "qwen3.6-35b-a3b", "qwen3-30b-a3b", "tiny".
std::vector<std::string> synth_presets();
/// "modelopt-mixed", "modelopt", "compressed-tensors". Throws Error(kUsage) otherwise.
SynthFormat parse_synth_format(const std::string& name);

/// Writes config.json, hf_quant_config.json where the dialect has one, generation_config.json, a
/// tokenizer (synth/synth_tokenizer.h) and the weights in shards of at most 4 GiB. Memory stays
/// bounded by one small buffer. The folder appears under its own name only when it is complete.
/// Throws Error(kUsage) for an unknown preset or an existing `out`, Error(kUnavailable) when the
/// disk is too small.
SynthResult write_synthetic_checkpoint(const std::filesystem::path& out,
                                       const SynthOptions& options);

}  // namespace moe4
