// Products of packed weights with a few tokens' rows: one table of functions per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/cpu_isa.h"
#include "moe/activation.h"
#include "panels/packed_layout.h"

namespace moe4::cpu {

/// Weights of one panel times a few tokens.
struct PanelArgs {
  const std::byte* panel = nullptr;
  /// The panel that this thread will read next, asked for towards the end of this one; null: what
  /// lies behind it.
  const std::byte* next = nullptr;
  int64_t in_features = 0;                 ///< K, before padding
  const std::byte* const* rows = nullptr;  ///< [num_tokens] activation rows
  int64_t num_tokens = 0;
  float* sums = nullptr;         ///< [num_tokens][kPanelRows], overwritten, 64-byte aligned
  std::byte* scratch = nullptr;  ///< kScratchBytes, 64-byte aligned
};

/// Room for a decoded piece of a panel; sized so that it stays in a 32 KiB L1 with the activations.
inline constexpr int64_t kScratchBytes = int64_t{24} << 10;

/// Sums are in units of the stored integers: multiply by the global scale(s) and by this.
inline constexpr float kFp4SumUnit = 0.25f;   ///< both operands are twice their value
inline constexpr float kInt16SumUnit = 0.5f;  ///< weights are twice their value

/// FC1's epilogue: sums of gate and up to values of the intermediate.
struct ActivateArgs {
  const float* sums = nullptr;  ///< [num_tokens][kPanelRows]
  int64_t num_tokens = 0;
  float gate_scale = 1.0f;
  float up_scale = 1.0f;
  const float* bias = nullptr;  ///< [kPanelRows] in the panel's row order, or null
  float* out = nullptr;         ///< 16 values a token when gated, else 32
  int64_t out_stride = 0;       ///< floats between tokens
};

/// All functions give the same bits for a token whatever the other tokens are.
struct Kernels {
  CpuIsa isa;
  /// NVFP4 weights with Fp4Block rows: integer sums of 16 products, exact, then
  /// fma(sum, weight_scale * row_scale, total) along K.
  void (*nvfp4_fp4)(const PanelArgs&);
  /// NVFP4 weights with Int16Block rows: fma(sum, weight_scale, group_total), and
  /// fma(group_total, group_scale, total) every 256 inputs.
  void (*nvfp4_int16)(const PanelArgs&);
  void (*mxfp4_int16)(const PanelArgs&);  ///< the same with MXFP4 weights
  /// Float rows: one fma a product, summed along groups of 128 inputs, then over the groups.
  void (*dense_bf16)(const PanelArgs&);
  void (*dense_f16)(const PanelArgs&);
  void (*dense_f32)(const PanelArgs&);
  void (*dense_fp8)(const PanelArgs&);         ///< no scales in the panel
  void (*dense_fp8_groups)(const PanelArgs&);  ///< float32 scales after the panel's elements
  void (*dense_nvfp4)(const PanelArgs&);       ///< nothing is rounded before the products
  void (*dense_mxfp4)(const PanelArgs&);       ///< likewise
  void (*dense_q8_0)(const PanelArgs&);        ///< the bits of dense_f32 on ggml's decoded weights

  /// x [k] to a Fp4Block row with the codes and scales of nvfp4_quantize_block.
  void (*quantize_fp4)(const float* x, int64_t k, float global, std::byte* row);
  void (*quantize_int16)(const float* x, int64_t k, std::byte* row);
  /// out[i] = bf16(x[i]) * factor, rounded to BF16 when `round`.
  void (*load_bf16)(const uint16_t* x, int64_t n, float factor, bool round, float* out);
  void (*round_to_bf16)(float* x, int64_t n);
  /// Relative error of the exponential inside: below 3e-7.
  void (*activate)(const ActivationParams& activation, const ActivateArgs& args);
  /// y[r] = sums[r] * scale + bias[r] for the 32 rows of a panel.
  void (*scale_panel)(const float* sums, float scale, const float* bias, float* y);
  /// out[i] = sum over j of weights[j] * rows[j][i], in that order, to float or BF16.
  void (*combine)(const float* const* rows, const float* weights, int64_t count, int64_t n,
                  float* out, uint16_t* out_bf16);
};

/// The table of a level that available_cpu_isas() names.
const Kernels& kernels_for(CpuIsa isa);

const Kernels& portable_kernels();
#if defined(__x86_64__)
const Kernels& avx2_kernels();
const Kernels& avx512vnni_kernels();
/// The same bits as the table's, faster; for machines with avx512_features().vbmi.
void avx512vbmi_dense_fp8(const PanelArgs&);
void avx512vbmi_dense_fp8_groups(const PanelArgs&);
#elif defined(__aarch64__)
const Kernels& neon_dotprod_kernels();
/// The same bits as the table's, faster; for machines with neon_features().i8mm.
void neon_i8mm_nvfp4_fp4(const PanelArgs&);
#endif

}  // namespace moe4::cpu
