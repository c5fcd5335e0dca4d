// Launches of the products and of the packing kernels.
#pragma once

#include <cuda_runtime_api.h>

#include <span>

#include "ops/linear/cuda/panel.h"

namespace moe4::cuda {

/// One product: y = x W^T of all members.
struct LinearCall {
  Rows x;                                ///< [T, in_features], float32 or BF16
  std::span<const Panel> panels;         ///< at most kMaxPanels
  std::span<const PanelMember> members;  ///< at most kMaxMembers
  std::span<const Rows> y;               ///< one a member, [T, rows]
  int sm_count = 1;
  int shared_bytes = 0;  ///< that a block may have
  int clusters = 0;      ///< of share_linears() at once
  bool dependent = false;
  cudaStream_t stream = nullptr;
};

/// Generated tokens: as fast as weights can be read for a few, more in passes. A row's bits depend
/// on its member and its token alone.
void decode_linears(const LinearCall& call);
/// The same for up to 16 tokens on SM90 and later, where a block has few rows and the tokens fit
/// its memory: false, and nothing done, for others.
bool few_linears(const LinearCall& call);
void allow_few_kernels(int bytes);
/// The same for up to 16 tokens on SM90 and later, where a group has a great many rows that come in
/// tiles (heads): false, and nothing done, for others.
bool head_linears(const LinearCall& call);
void allow_head_kernels(int bytes);
/// Prompts: x is BF16 with rows 16-byte aligned; otherwise as decode_linears(), in another order of
/// sums.
void prompt_linears(const LinearCall& call);
/// x rounded to BF16 rows.
void round_rows(const Rows& x, const Rows& rounded, bool dependent, cudaStream_t stream);
/// Whether wgmma_linears() and order_tokens() were built (sm_90a).
bool has_wgmma_linears();
/// x rounded to BF16, rows of whole chunks (zeros from in_features on), columns of each chunk in
/// the order that wgmma_linears() takes.
void order_tokens(const Rows& x, const Rows& ordered, bool dependent, cudaStream_t stream);
/// More than a few tokens: x is what order_tokens() made. Bits are those of decode_linears() with
/// `decode`.
void wgmma_linears(const LinearCall& call, bool decode);
void allow_wgmma_kernels(int bytes);
/// Many generated tokens of a great many rows of BF16 or FP8, x as it is: bits are those of
/// decode_linears(). `tiles`: memory for tile_tokens(). False, and nothing done, where it has no
/// kernel for a panel.
bool wide_linears(const LinearCall& call, void* tiles);
void allow_wide_kernels(int bytes);
/// The same of one panel of FP4.
bool many_head_linears(const LinearCall& call, void* tiles);
void allow_many_head_kernels(int bytes);
/// The tokens of a call, chunk after chunk, in the order and the swizzle that these two take:
/// tiled_token_rows() rows of x in whole chunks of BF16, at a multiple of 16 bytes.
void tile_tokens(const LinearCall& call, void* tiles);
constexpr int64_t tiled_token_rows(int64_t tokens) { return round_up(tokens, int64_t{8}); }
/// More than a few generated tokens of rows long enough, x as it is: bits are those of
/// decode_linears(). False, and nothing done, where it has no kernel for a panel.
bool share_linears(const LinearCall& call);
/// Also how many clusters of share_linears() run at once.
int allow_share_kernels(int bytes);

/// Lets the kernels use so much shared memory on the current device, before any launch there.
void allow_decode_kernels(int bytes);
void allow_prompt_kernels(int bytes);

/// Codes [rows, k / 2] and scales [rows, scale_stride] in device memory, dense -> tiles from `out`
/// on, a chunk of 64 columns after the other, `chunks` of them. Scales of MXFP4 are shifted.
void pack_fp4(PanelKind kind, const uint8_t* codes, const uint8_t* scales, int64_t rows, int64_t k,
              int exponent_shift, int chunks, uint8_t* out, cudaStream_t stream);
/// Makes each four E4M3 codes, of a multiple of 16 bytes, a pack_e4m3(); sets *found where one is a
/// NaN.
void pack_e4m3_rows(uint8_t* codes, int64_t count, int32_t* found, cudaStream_t stream);
/// Sets *found where a byte of a multiple of 16 bytes is an E4M3 NaN.
void find_e4m3_nan(const uint8_t* bytes, int64_t count, int32_t* found, cudaStream_t stream);

}  // namespace moe4::cuda
