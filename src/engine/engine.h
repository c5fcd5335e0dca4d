// Continuous batching: many requests share the steps of one model.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/runner.h"
#include "engine/scheduler.h"

namespace moe4 {

struct EngineLimits {
  int64_t max_tokens = 512;  ///< of a step; at least max_seqs + kPageTokens
  int64_t max_seqs = 64;     ///< that take part in a step
  int64_t prompt_chunk = 0;  ///< as in SchedulerLimits
  int64_t max_context = 0;   ///< tokens of a request, prompt and generated
  int64_t cache_tokens = 0;  ///< of all requests together that run at once; whole pages
  /// Prompts go on from what was computed of an equal beginning.
  bool prefix_cache = true;
  /// Memory for snapshots of recurrent states, beside those of running requests; the longest unused
  /// makes room. Without a single one, models with recurrent layers compute all of every prompt.
  int64_t snapshot_bytes = int64_t{256} << 20;
  /// Prompts also go on from what was computed while generating. Off by default: where generated
  /// tokens have kernels of their own, its bits are not those of a prompt.
  bool cache_generated = false;
  /// Room for the logits of so many tokens of prompts a step, which EngineRequest::prompt_logits
  /// needs: at least a page, or prompt_chunk where that is smaller. 0: none can have them.
  int64_t prompt_logits = 0;
  int64_t least_snapshot = 0;  ///< as in SchedulerLimits
  PromptGathering gathering;
};

/// What an engine with these limits asks of its runner; `state_bytes`: of a sequence in all
/// recurrent layers. Throws Error(kUsage) without room for a token.
RunnerLimits runner_limits(const EngineLimits& limits, int64_t state_bytes);

/// What an engine is doing.
struct EngineStats {
  int64_t running = 0, waiting = 0;   ///< requests
  int64_t pages = 0, used_pages = 0;  ///< of kPageTokens tokens; those of the prefix cache are free
  int64_t preemptions = 0;            ///< since it was made
  int64_t step_tokens = 0;            ///< computed by the last step
};

/// How a request ended.
struct RequestEnd {
  std::exception_ptr error;   ///< null: as it should
  int64_t cached_tokens = 0;  ///< of its prompt, computed by others before
};

/// How a device chooses a request's next token.
struct DeviceChoice {
  SampleRow row;
  /// Bit i: whether token i may be chosen; ceil(vocab_size / 64) words that stay as they are until
  /// the step has begun. Empty: all may.
  std::span<const uint64_t> mask;
};

struct EngineRequest {
  std::vector<int32_t> prompt;
  int64_t max_new_tokens = 0;  ///< 0: the prompt is computed, and that is all
  int64_t priority = 0;        ///< of requests that wait, lower ones start first
  /// The next token from logits [vocab_size] of all tokens so far; nothing: the request ends. The
  /// logits may be changed in place. What it throws ends this request and no other.
  std::function<std::optional<int32_t>(std::span<float> logits)> next_token;
  /// Asked before a step that ends with a choice: whether it can be made where the logits are, and
  /// how. One with a mask is asked once its token before is known. Where it can, take_token has
  /// what was chosen and next_token is not called, unless the choice failed. May be empty.
  std::function<bool(DeviceChoice& choice)> device_choice;
  /// Its choices may have masks.
  bool has_masks = false;
  /// What next_token would return, from the token chosen by device_choice's row.
  std::function<std::optional<int32_t>(int32_t token)> take_token;
  /// Called with the logits of the prompt's tokens, [n, vocab_size] of those at `first` and after,
  /// in order. A request that has it computes all of its prompt. May be empty.
  std::function<void(int64_t first, std::span<const float> logits)> prompt_logits;
  /// Called once when its first tokens are about to be computed, with the number of those of its
  /// prompt that need not be. Must not throw. May be empty.
  std::function<void(int64_t cached_tokens)> on_start;
  /// Called once when the request has ended by itself; not after cancel(). Must not throw. May be
  /// empty.
  std::function<void(const RequestEnd& end)> on_end;
};

/// Not thread-safe: one thread submits, steps and cancels. Callbacks run inside step(); they may
/// submit, and cancel requests other than their own.
class Engine {
 public:
  /// Throws Error(kUsage) without room for a token, Error(kUnavailable) when memory is short.
  /// `model` must outlive it.
  Engine(const Model& model, const EngineLimits& limits);

  const Model& model() const { return model_; }
  const EngineLimits& limits() const { return limits_; }

  /// Throws Error(kUsage) for an empty prompt or one that the limits cannot hold, Error(kBadInput)
  /// for an id outside the vocabulary.
  RequestId submit(EngineRequest request);
  /// Ends a request without a callback; takes effect at once. Nothing for one that has ended.
  void cancel(RequestId id);
  /// One step of the model for the requests there are; false when there are none. A step that the
  /// model throws out of ends the requests that took part in it. `observer` sees all tokens of the
  /// step.
  ///
  /// Where the device chooses all tokens of a step, the next one begins before they are known here:
  /// callbacks come one call late, and what a request computed beyond its end is dropped.
  bool step(Observer* observer = nullptr);

  int64_t num_requests() const { return static_cast<int64_t>(requests_.size()); }
  int64_t num_preemptions() const { return num_preemptions_; }
  EngineStats stats() const;

 private:
  struct Active {
    EngineRequest request;
    std::vector<int32_t> ids;  // prompt and generated
    PageHasher pages;          // of ids
    bool reuses = false;
    bool started = false;
    bool is_ahead = false;         // the last of ids is a row of the step in flight, not a token
    std::vector<std::byte> saved;  // caches while it is preempted
  };

  // A step of the model that was begun.
  struct Flight {
    std::vector<ScheduledPiece> pieces;
    std::vector<int64_t> num_logits;  // of each
    std::vector<uint8_t> has_choice;  // of each: the device chooses
    bool all_chosen = false;          // for all that want logits
    bool runs_ahead = false;          // no next choice has to wait for one of these
  };

  int64_t wanted_logits(const ScheduledPiece& piece) const;
  void move_caches(const Step& step);
  void call_starts(const Step& step);
  // Begins the next step, if there is anything to do.
  void begin_step(Observer* observer);
  Flight begin_pieces(const Step& step, Observer* observer);
  // Whether requests may go on with the tokens of the step in flight, and lets them.
  bool run_ahead();
  void finish_step(const Flight& flight);
  void take_logits(const ScheduledPiece& piece, int64_t first_row, int64_t num_rows, bool chosen);
  // The choice for the row, on the host where the device made none; nothing: the request ends.
  std::optional<int32_t> choose(const Active& active, int64_t row, bool chosen);
  void take_token(RequestId id, Active& active, std::optional<int32_t> token);
  void fail(const Step& step);
  void end(RequestId id, std::exception_ptr error);
  static void call_end(const Active& active, const RequestEnd& end);

  const Model& model_;
  EngineLimits limits_;
  int64_t num_snapshots_;  // state slots for them
  bool has_state_;         // of recurrent layers
  Runner runner_;
  Scheduler scheduler_;
  std::unordered_map<RequestId, Active> requests_;
  std::vector<SequencePiece> pieces_;
  std::vector<DeviceChoice> choices_;  // of the pieces
  std::optional<Flight> flight_;
  StepResult result_;  // of the last step that was finished
  int64_t num_preemptions_ = 0;
  int64_t step_tokens_ = 0;
};

}  // namespace moe4
