// Conversions around a call of the experts.
#include "ops/experts/run_experts.h"

#include "base/error.h"
#include "moe/dequantize.h"
#include "ops/cpu/kernels.h"

namespace moe4 {

namespace {

// Experts of the CPU: float32 rows, or rounded to BF16 for backends that take only that.
void run_on_cpu(RoutedExperts& experts, const ExpertsCall& call, ExpertsArgs args,
                Execution& execution) {
  const int64_t tokens = call.x.rows, values = tokens * call.x.width;
  const bool float32 = experts.accepts_float32();
  auto* in = execution.arena.take<Bf16>(float32 ? 0 : values);
  auto* out = execution.arena.take<Bf16>(float32 ? 0 : values);
  if (execution.is_measuring()) return;
  args.hidden_dtype = args.output_dtype = DType::kF32;
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
}

void run_on_gpu(RoutedExperts& experts, const ExpertsCall& call, ExpertsArgs args,
                Execution& execution) {
  MOE4_CHECK(call.x.format == RowFormat::kBf16 && call.y.format == RowFormat::kBf16);
  if (execution.is_measuring()) return;
  args.hidden_dtype = args.output_dtype = DType::kBF16;
  args.stream = execution.stream.handle;
  experts.run(args);
}

}  // namespace

void run_experts(RoutedExperts& experts, const ExpertsCall& call, Execution& execution) {
  MOE4_CHECK(call.x.stride == call.x.width && call.y.stride == call.y.width);
  Arena::Frame frame(execution.arena);
  const size_t size = experts.workspace_size(call.x.rows);
  const ExpertsArgs args{.num_tokens = call.x.rows,
                         .hidden_states = call.x.data,
                         .topk_ids = call.topk_ids,
                         .topk_weights = call.topk_weights,
                         .output = call.y.data,
                         .num_decode_tokens = call.num_decode_tokens,
                         .workspace = {execution.arena.bytes(size), size}};
  if (execution.stream.device.is_cpu()) {
    run_on_cpu(experts, call, args, execution);
  } else {
    run_on_gpu(experts, call, args, execution);
  }
}

}  // namespace moe4
