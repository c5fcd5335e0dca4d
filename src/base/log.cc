// The process-wide log callback.
#include "base/log.h"

#include <utility>

namespace moe4 {
namespace {

LogCallback& callback() {
  static LogCallback instance;
  return instance;
}

}  // namespace

void set_log_callback(LogCallback new_callback) { callback() = std::move(new_callback); }

void log(LogLevel level, const std::string& message) {
  if (callback()) callback()(level, message);
}

}  // namespace moe4
