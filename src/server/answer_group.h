// All answers that one request asks for, from submission to the last of them, or to the client's
// leaving.
#pragma once

#include <memory>
#include <vector>

#include "server/answer.h"
#include "server/api_error.h"
#include "server/serving.h"

namespace moe4::server {

/// Makes the response. Calls come one at a time: from the thread of Serving::replies, or from
/// start_answers() where nothing is to be computed. After fail() or done() none follows.
class ReplyWriter {
 public:
  virtual ~ReplyWriter() = default;
  virtual void piece(size_t index, const AnswerPiece& piece) = 0;
  virtual void end(size_t index, const AnswerResult& result) = 0;
  /// All have ended.
  virtual void done() = 0;
  virtual void fail(const ApiError& error) = 0;
};

/// Submits `requests`, whose answers have the indices 0 and up. When the client goes away, or one
/// of them fails, the others are aborted. Throws ApiError, and then has not touched the exchange.
void start_answers(Serving& serving, const Call& call, std::vector<AnswerRequest> requests,
                   std::unique_ptr<ReplyWriter> writer);

}  // namespace moe4::server
