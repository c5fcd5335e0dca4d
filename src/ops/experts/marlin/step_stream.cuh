// The weights of a warp's next steps (m16 or m32 x k256), on their way while it multiplies.
//
// From SM90 in shared memory, brought by bulk copies two steps ahead: they need no registers and no
// address arithmetic a lane, and no compiler can put them off to the end of the step, which is
// where it puts loads to registers. Before, and on SM12x, which has too little shared memory for
// 16 warps of it, in registers, one step ahead.
#pragma once

#include <cstdint>

#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/copy.cuh"
#include "ops/experts/marlin/weight_step.cuh"

namespace moe4::cuda {

inline constexpr int kStepStages = 2;

/// Shared memory of a block of `warps`, which starts 128-byte aligned; nothing without bulk copies.
constexpr int step_stream_bytes(WeightFormat format, int tiles, int warps, bool bulk_copies) {
  constexpr int kBarrierBytes = kStepStages * static_cast<int>(sizeof(uint64_t));
  return bulk_copies ? warps * (kStepStages * tiles * unit_bytes(format) + kBarrierBytes) : 0;
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1200  // as has_bulk_copies()

template <WeightFormat Format, int kTiles, int kWarps>
class StepStream {
 public:
  /// So many steps are started before the first is multiplied.
  static constexpr int kAhead = kStepStages;
  static constexpr int kSharedBytes = step_stream_bytes(Format, kTiles, kWarps, true);

  __device__ __forceinline__ StepStream(uint8_t* shared, int lane)
      : steps_(shared + static_cast<int>(threadIdx.x) / 32 * kStepStages * kSize),
        full_(reinterpret_cast<uint64_t*>(shared + kWarps * kStepStages * kSize) +
              static_cast<int>(threadIdx.x) / 32 * kStepStages),
        lane_(lane) {
    if (lane == 0) {
      for (int stage = 0; stage < kStepStages; ++stage) barrier_init(full(stage), 1);
      fence_barrier_init();
    }
    __syncwarp();
  }

  /// Asks for one of the first kAhead steps, if `valid`.
  __device__ __forceinline__ void start(int stage, const uint8_t* step, bool valid) {
    if (lane_ != 0 || !valid) return;
    barrier_expect(full(stage), kSize);
    bulk_copy(shared_address(steps_ + stage * kSize), step, kSize, full(stage));
  }

  /// acc += the next step times tokens, in ascending k; asks for the step kAhead further, `after`,
  /// if `valid`. Stages take turns, 0 first. `refill_tokens(chunk)` is called after a chunk's last
  /// use.
  template <typename RefillTokens>
  __device__ __forceinline__ void multiply(int stage, const TokenFragments& tokens,
                                           float (&acc)[kTiles][4], const uint8_t* after,
                                           bool valid, RefillTokens refill_tokens) {
    const uint8_t* const step = steps_ + stage * kSize;
    barrier_wait(full(stage), phase_);
    phase_ ^= stage;  // both stages have had their turn
    WeightFragments<kTiles> weights;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const uint8_t* const unit = step + tile * Unit::kBytes;
      weights.scales[tile] = *reinterpret_cast<const uint2*>(unit + Unit::scales(lane_));
#pragma unroll
      for (int chunk = 0; chunk < kChunks; ++chunk) {
        weights.words[tile][chunk] =
            *reinterpret_cast<const uint4*>(unit + chunk * 512 + lane_ * 16);
      }
    }
    multiply_step<Format>(weights, tokens, acc, nullptr, false, lane_, refill_tokens);
    __syncwarp();  // every lane has its words
    start(stage, after, valid);
  }

 private:
  using Unit = UnitLayout<Format>;
  static constexpr int kSize = kTiles * Unit::kBytes;
  __device__ __forceinline__ uint32_t full(int stage) const {
    return shared_address(&full_[stage]);
  }

  uint8_t* const steps_;
  uint64_t* const full_;
  const int lane_;
  uint32_t phase_ = 0;
};

#else

template <WeightFormat Format, int kTiles, int kWarps>
class StepStream {
 public:
  static constexpr int kAhead = 1;
  static constexpr int kSharedBytes = 0;

  __device__ __forceinline__ StepStream(uint8_t* /*shared*/, int lane) : lane_(lane) {}

  __device__ __forceinline__ void start(int /*stage*/, const uint8_t* step, bool valid) {
    load_weights<Format>(weights_, step, valid, lane_);
  }

  template <typename RefillTokens>
  __device__ __forceinline__ void multiply(int /*stage*/, const TokenFragments& tokens,
                                           float (&acc)[kTiles][4], const uint8_t* after,
                                           bool valid, RefillTokens refill_tokens) {
    multiply_step<Format>(weights_, tokens, acc, after, valid, lane_, refill_tokens);
  }

 private:
  WeightFragments<kTiles> weights_ = {};
  const int lane_;
};

#endif

}  // namespace moe4::cuda
