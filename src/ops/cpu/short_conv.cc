// The short causal convolution.
#include "ops/cpu/short_conv.h"

namespace moe4 {
namespace {

constexpr int64_t kMaxTaps = 16;

}  // namespace

ShortConv::ShortConv(const TensorRef& weight, const TensorRef& bias, int64_t channels, int64_t taps)
    : channels_(channels),
      taps_(taps),
      weight_bytes_(channels * (taps + (bias.view.empty() ? 0 : 1)) * int64_t{sizeof(float)}),
      weight_(channels * taps),
      bias_(channels, 0.0f) {
  // The file has [channels, 1, taps]; the kernel walks channels side by side.
  const std::vector<float> file = float_vector(weight, channels * taps);
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t j = 0; j < taps; ++j) weight_[j * channels + c] = file[c * taps + j];
  }
  if (!bias.view.empty()) bias_ = float_vector(bias, channels);
}

Support ShortConv::accepts(int64_t taps) {
  if (taps >= 1 && taps <= kMaxTaps) return std::nullopt;
  return Rejection{Rejection::Kind::kShape, "a convolution over " + std::to_string(taps) +
                                                " tokens is not one over 1 to " +
                                                std::to_string(kMaxTaps)};
}

void ShortConv::begin(const RecurrentStates& states) const {
  for (int64_t s = 0; s < states.batch().num_seqs; ++s) {
    if (states.num_tokens(s) > 0 && states.is_new(s)) {
      std::fill_n(states.of(s), (taps_ - 1) * channels_, 0.0f);
    }
  }
}

void ShortConv::run(const OpKernels& kernels, const RecurrentStates& states, const Rows& x,
                    int64_t sequence, int64_t token, int64_t channel, int64_t n, float* out) const {
  const float* state = states.of(sequence);
  const float* rows[kMaxTaps];
  for (int64_t j = 0; j < taps_; ++j) {
    const int64_t t = token - (taps_ - 1) + j;
    const int64_t before = states.first_token(sequence) - t;  // tokens before this step
    rows[j] = (before > 0 ? state + (taps_ - 1 - before) * channels_ : x.row(t)) + channel;
  }
  kernels.conv_silu(rows, weight_.data() + channel, channels_, bias_.data() + channel, taps_, n,
                    out);
}

void ShortConv::end(const RecurrentStates& states, const Rows& x) const {
  for (int64_t s = 0; s < states.batch().num_seqs; ++s) {
    if (states.num_tokens(s) > 0) keep_inputs(states, x, s);
  }
}

void ShortConv::keep_inputs(const RecurrentStates& states, const Rows& x, int64_t sequence) const {
  const int64_t past = taps_ - 1, tokens = states.num_tokens(sequence);
  float* state = states.of(sequence);
  for (int64_t r = 0; r < past; ++r) {  // in rising order: sources lie behind
    const int64_t t = tokens - past + r;
    const float* from =
        t >= 0 ? x.row(states.first_token(sequence) + t) : state + (r + tokens) * channels_;
    std::copy_n(from, channels_, state + r * channels_);
  }
}

}  // namespace moe4
