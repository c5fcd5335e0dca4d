// The recurrent gated delta rule, for any instruction set (included by kernels_<isa>.cc).
//
// Columns of the state are independent: a tile of them stays in the L1 cache while all tokens pass
// by. Two passes a token: k^T S, then the update together with q^T S.
#pragma once

#include "ops/cpu/kernels.h"

namespace moe4::MOE4_ISA {

template <int W>
inline void delta_rule_columns(const DeltaRuleArgs& a, int64_t column) {
  for (int64_t t = 0; t < a.num_tokens; ++t) {
    const float* key = a.key + t * a.qk_stride;
    const float* query = a.query + t * a.qk_stride;
    const Vec decay = set(a.decay[t * a.gate_stride]);
    const Vec beta = set(a.beta[t * a.gate_stride]);
    float* state = a.state + column;

    Vec memory[W];
    for (auto& m : memory) m = zero();
    for (int64_t i = 0; i < a.key_dim; ++i) {
      const Vec k = set(key[i]);
      for (int w = 0; w < W; ++w) {
        memory[w] = fma(k, load(state + i * a.value_dim + 16 * w), memory[w]);
      }
    }
    Vec delta[W], out[W];
    for (int w = 0; w < W; ++w) {
      const Vec value = load(a.value + t * a.value_stride + column + 16 * w);
      delta[w] = mul(sub(value, mul(decay, memory[w])), beta);
      out[w] = zero();
    }
    for (int64_t i = 0; i < a.key_dim; ++i) {
      const Vec k = set(key[i]), q = set(query[i]);
      for (int w = 0; w < W; ++w) {
        float* s = state + i * a.value_dim + 16 * w;
        const Vec updated = fma(k, delta[w], mul(decay, load(s)));
        store(s, updated);
        out[w] = fma(q, updated, out[w]);
      }
    }
    for (int w = 0; w < W; ++w) store(a.out + t * a.out_stride + column + 16 * w, out[w]);
  }
}

inline void delta_rule(const DeltaRuleArgs& a) {
  constexpr int W = kTileRows;
  int64_t column = 0;
  for (; column + 16 * W <= a.value_dim; column += 16 * W) delta_rule_columns<W>(a, column);
  for (; column < a.value_dim; column += 16) delta_rule_columns<1>(a, column);
}

}  // namespace moe4::MOE4_ISA
