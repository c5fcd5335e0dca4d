// A warp's own ring of weights: 16 rows of a panel, unit after unit, brought with cp.async.
#pragma once

#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/copy.cuh"
#include "ops/linear/cuda/fragments.cuh"

namespace moe4::cuda {

/// Bytes of a unit of 16 rows, and of a stage of the ring.
MOE4_HOST_DEVICE constexpr int unit_bytes(PanelKind kind) {
  return unit_chunks(kind) * tile_chunk_bytes(kind);
}

/// What a warp goes through: units [unit_begin, unit_end) of 16 rows, `repeats` times, then of the
/// rows `row_step` further, and so on. Rows from row_end on are not read.
struct UnitWalk {
  int row = 0, row_end = 0, row_step = 0;
  int unit_begin = 0, unit_end = 0;
  int repeats = 1;
};

/// kStages units at `memory`, those after the current one on their way; none but this warp uses it.
/// A stage holds a TileChunk for each chunk of the unit.
template <PanelKind kKind, int kStages>
class UnitRing {
 public:
  __device__ UnitRing(const Panel& panel, const UnitWalk& walk, const uint8_t* memory, int lane)
      : panel_(panel),
        walk_(walk),
        memory_(memory),
        to_(shared_address(memory)),
        rows_left_(walk.row_end - walk.row),
        unit_(walk.unit_begin) {
    const int chunk = walk.unit_begin * kChunks;
    if constexpr (is_tiled(kKind)) {
      from_ = panel.chunk(walk.row, chunk) + lane * 16;
      to_ += lane * 16;
    } else {
      constexpr int kChunkPieces = kPieces / kChunks;
      const int piece = lane % kPieces, row = lane / kPieces;
      from_ = panel.chunk(walk.row + row, chunk) + piece * 16;
      chunk_ = piece / kChunkPieces;
      rows_left_ -= row;
      // Rows 4 further lie 4 rows further: the order of pieces follows the parity of the row.
      to_ += chunk_ * kTileChunkBytes + TileChunk<kKind>::piece_at(row, piece % kChunkPieces);
    }
#pragma unroll
    for (int i = 0; i < kStages; ++i) {
      fetch(lane);
      advance();
    }
  }
  /// Waits for the next unit.
  __device__ __forceinline__ const uint8_t* next() {
    copy_wait<kStages - 1>();
    __syncwarp();
    return memory_ + stage_ * kStageBytes;
  }
  /// All lanes are done with it.
  __device__ __forceinline__ void release(int lane) {
    __syncwarp();
    fetch(lane);
    advance();
  }

 private:
  static constexpr int kChunks = unit_chunks(kKind);
  static constexpr int kTileChunkBytes = tile_chunk_bytes(kKind);
  static constexpr int kStageBytes = unit_bytes(kKind);
  static constexpr int kPieces = 8;  // of 16 bytes in a row of a unit
  static constexpr int kUnitStep = is_tiled(kKind) ? kChunks * kTileChunkBytes : kPieces * 16;

  __device__ __forceinline__ int row_bytes() const {
    return panel_.chunks * (kTileChunkBytes / kPanelTileRows);
  }

  __device__ __forceinline__ void fetch(int lane) {
    const uint32_t to = to_ + stage_ * kStageBytes;
    const int chunks = panel_.chunks - unit_ * kChunks;
    if constexpr (is_tiled(kKind)) {
      const int pieces = rows_left_ > 0 ? min(kChunks, chunks) * (kTileChunkBytes / 16) : 0;
#pragma unroll
      for (int i = 0; i < (kStageBytes / 16 + 31) / 32; ++i) {
        copy16_if(i * 32 + lane < pieces, to + i * 512, from_ + i * 512);
      }
    } else {
      const int rows = chunk_ < chunks ? rows_left_ : 0;
      const uint8_t* from = from_;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        copy16_if(i * 4 < rows, to + i * 4 * (kTileChunkBytes / kPanelTileRows), from);
        from += 4 * row_bytes();
      }
    }
    copy_commit();
  }

  __device__ __forceinline__ void advance() {
    stage_ = stage_ + 1 == kStages ? 0 : stage_ + 1;
    from_ += kUnitStep;
    if (++unit_ < walk_.unit_end) return;
    from_ -= (unit_ - walk_.unit_begin) * kUnitStep;
    unit_ = walk_.unit_begin;
    if (++repeat_ < walk_.repeats) return;
    repeat_ = 0;
    from_ += int64_t{walk_.row_step} * row_bytes();
    rows_left_ -= walk_.row_step;
  }

  const Panel& panel_;
  const UnitWalk walk_;
  const uint8_t* memory_;
  uint32_t to_;          // of this lane, in the first stage
  const uint8_t* from_;  // of this lane, for the next fetch
  int rows_left_;        // from this lane's first row on
  int unit_, chunk_ = 0, repeat_ = 0;
  int stage_ = 0;  // the one to be read, and filled, next
};

}  // namespace moe4::cuda
