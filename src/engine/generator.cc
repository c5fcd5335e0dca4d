// The loop of one request.
#include "engine/generator.h"

#include <algorithm>
#include <chrono>
#include <optional>

#include "base/error.h"
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

  void push(int32_t token) {
    if (decoder_) show(stop_strings_.push(decoder_->push(token)));
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

// Feeds the prompt in chunks; only the last token's logits are made.
void prefill(Model& model, std::span<const int32_t> prompt, int64_t chunk, SequenceState& state,
             std::vector<float>& logits) {
  const auto size = static_cast<int64_t>(prompt.size());
  for (int64_t begin = 0; begin < size; begin += chunk) {
    const int64_t n = std::min(chunk, size - begin);
    const bool last = begin + n == size;
    model.forward(prompt.subspan(begin, n), state, last ? LogitsFor::kLastToken : LogitsFor::kNone,
                  logits);
  }
}

void check(const Model& model, const Tokenizer* tokenizer, const GenerateRequest& request) {
  const int64_t context = model.config().max_position_embeddings;
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  if (prompt == 0) throw Error(ErrorCode::kUsage, "the prompt is empty: give at least one token");
  if (prompt >= context) {
    throw Error(ErrorCode::kUsage, "the prompt has " + std::to_string(prompt) +
                                       " tokens and the model's context is " +
                                       std::to_string(context) + ": shorten it");
  }
  if (request.prefill_chunk <= 0) {
    throw Error(ErrorCode::kUsage, "the prefill chunk must be at least one token");
  }
  if (tokenizer == nullptr && !request.stop_strings.empty()) {
    throw Error(ErrorCode::kUsage, "stop strings need a tokenizer");
  }
}

}  // namespace

GenerateResult generate(Model& model, const Tokenizer* tokenizer, const GenerateRequest& request,
                        const TextCallback& on_text) {
  check(model, tokenizer, request);
  const auto prompt_tokens = static_cast<int64_t>(request.prompt.size());
  GenerateResult result;
  result.prompt_tokens = prompt_tokens;
  if (request.max_new_tokens <= 0) return result;

  const int64_t room = model.config().max_position_embeddings - prompt_tokens;
  const int64_t limit = std::min(request.max_new_tokens, room);
  const auto state = model.new_sequence(prompt_tokens + limit);
  std::mt19937_64 rng(request.sampling.seed);
  Sampler sampler;
  std::vector<int32_t> history = request.prompt;
  history.reserve(history.size() + static_cast<size_t>(limit));
  std::vector<float> logits;
  TextOutput text(tokenizer, request.stop_strings, on_text, result.text);

  const Stopwatch prefill_time;
  prefill(model, request.prompt, request.prefill_chunk, *state, logits);
  result.prefill_seconds = prefill_time.seconds();

  const Stopwatch decode_time;
  for (;;) {
    const int32_t token = sampler.sample(logits, history, request.sampling, rng);
    const auto& stops = request.stop_token_ids;
    if (!request.ignore_eos && std::find(stops.begin(), stops.end(), token) != stops.end()) {
      result.reason = StopReason::kStopToken;
      break;
    }
    result.tokens.push_back(token);
    history.push_back(token);
    text.push(token);
    if (text.stopped() || text.cancelled()) break;
    if (static_cast<int64_t>(result.tokens.size()) == limit) {
      result.reason =
          limit < request.max_new_tokens ? StopReason::kContextFull : StopReason::kLength;
      break;
    }
    model.forward({&token, 1}, *state, LogitsFor::kLastToken, logits);
  }
  if (!text.cancelled()) text.finish();
  if (text.stopped()) result.reason = StopReason::kStopString;
  if (text.cancelled()) result.reason = StopReason::kCancelled;
  result.decode_seconds = decode_time.seconds();
  return result;
}

}  // namespace moe4
