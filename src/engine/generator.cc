// The loop of one request.
#include "engine/generator.h"

#include <algorithm>
#include <chrono>
#include <optional>

#include "base/error.h"
#include "engine/finite.h"
#include "engine/sequence.h"
#include "engine/stop_strings.h"

namespace moe4 {
namespace {

class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// Text of the tokens so far, handed to the callback as it becomes certain.
class TextOutput {
 public:
  TextOutput(const Tokenizer* tokenizer, const std::vector<std::string>& stop_strings,
             const TextCallback& callback, std::string& text)
      : stop_strings_(stop_strings), callback_(callback), text_(text) {
    if (tokenizer != nullptr) decoder_.emplace(*tokenizer);
  }

  // `may_stop`: whether the text may end in this token's piece.
  void push(int32_t token, bool may_stop) {
    if (decoder_) show(stop_strings_.push(decoder_->push(token), may_stop));
  }
  void finish() {
    if (!decoder_ || stopped()) return;
    show(stop_strings_.push(decoder_->finish()));
    if (!stopped()) show(stop_strings_.finish());
  }
  bool stopped() const { return stop_strings_.found(); }
  bool cancelled() const { return cancelled_; }

 private:
  void show(const std::string& piece) {
    if (piece.empty()) return;
    text_ += piece;
    if (callback_ && !callback_(piece)) cancelled_ = true;
  }

  std::optional<StreamDecoder> decoder_;
  StopStrings stop_strings_;
  const TextCallback& callback_;
  std::string& text_;
  bool cancelled_ = false;
};

// Feeds the prompt in chunks; only the last token's logits are made. False: cancelled.
bool prefill(Sequence& sequence, const GenerateRequest& request, std::vector<float>& logits) {
  const std::span<const int32_t> prompt(request.prompt);
  const auto size = static_cast<int64_t>(prompt.size());
  for (int64_t begin = 0; begin < size; begin += request.prefill_chunk) {
    if (request.cancel != nullptr && request.cancel->load()) return false;
    const int64_t n = std::min(request.prefill_chunk, size - begin);
    const bool last = begin + n == size;
    sequence.forward(prompt.subspan(begin, n), last ? LogitsFor::kLastToken : LogitsFor::kNone,
                     logits);
  }
  return true;
}

void check(const Model& model, const Tokenizer* tokenizer, const GenerateRequest& request) {
  const auto refuse = [](const std::string& message) { throw Error(ErrorCode::kUsage, message); };
  const int64_t context = context_limit(model.config(), request.context);
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  if (prompt == 0) refuse("the prompt is empty: give at least one token");
  if (prompt > context || (prompt == context && request.max_new_tokens > 0)) {
    refuse("the prompt has " + std::to_string(prompt) + " tokens and the context is " +
           std::to_string(context) + ": shorten it");
  }
  if (request.prefill_chunk <= 0) refuse("the prefill chunk must be at least one token");
  if (request.min_new_tokens < 0 ||
      request.min_new_tokens > std::max<int64_t>(request.max_new_tokens, 0)) {
    refuse("at least " + std::to_string(request.min_new_tokens) + " new tokens are asked for and " +
           "at most " + std::to_string(request.max_new_tokens));
  }
  if (tokenizer == nullptr && !request.stop_strings.empty())
    refuse("stop strings need a tokenizer");
  check_sampling_params(request.sampling, model.config().vocab_size);
}

}  // namespace

int64_t context_limit(const ModelConfig& config, int64_t asked) {
  const int64_t own = config.max_position_embeddings;
  return asked > 0 ? std::min(asked, own) : own;
}

GenerateResult generate(const Model& model, const Tokenizer* tokenizer,
                        const GenerateRequest& request, const TextCallback& on_text) {
  check(model, tokenizer, request);
  const auto prompt_tokens = static_cast<int64_t>(request.prompt.size());
  GenerateResult result;
  result.prompt_tokens = prompt_tokens;
  if (request.max_new_tokens <= 0) return result;

  const int64_t room = context_limit(model.config(), request.context) - prompt_tokens;
  const int64_t limit = std::min(request.max_new_tokens, room);
  Sequence sequence(model, prompt_tokens + limit);
  std::mt19937_64 rng(request.sampling.seed);
  Sampler sampler;
  std::vector<int32_t> history = request.prompt;
  history.reserve(history.size() + static_cast<size_t>(limit));
  std::vector<float> logits;
  TextOutput text(tokenizer, request.stop_strings, on_text, result.text);
  const std::span<const int32_t> stops =
      request.ignore_eos ? std::span<const int32_t>() : std::span(request.stop_token_ids);

  const Stopwatch prefill_time;
  bool cancelled = !prefill(sequence, request, logits);
  result.prefill_seconds = prefill_time.seconds();

  const Stopwatch decode_time;
  while (!cancelled) {
    const auto generated = static_cast<int64_t>(result.tokens.size());
    require_finite_logits(model, history, logits, prompt_tokens + generated - 1);
    const bool may_stop = generated >= request.min_new_tokens;
    const int32_t token =
        sampler.sample(logits,
                       {.tokens = history,
                        .prompt_tokens = request.prompt.size(),
                        .forbidden = may_stop ? std::span<const int32_t>() : stops},
                       request.sampling, rng);
    if (std::find(stops.begin(), stops.end(), token) != stops.end()) {
      result.reason = StopReason::kStopToken;
      break;
    }
    result.tokens.push_back(token);
    history.push_back(token);
    text.push(token, may_stop);
    if (text.stopped() || text.cancelled()) break;
    if (generated + 1 == limit) {
      result.reason =
          limit < request.max_new_tokens ? StopReason::kContextFull : StopReason::kLength;
      break;
    }
    cancelled = request.cancel != nullptr && request.cancel->load();
    if (!cancelled) sequence.forward({&token, 1}, LogitsFor::kLastToken, logits);
  }
  if (!text.cancelled()) text.finish();
  if (text.stopped()) result.reason = StopReason::kStopString;
  if (cancelled || text.cancelled()) result.reason = StopReason::kCancelled;
  result.decode_seconds = decode_time.seconds();
  return result;
}

}  // namespace moe4
