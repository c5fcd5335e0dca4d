// Flags of run and chat: how tokens are picked and when generation stops.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "checkpoint/model_config.h"
#include "engine/generator.h"

namespace CLI {
class App;
}

namespace moe4::cli {

/// Unset fields take the checkpoint's generation_config.json, else greedy decoding.
struct SamplingFlags {
  int64_t max_tokens = 128;
  std::optional<float> temperature;
  std::optional<int64_t> top_k;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
  uint64_t seed = 0;
  std::vector<std::string> stop;
  bool ignore_eos = false;
  int64_t context = 0;  ///< 0: what the model was made for
};

void add_sampling_flags(CLI::App& command, SamplingFlags& flags);

/// Fills everything but the prompt's text. Throws Error(kBadInput) when the prompt alone exceeds
/// the context.
GenerateRequest make_request(const SamplingFlags& flags, const GenerationConfig& defaults,
                             const ModelConfig& config, std::vector<int32_t> prompt);

/// "stop token", "length", ...
std::string to_string(StopReason reason);

}  // namespace moe4::cli
