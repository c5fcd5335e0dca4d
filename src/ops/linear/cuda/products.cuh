// What the kernels for generated tokens and for prompts share: arguments and where results go.
#pragma once

#include <algorithm>

#include "ops/cuda/row_values.cuh"
#include "ops/linear/cuda/kernels.h"

namespace moe4::cuda {

/// Where a member's results go.
struct MemberOutput {
  int32_t panel = 0, first_row = 0, rows = 0;
  int32_t is_bf16 = 0;
  int64_t stride = 0;  ///< elements between tokens
  void* y = nullptr;
};

/// Arguments of a kernel: blocks [first_block[i], first_block[i + 1]) work on panel i.
struct Products {
  Panel panels[kMaxPanels];
  int32_t first_block[kMaxPanels + 1] = {};
  MemberOutput outputs[kMaxMembers];
  int32_t num_outputs = 0;
  int32_t tokens = 0;
  int32_t in_features = 0;
  int32_t x_is_bf16 = 0;
  int32_t x_in_pieces = 0;  ///< BF16 whose rows begin at multiples of 16 bytes
  int64_t x_stride = 0;     ///< elements
  const void* x = nullptr;
};

inline Products products_of(const LinearCall& call) {
  MOE4_CHECK(call.panels.size() <= kMaxPanels && call.members.size() <= kMaxMembers);
  Products p;
  for (size_t i = 0; i < call.panels.size(); ++i) p.panels[i] = call.panels[i];
  for (size_t i = 0; i < call.members.size(); ++i) {
    const PanelMember& m = call.members[i];
    p.outputs[i] = {m.panel,          m.first_row,   m.rows, call.y[i].format == RowFormat::kBf16,
                    call.y[i].stride, call.y[i].data};
  }
  p.num_outputs = static_cast<int32_t>(call.members.size());
  p.tokens = static_cast<int32_t>(call.x.rows);
  p.in_features = static_cast<int32_t>(call.x.width);
  p.x_is_bf16 = call.x.format == RowFormat::kBf16;
  p.x_in_pieces = call.x.format == RowFormat::kBf16 && call.x.stride % 8 == 0 &&
                  reinterpret_cast<uintptr_t>(call.x.data) % 16 == 0;
  p.x_stride = call.x.stride;
  p.x = call.x.data;
  return p;
}

inline double weight_bytes(const Panel& panel) {
  return 1.0 * panel.rows * panel.chunks * tile_chunk_bytes(panel.kind) / kPanelTileRows;
}

/// Blocks of each panel, `wanted` together, each with about as many bytes: a block after the other
/// goes to the panel whose blocks have most.
inline int divide_blocks(const LinearCall& call, int wanted, Products& p) {
  const auto n = static_cast<int>(call.panels.size());
  int blocks[kMaxPanels], total = n;
  const auto bytes = [&](int i) { return weight_bytes(call.panels[static_cast<size_t>(i)]); };
  const auto most_blocks = [&](int i) {
    const Panel& panel = call.panels[static_cast<size_t>(i)];
    return is_tiled(panel.kind) ? panel.rows / kPanelTileRows : panel.rows;
  };
  std::fill_n(blocks, n, 1);
  for (; total < wanted; ++total) {
    int best = -1;
    for (int i = 0; i < n; ++i) {
      if (blocks[i] >= most_blocks(i)) continue;
      if (best < 0 || bytes(i) * blocks[best] > bytes(best) * blocks[i]) best = i;
    }
    if (best < 0) break;
    ++blocks[best];
  }
  for (int i = 0; i < n; ++i) p.first_block[i + 1] = p.first_block[i] + blocks[i];
  return total;
}

/// The panel that this block works on.
__device__ __forceinline__ int panel_of_block(const Products& p) {
  int i = 0;
  while (static_cast<int>(blockIdx.x) >= p.first_block[i + 1]) ++i;
  return i;
}

/// A row of a panel: what its sums are multiplied by, and where they go.
class OutputRow {
 public:
  OutputRow() = default;
  __device__ OutputRow(const Products& p, int panel, int row) {
    int member = -1;
    for (int i = 0; i < p.num_outputs; ++i) {
      const MemberOutput& o = p.outputs[i];
      if (o.panel == panel && row >= o.first_row && row < o.first_row + o.rows) member = i;
    }
    if (member < 0) return;
    // Behind the loop, so that nothing waits for these loads before store().
    const MemberOutput& o = p.outputs[member];
    scale_ = __ldg(p.panels[panel].row_scale + row);
    bias_ = __ldg(p.panels[panel].bias + row);
    y_ = o.y;
    column_ = row - o.first_row;
    rows_ = o.rows;
    stride_ = o.stride;
    is_bf16_ = o.is_bf16 != 0;
  }
  /// False for a row between two members.
  __device__ bool is_stored() const { return y_ != nullptr; }
  __device__ float value(float sum) const { return sum * scale_ + bias_; }
  __device__ void store(int64_t token, float sum) const {
    const int64_t at = token * stride_ + column_;
    if (is_bf16_) {
      static_cast<__nv_bfloat16*>(y_)[at] = __float2bfloat16_rn(value(sum));
    } else {
      static_cast<float*>(y_)[at] = value(sum);
    }
  }
  /// Whether `row`, which this is, and the one with which it shares an even number's half go to
  /// neighbouring BF16 results at a multiple of 4 bytes.
  __device__ bool is_half_of_pair(int row) const {
    return is_bf16_ && ((column_ ^ row) & 1) == 0 && (column_ ^ 1) < rows_ && stride_ % 2 == 0 &&
           reinterpret_cast<uintptr_t>(y_) % 4 == 0;
  }
  /// Both values of such a pair.
  __device__ void store_pair(int64_t token, float even, float odd) const {
    auto* y = static_cast<__nv_bfloat16*>(y_) + (token * stride_ + (column_ & ~1));
    *reinterpret_cast<__nv_bfloat162*>(y) = __floats2bfloat162_rn(even, odd);
  }

