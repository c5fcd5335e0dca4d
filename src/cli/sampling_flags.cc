// Merges flags with generation_config.json.
#include "cli/sampling_flags.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "base/error.h"
#include "cli/options.h"

namespace moe4::cli {

void add_sampling_flags(CLI::App& command, SamplingFlags& flags) {
  with_env(command.add_option("-n,--max-tokens", flags.max_tokens, "Most tokens to generate")
               ->check(CLI::NonNegativeNumber));
  with_env(command
               .add_option("--temperature", flags.temperature,
                           "0 for greedy; default: the checkpoint's generation_config.json")
               ->check(CLI::Range(0.0, 100.0)));
  with_env(command.add_option("--top-k", flags.top_k, "Keep the K likeliest tokens; 0 for all")
               ->check(CLI::NonNegativeNumber));
  with_env(command.add_option("--top-p", flags.top_p, "Keep the likeliest tokens of this mass")
               ->check(CLI::Range(0.0, 1.0)));
  with_env(command
               .add_option("--min-p", flags.min_p,
                           "Drop tokens below this share of the likeliest one's probability")
               ->check(CLI::Range(0.0, 1.0)));
  with_env(command
               .add_option("--repetition-penalty", flags.repetition_penalty,
                           "Divide the logits of tokens seen before; 1 for none")
               ->check(CLI::Range(0.01, 100.0)));
  with_env(command.add_option("--seed", flags.seed, "Seed of the sampler"));
  with_env(command.add_option("--stop", flags.stop, "Stop before this text; may be repeated")
               ->allow_extra_args(false));
  with_env(command.add_flag("--ignore-eos", flags.ignore_eos, "Go on past end-of-text tokens"));
  with_env(command.add_option("--ctx", flags.context, "Context limit in tokens; 0 for the model's")
               ->check(CLI::NonNegativeNumber));
}

GenerateRequest make_request(const SamplingFlags& flags, const GenerationConfig& defaults,
                             const ModelConfig& config, std::vector<int32_t> prompt) {
  int64_t context = config.max_position_embeddings;
  if (flags.context > 0) context = std::min(context, flags.context);
  const auto length = static_cast<int64_t>(prompt.size());
  if (length > context) {
    throw_bad_input({.what = "the prompt does not fit into the context",
                     .expected = fmt::format("at most {} tokens", context),
                     .found = fmt::format("{}", length),
                     .hint = "shorten it or raise --ctx up to the model's limit"});
  }
  GenerateRequest request;
  request.prompt = std::move(prompt);
  request.max_new_tokens = std::min(flags.max_tokens, context - length);
  request.stop_token_ids = defaults.eos_token_ids;
  request.stop_strings = flags.stop;
  request.ignore_eos = flags.ignore_eos;
  // A checkpoint that does not ask for sampling is decoded greedily; a temperature on the command
  // line brings the checkpoint's other settings with it.
  SamplingParams& sampling = request.sampling;
  sampling.temperature =
      flags.temperature.value_or(defaults.do_sample ? defaults.temperature : 0.0f);
  sampling.top_k = flags.top_k.value_or(defaults.top_k);
  sampling.top_p = flags.top_p.value_or(defaults.top_p);
  sampling.min_p = flags.min_p.value_or(defaults.min_p);
  sampling.repetition_penalty = flags.repetition_penalty.value_or(defaults.repetition_penalty);
  sampling.seed = flags.seed;
  return request;
}

std::string to_string(StopReason reason) {
  switch (reason) {
    case StopReason::kLength:
      return "length";
    case StopReason::kStopToken:
      return "stop token";
    case StopReason::kStopString:
      return "stop string";
    case StopReason::kContextFull:
      return "context full";
    case StopReason::kCancelled:
      return "cancelled";
  }
  return "?";
}

}  // namespace moe4::cli
