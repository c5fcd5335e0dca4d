// Forward pass of a decoder, chunk by chunk.
#include "models/decoder.h"

#include <algorithm>

#include "base/error.h"

namespace moe4 {
namespace {

// Tokens worked on together: bounds the scratch memory of long prompts. Results do not depend on
// it.
constexpr int64_t kMaxChunk = 512;

void append(std::vector<float>& to, const float* rows, int64_t num_tokens, int64_t width,
            int64_t stride) {
  for (int64_t t = 0; t < num_tokens; ++t) {
    to.insert(to.end(), rows + t * stride, rows + t * stride + width);
  }
}

}  // namespace

class Decoder::State final : public SequenceState {
 public:
  State(const Decoder& model, int64_t capacity) : capacity_(capacity) {
    for (const DecoderLayer& layer : model.parts_.layers) {
      layers_.push_back(layer.mixer->new_state(capacity, model.kv_dtype_));
    }
  }
  int64_t length() const override { return length_; }
  int64_t capacity() const override { return capacity_; }

  MixerState& layer(size_t i) { return *layers_.at(i); }
  void advance(int64_t tokens) { length_ += tokens; }

 private:
  int64_t capacity_, length_ = 0;
  std::vector<std::unique_ptr<MixerState>> layers_;
};

Decoder::Decoder(DecoderParts parts, const ModelOptions& options)
    : parts_(std::move(parts)),
      context_{*options.threads, layer_kernels(), scratch_},
      kv_dtype_(options.compute_dtype == DType::kF32 ? DType::kF32 : DType::kF16) {}

std::unique_ptr<SequenceState> Decoder::new_sequence(int64_t capacity) const {
  if (capacity <= 0) {
    throw Error(ErrorCode::kUsage, "a sequence needs room for at least one token");
  }
  return std::make_unique<State>(*this, capacity);
}

void Decoder::check_ids(std::span<const int32_t> ids) const {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < parts_.config.vocab_size) continue;
    throw_bad_input({.what = "token id outside the vocabulary at position " + std::to_string(i),
                     .expected = "0 to " + std::to_string(parts_.config.vocab_size - 1),
                     .found = std::to_string(ids[i]),
                     .hint = "use ids of this model's own tokenizer"});
  }
}

void Decoder::forward(std::span<const int32_t> ids, SequenceState& sequence, LogitsFor which,
                      std::vector<float>& logits, HiddenStates* hidden) {
  auto& state = dynamic_cast<State&>(sequence);
  const auto tokens = static_cast<int64_t>(ids.size());
  const int64_t vocab = parts_.config.vocab_size;
  check_ids(ids);
  if (tokens > state.capacity() - state.length()) {
    throw Error(ErrorCode::kUsage, "the sequence holds " + std::to_string(state.length()) + " of " +
                                       std::to_string(state.capacity()) + " tokens: no room for " +
                                       std::to_string(tokens) + " more");
  }
  if (hidden != nullptr) {
    *hidden = HiddenStates{};
    hidden->layers.resize(parts_.layers.size());
    hidden->router_logits.resize(parts_.layers.size());
  }
  const bool all = which == LogitsFor::kAllTokens;
  const bool last = which == LogitsFor::kLastToken && tokens > 0;
  logits.resize(static_cast<size_t>((all ? tokens : (last ? 1 : 0)) * vocab));
  for (int64_t begin = 0; begin < tokens; begin += kMaxChunk) {
    const int64_t n = std::min(kMaxChunk, tokens - begin);
    const bool want = all || (last && begin + n == tokens);
    forward_chunk(ids.subspan(begin, n), state, want ? which : LogitsFor::kNone,
                  logits.data() + (all ? begin * vocab : 0), hidden);
  }
}

Positions Decoder::make_positions(int64_t start, int64_t num_tokens) {
  const int64_t half = parts_.rotary.half();
  auto* cos = scratch_.take<float>(num_tokens * half);
  auto* sin = scratch_.take<float>(num_tokens * half);
  for (int64_t t = 0; t < num_tokens; ++t) {
    parts_.rotary.angles(start + t, cos + t * half, sin + t * half);
  }
  return {.start = start, .num_tokens = num_tokens, .cos = cos, .sin = sin};
}

