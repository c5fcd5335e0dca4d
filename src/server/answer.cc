// Callbacks of a generation, joined into pieces.
#include "server/answer.h"

#include <utility>

#include "base/error.h"
#include "engine/finite.h"

namespace moe4::server {
namespace {

double seconds(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace

Answer::Answer(const Model& model, const Tokenizer& tokenizer, AnswerRequest request,
               Metrics& metrics, std::function<void(AnswerEvent)> tell)
    : model_(model), request_(std::move(request)), metrics_(metrics), tell_(std::move(tell)) {
  request_.generate.on_token = [this](int32_t token, std::span<const float> logits) {
    take_token(token, logits);
  };
  request_.generate.wants_logits = request_.logprobs.has_value();
  generation_.emplace(model, &tokenizer, request_.generate,
                      [this](const std::string& text) { return take_text(text); });
  if (request_.prompt_logprobs) result_.prompt.push_back({.id = request_.generate.prompt.front()});
}

bool Answer::needs_engine() const { return !generation_->is_done() || request_.prompt_logprobs; }

void Answer::end_without_engine() { finish({}); }

LoopRequest Answer::loop_request(std::shared_ptr<void> keep) {
  LoopRequest loop;
  loop.request = generation_->is_done()
                     ? EngineRequest{.prompt = request_.generate.prompt, .max_new_tokens = 0}
                     : generation_->engine_request();
  loop.request.priority = request_.priority;
  if (request_.prompt_logprobs) {
    loop.request.prompt_logits = [this](int64_t first, std::span<const float> logits) {
      take_prompt(first, logits);
    };
  }
  loop.request.on_start = [this](int64_t cached) { start(cached); };
  loop.request.on_end = [this, keep,
                         inner = std::move(loop.request.on_end)](const RequestEnd& end) {
    if (inner) inner(end);
    finish(end);
  };
  loop.on_abort = [this, keep] {
    generation_->cancel();
    record("abort");
  };
  return loop;
}

void Answer::start(int64_t cached) {
  started_ = Clock::now();
  metrics_.request_started(static_cast<int64_t>(request_.generate.prompt.size()), cached);
}

void Answer::take_token(int32_t token, std::span<const float> logits) {
  const auto now = Clock::now();
  if (tokens_++ == 0) {
    first_ = now;
    metrics_.first_token(seconds(now - arrived_));
  } else {
    metrics_.next_token(seconds(now - last_));
  }
  last_ = now;
  if (request_.logprobs) {
    piece_.tokens.push_back(token_logprobs(logits, token, *request_.logprobs));
  }
}

bool Answer::take_text(const std::string& text) {
  flush(text);
  return true;
}

void Answer::flush(std::string text) {
  piece_.text = std::move(text);
  piece_.completion_tokens = tokens_;
  tell_(std::exchange(piece_, {}));
}

// Logits of a token are the next one's chances.
void Answer::take_prompt(int64_t first, std::span<const float> logits) {
  const auto vocab = static_cast<size_t>(model_.config().vocab_size);
  const std::vector<int32_t>& prompt = request_.generate.prompt;
  require_finite_logits(model_, prompt, logits, first);
  for (size_t row = 0; row < logits.size() / vocab; ++row) {
    const size_t next = static_cast<size_t>(first) + row + 1;
    if (next >= prompt.size()) break;
    MOE4_CHECK(result_.prompt.size() == next);
    result_.prompt.push_back(token_logprobs(logits.subspan(row * vocab, vocab), prompt[next],
                                            request_.logprobs.value_or(0)));
  }
}

void Answer::finish(const RequestEnd& end) {
  std::exception_ptr error = end.error;
  try {
    if (!error) result_.generated = generation_->take_result();
  } catch (...) {
    error = std::current_exception();
  }
  if (error) {
    record("error");
    return tell_(error);
  }
  GenerateResult& generated = result_.generated;
  generated.prompt_tokens = static_cast<int64_t>(request_.generate.prompt.size());
  generated.cached_tokens = end.cached_tokens;
  result_.completion_tokens = tokens_;
  const bool stopped = generated.reason == StopReason::kStopToken ||
                       generated.reason == StopReason::kStopString ||
                       generated.reason == StopReason::kGrammarEnd;
  result_.finish_reason = stopped ? "stop" : "length";
  if (!piece_.tokens.empty()) flush({});
  record(result_.finish_reason);
  tell_(std::make_unique<const AnswerResult>(std::move(result_)));
}

void Answer::record(const char* reason) {
  const auto now = Clock::now();
  const auto started = started_ == Clock::time_point{} ? now : started_;
  const auto first = first_ == Clock::time_point{} ? now : first_;
  metrics_.request_ended({.finished_reason = reason,
                          .prompt_tokens = static_cast<int64_t>(request_.generate.prompt.size()),
                          .generation_tokens = tokens_,
                          .max_tokens = request_.generate.max_new_tokens,
                          .queue = seconds(started - arrived_),
                          .prefill = seconds(first - started),
                          .decode = tokens_ > 0 ? seconds(last_ - first_) : 0,
                          .end_to_end = seconds(now - arrived_)});
}

}  // namespace moe4::server
