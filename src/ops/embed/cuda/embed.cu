// Embed on NVIDIA GPUs: a block a token decodes its row from a panel, the table's own or lm_head's.
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "numerics/e4m3.h"
#include "ops/cuda/implementation.h"
#include "ops/cuda/row_values.cuh"
#include "ops/embed/embed.h"
#include "ops/experts/gpu/packed_layout.h"
#include "ops/linear/cuda/cuda_linear_group.h"

namespace moe4 {
namespace {

using namespace cuda;

constexpr int kThreads = 256;

__device__ uint8_t e4m3_code(const uint8_t* row, int column) {
  return packed_e4m3(reinterpret_cast<const uint32_t*>(row)[column / 4], column % 4);
}

/// Weight (row, k) of a panel as numerics has it: every product but the last is exact.
__device__ float panel_value(const Panel& panel, int64_t row, int k) {
  const uint8_t* chunk = panel.chunk(row, k / kPanelChunk);
  const int column = k % kPanelChunk;
  switch (panel.kind) {
    case PanelKind::kBf16: {
      float sum = 0;  // of the parts, from the smallest up
      for (int c = 0; c < panel.chunks; c += panel.x_chunks) {
        sum += __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(chunk + c * 128)[column]);
      }
      return sum;
    }
    case PanelKind::kFp8:
      return e4m3_to_float(e4m3_code(chunk, column)) * panel.row_scale[row];
    case PanelKind::kFp8Block:
      return e4m3_to_float(e4m3_code(chunk, column)) *
             panel.block_scale[row / kPanelTileRows * ((panel.chunks + 1) / 2) + k / 128];
    default: {
      const int r = static_cast<int>(row % kPanelTileRows), element = column % 16;
      const int lane = r % 8 * 4 + column / 16, m = element / 4;
      const auto* words = reinterpret_cast<const uint32_t*>(chunk + lane * 16) + m / 2 * 2;
      uint32_t pairs[8];
      extract_pairs(words[0], words[1], pairs);
      const uint32_t pair = pairs[m % 2 * 4 + element % 4 / 2 * 2 + r / 8];
      const uint32_t code = element % 2 == 0 ? pair << 16 : pair & 0xffff0000u;
      const uint32_t byte = chunk[512 + lane * 2 + r / 8];
      const uint32_t scale = panel.kind == PanelKind::kMxfp4 ? byte * 128 : byte * 16 + 0x7000;
      // code 2^-126 and scale 2^106.
      return __uint_as_float(code) * 0x1p126f * (__uint_as_float(scale << 16) * 0x1p-126f) *
             panel.row_scale[row];
    }
  }
}

template <typename Y>
__global__ void __launch_bounds__(kThreads)
    embed_kernel(Panel panel, const int32_t* ids, RowsOf<Y> y, int vocab_size, int width,
                 float scale) {
  wait_for_previous_kernel();
  launch_dependents();
  const int id = ids[blockIdx.x];
  Y* out = y.row(blockIdx.x);
  const bool known = id >= 0 && id < vocab_size;
  for (int k = static_cast<int>(threadIdx.x); k < width; k += kThreads) {
    out[k] = from_float<Y>(known ? panel_value(panel, id, k) * scale : 0.0f);
  }
}

class CudaEmbed final : public Prepared<Embed> {
 public:
  CudaEmbed(const Embed::Problem& problem, const Embed::Weights& weights, const OpOptions& options)
      : Prepared(problem), dependent_(options.device.sm >= 90) {
    if (problem.tied) {
      use(dynamic_cast<const CudaLinearGroup&>(*weights.lm_head).packed());
    } else {
      const DeviceGuard guard(options.device.index);
      table_ =
          std::make_unique<PackedGroup>(LinearGroup::Weights{{weights.table}}, options.threads);
      use(*table_);
    }
  }

  size_t workspace_size(const Embed::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return weight_bytes_; }

  void run(const Embed::Args& args, std::span<std::byte>, const Stream& stream) const override {
    if (args.y.rows == 0) return;
    with_element(args.y.format, [&](auto y) {
      launch(embed_kernel<decltype(y)>,
             {.grid = dim3(static_cast<unsigned>(args.y.rows)),
              .block = dim3(kThreads),
              .stream = static_cast<cudaStream_t>(stream.handle),
              .dependent = dependent_},
             panel_, args.ids, RowsOf<decltype(y)>(args.y), static_cast<int>(problem().vocab_size),
             static_cast<int>(problem().width), problem().scale);
    });
  }

 private:
  void use(const PackedGroup& group) {
    panel_ = group.panels()[0];
    weight_bytes_ = group.bytes() / problem().vocab_size;
    MOE4_CHECK(group.members()[0].rows == problem().vocab_size &&
               panel_.x_chunks == ceil_div(problem().width, int64_t{kPanelChunk}));
  }

  std::unique_ptr<PackedGroup> table_;  // null: lm_head's
  Panel panel_;
  int64_t weight_bytes_ = 0;
  bool dependent_;
};

}  // namespace

template <>
std::unique_ptr<Prepared<Embed>> prepare_on_cuda<Embed>(const Embed::Problem& problem,
                                                        const Embed::Weights& weights,
                                                        const OpOptions& options) {
  return std::make_unique<CudaEmbed>(problem, weights, options);
}

}  // namespace moe4
