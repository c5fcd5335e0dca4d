// Checkpoint bytes -> pinned memory -> panels.
#include "ops/linear/cuda/packed_group.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "base/error.h"
#include "moe/dequantize.h"
#include "moe/mxfp4_exponents.h"
#include "numerics/bf16.h"
#include "ops/cuda/device_values.h"
#include "ops/experts/gpu/packed_layout.h"
#include "ops/linear/cuda/kernels.h"
#include "panels/pack_panel.h"

namespace moe4::cuda {
namespace {

constexpr int64_t kSlabBytes = 8 << 20;

/// Rows that are copied or converted by all threads into one of two slabs of pinned memory while
/// the other one is on its way.
class RowUpload {
 public:
  RowUpload(ThreadPool* threads, int64_t most_bytes)
      : threads_(threads), slab_bytes_(std::min(kSlabBytes, most_bytes)) {
    MOE4_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    for (Slab& slab : slabs_) {
      slab.memory = allocate_pinned<uint8_t>(slab_bytes_);
      MOE4_CUDA_CHECK(cudaEventCreateWithFlags(&slab.sent, cudaEventDisableTiming));
    }
  }
  ~RowUpload() {
    cudaStreamSynchronize(stream_);
    for (Slab& slab : slabs_) cudaEventDestroy(slab.sent);
    cudaStreamDestroy(stream_);
  }
  RowUpload(const RowUpload&) = delete;
  RowUpload& operator=(const RowUpload&) = delete;

  cudaStream_t stream() const { return stream_; }

  /// fill(r, row) writes the `row_bytes` of each row, which are zeros before.
  void send(int64_t rows, int64_t row_bytes, uint8_t* device,
            const std::function<void(int64_t, uint8_t*)>& fill) {
    const int64_t rows_of_slab = std::max<int64_t>(1, slab_bytes_ / row_bytes);
    for (int64_t first = 0; first < rows; first += rows_of_slab, next_ ^= 1) {
      const int64_t n = std::min(rows_of_slab, rows - first);
      Slab& slab = slabs_[next_];
      if (n * row_bytes > slab_bytes_) {  // a single long row
        MOE4_CUDA_CHECK(cudaStreamSynchronize(stream_));
        slab_bytes_ = n * row_bytes;
        for (Slab& s : slabs_) s.memory = allocate_pinned<uint8_t>(slab_bytes_);
      }
      MOE4_CUDA_CHECK(cudaEventSynchronize(slab.sent));
      const auto fill_rows = [&](int64_t begin, int64_t end, int) {
        std::memset(slab.memory.get() + begin * row_bytes, 0, (end - begin) * row_bytes);
        for (int64_t r = begin; r < end; ++r) fill(first + r, slab.memory.get() + r * row_bytes);
      };
      if (threads_ != nullptr) {
        threads_->parallel_for(n, std::max<int64_t>(1, (256 << 10) / row_bytes), fill_rows);
      } else {
        fill_rows(0, n, 0);
      }
      MOE4_CUDA_CHECK(cudaMemcpyAsync(device + first * row_bytes, slab.memory.get(), n * row_bytes,
                                      cudaMemcpyHostToDevice, stream_));
      MOE4_CUDA_CHECK(cudaEventRecord(slab.sent, stream_));
    }
  }
  /// The rows of a view as they are.
  void send(const TensorView& view, int64_t row_bytes, uint8_t* device) {
    const auto bytes = static_cast<size_t>(view.num_bytes() / view.dim(0));
    send(view.dim(0), row_bytes, device,
         [&](int64_t r, uint8_t* row) { std::memcpy(row, view.row(r), bytes); });
  }

