// Added tokens, normaliser, pre-tokenizer, merges; and the way back.
#include "text/tokenizer.h"

#include <algorithm>

#include "base/error.h"
#include "gguf/file.h"
#include "text/byte_alphabet.h"
#include "text/gguf_tokenizer.h"
#include "text/read_text_file.h"
#include "text/tekken_model.h"
#include "text/tiktoken_model.h"
#include "text/tokenizer_parts.h"
#include "text/utf8.h"

namespace moe4 {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{256} << 20;

}  // namespace

struct Tokenizer::Impl {
  TokenizerParts parts;
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

std::unique_ptr<Tokenizer> Tokenizer::load(const std::filesystem::path& directory) {
  if (is_gguf_file(directory)) {
    const auto file = GgufFile::open(first_gguf_file(directory), /*headers_only=*/true);
    return std::unique_ptr<Tokenizer>(
        new Tokenizer(std::make_unique<Impl>(Impl{read_gguf_tokenizer(file->metadata())})));
  }
  const std::filesystem::path path = directory / "tokenizer.json";
  const auto text = read_text_file(path, kMaxFileBytes);
  if (text) return parse(*text, path.string());
  const std::filesystem::path ranks_path = directory / "tiktoken.model";
  if (const auto ranks = read_text_file(ranks_path, kMaxFileBytes)) {
    const std::filesystem::path config_path = directory / "tokenizer_config.json";
    const std::string config = read_text_file(config_path, kMaxFileBytes).value_or("{}");
    return std::unique_ptr<Tokenizer>(new Tokenizer(std::make_unique<Impl>(
        Impl{read_tiktoken_model({*ranks, ranks_path.string()}, {config, config_path.string()})})));
  }
  const std::filesystem::path tekken_path = directory / "tekken.json";
  if (const auto tekken = read_text_file(tekken_path, kMaxFileBytes)) {
    return std::unique_ptr<Tokenizer>(new Tokenizer(
        std::make_unique<Impl>(Impl{read_tekken_model({*tekken, tekken_path.string()})})));
  }
  throw_bad_input({.what = "tokenizer is missing",
                   .file = path.string(),
                   .hint = "download tokenizer.json of the checkpoint (Kimi: tiktoken.model, "
                           "Mistral: tekken.json)"});
}

std::unique_ptr<Tokenizer> Tokenizer::parse(std::string_view json, const std::string& name) {
  return std::unique_ptr<Tokenizer>(
      new Tokenizer(std::make_unique<Impl>(Impl{read_tokenizer_parts(json, name)})));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  const TokenizerParts& parts = impl_->parts;
  std::vector<int32_t> ids;
  BpeScratch scratch;
  const auto on_token = [&](int32_t id) { ids.push_back(id); };
  const auto on_piece = [&](std::string_view piece) { parts.model.encode(piece, &scratch, &ids); };
  const std::string whole = utf8_lossy(text);
  const auto on_raw = [&](std::string_view raw) {
    const std::string normal = parts.normalizer.run(raw);
    const auto on_plain = [&](std::string_view plain) {
      const bool at_start = raw.data() == whole.data() && plain.data() == normal.data();
      parts.pre_tokenizer.split(plain, at_start, on_piece);
    };
    parts.added.split(normal, true, on_plain, on_token);
  };
  parts.added.split(whole, false, on_raw, on_token);
  return ids;
}

std::string Tokenizer::decode(const std::vector<int32_t>& ids, bool skip_special) const {
  StreamDecoder stream(*this, skip_special);
  std::string text;
  for (const int32_t id : ids) text += stream.push(id);
  return text + stream.finish();
}

std::string_view Tokenizer::stored_token(int32_t id) const {
  // Upstream decodes added tokens in their normalised form.
  if (const AddedToken* token = impl_->parts.added.find(id)) return token->pattern;
  return impl_->parts.model.bytes(id);
}

std::string Tokenizer::token_bytes(int32_t id) const {
  const TokenDecoder& decoder = impl_->parts.decoder;
  const std::string_view token = stored_token(id);
  if (!decoder.byte_level()) return decoder.bytes_of(token);
  // ... and through the byte alphabet too.
  if (impl_->parts.added.find(id) == nullptr) return std::string(token);
  return bytes_of_spelling(token).value_or(std::string(token));
}

bool Tokenizer::is_special(int32_t id) const {
  const AddedToken* token = impl_->parts.added.find(id);
  return token != nullptr && token->special;
}

std::optional<int32_t> Tokenizer::token_id(std::string_view token) const {
  if (const AddedToken* added = impl_->parts.added.find(token)) return added->id;
  return impl_->parts.model.find_spelling(token);
}

int64_t Tokenizer::vocab_size() const {
  return std::max(impl_->parts.model.id_limit(), impl_->parts.added.id_limit());
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special,
                             std::vector<int32_t> visible)
    : tokenizer_(tokenizer),
      skip_special_(skip_special),
      visible_(std::move(visible)),
      stream_(std::make_unique<TokenStream>(tokenizer.impl_->parts.decoder)) {}
StreamDecoder::~StreamDecoder() = default;
StreamDecoder::StreamDecoder(StreamDecoder&& other) noexcept = default;

std::string StreamDecoder::push(int32_t id) {
  std::string text;
  if (skip_special_ && tokenizer_.is_special(id) &&
      std::find(visible_.begin(), visible_.end(), id) == visible_.end())
    return text;
  if (tokenizer_.impl_->parts.decoder.byte_level()) {
    stream_->push(tokenizer_.token_bytes(id), &text);
  } else if (const auto token = tokenizer_.stored_token(id); !token.empty()) {
    stream_->push(token, &text);
  }
  return text;
}

std::string StreamDecoder::finish() {
  std::string text;
  stream_->finish(&text);
  return text;
}

}  // namespace moe4
