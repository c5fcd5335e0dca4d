// Continuous batching: many requests share the steps of one model.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/runner.h"
#include "engine/scheduler.h"

namespace moe4 {

struct EngineLimits {
  SchedulerLimits scheduler;
  int64_t max_context = 0;   ///< tokens of a request, prompt and generated
  int64_t cache_tokens = 0;  ///< of all requests together that run at once; whole pages
  /// Prompts reuse pages of equal beginnings. Models with recurrent layers compute all of theirs:
  /// a page says nothing of the state at its end.
  bool prefix_cache = true;
};

struct EngineRequest {
  std::vector<int32_t> prompt;
  int64_t max_new_tokens = 0;
  /// The next token from logits [vocab_size] of all tokens so far; nothing: the request ends. The
  /// logits may be changed in place. What it throws ends this request and no other.
  std::function<std::optional<int32_t>(std::span<float> logits)> next_token;
  /// Called once when the request has ended by itself; not after cancel(). May be empty.
  std::function<void(std::exception_ptr error)> on_end;
};

/// Not thread-safe: one thread submits, steps and cancels; callbacks run inside step().
class Engine {
 public:
  /// Throws Error(kUnavailable) when memory is short. `model` must outlive it.
  Engine(const Model& model, const EngineLimits& limits);

  /// Throws Error(kUsage) for an empty prompt or one that the limits cannot hold, Error(kBadInput)
  /// for an id outside the vocabulary.
  RequestId submit(EngineRequest request);
  /// Ends a request without a callback; takes effect at once. Nothing for one that has ended.
  void cancel(RequestId id);
  /// One step of the model for the requests there are; false when there are none.
  bool step();

  int64_t num_requests() const { return static_cast<int64_t>(requests_.size()); }
  int64_t num_preemptions() const { return num_preemptions_; }
  /// Prompt tokens that were not computed since others had.
  int64_t num_cached_tokens() const { return num_cached_tokens_; }

 private:
  struct Active {
    EngineRequest request;
    std::vector<int32_t> ids;      // prompt and generated
    std::vector<std::byte> saved;  // caches while it is preempted
  };

  void finish(RequestId id, std::exception_ptr error);
  void take_token(RequestId id, std::span<float> logits);

  const Model& model_;
  EngineLimits limits_;
  bool reuses_prefixes_;
  Runner runner_;
  Scheduler scheduler_;
  std::map<RequestId, Active> requests_;
  std::vector<SequencePiece> pieces_;
  std::vector<RequestId> sampled_;  // whose logits the step makes, in order
  std::vector<float> logits_;       // [max_seqs, vocab_size]
  int64_t num_preemptions_ = 0, num_cached_tokens_ = 0;
};

}  // namespace moe4
