// The table of fields that all generating endpoints share.
#include "server/sampling_request.h"

#include <algorithm>
#include <charconv>
#include <limits>

#include "base/error.h"

namespace moe4::server {
namespace {

constexpr int64_t kMaxInt = int64_t{1} << 53;  // exact in every client's JSON
constexpr size_t kMaxStops = 64, kMaxStopBytes = 1024;
constexpr size_t kMaxBiases = 65536;

void read_stop(const JsonValue& value, SamplingRequest& request) {
  const auto add = [&](const JsonValue& text, const std::string& name) {
    std::string stop = read_string(text, name);
    if (stop.size() > kMaxStopBytes) {
      refuse_field(name, fmt::format("{} bytes: expected at most {}", stop.size(), kMaxStopBytes));
    }
    if (!stop.empty()) request.stop.push_back(std::move(stop));
  };
  if (value.is_string()) return add(value, "stop");
  if (!value.is_array()) {
    refuse_field(
        "stop", fmt::format("expected a string or a list of strings, found {}", type_words(value)));
  }
  if (value.size() > kMaxStops) {
    refuse_field("stop", fmt::format("{} strings: expected at most {}", value.size(), kMaxStops));
  }
  for (size_t i = 0; i < value.size(); ++i) add(value[i], fmt::format("stop[{}]", i));
}

void read_stop_token_ids(const JsonValue& value, SamplingRequest& request) {
  read_array(value, "stop_token_ids");
  if (value.size() > kMaxBiases) refuse_field("stop_token_ids", "too many ids");
  for (size_t i = 0; i < value.size(); ++i) {
    request.stop_token_ids.push_back(static_cast<int32_t>(
        read_integer(value[i], fmt::format("stop_token_ids[{}]", i), 0, INT32_MAX)));
  }
}

void read_logit_bias(const JsonValue& value, SamplingRequest& request) {
  read_object(value, "logit_bias");
  if (value.size() > kMaxBiases) {
    refuse_field("logit_bias",
                 fmt::format("{} tokens: expected at most {}", value.size(), kMaxBiases));
  }
  for (const auto& [key, bias] : value.items()) {
    const std::string name = "logit_bias." + printable(key, 40);
    int32_t id = 0;
    const auto [stop, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc{} || stop != key.data() + key.size() || id < 0 ||
        std::to_string(id) != key) {
      refuse_field(name, "the name is no token id");
    }
    request.logit_bias.push_back(
        {.id = id, .bias = static_cast<float>(read_number(bias, name, -100, 100))});
  }
  std::sort(request.logit_bias.begin(), request.logit_bias.end(),
            [](const LogitBias& a, const LogitBias& b) { return a.id < b.id; });
}

void read_stream_options(const JsonValue& value, SamplingRequest& request) {
  read_object(value, "stream_options");
  const auto flag = [&](const char* name) {
    const auto found = value.find(name);
    if (found == value.end() || found->is_null()) return false;
    return read_boolean(*found, std::string("stream_options.") + name);
  };
  request.include_usage = flag("include_usage");
  request.continuous_usage_stats = flag("continuous_usage_stats");
}

Field<SamplingRequest> guided_field(const char* name, const char* kind, JsonValue schema) {
  return custom_field<SamplingRequest>(
      name, std::move(schema),
      [=](const JsonValue& value, SamplingRequest& request) {
        read_guided(kind, value, name, request.structure);
      },
      "What the answer must be; an older form of structured_outputs");
}

Fields<SamplingRequest> make_fields() {
  using R = SamplingRequest;
  const JsonValue strings = {{"type", "array"}, {"items", {{"type", "string"}}}};
  return {
      string_field("model", &R::model, "Name of the model; see /v1/models"),
      boolean_field("stream", &R::stream, "Send the answer piece by piece as server-sent events"),
      custom_field<R>("stream_options",
                      {{"type", {"object", "null"}},
                       {"properties",
                        {{"include_usage", {{"type", {"boolean", "null"}}}},
                         {"continuous_usage_stats", {{"type", {"boolean", "null"}}}}}}},
                      read_stream_options, "Usage in the stream"),
      integer_field("n", &R::n, 1, 128, "Answers to each prompt"),
      integer_field("max_tokens", &R::max_tokens, 0, INT32_MAX, "Most tokens to generate"),
      integer_field("min_tokens", &R::min_tokens, 0, INT32_MAX,
                    "No stop token and no stop text within the first so many tokens"),
      number_field("temperature", &R::temperature, 0, 100, "0 is greedy"),
      number_field("top_p", &R::top_p, 0, 1, "Keep the likeliest tokens of this mass"),
      integer_field("top_k", &R::top_k, -1, INT32_MAX, "Keep so many tokens; 0 and -1 are all"),
      number_field("min_p", &R::min_p, 0, 1,
                   "Drop tokens below this share of the likeliest one's probability"),
      number_field("repetition_penalty", &R::repetition_penalty, 0.01, 100,
                   "Divides the logits of tokens in prompt or answer; 1 is off"),
      number_field("presence_penalty", &R::presence_penalty, -2, 2,
                   "Taken off the logit of every token in the answer"),
      number_field("frequency_penalty", &R::frequency_penalty, -2, 2,
                   "Taken off a token's logit for every time it is in the answer"),
      custom_field<R>(
          "logit_bias",
          {{"type", {"object", "null"}},
           {"additionalProperties", {{"type", "number"}, {"minimum", -100}, {"maximum", 100}}},
           {"propertyNames", {{"pattern", "^(0|[1-9][0-9]{0,5})$"}}}},
          read_logit_bias, "Added to the logits of these token ids"),
      integer_field("seed", &R::seed, -kMaxInt, kMaxInt,
                    "Of the sampler; without one it is random"),
      custom_field<R>("stop",
                      {{"anyOf",
                        {{{"type", "null"}},
                         {{"type", "string"}, {"maxLength", 256}},
                         {{"type", "array"},
                          {"items", {{"type", "string"}, {"maxLength", 256}}},
                          {"maxItems", kMaxStops}}}}},
                      read_stop, "End before one of these texts"),
      custom_field<R>("stop_token_ids",
                      {{"type", {"array", "null"}},
                       {"items", {{"type", "integer"}, {"minimum", 0}, {"maximum", INT32_MAX}}}},
                      read_stop_token_ids, "End at one of these tokens"),
      boolean_field("include_stop_str_in_output", &R::include_stop_str_in_output,
                    "The text that ended the answer is part of it"),
      boolean_field("ignore_eos", &R::ignore_eos, "Go on past the model's end tokens"),
      boolean_field("skip_special_tokens", &R::skip_special_tokens,
                    "Leave special tokens out of the text"),
      boolean_field("return_tokens_as_token_ids", &R::return_tokens_as_token_ids,
                    "Tokens of logprobs are named token_id:N"),
      integer_field("priority", &R::priority, INT32_MIN, INT32_MAX,
                    "Requests of lower numbers start earlier"),
      ignored_field<R>("user", "Changes nothing"),
      ignored_field<R>("request_id", "Changes nothing; use the header X-Request-Id"),
      refused_field<R>("use_beam_search", false, "beam search is not supported"),
      refused_field<R>("best_of", 1, "only 1 is supported; use n"),
      refused_field<R>("prompt_logprobs", false,
                       "not supported; /v1/completions with echo and logprobs gives them"),
      refused_field<R>("truncate_prompt_tokens", -1, "not supported: shorten the prompt"),
      refused_field<R>("logits_processors", JsonValue::array(), "not supported"),
      refused_field<R>("bad_words", JsonValue::array(), "not supported; use logit_bias"),
      refused_field<R>("allowed_token_ids", JsonValue::array(), "not supported; use logit_bias"),
      refused_field<R>("length_penalty", 1.0, "beam search is not supported"),
      refused_field<R>("spaces_between_special_tokens", true, "only true is supported"),
      custom_field<R>(
          "response_format",
          {{"type", {"object", "null"}},
           {"properties", {{"type", {{"enum", {"text", "json_object"}}}}}},
           {"required", {"type"}}},
          [](const JsonValue& value, R& request) {
            read_response_format(value, "response_format", request.structure);
          },
          "Any text, a JSON object, or what a JSON schema accepts"),
      custom_field<R>(
          "structured_outputs",
          {{"type", {"object", "null"}},
           {"properties", {{"regex", {{"type", "string"}}}}},
           {"additionalProperties", false}},
          [](const JsonValue& value, R& request) {
            read_structured_outputs(value, request.structure);
          },
          "One of json, json_object, regex, choice: what the answer must be"),
      guided_field("guided_json", "json", {{"type", {"string", "null"}}}),
      guided_field("guided_regex", "regex", {{"type", {"string", "null"}}}),
      guided_field("guided_choice", "choice",
                   {{"type", {"array", "null"}}, {"items", {{"type", "string"}}}}),
      guided_field("guided_json_object", "json_object", {{"type", {"boolean", "null"}}}),
      refused_field<R>("guided_grammar", JsonValue(), "grammars are not supported"),
  };
}

}  // namespace

const Fields<SamplingRequest>& sampling_fields() {
  static const Fields<SamplingRequest> fields = make_fields();
  return fields;
}

GenerateRequest to_generate_request(const SamplingRequest& request,
                                    const GenerationDefaults& defaults, int64_t vocab_size,
                                    int64_t max_tokens, uint64_t seed) {
  if (request.min_tokens > max_tokens) {
    refuse_field("min_tokens", fmt::format("{} is above the {} tokens that may be generated",
                                           request.min_tokens, max_tokens));
  }
  const auto check_id = [&](const char* name, int32_t id) {
    if (id < vocab_size) return;
    refuse_field(name, fmt::format("there is no token {}: expected 0 to {}, the model's vocabulary",
                                   id, vocab_size - 1));
  };
  for (const int32_t id : request.stop_token_ids) check_id("stop_token_ids", id);
  for (const LogitBias& bias : request.logit_bias) check_id("logit_bias", bias.id);
  const GenerationConfig& config = defaults.config;
  GenerateRequest generate;
  generate.max_new_tokens = max_tokens;
  generate.min_new_tokens = request.min_tokens;
  generate.stop_token_ids = request.ignore_eos ? std::vector<int32_t>() : defaults.stop_token_ids();
  generate.stop_token_ids.insert(generate.stop_token_ids.end(), request.stop_token_ids.begin(),
                                 request.stop_token_ids.end());
  generate.stop_strings = request.stop;
  generate.skip_special_tokens = request.skip_special_tokens;
  SamplingParams& sampling = generate.sampling;
  // OpenAI's default is 1; a checkpoint that says more is asked first.
  sampling.temperature = request.temperature.value_or(config.do_sample ? config.temperature : 1.0f);
  sampling.top_k = std::max<int64_t>(request.top_k.value_or(config.top_k), 0);
  sampling.top_p = request.top_p.value_or(config.top_p);
  sampling.min_p = request.min_p.value_or(config.min_p);
  sampling.repetition_penalty = request.repetition_penalty.value_or(config.repetition_penalty);
  sampling.presence_penalty = request.presence_penalty;
  sampling.frequency_penalty = request.frequency_penalty;
  sampling.logit_bias = request.logit_bias;
  sampling.seed = request.seed ? static_cast<uint64_t>(*request.seed) : seed;
  return generate;
}

}  // namespace moe4::server
