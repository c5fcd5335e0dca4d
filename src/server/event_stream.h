// Server-sent events: "data: ..." lines, in chunks as they come.
#pragma once

#include <string_view>

#include "server/api_error.h"
#include "server/serving.h"

namespace moe4::server {

/// The response begins with the first event, so that what fails before it has an HTTP status.
class EventStream {
 public:
  explicit EventStream(Call call) : call_(std::move(call)) {}

  /// `name`: of the event, for protocols that have one; may be empty.
  void send(std::string_view data, std::string_view name = {});
  /// An error object, as the response or as the last event.
  void fail(const ApiError& error, std::string_view name = {});
  /// `last`: "[DONE]", or empty for none.
  void finish(std::string_view last);

  const Call& call() const { return call_; }
  bool has_begun() const { return has_begun_; }

 private:
  void begin();

  Call call_;
  bool has_begun_ = false;
};

}  // namespace moe4::server
