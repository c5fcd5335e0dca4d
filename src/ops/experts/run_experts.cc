// Conversions around a call of the experts.
#include "ops/experts/run_experts.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "moe/dequantize.h"
#include "ops/cpu/kernels.h"

namespace moe4 {

void run_experts(HostExperts& experts, const ExpertsCall& call, Execution& execution) {
  MOE4_CHECK(call.x.stride == call.x.width && call.y.stride == call.y.width);
  Arena::Frame frame(execution.arena);
  const int64_t tokens = call.x.rows, values = tokens * call.x.width;
  const size_t size = experts.workspace_size(tokens);
  std::byte* workspace = execution.arena.bytes(size);
  const bool float32 = experts.accepts_float32();
  auto* in = execution.arena.take<Bf16>(float32 ? 0 : values);
  auto* out = execution.arena.take<Bf16>(float32 ? 0 : values);
  if (execution.is_measuring()) return;
  ExpertsArgs args{.num_tokens = tokens,
                   .hidden_states = call.x.data,
                   .hidden_dtype = DType::kF32,
                   .topk_ids = call.topk_ids,
                   .topk_weights = call.topk_weights,
                   .output = call.y.data,
                   .output_dtype = DType::kF32,
                   .num_decode_tokens = call.num_decode_tokens,
                   .workspace = {workspace, size}};
  if (float32) {
    experts.run(args);
  } else {
    op_kernels().to_bf16(call.x.row(0), values, in);
    args.hidden_states = in;
    args.output = out;
    args.hidden_dtype = args.output_dtype = DType::kBF16;
    experts.run(args);
    convert_to_float(out, DType::kBF16, values, call.y.row(0));
  }
  for (int64_t t = 0; call.unrouted_is_nan && t < tokens; ++t) {
    if (call.topk_ids[t * call.top_k] >= 0) continue;
    std::fill_n(call.y.row(t), call.y.width, std::numeric_limits<float>::quiet_NaN());
  }
}

}  // namespace moe4
