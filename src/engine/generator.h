// Generation: what a request asks for, the choice of its tokens from logits, and its end.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/sampler.h"
#include "models/model.h"
#include "text/tokenizer.h"

namespace moe4 {

class TokenMasks;

struct GenerateRequest {
  std::vector<int32_t> prompt;
  int64_t max_new_tokens = 128;
  /// Stop tokens are never chosen, and stop strings not looked for, in the first so many tokens.
  int64_t min_new_tokens = 0;
  int64_t context = 0;  ///< most tokens of prompt and answer; 0: what the model was made for
  SamplingParams sampling;
  std::vector<int32_t> stop_token_ids;    ///< end tokens of the model and of the request
  std::vector<std::string> stop_strings;  ///< cut from the text
  /// Special tokens that are part of the text, which else has none: tags that a DialogParser needs.
  std::vector<int32_t> visible_tokens;
  bool skip_special_tokens = true;  ///< leave the others out of the text
  bool ignore_eos = false;          ///< go on past stop_token_ids (benchmarks)
  /// What the answer must be, over the model's vocabulary; null: anything. Stop tokens are chosen
  /// only where it may end, and it ends by itself where nothing can follow.
  std::shared_ptr<const TokenMasks> grammar;
  /// Called with every token as it is chosen, one that ends the answer included, and with
  /// `wants_logits` the model's own logits [vocab_size] that it was chosen from (else empty). May
  /// be empty; throws what ends the request.
  std::function<void(int32_t token, std::span<const float> logits)> on_token;
  bool wants_logits = false;    ///< of on_token: a GPU must then bring them to the host every step
  int64_t prefill_chunk = 256;  ///< prompt tokens of a step, in an engine of the request's own
  /// Looked at before every step: true ends the request. May be null; of the caller.
  const std::atomic<bool>* cancel = nullptr;
};

/// Most tokens of prompt and answer: `asked` (0: no wish), bounded by the model's own limit.
int64_t context_limit(const ModelConfig& config, int64_t asked);

/// Of an engine for this request alone, as generate() without one makes it.
EngineLimits limits_for(const ModelConfig& config, const GenerateRequest& request);

/// kContextFull: the answer ended where prompt and answer reached the context, short of
/// max_new_tokens. kGrammarEnd: the grammar is fulfilled and nothing can follow.
enum class StopReason { kLength, kStopToken, kStopString, kContextFull, kCancelled, kGrammarEnd };

struct GenerateResult {
  std::vector<int32_t> tokens;  ///< without the stop token
  std::string text;
  StopReason reason = StopReason::kLength;
  std::optional<int32_t> stop_token;  ///< that ended it
  std::string stop_string;            ///< that ended it
  double prefill_seconds = 0;         ///< the prompt, up to the first token's logits
  double decode_seconds = 0;          ///< all tokens after the first
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  ///< of the prompt, that were not computed again
};

/// Called with text as it becomes complete; return false to stop.
using TextCallback = std::function<bool(const std::string& piece)>;

/// One request on its way through an engine: samples its tokens, hands out its text, finds its end.
/// The engine's request refers to it, so it stays where it is until that has ended.
class Generation {
 public:
  /// `tokenizer` may be null when only ids are wanted (no stop strings then). `request` and
  /// `tokenizer` outlive it. Throws Error(kUsage) for an empty prompt, one that leaves no room for
  /// an answer in the context, or parameters out of range.
  Generation(const Model& model, const Tokenizer* tokenizer, const GenerateRequest& request,
             TextCallback on_text = {});
  ~Generation();

  /// Tokens that it may have in all, for an engine's limits.
  /// To be submitted once, to an engine of this model.
  EngineRequest engine_request();
  /// Nothing more comes.
  bool is_done() const;
  /// Ends it; the engine's request has been cancelled.
  void cancel();
  /// Of one that is done. Throws what ended it: Error(kBadInput) when the model's numbers were not
  /// finite, or what `on_text` threw.
  GenerateResult take_result();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// Runs one request in `engine`, together with others that it may have. Throws as Generation.
GenerateResult generate(Engine& engine, const Tokenizer* tokenizer, const GenerateRequest& request,
                        const TextCallback& on_text = {});
/// The same in an engine of its own.
GenerateResult generate(const Model& model, const Tokenizer* tokenizer,
                        const GenerateRequest& request, const TextCallback& on_text = {});

struct PerplexityResult {
  double perplexity = 0;
  double mean_log_likelihood = 0;
  int64_t predictions = 0;
  double seconds = 0;
};

/// exp(-log_likelihood / predictions). Throws Error(kBadInput) when that is no finite number.
double perplexity_from(double log_likelihood, int64_t predictions);

/// Scores rows of token ids, each by itself (HF convention: token i+1 from tokens 0..i).
/// progress(done, total) in tokens. Throws Error(kBadInput) naming row and token when the model's
/// numbers are not finite.
PerplexityResult perplexity(const Model& model, const std::vector<std::vector<int32_t>>& rows,
                            int64_t chunk = 512,
                            const std::function<void(int64_t, int64_t)>& progress = {});

}  // namespace moe4
