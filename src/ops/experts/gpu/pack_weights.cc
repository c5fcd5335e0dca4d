// The CPU packer: one lane block at a time through the functions the GPU packer uses too.
#include "ops/experts/gpu/pack_weights.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "numerics/bf16.h"
#include "numerics/e4m3.h"

namespace moe4::cuda {

WeightFormat weight_format(const QuantScheme& scheme) {
  MOE4_CHECK(scheme.is_fp4());
  return scheme.is_mxfp4() ? WeightFormat::kMxfp4 : WeightFormat::kNvfp4;
}

CodeRows code_rows(const LinearWeights& linear, int exponent_shift) {
  return {.codes = static_cast<const uint8_t*>(linear.weight.data),
          .code_stride = linear.weight.stride(),
          .scales = static_cast<const uint8_t*>(linear.scale.data),
          .scale_stride = linear.scale.stride(),
          .exponent_shift = exponent_shift};
}

int check_scales(const LinearWeights& linear) {
  if (linear.scheme.is_mxfp4()) return mxfp4_exponent_shift(linear, kExponentWindow, "the GPU");
  const int64_t blocks = linear.in_features / 16;
  for (int64_t r = 0; r < linear.out_features; ++r) {
    const auto* row = reinterpret_cast<const uint8_t*>(linear.scale.row(r));
    bool nan = false;
    for (int64_t b = 0; b < blocks; ++b) nan |= e4m3_is_nan(row[b]);
    if (nan) {
      throw_bad_input({.what = "NaN block scale",
                       .tensor = linear.name + ".weight_scale",
                       .expected = "finite E4M3 scales",
                       .found = "NaN in row " + std::to_string(r),
                       .hint = "the checkpoint is damaged; quantize it again"});
    }
  }
  return 0;
}

void pack_tiles(const PackedShape& shape, const CodeRows& first, const CodeRows& up,
                int64_t first_tile, int64_t last_tile, uint8_t* out) {
  const auto scales_at = shape.format == WeightFormat::kMxfp4
                             ? UnitLayout<WeightFormat::kMxfp4>::scales
                             : UnitLayout<WeightFormat::kNvfp4>::scales;
  for (int64_t tile = first_tile; tile < last_tile; ++tile) {
    for (int64_t ku = 0; ku < shape.k_units; ++ku) {
      uint8_t* unit =
          out + unit_index(shape.tiles, shape.k_units, 0, tile, ku) * unit_bytes(shape.format);
      for (int lane = 0; lane < 32; ++lane) {
        for (int c = 0; c < kChunks; ++c) {
          const PackedBlock block = pack_lane(shape, first, up, tile, ku, lane, c);
          std::memcpy(unit + c * 512 + lane * 16, block.words, 16);
          std::memcpy(unit + scales_at(lane) + 2 * c, block.scales, 2);
        }
      }
    }
  }
}

PackedElement unpack_element(const PackedShape& shape, const uint8_t* expert, int64_t row,
                             int64_t column) {
  int64_t tile = row / kTileRows;
  int r = static_cast<int>(row % kTileRows);
  if (shape.order == RowOrder::kGateUp) {
    const int64_t element = row % shape.rows;
    tile = element / 8;
    r = static_cast<int>(element % 8) + (row < shape.rows ? 0 : 8);
  }
  const int in_unit = static_cast<int>(column % kUnitK);
  const int c = in_unit / kChunkK, t = in_unit % kChunkK / 16, element = in_unit % 16;
  const int lane = 4 * (r % 8) + t;
  const uint8_t* unit = expert + unit_index(shape.tiles, shape.k_units, 0, tile, column / kUnitK) *
                                     unit_bytes(shape.format);
  uint32_t words[4], pairs[16];
  std::memcpy(words, unit + c * 512 + lane * 16, 16);
  extract_pairs(words[0], words[1], pairs);
  extract_pairs(words[2], words[3], pairs + 8);
  // Element 4m + 2j + h is half h of register a_{2j} (row g) or a_{2j+1} (row g + 8) of mma m.
  const int m = element / 4, j = element % 4 / 2, h = element % 2;
  const uint32_t pair = pairs[4 * m + 2 * j + r / 8];
  const float code = to_float(Bf16{static_cast<uint16_t>(h == 0 ? pair : pair >> 16)});
  const bool mxfp4 = shape.format == WeightFormat::kMxfp4;
  const int at = mxfp4 ? UnitLayout<WeightFormat::kMxfp4>::scales(lane)
                       : UnitLayout<WeightFormat::kNvfp4>::scales(lane);
  const uint32_t byte = unit[at + 2 * c + r / 8];
  const float scale =
      to_float(Bf16{static_cast<uint16_t>(mxfp4 ? byte * 128 : byte * 16 + 0x7000)});
  return {.code = std::ldexp(code, 126), .scale = std::ldexp(scale, -106)};
}

}  // namespace moe4::cuda
