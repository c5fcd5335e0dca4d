// Counts answers down and aborts what nobody waits for.
#include "server/answer_group.h"

#include <mutex>
#include <utility>
#include <variant>

namespace moe4::server {
namespace {

class AnswerGroup : public ReplyTaker, public std::enable_shared_from_this<AnswerGroup> {
 public:
  AnswerGroup(Serving& serving, std::unique_ptr<ReplyWriter> writer)
      : engine_(serving.engine), replies_(serving.replies), writer_(std::move(writer)) {}

  void start(Serving& serving, std::vector<AnswerRequest> requests) {
    left_ = requests.size();
    for (size_t i = 0; i < requests.size(); ++i) {
      answers_.push_back(std::make_unique<Answer>(
          serving.model, serving.tokenizer, std::move(requests[i]), serving.metrics,
          [this, i](AnswerEvent event) { tell(i, std::move(event)); }));
    }
    if (!answers_.front()->needs_engine()) {
      is_here_ = true;
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

  void take(size_t index, AnswerEvent event) noexcept override {
    try {
      write(index, event);
    } catch (...) {
      take_failure(std::current_exception());
    }
  }

 private:
  void tell(size_t index, AnswerEvent event) {
    if (is_here_) return write(index, event);
    replies_.push(shared_from_this(), index, std::move(event));
  }

  void write(size_t index, const AnswerEvent& event) {
    if (over_) return;
    if (const auto* piece = std::get_if<AnswerPiece>(&event)) return writer_->piece(index, *piece);
    if (const auto* error = std::get_if<std::exception_ptr>(&event)) return take_failure(*error);
    take_end(index, *std::get<std::unique_ptr<const AnswerResult>>(event));
  }

  void take_end(size_t index, const AnswerResult& result) {
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
  ReplyQueue& replies_;
  bool is_here_ = false;                          // replies are written where they are made
  std::vector<std::unique_ptr<Answer>> answers_;  // of the engine's thread once submitted
  // Of the replies' thread once submitted.
  const std::unique_ptr<ReplyWriter> writer_;
  size_t left_ = 0;
  bool over_ = false;

  std::mutex mutex_;  // of what follows
  std::vector<EngineLoop::Ticket> tickets_;
  bool unwanted_ = false;
};

}  // namespace

void start_answers(Serving& serving, const Call& call, std::vector<AnswerRequest> requests,
                   std::unique_ptr<ReplyWriter> writer) {
  const auto group = std::make_shared<AnswerGroup>(serving, std::move(writer));
  group->start(serving, std::move(requests));
  call.exchange->on_gone([weak = std::weak_ptr(group)] {
    if (const auto there = weak.lock()) there->abort();
  });
}

}  // namespace moe4::server
