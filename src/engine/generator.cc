// The choice of tokens, their text, and where it ends.
#include "engine/generator.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "base/error.h"
#include "engine/constraint.h"
#include "engine/finite.h"
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
  TextOutput(const Tokenizer* tokenizer, const GenerateRequest& request, TextCallback callback,
             std::string& text)
      : stop_strings_(request.stop_strings), callback_(std::move(callback)), text_(text) {
    if (tokenizer == nullptr) return;
    decoder_.emplace(*tokenizer, request.skip_special_tokens, request.visible_tokens);
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
  const std::string& stop_string() const { return stop_strings_.which(); }
  bool cancelled() const { return cancelled_; }

 private:
  void show(const std::string& piece) {
    if (piece.empty()) return;
    text_ += piece;
    if (callback_ && !callback_(piece)) cancelled_ = true;
  }

  std::optional<StreamDecoder> decoder_;
  StopStrings stop_strings_;
  TextCallback callback_;
  std::string& text_;
  bool cancelled_ = false;
};

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

EngineLimits limits_for(const ModelConfig& config, const GenerateRequest& request) {
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  const int64_t generated =
      std::min(request.max_new_tokens, context_limit(config, request.context) - prompt);
  const int64_t tokens = prompt + std::max<int64_t>(generated, 0);
  const int64_t chunk = std::min(request.prefill_chunk, prompt);
  return {.max_tokens = std::max(chunk, kPageTokens) + 1,
          .max_seqs = 1,
          .prompt_chunk = chunk,
          .max_context = tokens,
          .cache_tokens = tokens,
          .prefix_cache = false};
}

class Generation::Impl {
 public:
  Impl(const Model& model, const Tokenizer* tokenizer, const GenerateRequest& request,
       TextCallback on_text)
      : model_(model),
        request_(request),
        prompt_tokens_(static_cast<int64_t>(request.prompt.size())),
        limit_(std::min(request.max_new_tokens,
                        context_limit(model.config(), request.context) - prompt_tokens_)),
        rng_(request.sampling.seed),
        history_(request.prompt),
        text_(tokenizer, request, std::move(on_text), result_.text) {
    result_.prompt_tokens = prompt_tokens_;
    is_done_ = request.max_new_tokens <= 0;
    if (!request.ignore_eos) stops_ = request.stop_token_ids;
    if (request.grammar) grammar_.emplace(request.grammar, model.config().vocab_size);
    if (!is_done_) history_.reserve(history_.size() + static_cast<size_t>(limit_));
  }

  bool is_done() const { return is_done_; }

  EngineRequest engine_request() {
    watch_ = {};
    return {.prompt = request_.prompt,
            .max_new_tokens = limit_,
            .next_token = [this](std::span<float> logits) { return next_token(logits); },
            .device_choice = [this](DeviceChoice& choice) { return device_choice(choice); },
            .has_masks = grammar_.has_value(),
            .take_token = [this](int32_t token) { return take_token(token); },
            .on_end =
                [this](const RequestEnd& end) {
                  result_.cached_tokens = end.cached_tokens;
                  finish(end.error);
                }};
  }

  void cancel() {
    is_cancelled_ = true;
    if (!has_logits_) result_.prefill_seconds = watch_.seconds();
    finish(nullptr);
  }

  GenerateResult take_result() {
    MOE4_CHECK(is_done_);
    if (error_) std::rethrow_exception(error_);
    return std::move(result_);
  }

 private:
  std::optional<int32_t> next_token(std::span<const float> logits) {
    begin_decoding();
    const auto generated = static_cast<int64_t>(result_.tokens.size());
    require_finite_logits(model_, history_, logits, prompt_tokens_ + generated - 1);
    const bool may_stop = generated >= request_.min_new_tokens;
    if (grammar_ && grammar_->is_complete()) return grammar_end();
    const int32_t token = sampler_.sample(
        logits,
        {.tokens = history_,
         .prompt_tokens = request_.prompt.size(),
         .forbidden = may_stop ? std::span<const int32_t>() : stops_,
         .allowed = grammar_ ? grammar_->allowed(stops_, may_stop) : std::span<const uint64_t>()},
        request_.sampling, rng_);
    const std::span<const float> none;
    if (request_.on_token) request_.on_token(token, request_.wants_logits ? logits : none);
    return end_or(token);
  }

