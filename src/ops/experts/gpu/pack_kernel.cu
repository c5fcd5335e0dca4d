// The GPU packer: one thread a lane's share of a chunk.
#include "device/cuda/launch.h"
#include "ops/experts/gpu/packed_layer.h"

namespace moe4::cuda {
namespace {

template <WeightFormat Format>
__global__ void pack_kernel(PackedShape shape, CodeRows first, CodeRows up, uint8_t* out) {
  using Unit = UnitLayout<Format>;
  const int64_t id = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int lane = static_cast<int>(id % 32), c = static_cast<int>(id / 32 % kChunks);
  const int64_t unit = id / (32 * kChunks);
  if (unit >= shape.tiles * shape.k_units) return;
  const int64_t tile = unit / shape.k_units, ku = unit % shape.k_units;
  const PackedBlock block = pack_lane(shape, first, up, tile, ku, lane, c);
  uint8_t* at = out + unit_index(shape.tiles, shape.k_units, 0, tile, ku) * Unit::kBytes;
  *reinterpret_cast<uint4*>(at + c * 512 + lane * 16) =
      make_uint4(block.words[0], block.words[1], block.words[2], block.words[3]);
  if (Unit::kMxfp4 && lane % 2 == 1) return;  // the other half's lane stores the same
  *reinterpret_cast<uint16_t*>(at + Unit::scales(lane) + 2 * c) =
      static_cast<uint16_t>(block.scales[0] | (block.scales[1] << 8));
}

}  // namespace

void pack_on_device(const PackedShape& shape, const CodeRows& first, const CodeRows& up,
                    uint8_t* out, cudaStream_t stream) {
  constexpr int kThreads = 256;
  const int64_t threads = shape.tiles * shape.k_units * kChunks * 32;
  launch(shape.format == WeightFormat::kMxfp4 ? pack_kernel<WeightFormat::kMxfp4>
                                              : pack_kernel<WeightFormat::kNvfp4>,
         {.grid = dim3(static_cast<unsigned>((threads + kThreads - 1) / kThreads)),
          .block = dim3(kThreads),
          .stream = stream},
         shape, first, up, out);
}

}  // namespace moe4::cuda
