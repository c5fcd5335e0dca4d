// The inner loops of the CPU's ops, one table of functions per instruction set, chosen at run time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/cpu_isa.h"
#include "base/dtype.h"
#include "numerics/bf16.h"
#include "numerics/f16.h"

namespace moe4 {

/// One pass of causal attention: some queries of one KV head over keys [key_begin, key_end).
struct AttendArgs {
  const float* queries = nullptr;  ///< [num_queries, key_dim], dense
  /// [num_queries], both rising: query i sees keys from first_keys[i] (null: 0) up to positions[i].
  const int64_t *positions = nullptr, *first_keys = nullptr;
  int64_t num_queries = 0;  ///< at most kMaxQueries
  /// Keys j of block b = j / kKeyBlock lie at pages + blocks[b] * page_bytes + key_offset, rows of
  /// key_dim elements; values the same with value_offset, rows `value_stride` elements apart (which
  /// may be those of the keys).
  const std::byte* pages = nullptr;
  const int32_t* blocks = nullptr;
  int64_t page_bytes = 0, key_offset = 0, value_offset = 0;
  DType kv_dtype = DType::kF16;  ///< or kF32
  int64_t key_dim = 0;           ///< multiple of 16
  int64_t value_dim = 0;         ///< multiple of 16
  int64_t value_stride = 0;
  float scale = 1.0f;
  int64_t key_begin = 0;  ///< multiple of kKeyBlock; pages before it are not read
  int64_t key_end = 0;
  float* accumulators = nullptr;  ///< out [num_queries, value_dim]: sum of p * v, not normalised
  float* max_score = nullptr;     ///< out [num_queries]; -infinity for a query that sees no key
  float* sum = nullptr;           ///< out [num_queries]: sum of p = exp(score - max_score)
};
inline constexpr int64_t kMaxQueries = 16;
inline constexpr int64_t kKeyBlock = 64;

/// A product of some tokens with a matrix.
struct MatrixArgs {
  const void* matrix = nullptr;  ///< [rows, columns], dense
  DType dtype = DType::kF32;     ///< or kBF16; of times_transposed() kF16 too
  int64_t rows = 0;
  int64_t columns = 0;  ///< multiple of 16
  int64_t num_tokens = 0;
  const float* x = nullptr;  ///< [num_tokens] rows `x_stride` apart
  float* y = nullptr;        ///< [num_tokens] rows `y_stride` apart; does not alias x
  int64_t x_stride = 0, y_stride = 0;
};

/// Gated delta rule of one value head over T tokens:
///   S <- decay S;  S <- S + k (beta (v - k^T S));  out = q^T S.
struct DeltaRuleArgs {
  int64_t num_tokens = 0;
  int64_t key_dim = 0;           ///< multiple of 16
  int64_t value_dim = 0;         ///< multiple of 16
  float* state = nullptr;        ///< [key_dim, value_dim]
  const float* query = nullptr;  ///< [T] rows `qk_stride` apart, normalised and scaled
  const float* key = nullptr;    ///< the same, normalised
  const float* value = nullptr;  ///< [T] rows `value_stride` apart
  const float* decay = nullptr;  ///< [T] `gate_stride` apart: exp(g)
  const float* beta = nullptr;   ///< the same
  int64_t qk_stride = 0, value_stride = 0, gate_stride = 0;
  float* out = nullptr;  ///< [T] rows `out_stride` apart
  int64_t out_stride = 0;
};

/// Recurrence of one Mamba-2 head over T tokens, S as [state_dim, head_dim]:
///   S <- decay S + B outer (dt x);  out = C S + skip x.
struct SsmScanArgs {
  int64_t num_tokens = 0;
  int64_t head_dim = 0;          ///< multiple of 16
  int64_t state_dim = 0;         ///< any
  float* state = nullptr;        ///< [state_dim, head_dim]
  const float* x = nullptr;      ///< [T] rows of head_dim, `x_stride` apart
  const float* b = nullptr;      ///< [T] rows of state_dim, `bc_stride` apart
  const float* c = nullptr;      ///< the same
  const float* decay = nullptr;  ///< [T]: exp(dt a)
  const float* dt = nullptr;     ///< [T]: the step's length, positive
  float skip = 0.0f;             ///< D of the head
  int64_t x_stride = 0, bc_stride = 0;
  float* out = nullptr;  ///< [T] rows `out_stride` apart; does not alias x
  int64_t out_stride = 0;
};

/// Every output is summed over K in one fixed order whatever the number of tokens, so that a
/// token's result never depends on its batch. `n` is a multiple of 16 unless said otherwise.
struct OpKernels {
  CpuIsa isa;
  /// out = x * rsqrt(mean(x^2) + eps) * weight; `in` and `out` may be the same.
  void (*rms_norm)(const float* in, const float* weight, float eps, int64_t n, float* out);
  /// out = x * rsqrt(sum(x^2) + eps) * factor; `in` and `out` may be the same.
  void (*l2_norm)(const float* in, float eps, float factor, int64_t n, float* out);
  /// out = silu(gate) * up.
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* out);
  /// out = max(x, 0)^2; a NaN stays. `x` and `out` may be the same.
  void (*relu2)(const float* x, int64_t n, float* out);
  /// x *= sigmoid(gate).
  void (*sigmoid_mul)(float* x, const float* gate, int64_t n);
  /// y += factor * x.
  void (*axpy)(float factor, const float* x, int64_t n, float* y);
  void (*to_bf16)(const float* in, int64_t n, Bf16* out);
  /// Saturates at +-65504.
  void (*to_f16)(const float* in, int64_t n, F16* out);
  /// out = silu(bias[c] + sum over j of weight[j * weight_stride + c] * rows[j][c]) for n channels
  /// and `taps` rows.
  void (*conv_silu)(const float* const* rows, const float* weight, int64_t weight_stride,
                    const float* bias, int64_t taps, int64_t n, float* out);
  void (*attend)(const AttendArgs& args);
  void (*delta_rule)(const DeltaRuleArgs& args);
  void (*ssm_scan)(const SsmScanArgs& args);
  /// y = x M: [T, rows] -> [T, columns], rows added in order.
  void (*times_matrix)(const MatrixArgs& args);
  /// y = x M^T: [T, columns] -> [T, rows].
  void (*times_transposed)(const MatrixArgs& args);
};

/// The table of an instruction set that this program was built with and this machine has.
const OpKernels& op_kernels(CpuIsa isa = cpu_isa());

}  // namespace moe4
