// Results on standard output: what cannot be written is an error.
#pragma once

#include <string_view>

namespace moe4::cli {

/// First thing in main(): a stream that the caller closed must not become the next file that is
/// opened. Writing to a closed standard output fails, reading a closed input finds its end.
void open_standard_streams();

/// Writes and flushes a piece of text as it is generated. Throws Error(kUnavailable).
void write_streamed(std::string_view text);

/// Writes out what is buffered. Throws Error(kUnavailable) when any of the results was lost.
void flush_results();

}  // namespace moe4::cli
