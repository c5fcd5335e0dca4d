// Every step passes on what it is certain of; the rest waits in the step's state.
#include "text/token_decoder.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "text/utf8.h"

namespace moe4 {
namespace {

std::optional<char> byte_of_token(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return std::nullopt;
  unsigned value = 0;
  const char* begin = token.data() + 3;
  const auto [end, error] = std::from_chars(begin, begin + 2, value, 16);
  if (error != std::errc() || end != begin + 2) return std::nullopt;
  return static_cast<char>(value);
}

std::string replace_character(std::string_view text, std::string_view from, std::string_view to) {
  std::string result;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(from, begin), text.size());
    result += text.substr(begin, end - begin);
    if (end < text.size()) result += to;
    begin = end + from.size();
  }
  return result;
}

// How often `content` stands at the begin (end) of the text, `most` at most.
int64_t count_left(std::string_view text, std::string_view content, int64_t most) {
  int64_t count = 0;
  while (count < most && text.starts_with(content)) {
    text.remove_prefix(content.size());
    ++count;
  }
  return count;
}

int64_t count_right(std::string_view text, std::string_view content, int64_t most) {
  int64_t count = 0;
  while (count < most && text.ends_with(content)) {
    text.remove_suffix(content.size());
    ++count;
  }
  return count;
}

std::string strip_token(const StripStep& strip, std::string_view token) {
  token.remove_prefix(static_cast<size_t>(count_left(token, strip.content, strip.start)) *
                      strip.content.size());
  token.remove_suffix(static_cast<size_t>(count_right(token, strip.content, strip.stop)) *
                      strip.content.size());
  return std::string(token);
}

}  // namespace

std::string TokenDecoder::bytes_of(std::string_view token) const {
  std::string text(token);
  for (const DecodeStep& step : steps_) {
    if (const auto* replacement = std::get_if<Replacement>(&step)) {
      text = replacement->apply(text);
    } else if (const auto* metaspace = std::get_if<MetaspaceDecodeStep>(&step)) {
      text = replace_character(text, metaspace->replacement, " ");
    } else if (std::holds_alternative<ByteFallbackStep>(step)) {
      // Later steps see texts, which one byte need not be.
      if (const auto byte = byte_of_token(text)) return std::string(1, *byte);
    }
  }
  return text;
}

TokenStream::TokenStream(const TokenDecoder& decoder)
    : decoder_(decoder), states_(decoder.steps_.size()) {
  const auto& steps = decoder.steps_;
  const auto fuse = std::find_if(steps.begin(), steps.end(), [](const DecodeStep& step) {
    return std::holds_alternative<FuseStep>(step);
  });
  fuse_ = static_cast<size_t>(fuse - steps.begin());
}

void TokenStream::push(std::string_view token, std::string* out) {
  if (!decoder_.byte_level_) return feed(0, std::string(token), out);
  pending_ += token;
  pending_.erase(0, append_utf8_lossy(pending_, /*final=*/false, out));
}

void TokenStream::finish(std::string* out) {
  append_utf8_lossy(pending_, /*final=*/true, out);
  pending_.clear();
  for (size_t step = 0; step < states_.size(); ++step) flush_bytes(step, out);
  states_.assign(states_.size(), StepState{});
}

void TokenStream::feed(size_t step, std::string token, std::string* out) {
  for (; step < states_.size(); ++step) {
    StepState& state = states_[step];
    const DecodeStep& what = decoder_.steps_[step];
    if (const auto* replacement = std::get_if<Replacement>(&what)) {
      token = replacement->apply(token);
    } else if (std::holds_alternative<ByteFallbackStep>(what)) {
      if (const auto byte = byte_of_token(token)) {
        state.bytes += *byte;
        return;
      }
      flush_bytes(step, out);
    } else if (const auto* metaspace = std::get_if<MetaspaceDecodeStep>(&what)) {
      const bool drops = metaspace->drop_first && !state.begun;
      state.begun = true;
      token = replace_character(token, metaspace->replacement, drops ? "" : " ");
    } else if (const auto* strip = std::get_if<StripStep>(&what)) {
      token = step > fuse_ ? strip_fragment(*strip, token, &state) : strip_token(*strip, token);
    }
  }
  *out += token;
}

void TokenStream::flush_bytes(size_t step, std::string* out) {
  const std::string bytes = std::exchange(states_[step].bytes, {});
  if (bytes.empty()) return;
  std::string text;
  const bool valid = append_utf8_lossy(bytes, /*final=*/true, &text) > 0 && text == bytes;
  if (valid) return feed(step + 1, std::move(text), out);
  for (size_t i = 0; i < bytes.size(); ++i) feed(step + 1, "\xEF\xBF\xBD", out);
}

std::string TokenStream::strip_fragment(const StripStep& strip, std::string_view text,
                                        StepState* state) const {
  const size_t width = strip.content.size();
  if (!state->begun) {
    const int64_t cut = count_left(text, strip.content, strip.start - state->cut);
    text.remove_prefix(static_cast<size_t>(cut) * width);
    state->cut += cut;
    state->begun = !text.empty();
  }
  std::string whole = state->held + std::string(text);
  const auto kept =
      whole.size() - static_cast<size_t>(count_right(whole, strip.content, strip.stop)) * width;
  state->held = whole.substr(kept);
  whole.resize(kept);
  return whole;
}

}  // namespace moe4
