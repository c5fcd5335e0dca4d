// Byte-level BPE: added tokens, normaliser, pre-tokenizer, merges; and the way back.
#include "text/tokenizer.h"

#include <algorithm>

#include "base/error.h"
#include "text/byte_alphabet.h"
#include "text/normalizer.h"
#include "text/read_text_file.h"
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
  throw_bad_input({.what = "tokenizer is missing",
                   .file = path.string(),
                   .hint = "download tokenizer.json of the checkpoint (Kimi: tiktoken.model)"});
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
  const auto on_plain = [&](std::string_view plain) { parts.pre_tokenizer.split(plain, on_piece); };
  const auto on_raw = [&](std::string_view raw) {
    const std::string normal = parts.nfc ? normalize_nfc(raw) : std::string(raw);
    parts.added.split(normal, true, on_plain, on_token);
  };
  parts.added.split(utf8_lossy(text), false, on_raw, on_token);
  return ids;
}

std::string Tokenizer::decode(const std::vector<int32_t>& ids, bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids) {
    if (!skip_special || !is_special(id)) bytes += token_bytes(id);
  }
  return utf8_lossy(bytes);
}

std::string Tokenizer::token_bytes(int32_t id) const {
  if (const AddedToken* token = impl_->parts.added.find(id)) {
    // Upstream runs added tokens through the byte alphabet too, in their normalised form.
    return bytes_of_spelling(token->pattern).value_or(token->pattern);
  }
  return std::string(impl_->parts.model.bytes(id));
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

std::string StreamDecoder::push(int32_t id) {
  std::string text;
  if (skip_special_ && tokenizer_.is_special(id) &&
      std::find(visible_.begin(), visible_.end(), id) == visible_.end())
    return text;
  pending_ += tokenizer_.token_bytes(id);
  pending_.erase(0, append_utf8_lossy(pending_, false, &text));
  return text;
}

std::string StreamDecoder::finish() {
  std::string text = utf8_lossy(pending_);
  pending_.clear();
  return text;
}

}  // namespace moe4
