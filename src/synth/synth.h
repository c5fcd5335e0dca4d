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

/// How weights are made, whatever they are.
struct FillOptions {
  uint64_t seed = 1;  ///< the same seed gives the same bytes, whatever else is here
  int threads = 0;    ///< 0: all
  /// Called with bytes written and in all, by one thread at a time.
  std::function<void(int64_t done, int64_t total)> progress;
};

struct SynthOptions {
  std::string preset;       ///< one of synth_presets()
  int64_t num_layers = 0;   ///< 0: the preset's own
  int64_t num_experts = 0;  ///< 0: the preset's own
  SynthFormat format = SynthFormat::kModelOptMixed;
  FillOptions fill = {};
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
/// tokenizer (synth/synth_tokenizer.h) and the weights, as synth/plan_writer.h says. Throws
/// Error(kUsage) for an unknown preset too.
SynthResult write_synthetic_checkpoint(const std::filesystem::path& out,
                                       const SynthOptions& options);

/// The same of the checkpoint whose headers lie in `headers`: every tensor there is filled by what
/// name, dtype, shape and neighbours say that it is (synth/tensor_fill.h), and the folder's other
/// .json, .jinja, .txt, .model and .tiktoken files are copied. Without a tokenizer there, one as
/// above is written, unless the vocabulary has no room for it (259 ids). Throws Error(kBadInput)
/// naming the file and what of it has no meaning here: a tensor, or a shard that is absent.
SynthResult fill_headers(const std::filesystem::path& out, const std::filesystem::path& headers,
                         const FillOptions& options);

}  // namespace moe4
