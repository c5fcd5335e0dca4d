// Written by hand: a piece for every token of every stream.
#include "server/reply_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <set>

#include "server/json_text.h"
#include "server/prompt_text.h"

namespace moe4::server {
namespace {

// JSON has no infinity.
void append_logprob(std::string& out, double logprob) {
  append_json_number(out, std::max(logprob, -9999.0));
}

std::string token_name(const Serving& serving, int32_t id, bool as_ids) {
  return as_ids ? fmt::format("token_id:{}", id) : token_text(serving, id);
}

// "token", "logprob", "bytes" without braces.
void append_token(std::string& out, const Serving& serving, int32_t id, double logprob,
                  bool as_ids) {
  out += R"("token": )";
  append_json_string(out, token_name(serving, id, as_ids));
  out += R"(, "logprob": )";
  append_logprob(out, logprob);
  out += R"(, "bytes": [)";
  const char* comma = "";
  for (const char byte : serving.tokenizer.token_bytes(id)) {
    fmt::format_to(std::back_inserter(out), "{}{}", comma, static_cast<unsigned char>(byte));
    comma = ", ";
  }
  out += ']';
}

int64_t count_characters(const std::string& valid) {
  return std::count_if(valid.begin(), valid.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

}  // namespace

void append_usage(std::string& out, const Usage& usage) {
  fmt::format_to(std::back_inserter(out),
                 R"({{"prompt_tokens": {}, "completion_tokens": {}, "total_tokens": {}, )"
                 R"("prompt_tokens_details": {{"cached_tokens": {}}}}})",
                 usage.prompt_tokens, usage.completion_tokens,
                 usage.prompt_tokens + usage.completion_tokens, usage.cached_tokens);
}

void append_finish(std::string& out, const char* finish_reason, const AnswerResult& result) {
  out += R"("finish_reason": ")";
  out += finish_reason;
  out += R"(", "stop_reason": )";
  const GenerateResult& generated = result.generated;
  if (generated.reason == StopReason::kStopString) {
    append_json_string(out, generated.stop_string);
  } else if (generated.stop_token) {
    out += std::to_string(*generated.stop_token);
  } else {
    out += "null";
  }
}

std::string stop_text(const Serving& serving, const AnswerResult& result) {
  const GenerateResult& generated = result.generated;
  if (generated.reason == StopReason::kStopString) return generated.stop_string;
  return generated.stop_token ? token_text(serving, *generated.stop_token) : "";
}

void append_chat_logprobs(std::string& out, const Serving& serving,
                          const std::vector<ChosenToken>& tokens, bool as_ids) {
  out += R"({"content": [)";
  for (size_t i = 0; i < tokens.size(); ++i) {
    out += i > 0 ? ", {" : "{";
    append_token(out, serving, tokens[i].id, tokens[i].logprob.value_or(0), as_ids);
    out += R"(, "top_logprobs": [)";
    for (size_t j = 0; j < tokens[i].top.size(); ++j) {
      out += j > 0 ? ", {" : "{";
      append_token(out, serving, tokens[i].top[j].id, tokens[i].top[j].logprob, as_ids);
      out += '}';
    }
    out += "]}";
  }
  out += "]}";
}

void CompletionLogprobs::append(std::string& out, const std::vector<ChosenToken>& tokens) {
  std::string names, logprobs, tops, offsets;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const ChosenToken& token = tokens[i];
    const char* comma = i > 0 ? ", " : "";
    const std::string name = token_name(serving_, token.id, as_ids_);
    append_json_string(names += comma, name);
    offsets += comma + std::to_string(offset_);
    offset_ += count_characters(as_ids_ ? token_text(serving_, token.id) : name);
    logprobs += comma;
    tops += comma;
    if (!token.logprob) {
      logprobs += "null";
      tops += "null";
      continue;
    }
    append_logprob(logprobs, *token.logprob);
    // The token itself is always among them.
    tops += '{';
    append_json_string(tops, name);
    append_logprob(tops += ": ", *token.logprob);
    std::set<std::string> named = {name};
    for (const TokenLogprob& other : token.top) {
      // Parts of characters share a name: the likeliest has it.
      const std::string other_name = token_name(serving_, other.id, as_ids_);
      if (!named.insert(other_name).second) continue;
      append_json_string(tops += ", ", other_name);
      append_logprob(tops += ": ", other.logprob);
    }
    tops += '}';
  }
  fmt::format_to(std::back_inserter(out),
                 R"({{"tokens": [{}], "token_logprobs": [{}], "top_logprobs": [{}], )"
                 R"("text_offset": [{}]}})",
                 names, logprobs, tops, offsets);
}

}  // namespace moe4::server
