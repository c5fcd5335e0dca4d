// The recurrence of a Mamba-2 head, for any instruction set (included by kernels_<isa>.cc).
//
// Columns of the state (elements of a head) are independent: a tile of them stays in the L1 cache
// while all tokens pass by, one pass over the state a token.
#pragma once

#include "ops/cpu/kernels.h"

namespace moe4::MOE4_ISA {

template <int W>
inline void ssm_scan_columns(const SsmScanArgs& a, int64_t column) {
  for (int64_t t = 0; t < a.num_tokens; ++t) {
    const float* b = a.b + t * a.bc_stride;
    const float* c = a.c + t * a.bc_stride;
    const Vec decay = set(a.decay[t]), dt = set(a.dt[t]);
    Vec in[W], out[W];
    for (int w = 0; w < W; ++w) {
      const Vec x = load(a.x + t * a.x_stride + column + 16 * w);
      in[w] = mul(dt, x);
      out[w] = mul(set(a.skip), x);
    }
    float* state = a.state + column;
    for (int64_t n = 0; n < a.state_dim; ++n) {
      const Vec write = set(b[n]), read = set(c[n]);
      for (int w = 0; w < W; ++w) {
        float* s = state + n * a.head_dim + 16 * w;
        const Vec updated = fma(write, in[w], mul(decay, load(s)));
        store(s, updated);
        out[w] = fma(read, updated, out[w]);
      }
    }
    for (int w = 0; w < W; ++w) store(a.out + t * a.out_stride + column + 16 * w, out[w]);
  }
}

inline void ssm_scan(const SsmScanArgs& a) {
  constexpr int W = kTileRows;
  int64_t column = 0;
  for (; column + 16 * W <= a.head_dim; column += 16 * W) ssm_scan_columns<W>(a, column);
  for (; column < a.head_dim; column += 16) ssm_scan_columns<1>(a, column);
}

}  // namespace moe4::MOE4_ISA
