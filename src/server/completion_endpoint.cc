// POST /v1/completions.
#include <fmt/format.h>

#include <ctime>
#include <iterator>
#include <utility>

#include "server/answer_group.h"
#include "server/completion_request.h"
#include "server/endpoints.h"
#include "server/event_stream.h"
#include "server/json_text.h"
#include "server/prompt_text.h"
#include "server/reply_parts.h"

namespace moe4::server {
namespace {

constexpr int64_t kDefaultTokens = 16;  // OpenAI's

struct Options {
  int64_t n = 1;  // answers to a prompt
  bool has_logprobs = false, as_ids = false, include_stop = false;
  bool include_usage = false, continuous_usage = false;
  std::vector<std::string> echoes;  // texts of prompts; empty: no echo
};

// {"id": ..., "object": ..., "created": ..., "model": ..., "choices": [
std::string reply_head(const Serving& serving, const std::string& id) {
  std::string head = R"({"id": )";
  append_json_string(head, "cmpl-" + id);
  fmt::format_to(std::back_inserter(head),
                 R"(, "object": "text_completion", "created": {}, "model": )", std::time(nullptr));
  append_json_string(head, serving.names.front());
  return head + R"(, "choices": [)";
}

Usage usage_of(const std::vector<AnswerResult>& results, int64_t n) {
  Usage usage;
  for (size_t i = 0; i < results.size(); ++i) {
    usage.completion_tokens += results[i].completion_tokens;
    if (static_cast<int64_t>(i) % n != 0) continue;
    usage.prompt_tokens += results[i].generated.prompt_tokens;
    usage.cached_tokens += results[i].generated.cached_tokens;
  }
  return usage;
}

// One JSON document when all has ended.
class WholeReply final : public ReplyWriter {
 public:
  WholeReply(const Serving& serving, Call call, Options options, size_t answers)
      : serving_(serving),
        call_(std::move(call)),
        options_(std::move(options)),
        texts_(answers),
        tokens_(answers),
        results_(answers) {}

  void piece(size_t index, const AnswerPiece& piece) override {
    texts_[index] += piece.text;
    tokens_[index].insert(tokens_[index].end(), piece.tokens.begin(), piece.tokens.end());
  }
  void end(size_t index, const AnswerResult& result) override { results_[index] = result; }
  void fail(const ApiError& error) override { call_.respond_json(error.body(), error.status()); }

  void done() override {
    std::string body = reply_head(serving_, call_.id);
    for (size_t i = 0; i < results_.size(); ++i) append_choice(body, i);
    body += R"(], "usage": )";
    append_usage(body, usage_of(results_, options_.n));
    call_.respond_json(body + "}");
  }

 private:
  void append_choice(std::string& body, size_t i) {
    const AnswerResult& result = results_[i];
    std::string text;
    if (!options_.echoes.empty()) text = options_.echoes[i / static_cast<size_t>(options_.n)];
    text += texts_[i];
    if (options_.include_stop) text += stop_text(serving_, result);
    fmt::format_to(std::back_inserter(body), R"({}{{"index": {}, "text": )", i > 0 ? ", " : "", i);
    append_json_string(body, text);
    body += R"(, "logprobs": )";
    if (options_.has_logprobs) {
      std::vector<ChosenToken> tokens = result.prompt;
      tokens.insert(tokens.end(), tokens_[i].begin(), tokens_[i].end());
      CompletionLogprobs(serving_, options_.as_ids).append(body, tokens);
    } else {
      body += "null";
    }
    append_finish(body += ", ", result.finish_reason, result);
    body += '}';
  }

  const Serving& serving_;
  const Call call_;
  const Options options_;
  std::vector<std::string> texts_;
  std::vector<std::vector<ChosenToken>> tokens_;
  std::vector<AnswerResult> results_;
};

class StreamedReply final : public ReplyWriter {
 public:
  StreamedReply(const Serving& serving, Call call, Options options,
                std::vector<int64_t> prompt_tokens)
      : serving_(serving),
        options_(std::move(options)),
        stream_(std::move(call)),
        head_(reply_head(serving, stream_.call().id)),
        prompt_tokens_(std::move(prompt_tokens)),
        results_(prompt_tokens_.size()),
        logprobs_(results_.size(), CompletionLogprobs(serving, options_.as_ids)),
        has_echoed_(results_.size()) {}

  void piece(size_t index, const AnswerPiece& piece) override {
    std::string chunk = chunk_head(index, echo(index) + piece.text);
    if (options_.has_logprobs) {
      logprobs_[index].append(chunk, piece.tokens);
    } else {
      chunk += "null";
    }
    chunk += R"(, "finish_reason": null, "stop_reason": null})";
    send(std::move(chunk), index, piece.completion_tokens);
  }