  // Plain choices are made on a device, and those among the tokens of a grammar: whoever wants the
  // logits, or edits them otherwise, has them come to the host.
  bool device_choice(DeviceChoice& choice) {
    const SamplingParams& sampling = request_.sampling;
    const auto generated = static_cast<int64_t>(result_.tokens.size());
    const bool may_stop = generated >= request_.min_new_tokens;
    if (request_.wants_logits || (grammar_ ? grammar_->is_complete() : !may_stop) ||
        sampling.repetition_penalty != 1.0f || sampling.presence_penalty != 0.0f ||
        sampling.frequency_penalty != 0.0f || !sampling.logit_bias.empty()) {
      return false;
    }
    choice.row = sample_row(sampling);
    try {
      if (grammar_) choice.mask = grammar_->allowed(stops_, may_stop);
    } catch (const Error&) {  // that nothing may follow: next_token() meets it too, and ends this
      return false;           // request alone
    }
    // The number that sample() would take; if the choice fails, next_token() ends in an error.
    if (sampling.temperature != 0.0f) choice.row.random = rng_();
    return true;
  }

  std::optional<int32_t> take_token(int32_t token) {
    begin_decoding();
    if (request_.on_token) request_.on_token(token, {});
    return end_or(token);
  }

  void begin_decoding() {
    if (has_logits_) return;
    has_logits_ = true;
    result_.prefill_seconds = watch_.seconds();
    watch_ = {};
  }

  // The token, or nothing where the generation ends with it or before it.
  std::optional<int32_t> end_or(int32_t token) {
    const auto generated = static_cast<int64_t>(result_.tokens.size());
    const bool may_stop = generated >= request_.min_new_tokens;
    if (std::find(stops_.begin(), stops_.end(), token) != stops_.end()) {
      result_.reason = StopReason::kStopToken;
      result_.stop_token = token;
      return std::nullopt;
    }
    if (grammar_) grammar_->take(token);
    result_.tokens.push_back(token);
    history_.push_back(token);
    text_.push(token, may_stop);
    if (text_.stopped() || text_.cancelled()) return std::nullopt;
    if (grammar_ && grammar_->is_complete()) return grammar_end();
    if (generated + 1 == limit_ && limit_ < request_.max_new_tokens) {
      result_.reason = StopReason::kContextFull;
    }
    return token;
  }

  std::optional<int32_t> grammar_end() {
    result_.reason = StopReason::kGrammarEnd;
    return std::nullopt;
  }

  void finish(std::exception_ptr error) {
    is_done_ = true;
    error_ = std::move(error);
    try {
      if (!error_ && !text_.cancelled()) text_.finish();
    } catch (...) {
      error_ = std::current_exception();
    }
    if (text_.stopped()) {
      result_.reason = StopReason::kStopString;
      result_.stop_string = text_.stop_string();
    }
    if (is_cancelled_ || text_.cancelled()) result_.reason = StopReason::kCancelled;
    if (has_logits_) result_.decode_seconds = watch_.seconds();
  }

  const Model& model_;
  const GenerateRequest& request_;
  int64_t prompt_tokens_;
  int64_t limit_;  // new tokens
  std::mt19937_64 rng_;
  Sampler sampler_;
  std::vector<int32_t> history_;
  std::span<const int32_t> stops_;
  std::optional<Constraint> grammar_;
  GenerateResult result_;
  TextOutput text_;
  Stopwatch watch_;
  bool has_logits_ = false;
  bool is_done_ = false, is_cancelled_ = false;
  std::exception_ptr error_;
};

Generation::Generation(const Model& model, const Tokenizer* tokenizer,
                       const GenerateRequest& request, TextCallback on_text) {
  check(model, tokenizer, request);
  impl_ = std::make_unique<Impl>(model, tokenizer, request, std::move(on_text));
}
Generation::~Generation() = default;

EngineRequest Generation::engine_request() { return impl_->engine_request(); }
bool Generation::is_done() const { return impl_->is_done(); }
void Generation::cancel() { impl_->cancel(); }
GenerateResult Generation::take_result() { return impl_->take_result(); }

namespace {

GenerateResult run(Engine& engine, Generation& generation, const std::atomic<bool>* cancel) {
  const RequestId id = engine.submit(generation.engine_request());
  try {
    while (!generation.is_done()) {
      if (cancel != nullptr && cancel->load()) {
        engine.cancel(id);
        generation.cancel();
        break;
      }
      engine.step();
    }
  } catch (...) {
    engine.cancel(id);
    throw;
  }
  return generation.take_result();
}

}  // namespace

GenerateResult generate(Engine& engine, const Tokenizer* tokenizer, const GenerateRequest& request,
                        const TextCallback& on_text) {
  Generation generation(engine.model(), tokenizer, request, on_text);
  if (generation.is_done()) return generation.take_result();
  return run(engine, generation, request.cancel);
}

GenerateResult generate(const Model& model, const Tokenizer* tokenizer,
                        const GenerateRequest& request, const TextCallback& on_text) {
  Generation generation(model, tokenizer, request, on_text);
  if (generation.is_done()) return generation.take_result();
  Engine engine(model, limits_for(model.config(), request));
  return run(engine, generation, request.cancel);
}

}  // namespace moe4
