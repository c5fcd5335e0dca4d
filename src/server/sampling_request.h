// What completions and chat completions have in common: how tokens are chosen and when they end.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/generation_defaults.h"
#include "engine/generator.h"
#include "server/request_fields.h"
#include "server/structure.h"

namespace moe4::server {

/// Unset fields take the checkpoint's generation_config.json.
struct SamplingRequest {
  std::string model;  ///< empty: the one there is
  bool stream = false;
  bool include_usage = false;           ///< a last chunk with the usage
  bool continuous_usage_stats = false;  ///< the usage in every chunk
  int64_t n = 1;
  std::optional<int64_t> max_tokens;
  int64_t min_tokens = 0;
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<int64_t> top_k;
  float presence_penalty = 0, frequency_penalty = 0;
  std::vector<LogitBias> logit_bias;  ///< rising ids
  std::optional<int64_t> seed;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool include_stop_str_in_output = false;
  bool ignore_eos = false;
  bool skip_special_tokens = true;
  bool return_tokens_as_token_ids = false;
  int64_t priority = 0;        ///< lower is served earlier
  StructureRequest structure;  ///< the form of the answer
};

const Fields<SamplingRequest>& sampling_fields();

/// The request for the engine, but for its prompt. Throws ApiError(400) for what contradicts
/// itself. `max_tokens`: to generate. Without a seed, `seed` is the one.
GenerateRequest to_generate_request(const SamplingRequest& request,
                                    const GenerationDefaults& defaults, int64_t vocab_size,
                                    int64_t max_tokens, uint64_t seed);

}  // namespace moe4::server
