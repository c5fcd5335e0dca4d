// Merges flags with generation_config.json.
#include "cli/sampling_flags.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "checkpoint/json_reader.h"
#include "cli/number_flags.h"
#include "cli/options.h"

namespace moe4::cli {
namespace {

constexpr float kMaxBias = 100.0f;  // OpenAI's range, which vLLM keeps

// A checkpoint that does not ask for sampling is decoded greedily; a temperature on the command
// line brings the checkpoint's other settings with it.
float temperature_of(const SamplingFlags& flags, const GenerationConfig& config) {
  return flags.temperature.value_or(config.do_sample ? config.temperature : 0.0f);
}

[[noreturn]] void refuse_bias(const std::string& entry, const std::string& what) {
  throw Error(ErrorCode::kUsage, fmt::format("--logit-bias '{}': {}", printable(entry, 80), what));
}

LogitBias parse_bias(const std::string& entry, std::string_view id, std::string_view value) {
  LogitBias bias;
  const auto parse = [](std::string_view text, auto& number) {
    if (text.starts_with('+')) text.remove_prefix(1);
    const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    return error == std::errc{} && stop == text.data() + text.size();
  };
  if (!parse(id, bias.id) || bias.id < 0) refuse_bias(entry, "the token id is no whole number");
  if (!parse(value, bias.bias) || !(bias.bias >= -kMaxBias && bias.bias <= kMaxBias))
    refuse_bias(entry, "the value is no number from -100 to 100");
  return bias;
}

void parse_bias_object(const std::string& entry, std::vector<LogitBias>& biases) {
  Json object;
  try {
    object = parse_json(entry, "--logit-bias");
  } catch (const Error& error) {
    throw Error(ErrorCode::kUsage, error.what());
  }
  for (const auto& [id, value] : object.items()) {
    if (!value.is_number()) refuse_bias(entry, "the value is no number from -100 to 100");
    biases.push_back(parse_bias(entry, id, value.dump()));
  }
}

}  // namespace

// Those that change which tokens are drawn have no environment variable.
void add_sampling_flags(CLI::App& command, SamplingFlags& flags) {
  with_env(command.add_option("-n,--max-tokens", flags.max_tokens, "Most tokens to generate")
               ->check(whole_number(0)));
  command
      .add_option("--min-tokens", flags.min_tokens,
                  "No stop token or stop text within the first N tokens")
      ->check(whole_number(0));
  command
      .add_option("--temperature", flags.temperature,
                  "0 for greedy; default: the checkpoint's generation_config.json")
      ->check(number_between(0, 100));
  command.add_option("--top-k", flags.top_k, "Keep the K likeliest tokens; 0 or -1 for all")
      ->check(whole_number(-1));
  command.add_option("--top-p", flags.top_p, "Keep the likeliest tokens of this mass")
      ->check(number_between(0, 1));
  command
      .add_option("--min-p", flags.min_p,
                  "Drop tokens below this share of the likeliest one's probability")
      ->check(number_between(0, 1));
  command
      .add_option("--repetition-penalty", flags.repetition_penalty,
                  "Divide the logits of tokens in prompt or answer; 1 for none")
      ->check(number_between(0.01, 100));
  command
      .add_option("--presence-penalty", flags.presence_penalty,
                  "Taken off the logit of every token in the answer, once")
      ->check(number_between(-2, 2));
  command
      .add_option("--frequency-penalty", flags.frequency_penalty,
                  "Taken off a token's logit for every time it is in the answer")
      ->check(number_between(-2, 2));
  command
      .add_option("--logit-bias", flags.logit_bias,
                  "ID=VALUE (-100 to 100), added to the token's logit; may be repeated. "
                  "Or a JSON object {\"ID\": VALUE, ...}")
      ->allow_extra_args(false);
  command.add_option("--seed", flags.seed, "Seed of the sampler")->check(whole_number_64());
  with_env(command.add_option("--stop", flags.stop, "Stop before this text; may be repeated")
               ->allow_extra_args(false));
  with_env(command.add_flag("--ignore-eos", flags.ignore_eos, "Go on past end-of-text tokens"));
  with_env(command.add_option("--ctx", flags.context, "Context limit in tokens; 0 for the model's")
               ->check(whole_number(0)));
}

std::vector<LogitBias> parse_logit_bias(const std::vector<std::string>& entries) {
  std::vector<LogitBias> biases;
  for (const std::string& entry : entries) {
    if (entry.starts_with('{')) {
      parse_bias_object(entry, biases);
      continue;
    }
    const size_t equals = entry.find('=');
    if (equals == std::string::npos) refuse_bias(entry, "expected ID=VALUE or a JSON object");
    const std::string_view text = entry;
    biases.push_back(parse_bias(entry, text.substr(0, equals), text.substr(equals + 1)));
  }
  std::sort(biases.begin(), biases.end(),
            [](const LogitBias& a, const LogitBias& b) { return a.id < b.id; });
  const auto twice =
      std::adjacent_find(biases.begin(), biases.end(),
                         [](const LogitBias& a, const LogitBias& b) { return a.id == b.id; });
  if (twice != biases.end()) {
    throw Error(ErrorCode::kUsage, fmt::format("--logit-bias names token {} twice", twice->id));
  }
  return biases;
}

void check_sampling_flags(const SamplingFlags& flags) {
  parse_logit_bias(flags.logit_bias);
  if (flags.min_tokens > flags.max_tokens) {
    throw Error(ErrorCode::kUsage, fmt::format("--min-tokens {} is above --max-tokens {}: raise -n",
                                               flags.min_tokens, flags.max_tokens));
  }
}

GenerateRequest make_request(const SamplingFlags& flags, const GenerationDefaults& defaults,
                             const ModelConfig& config, std::vector<int32_t> prompt) {
  const int64_t context = context_limit(config, flags.context);
  const auto length = static_cast<int64_t>(prompt.size());
  if (length == 0) {
    throw_bad_input({.what = "the prompt is empty",
                     .expected = "at least one token",
                     .found = "none",
                     .hint = "there is nothing to continue"});
  }
  if (length > context || (length == context && flags.max_tokens > 0)) {
    throw_bad_input({.what = "the prompt does not fit into the context",
                     .expected = fmt::format("at most {} tokens, one less than the context of {}",
                                             context - 1, context),
                     .found = fmt::format("{}", length),
                     .hint = "shorten it or raise --ctx up to the model's limit"});
  }
  GenerateRequest request;
  request.prompt = std::move(prompt);
  request.max_new_tokens = flags.max_tokens;
  request.min_new_tokens = flags.min_tokens;
  request.context = context;
  request.stop_token_ids = defaults.stop_token_ids();
  request.stop_strings = flags.stop;
  request.ignore_eos = flags.ignore_eos;
  SamplingParams& sampling = request.sampling;
  sampling.temperature = temperature_of(flags, defaults.config);
  sampling.top_k = std::max<int64_t>(flags.top_k.value_or(defaults.config.top_k), 0);
  sampling.top_p = flags.top_p.value_or(defaults.config.top_p);
  sampling.min_p = flags.min_p.value_or(defaults.config.min_p);
  sampling.repetition_penalty =
      flags.repetition_penalty.value_or(defaults.config.repetition_penalty);
  sampling.presence_penalty = flags.presence_penalty;
  sampling.frequency_penalty = flags.frequency_penalty;
  sampling.logit_bias = parse_logit_bias(flags.logit_bias);
  sampling.seed = flags.seed;
  check_sampling_params(sampling, config.vocab_size);
  return request;
}

std::vector<std::string> flags_without_effect(const SamplingFlags& flags,
                                              const GenerationDefaults& defaults) {
  std::vector<std::string> lines;
  if (temperature_of(flags, defaults.config) > 0) return lines;
  const auto say = [&](bool given, const char* flag) {
    if (!given) return;
    lines.push_back(
        fmt::format("{} has no effect: decoding is greedy without a --temperature above 0", flag));
  };
  say(flags.top_k.has_value(), "--top-k");
  say(flags.top_p.has_value(), "--top-p");
  say(flags.min_p.has_value(), "--min-p");
  return lines;
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
    case StopReason::kGrammarEnd:
      return "grammar end";
  }
  return "?";
}

}  // namespace moe4::cli