 private:
  float scale_ = 0, bias_ = 0;
  void* y_ = nullptr;
  int32_t column_ = 0, rows_ = 0;
  int64_t stride_ = 0;
  bool is_bf16_ = false;
};

/// Columns `k` and k + 1 (k even) of a token's row as BF16, zeros from in_features on.
__device__ __forceinline__ uint32_t load_token_pair(const Products& p, int64_t token, int k) {
  float values[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int64_t at = token * p.x_stride + k + i;
    values[i] = k + i >= p.in_features ? 0.0f
                : p.x_is_bf16 != 0     ? __bfloat162float(__ushort_as_bfloat16(
                                             __ldcg(static_cast<const unsigned short*>(p.x) + at)))
                                       : __ldcg(static_cast<const float*>(p.x) + at);
  }
  const __nv_bfloat162 pair = __floats2bfloat162_rn(values[0], values[1]);
  uint32_t bits;
  __builtin_memcpy(&bits, &pair, sizeof(bits));
  return bits;
}

/// Eight values of a token's row from column `k` on as BF16, zeros from in_features on. Reads what
/// an earlier kernel wrote from L2.
__device__ __forceinline__ uint4 load_token_piece(const Products& p, int64_t token, int k) {
  __nv_bfloat162 pairs[4];
  if (p.x_is_bf16 != 0) {
    const auto* row = static_cast<const __nv_bfloat16*>(p.x) + token * p.x_stride + k;
    if (k + 8 <= p.in_features && reinterpret_cast<uintptr_t>(row) % 16 == 0) {
      return __ldcg(reinterpret_cast<const uint4*>(row));
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const auto at = [&](int j) {
        return k + j < p.in_features
                   ? __ushort_as_bfloat16(__ldcg(reinterpret_cast<const unsigned short*>(row) + j))
                   : __float2bfloat16_rn(0);
      };
      pairs[i] = __nv_bfloat162(at(2 * i), at(2 * i + 1));
    }
  } else {
    const auto* row = static_cast<const float*>(p.x) + token * p.x_stride + k;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const auto at = [&](int j) { return k + j < p.in_features ? __ldcg(row + j) : 0.0f; };
      pairs[i] = __floats2bfloat162_rn(at(2 * i), at(2 * i + 1));
    }
  }
  uint4 piece;
  __builtin_memcpy(&piece, pairs, sizeof(piece));
  return piece;
}

}  // namespace moe4::cuda