void Decoder::forward_chunk(std::span<const int32_t> ids, State& state, LogitsFor which,
                            float* logits, HiddenStates* hidden) {
  Scratch::Frame frame(scratch_);
  const auto tokens = static_cast<int64_t>(ids.size());
  const int64_t width = parts_.config.hidden_size;
  auto* residual = scratch_.take<float>(tokens * width);
  auto* delta = scratch_.take<float>(tokens * width);
  const Activations x = take_activations(context_, tokens, width);
  const Positions positions = make_positions(state.length(), tokens);

  for (int64_t t = 0; t < tokens; ++t) {
    if (parts_.embed_tokens) {
      parts_.embed_tokens->look_up(ids[t], residual + t * width);
    } else {
      parts_.lm_head.decode_row(ids[t], residual + t * width);
    }
  }
  if (hidden != nullptr) append(hidden->embed, residual, tokens, width, width);

  for (size_t i = 0; i < parts_.layers.size(); ++i) {
    const DecoderLayer& layer = parts_.layers[i];
    // The feed-forward output of the layer before waits in `delta`.
    add_and_normalize(context_, layer.input_norm, i > 0 ? delta : nullptr, tokens, residual, x);
    if (hidden != nullptr && i > 0) append(hidden->layers[i - 1], residual, tokens, width, width);
    layer.mixer->forward(context_, x, positions, state.layer(i), delta);
    add_and_normalize(context_, layer.post_attention_norm, delta, tokens, residual, x);
    if (hidden != nullptr && layer.moe != nullptr) {
      std::vector<float>& logits_of_all = hidden->router_logits[i];
      const size_t before = logits_of_all.size();
      logits_of_all.resize(before + static_cast<size_t>(tokens * layer.moe->num_experts()));
      layer.moe->router_logits(context_, x, tokens, logits_of_all.data() + before);
    }
    layer.feed_forward->forward(context_, x, tokens, delta);
  }
  state.advance(tokens);

  const int64_t first = which == LogitsFor::kLastToken && hidden == nullptr ? tokens - 1 : 0;
  if (which == LogitsFor::kNone && hidden == nullptr) return;
  add_and_normalize(context_, parts_.final_norm, delta + first * width, tokens - first,
                    residual + first * width, x);
  if (hidden != nullptr) {
    append(hidden->layers.back(), residual, tokens, width, width);
    append(hidden->final_norm, x.data, tokens, width, x.stride);
  }
  if (which == LogitsFor::kNone) return;
  const int64_t skip = which == LogitsFor::kLastToken ? tokens - 1 - first : 0;
  apply_linear(context_, {&parts_.lm_head, x.row(skip), x.stride, logits, parts_.config.vocab_size},
               tokens - first - skip);
}

void Decoder::run_experts(int64_t layer, std::span<const float> x, std::vector<int32_t>& topk_ids,
                          std::vector<float>& topk_weights, std::vector<float>& y) {
  const int64_t width = parts_.config.hidden_size;
  if (layer < 0 || layer >= static_cast<int64_t>(parts_.layers.size()) ||
      parts_.layers[layer].moe == nullptr) {
    throw Error(ErrorCode::kUsage, "layer " + std::to_string(layer) + " has no routed experts");
  }
  const auto tokens = static_cast<int64_t>(x.size()) / width;
  if (tokens * width != static_cast<int64_t>(x.size())) {
    throw_bad_input({.what = "wrong shape of x",
                     .expected = "rows of " + std::to_string(width) + " values",
                     .found = std::to_string(x.size()) + " values"});
  }
  Scratch::Frame frame(scratch_);
  const MoeBlock& moe = *parts_.layers[layer].moe;
  const Activations rows = take_activations(context_, tokens, width);
  for (int64_t t = 0; t < tokens; ++t) {
    std::copy_n(x.data() + t * width, width, rows.row(t));
  }
  const auto pairs = static_cast<size_t>(tokens * moe.top_k());
  if (topk_ids.empty()) {
    topk_ids.resize(pairs);
    topk_weights.resize(pairs);
    moe.route(context_, rows, tokens, topk_ids.data(), topk_weights.data());
  } else if (topk_ids.size() != pairs || topk_weights.size() != pairs) {
    throw_bad_input({.what = "wrong shape of topk_ids or topk_weights",
                     .expected = std::to_string(tokens) + " rows of " + std::to_string(moe.top_k()),
                     .found = std::to_string(topk_ids.size()) + " and " +
                              std::to_string(topk_weights.size()) + " values"});
  }
  y.resize(x.size());
  moe.run_experts(context_, rows, tokens, topk_ids.data(), topk_weights.data(), y.data());
}

int64_t Decoder::bytes_per_token() const {
  int64_t bytes = parts_.lm_head.weight_bytes();
  for (const DecoderLayer& layer : parts_.layers) {
    bytes += layer.mixer->weight_bytes() + layer.feed_forward->weight_bytes();
  }
  return bytes;
}

}  // namespace moe4
