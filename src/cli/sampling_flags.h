// Flags of run and chat: how tokens are picked and when generation stops.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "checkpoint/model_config.h"
#include "engine/generation_defaults.h"
#include "engine/generator.h"

namespace CLI {
class App;
}

namespace moe4::cli {

/// Unset fields take the checkpoint's generation_config.json, else greedy decoding.
struct SamplingFlags {
  int64_t max_tokens = 128;
  int64_t min_tokens = 0;
  std::optional<float> temperature;
  std::optional<int64_t> top_k;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  std::vector<std::string> logit_bias;  ///< each ID=VALUE or a JSON object
  uint64_t seed = 0;
  std::vector<std::string> stop;
  bool ignore_eos = false;
  int64_t context = 0;  ///< 0: what the model was made for
};

void add_sampling_flags(CLI::App& command, SamplingFlags& flags);

/// What can be checked without a checkpoint; call it first. Throws Error(kUsage).
void check_sampling_flags(const SamplingFlags& flags);

/// Entries of --logit-bias: "15=-100", or {"15": -100, "16": 2.5} as OpenAI's API has it. Throws
/// Error(kUsage) for anything else, a value outside -100 to 100, or an id named twice.
std::vector<LogitBias> parse_logit_bias(const std::vector<std::string>& entries);

/// The request but for its text. Throws Error(kUsage) for a --logit-bias outside the vocabulary and
/// Error(kBadInput) when the prompt is empty or leaves no room for an answer in the context.
GenerateRequest make_request(const SamplingFlags& flags, const GenerationDefaults& defaults,
                             const ModelConfig& config, std::vector<int32_t> prompt);

/// A line for each flag that has no effect beside the others ("--top-p" in greedy decoding).
std::vector<std::string> flags_without_effect(const SamplingFlags& flags,
                                              const GenerationDefaults& defaults);

/// "stop token", "length", ...
std::string to_string(StopReason reason);

}  // namespace moe4::cli
