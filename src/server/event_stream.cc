// Events as text.
#include "server/event_stream.h"

#include <string>
#include <utility>

namespace moe4::server {

void EventStream::begin() {
  if (std::exchange(has_begun_, true)) return;
  HttpHeaders headers = call_.headers();
  headers.emplace_back("Cache-Control", "no-cache");
  headers.emplace_back("X-Accel-Buffering", "no");  // nginx would hold events back
  call_.exchange->begin_stream(
      {.content_type = "text/event-stream; charset=utf-8", .headers = std::move(headers)});
}

void EventStream::send(std::string_view data, std::string_view name) {
  begin();
  std::string event;
  event.reserve(data.size() + name.size() + 20);
  if (!name.empty()) event.append("event: ").append(name).append("\n");
  event.append("data: ").append(data).append("\n\n");
  call_.exchange->write(std::move(event));
}

void EventStream::fail(const ApiError& error, std::string_view name) {
  if (!has_begun_) return call_.respond_json(error.body(), error.status());
  send(error.body(), name);
  finish(name.empty() ? "[DONE]" : "");
}

void EventStream::finish(std::string_view last) {
  if (!last.empty()) send(last);
  begin();
  call_.exchange->finish();
}

}  // namespace moe4::server
