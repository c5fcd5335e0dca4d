// Words for memory that runs out: what is needed in all, what there is, and which flag is the
// cause.
#pragma once

#include <cstdint>
#include <new>
#include <stdexcept>
#include <string>

#include "base/memory_limit.h"
#include "cli/session.h"

namespace moe4::cli {

/// What a command holds beside the weights.
struct MemoryUse {
  int64_t tokens = 0;        ///< in the model's caches, of all sequences
  int64_t sequences = 1;     ///< that have them
  int64_t result_bytes = 0;  ///< logits and the like
  std::string advice;        ///< "lower -n or --ctx"
};

[[noreturn]] void throw_out_of_memory(const Session& session, const MemoryUse& use);

/// fn(), with an error in these words when memory runs out in it.
template <typename Fn>
auto with_memory_words(const Session& session, const MemoryUse& use, const Fn& fn) {
  try {
    return fn();
  } catch (const OutOfMemory&) {
  } catch (const std::bad_alloc&) {
  } catch (const std::length_error&) {  // of a vector
  }
  throw_out_of_memory(session, use);
}

}  // namespace moe4::cli
