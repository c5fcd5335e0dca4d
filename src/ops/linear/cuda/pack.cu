// Packing of weights on the device.
#include "device/cuda/launch.h"
#include "ops/experts/gpu/packed_layout.h"
#include "ops/linear/cuda/kernels.h"

namespace moe4::cuda {
namespace {

constexpr int kThreads = 256;

// A thread packs a lane's share of a chunk.
__global__ void pack_kernel(PackedShape shape, CodeRows rows, int chunks, int64_t count,
                            uint8_t* out) {
  const int64_t id = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (id >= count) return;
  const int lane = static_cast<int>(id % 32);
  const int64_t chunk = id / 32 % chunks, tile = id / 32 / chunks;
  const PackedBlock block =
      pack_lane(shape, rows, rows, tile, chunk / kChunks, lane, static_cast<int>(chunk % kChunks));
  uint8_t* at = out + (tile * chunks + chunk) * tile_chunk_bytes(PanelKind::kNvfp4);
  *reinterpret_cast<uint4*>(at + lane * 16) =
      make_uint4(block.words[0], block.words[1], block.words[2], block.words[3]);
  *reinterpret_cast<uint16_t*>(at + 512 + lane * 2) =
      static_cast<uint16_t>(block.scales[0] | (block.scales[1] << 8));
}

__global__ void pack_e4m3_kernel(uint4* words, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const uint4 v = words[i];
  words[i] = make_uint4(pack_e4m3(v.x), pack_e4m3(v.y), pack_e4m3(v.z), pack_e4m3(v.w));
}

__global__ void find_nan_kernel(const uint4* words, int64_t count, int32_t* found) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const uint4 v = words[i];
  // Every byte of ones is a magnitude of 0x7f.
  const auto nan = [](uint32_t w) { return __vcmpeq4(w & 0x7f7f7f7fu, 0x7f7f7f7fu); };
  if ((nan(v.x) | nan(v.y) | nan(v.z) | nan(v.w)) != 0) *found = 1;
}

dim3 grid_of(int64_t threads) {
  return dim3(static_cast<unsigned>(ceil_div(threads, int64_t{kThreads})));
}

}  // namespace

void pack_fp4(PanelKind kind, const uint8_t* codes, const uint8_t* scales, int64_t rows, int64_t k,
              int exponent_shift, int chunks, uint8_t* out, cudaStream_t stream) {
  const bool mxfp4 = kind == PanelKind::kMxfp4;
  const PackedShape shape =
      packed_shape(mxfp4 ? WeightFormat::kMxfp4 : WeightFormat::kNvfp4, RowOrder::kPlain, rows, k);
  const CodeRows from{.codes = codes,
                      .code_stride = k / 2,
                      .scales = scales,
                      .scale_stride = k / (mxfp4 ? 32 : 16),
                      .exponent_shift = exponent_shift};
  const int64_t count = ceil_div(rows, int64_t{kPanelTileRows}) * chunks * 32;
  launch(pack_kernel, {.grid = grid_of(count), .block = dim3(kThreads), .stream = stream}, shape,
         from, chunks, count, out);
}

void pack_e4m3_rows(uint8_t* codes, int64_t count, int32_t* found, cudaStream_t stream) {
  find_e4m3_nan(codes, count, found, stream);
  launch(pack_e4m3_kernel, {.grid = grid_of(count / 16), .block = dim3(kThreads), .stream = stream},
         reinterpret_cast<uint4*>(codes), count / 16);
}

void find_e4m3_nan(const uint8_t* bytes, int64_t count, int32_t* found, cudaStream_t stream) {
  launch(find_nan_kernel, {.grid = grid_of(count / 16), .block = dim3(kThreads), .stream = stream},
         reinterpret_cast<const uint4*>(bytes), count / 16, found);
}

}  // namespace moe4::cuda
