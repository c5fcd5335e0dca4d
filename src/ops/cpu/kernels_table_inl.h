// All templates of the ops and the table of their functions (included last by
// kernels_<isa>.cc).
#pragma once

#include "ops/cpu/attention_inl.h"
#include "ops/cpu/delta_rule_inl.h"
#include "ops/cpu/elementwise_inl.h"
#include "ops/cpu/matrix_inl.h"
#include "ops/cpu/ssm_scan_inl.h"

namespace moe4::MOE4_ISA {

inline constexpr OpKernels kTable{.isa = kIsa,
                                  .rms_norm = rms_norm,
                                  .l2_norm = l2_norm,
                                  .silu_mul = silu_mul,
                                  .relu2 = relu2,
                                  .sigmoid_mul = sigmoid_mul,
                                  .axpy = axpy,
                                  .to_bf16 = convert_to_bf16,
                                  .to_f16 = convert_to_f16,
                                  .conv_silu = conv_silu,
                                  .attend = attend,
                                  .delta_rule = delta_rule,
                                  .ssm_scan = ssm_scan,
                                  .times_matrix = times_matrix,
                                  .times_transposed = times_transposed};

}  // namespace moe4::MOE4_ISA
