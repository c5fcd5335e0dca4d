// BPE over bytes or over text from a Hugging Face tokenizer.json, Kimi's tiktoken.model,
// Mistral's tekken.json or the metadata of a GGUF file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moe4 {

class TokenStream;

class Tokenizer {
 public:
  /// Reads tokenizer.json (docs/text.md says which constructs) from a folder; without one,
  /// tiktoken.model (text/tiktoken_model.h) or tekken.json (text/tekken_model.h). Of a GGUF file,
  /// from its metadata (text/gguf_tokenizer.h). Throws Error(kBadInput) naming any construct it
  /// does not know.
  static std::unique_ptr<Tokenizer> load(const std::filesystem::path& directory);
  /// From the text of a tokenizer.json; `name` is for messages.
  static std::unique_ptr<Tokenizer> parse(std::string_view json, const std::string& name);
  ~Tokenizer();

  /// Special tokens inside the text become their ids. Invalid UTF-8 is replaced by U+FFFD, as
  /// Python would have to.
  std::vector<int32_t> encode(std::string_view text) const;
  /// Special tokens are left out unless asked for. Invalid UTF-8 in the result becomes U+FFFD.
  std::string decode(const std::vector<int32_t>& ids, bool skip_special = true) const;
  /// What a token adds to the bytes of a text, as it does behind others; empty for an unknown id.
  std::string token_bytes(int32_t id) const;
  bool is_special(int32_t id) const;
  std::optional<int32_t> token_id(std::string_view token) const;
  int64_t vocab_size() const;

 private:
  friend class StreamDecoder;
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  /// A token as the decoder takes it.
  std::string_view stored_token(int32_t id) const;
  std::unique_ptr<Impl> impl_;
};

/// Turns a stream of ids into text, holding back what later ids may still change: bytes of a UTF-8
/// character that is not complete yet, and a run of byte tokens <0xNN> until it ends.
class StreamDecoder {
 public:
  /// `visible`: special tokens that are not left out, such as the tags of tool calls.
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = true,
                         std::vector<int32_t> visible = {});
  ~StreamDecoder();
  StreamDecoder(StreamDecoder&& other) noexcept;

  /// Text that became certain with this token, maybe empty.
  std::string push(int32_t id);
  /// What is left at the end; broken bytes become U+FFFD.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  std::vector<int32_t> visible_;
  std::unique_ptr<TokenStream> stream_;
};

}  // namespace moe4
