// The way from tokens back to text: the decoder section of tokenizer.json, step by step.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/replacement.h"

namespace moe4 {

struct ByteFallbackStep {};  // tokens <0xNN> in a row become the text of their bytes
struct FuseStep {};          // all tokens become one
struct StripStep {
  std::string content;  // the character that is cut off
  int64_t start = 0;    // at most so often on the left of each token
  int64_t stop = 0;     // ... and on the right
};
struct MetaspaceDecodeStep {
  std::string replacement;  // the character that becomes a space
  bool drop_first = true;   // the first token loses it instead
};
using DecodeStep =
    std::variant<Replacement, ByteFallbackStep, FuseStep, StripStep, MetaspaceDecodeStep>;

/// Immutable; a TokenStream runs it.
class TokenDecoder {
 public:
  /// Tokens are bytes of UTF-8 text (ByteLevel).
  TokenDecoder() = default;
  /// Tokens are texts. Behind a FuseStep stand only FuseSteps and StripSteps.
  explicit TokenDecoder(std::vector<DecodeStep> steps)
      : byte_level_(false), steps_(std::move(steps)) {}

  bool byte_level() const { return byte_level_; }
  /// What a token adds to a text when others stand around it; its byte, for <0xNN>.
  std::string bytes_of(std::string_view token) const;

 private:
  friend class TokenStream;
  bool byte_level_ = true;
  std::vector<DecodeStep> steps_;
};

/// Decodes one text, token by token. Whatever the cuts, the same text comes out.
class TokenStream {
 public:
  explicit TokenStream(const TokenDecoder& decoder);

  /// Appends to `out` what is certain after `token`. Bytes of <0xNN> wait until they end, since one
  /// broken character among them makes all of them U+FFFD.
  void push(std::string_view token, std::string* out);
  /// Appends the rest. The stream is as new afterwards.
  void finish(std::string* out);

 private:
  struct StepState {
    std::string bytes;   // ByteFallback: what waits
    bool begun = false;  // Metaspace: a token was seen; Strip behind Fuse: the left is done
    int64_t cut = 0;     // Strip behind Fuse: characters cut off on the left
    std::string held;    // Strip behind Fuse: characters that are cut off if nothing follows
  };
  void feed(size_t step, std::string token, std::string* out);
  void flush_bytes(size_t step, std::string* out);
  std::string strip_fragment(const StripStep& strip, std::string_view text, StepState* state) const;

  const TokenDecoder& decoder_;
  size_t fuse_ = 0;  // the first FuseStep, or the number of steps
  std::vector<StepState> states_;
  std::string pending_;  // ByteLevel: the beginning of a character
};

}  // namespace moe4
