// Messages of the library go to a callback; the library itself neither prints nor exits.
#pragma once

#include <functional>
#include <string>

namespace moe4 {

enum class LogLevel { kDebug, kInfo, kWarning };
using LogCallback = std::function<void(LogLevel, const std::string&)>;

/// Replaces the callback of the process (default: none). Call it before threads start.
void set_log_callback(LogCallback callback);
void log(LogLevel level, const std::string& message);

}  // namespace moe4