 private:
  struct Slab {
    PinnedArray<uint8_t> memory;
    cudaEvent_t sent = nullptr;
  };
  ThreadPool* threads_;
  int64_t slab_bytes_;
  cudaStream_t stream_ = nullptr;
  Slab slabs_[2];
  int next_ = 0;
};

struct Kind {
  PanelKind kind;
  int parts;  // BF16 numbers whose sum is a weight
  bool operator==(const Kind&) const = default;
};

Kind kind_of(const LinearWeights& w) {
  switch (w.scheme.weight.format) {
    case QuantFormat::kNvfp4:
      return {PanelKind::kNvfp4, 1};
    case QuantFormat::kMxfp4:
      return {PanelKind::kMxfp4, 1};
    case QuantFormat::kFp8Block128:
      return {PanelKind::kFp8Block, 1};
    case QuantFormat::kFp8Tensor:
    case QuantFormat::kFp8Channel:
      return {PanelKind::kFp8, 1};
    default:
      return {PanelKind::kBf16, w.weight.dtype == DType::kBF16  ? 1
                                : w.weight.dtype == DType::kF16 ? 2
                                                                : 3};  // F32, ggml's blocks
  }
}

float scale_at(const TensorView& scale, int64_t row, int64_t column) {
  float value = 0;
  convert_to_float(scale.row(row) + column * size_of(scale.dtype), scale.dtype, 1, &value);
  return value;
}

// What the sums of a row are multiplied by.
float row_scale(const LinearWeights& w, int64_t row, int exponent_shift) {
  switch (w.scheme.weight.format) {
    case QuantFormat::kNvfp4:
      return w.global_scale.value * kAlphaScale;
    case QuantFormat::kMxfp4:
      return exponent_alpha(exponent_shift);
    case QuantFormat::kFp8Tensor:
      return w.global_scale.value;
    case QuantFormat::kFp8Channel:
      return scale_at(w.scale, row, 0);
    default:
      return 1.0f;
  }
}

// What BF16 keeps of the row, of what is left of it, ...; `part` values each, the smallest first:
// their sums then come before the large ones, which would round them.
void split_into_bf16(const std::vector<float>& row, int parts, int64_t part, uint8_t* out) {
  for (size_t k = 0; k < row.size(); ++k) {
    float left = row[k];
    for (int i = parts - 1; i >= 0; --i) {
      const Bf16 x = to_bf16(left);
      std::memcpy(out + (i * part + static_cast<int64_t>(k)) * 2, &x, 2);
      // An infinity has no rest.
      left = std::isfinite(to_float(x)) ? left - to_float(x) : 0.0f;
    }
  }
}

[[noreturn]] void refuse_nan(const LinearWeights& w) {
  cpu::check_block_scales(w);
  throw_bad_input({.what = "NaN in an FP8 tensor",
                   .tensor = w.name + ".weight",
                   .expected = "finite values and scales",
                   .hint = "download or export the checkpoint again"});
}

}  // namespace

PackedGroup::PackedGroup(const LinearGroup::Weights& weights, ThreadPool* threads) {
  const int64_t k = weights.members.front().in_features;
  const int64_t x_chunks = ceil_div(k, int64_t{kPanelChunk});
  std::vector<Kind> kinds;
  for (const LinearWeights& w : weights.members) {
    const Kind kind = kind_of(w);
    const auto at = std::find(kinds.begin(), kinds.end(), kind);
    const auto index = static_cast<int32_t>(at - kinds.begin());
    if (at == kinds.end()) {
      kinds.push_back(kind);
      panels_.push_back({.kind = kind.kind,
                         .chunks = static_cast<int32_t>(x_chunks * kind.parts),
                         .x_chunks = static_cast<int32_t>(x_chunks)});
    }
    Panel& panel = panels_[index];
    const int64_t multiple = member_rows_multiple(kind.kind);
    members_.push_back({index, panel.rows, static_cast<int32_t>(w.out_features)});
    panel.rows += static_cast<int32_t>(round_up(w.out_features, multiple));
  }

  std::vector<std::vector<float>> scales, biases, block_scales;
  for (Panel& panel : panels_) {
    const int64_t bytes = ceil_div(int64_t{panel.rows}, int64_t{kPanelTileRows}) * panel.chunks *
                          tile_chunk_bytes(panel.kind);
    bytes_ += bytes;
    weights_.push_back(allocate_device<uint8_t>(bytes));
    MOE4_CUDA_CHECK(cudaMemset(weights_.back().get(), 0, bytes));
    panel.weights = weights_.back().get();
    scales.emplace_back(panel.rows);
    biases.emplace_back(panel.rows);
    block_scales.emplace_back(panel.kind == PanelKind::kFp8Block
                                  ? panel.rows / kPanelTileRows * ceil_div(panel.chunks, 2)
                                  : 0);
  }
  MOE4_CUDA_CHECK(cudaDeviceSynchronize());  // the streams of RowUpload do not wait for memset

  const auto members = static_cast<int64_t>(members_.size());
  const DeviceArray<int32_t> nan = allocate_device<int32_t>(members);
  MOE4_CUDA_CHECK(cudaMemset(nan.get(), 0, members * sizeof(int32_t)));
  RowUpload upload(threads, bytes_);
  for (size_t i = 0; i < members_.size(); ++i) {
    const LinearWeights& w = weights.members[i];
    const PanelMember& member = members_[i];
    const Panel& panel = panels_[member.panel];
    auto* to = const_cast<uint8_t*>(panel.chunk(member.first_row, 0));
    int shift = 0;
    if (is_tiled(panel.kind)) {
      const int64_t code_bytes = k / 2, scale_bytes = w.scale.dim(1);
      const DeviceArray<uint8_t> codes = allocate_device<uint8_t>(member.rows * code_bytes);
      const int64_t padded = round_up(member.rows * scale_bytes, int64_t{16});
      const DeviceArray<uint8_t> scale_rows = allocate_device<uint8_t>(padded);
      MOE4_CUDA_CHECK(cudaMemsetAsync(scale_rows.get(), 0, padded, upload.stream()));
      if (w.scheme.is_mxfp4()) shift = mxfp4_exponent_shift(w, kExponentWindow, "the GPU");
      upload.send(w.weight, code_bytes, codes.get());
      upload.send(w.scale, scale_bytes, scale_rows.get());
      if (w.scheme.is_nvfp4()) {
        find_e4m3_nan(scale_rows.get(), padded, nan.get() + i, upload.stream());
      }
      pack_fp4(panel.kind, codes.get(), scale_rows.get(), member.rows, k, shift, panel.chunks, to,
               upload.stream());
      MOE4_CUDA_CHECK(cudaStreamSynchronize(upload.stream()));
    } else {
      const int64_t row_bytes =
          int64_t{panel.chunks} * tile_chunk_bytes(panel.kind) / kPanelTileRows;
      if (kinds[member.panel].parts > 1) {
        upload.send(member.rows, row_bytes, to, [&](int64_t r, uint8_t* row) {
          std::vector<float> values(static_cast<size_t>(k));
          dequantize_row(w, r, values.data());
          split_into_bf16(values, kinds[member.panel].parts, x_chunks * kPanelChunk, row);
        });
      } else {
        upload.send(w.weight, row_bytes, to);
      }
      if (w.scheme.is_fp8()) {
        pack_e4m3_rows(to, member.rows * row_bytes, nan.get() + i, upload.stream());
      }
    }
    for (int32_t r = 0; r < member.rows; ++r) {
      scales[member.panel][member.first_row + r] = row_scale(w, r, shift);
      biases[member.panel][member.first_row + r] = bias_at(w, r);
    }
    if (panel.kind == PanelKind::kFp8Block) {
      const int64_t stride = ceil_div(panel.chunks, 2);
      for (int32_t r = 0; r < member.rows; r += kPanelTileRows) {
        for (int64_t b = 0; b < ceil_div(k, int64_t{128}); ++b) {
          block_scales[member.panel][(member.first_row + r) / kPanelTileRows * stride + b] =
              scale_at(w.scale, r / 128, b);
        }
      }
    }
  }
  MOE4_CUDA_CHECK(cudaStreamSynchronize(upload.stream()));
  std::vector<int32_t> found(members_.size());
  MOE4_CUDA_CHECK(
      cudaMemcpy(found.data(), nan.get(), members * sizeof(int32_t), cudaMemcpyDeviceToHost));
  for (size_t i = 0; i < found.size(); ++i) {
    if (found[i] != 0) refuse_nan(weights.members[i]);
  }
  const auto keep = [&](const std::vector<float>& values) {
    floats_.push_back(to_device<float>(values));
    bytes_ += static_cast<int64_t>(values.size() * sizeof(float));
    return floats_.back().get();
  };
  for (size_t i = 0; i < panels_.size(); ++i) {
    panels_[i].row_scale = keep(scales[i]);
    panels_[i].bias = keep(biases[i]);
    panels_[i].block_scale = keep(block_scales[i]);
  }
}

}  // namespace moe4::cuda