  void end(size_t index, const AnswerResult& result) override {
    results_[index] = result;
    std::string text = echo(index);
    if (options_.include_stop) text += stop_text(serving_, result);
    std::string chunk = chunk_head(index, text) + "null, ";
    append_finish(chunk, result.finish_reason, result);
    send(chunk + "}", index, result.completion_tokens);
  }

  void done() override {
    if (options_.include_usage) {
      std::string chunk = head_ + R"(], "usage": )";
      append_usage(chunk, usage_of(results_, options_.n));
      stream_.send(chunk + "}");
    }
    stream_.finish("[DONE]");
  }

  void fail(const ApiError& error) override { stream_.fail(error); }

 private:
  // The prompt's text, once.
  std::string echo(size_t index) {
    if (options_.echoes.empty() || has_echoed_[index]) return "";
    has_echoed_[index] = true;
    return options_.echoes[index / static_cast<size_t>(options_.n)];
  }

  std::string chunk_head(size_t index, const std::string& text) const {
    std::string chunk = head_ + fmt::format(R"({{"index": {}, "text": )", index);
    append_json_string(chunk, text);
    return chunk + R"(, "logprobs": )";
  }

  void send(std::string chunk, size_t index, int64_t completion_tokens) {
    chunk += ']';
    if (options_.continuous_usage) {
      append_usage(chunk += R"(, "usage": )", {.prompt_tokens = prompt_tokens_[index],
                                               .completion_tokens = completion_tokens});
    }
    stream_.send(chunk + "}");
  }

  const Serving& serving_;
  const Options options_;
  EventStream stream_;
  const std::string head_;
  const std::vector<int64_t> prompt_tokens_;
  std::vector<AnswerResult> results_;
  std::vector<CompletionLogprobs> logprobs_;
  std::vector<bool> has_echoed_;
};

std::string text_of(const Serving& serving, const Prompt& prompt) {
  if (const auto* text = std::get_if<std::string>(&prompt)) return *text;
  return serving.tokenizer.decode(std::get<std::vector<int32_t>>(prompt), /*skip_special=*/false);
}

}  // namespace

void complete(Serving& serving, const Call& call) {
  std::vector<std::string> unknown;
  const CompletionRequest request =
      parse_completion_request(parse_body(call.request.body), unknown);
  note_unknown_fields(call.request.path, unknown);
  check_model_name(serving, request.model);
  Options options{.n = request.n,
                  .has_logprobs = request.logprobs.has_value(),
                  .as_ids = request.return_tokens_as_token_ids,
                  .include_stop = request.include_stop_str_in_output,
                  .include_usage = request.include_usage,
                  .continuous_usage = request.continuous_usage_stats};
  const uint64_t seed = random_seed();
  const int64_t vocab_size = serving.model.config().vocab_size;
  const auto masks = serving.structures.masks(request.structure);
  std::vector<AnswerRequest> answers;
  std::vector<int64_t> prompt_tokens;
  for (size_t p = 0; p < request.prompts.size(); ++p) {
    const std::string name = request.prompts.size() == 1 ? "prompt" : fmt::format("prompt[{}]", p);
    const std::vector<int32_t> ids =
        prompt_ids(serving.tokenizer, vocab_size, request.prompts[p], name);
    const auto length = static_cast<int64_t>(ids.size());
    const int64_t most =
        tokens_to_generate(serving.max_model_len, length, request.max_tokens, kDefaultTokens, name);
    if (request.echo) options.echoes.push_back(text_of(serving, request.prompts[p]));
    for (int64_t i = 0; i < request.n; ++i) {
      AnswerRequest answer{
          .generate = to_generate_request(request, serving.defaults, vocab_size, most, seed),
          .logprobs = request.logprobs,
          .prompt_logprobs = request.echo && request.logprobs,
          .priority = request.priority};
      answer.generate.prompt = ids;
      answer.generate.grammar = masks;
      answer.generate.context = serving.max_model_len;
      answer.generate.sampling.seed += static_cast<uint64_t>(i);
      answers.push_back(std::move(answer));
      prompt_tokens.push_back(length);
    }
  }
  std::unique_ptr<ReplyWriter> writer;
  if (request.stream) {
    writer = std::make_unique<StreamedReply>(serving, call, std::move(options),
                                             std::move(prompt_tokens));
  } else {
    writer = std::make_unique<WholeReply>(serving, call, std::move(options), answers.size());
  }
  start_answers(serving, call, std::move(answers), std::move(writer));
}

}  // namespace moe4::server
