// The outer skin of every function of the C interface: exceptions become a status and one line.
#pragma once

#include <new>
#include <string>

#include "base/error.h"
#include "moe4/moe4.h"

namespace moe4::capi {

/// This thread's last failure, for moe4_last_error().
inline std::string& last_error() {
  thread_local std::string line;
  return line;
}

template <typename F>
moe4_status guarded(F&& f) {
  try {
    f();
    return MOE4_OK;
  } catch (const Error& error) {
    last_error() = error.what();
    return static_cast<moe4_status>(error.code());
  } catch (const std::bad_alloc&) {
    last_error() = "out of memory";
    return MOE4_UNAVAILABLE;
  } catch (const std::exception& error) {
    last_error() = error.what();
    return MOE4_INTERNAL;
  }
}

inline void require(bool condition, const char* message) {
  if (!condition) throw Error(ErrorCode::kUsage, message);
}

/// `what`: "moe4_layer_create".
inline void require_size(size_t found, size_t expected, const char* what) {
  if (found == expected) return;
  throw Error(ErrorCode::kUsage,
              std::string(what) + ": struct_size differs: header and library are of two versions");
}

}  // namespace moe4::capi
