// One answer to one prompt on its way through the engine: text, logprobs, times.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "engine/generator.h"
#include "server/engine_loop.h"
#include "server/logprobs.h"
#include "server/metrics.h"

namespace moe4::server {

struct AnswerRequest {
  GenerateRequest generate;
  std::optional<int64_t> logprobs;  ///< of chosen tokens, with so many of the likeliest
  bool prompt_logprobs = false;     ///< of the prompt's tokens, too (needs `logprobs`)
  int64_t priority = 0;             ///< as EngineRequest has it
};

/// Text that became certain, and the tokens chosen since the last piece.
struct AnswerPiece {
  std::string text;
  std::vector<ChosenToken> tokens;  ///< where logprobs were asked for
  int64_t completion_tokens = 0;    ///< so far
};

struct AnswerResult {
  GenerateResult generated;
  int64_t completion_tokens = 0;       ///< the stop token included
  std::vector<ChosenToken> prompt;     ///< where prompt_logprobs were asked for
  const char* finish_reason = "stop";  ///< "stop" or "length"
};

/// What became of an answer: a piece more, its end, or what it failed with.
using AnswerEvent =
    std::variant<AnswerPiece, std::unique_ptr<const AnswerResult>, std::exception_ptr>;

class Answer {
 public:
  /// `tell` is called on the engine's thread. The others outlive the answer. Throws Error(kUsage)
  /// for what Generation refuses.
  Answer(const Model& model, const Tokenizer& tokenizer, AnswerRequest request, Metrics& metrics,
         std::function<void(AnswerEvent)> tell);
  Answer(const Answer&) = delete;
  Answer& operator=(const Answer&) = delete;

  /// To be submitted once; `keep` is held until the engine has let go of it.
  LoopRequest loop_request(std::shared_ptr<void> keep);
  /// Nothing is to be computed: ends at once, here.
  bool needs_engine() const;
  void end_without_engine();

 private:
  using Clock = std::chrono::steady_clock;

  void take_token(int32_t token, std::span<const float> logits);
  bool take_text(const std::string& text);
  void take_prompt(int64_t first, std::span<const float> logits);
  void start(int64_t cached);
  void finish(const RequestEnd& end);
  void flush(std::string text);
  void record(const char* reason);

  const Model& model_;
  AnswerRequest request_;
  Metrics& metrics_;
  const std::function<void(AnswerEvent)> tell_;
  std::optional<Generation> generation_;
  AnswerPiece piece_;  // not handed out yet
  AnswerResult result_;
  Clock::time_point arrived_ = Clock::now(), started_{}, first_{}, last_{};
  int64_t tokens_ = 0;
};

}  // namespace moe4::server
