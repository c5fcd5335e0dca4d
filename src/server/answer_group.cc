// Counts answers down and aborts what nobody waits for.
#include "server/answer_group.h"

#include <mutex>
#include <utility>

namespace moe4::server {
namespace {

class AnswerGroup : public std::enable_shared_from_this<AnswerGroup> {
 public:
  AnswerGroup(EngineLoop& engine, std::unique_ptr<ReplyWriter> writer)
      : engine_(engine), writer_(std::move(writer)) {}

  void start(Serving& serving, std::vector<AnswerRequest> requests) {
    left_ = requests.size();
    for (size_t i = 0; i < requests.size(); ++i) {
      answers_.push_back(std::make_unique<Answer>(
          serving.model, serving.tokenizer, std::move(requests[i]), serving.metrics,
          Answer::Events{
              .piece = [this, i](const AnswerPiece& piece) { take_piece(i, piece); },
              .end = [this, i](const AnswerResult& result) { take_end(i, result); },
              .fail = [this](const std::exception_ptr& error) { take_failure(error); }}));
    }
    if (!answers_.front()->needs_engine()) {
      for (const auto& answer : answers_) answer->end_without_engine();
      return;
    }
    std::vector<LoopRequest> loop;
    for (const auto& answer : answers_) loop.push_back(answer->loop_request(shared_from_this()));
    std::vector<EngineLoop::Ticket> tickets = engine_.submit(std::move(loop));
    const std::lock_guard lock(mutex_);
    tickets_ = std::move(tickets);
    if (unwanted_) abort_all();
  }

  void abort() {
    const std::lock_guard lock(mutex_);
    unwanted_ = true;
    abort_all();
  }

 private:
  void take_piece(size_t index, const AnswerPiece& piece) {
    if (!over_) writer_->piece(index, piece);
  }

  void take_end(size_t index, const AnswerResult& result) {
    if (over_) return;
    writer_->end(index, result);
    if (--left_ > 0) return;
    over_ = true;
    writer_->done();
  }

  void take_failure(const std::exception_ptr& error) {
    if (std::exchange(over_, true)) return;
    try {
      std::rethrow_exception(error);
    } catch (const std::exception& thrown) {
      writer_->fail(to_api_error(thrown));
    }
    abort();
  }

  void abort_all() {
    for (const EngineLoop::Ticket ticket : tickets_) engine_.abort(ticket);
  }

  EngineLoop& engine_;
  // Of the engine's thread once submitted.
  const std::unique_ptr<ReplyWriter> writer_;
  std::vector<std::unique_ptr<Answer>> answers_;
  size_t left_ = 0;
  bool over_ = false;

  std::mutex mutex_;  // of what follows
  std::vector<EngineLoop::Ticket> tickets_;
  bool unwanted_ = false;
};

}  // namespace

void start_answers(Serving& serving, const Call& call, std::vector<AnswerRequest> requests,
                   std::unique_ptr<ReplyWriter> writer) {
  const auto group = std::make_shared<AnswerGroup>(serving.engine, std::move(writer));
  group->start(serving, std::move(requests));
  call.exchange->on_gone([weak = std::weak_ptr(group)] {
    if (const auto there = weak.lock()) there->abort();
  });
}

}  // namespace moe4::server
