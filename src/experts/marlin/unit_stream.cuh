// The weights of a warp's next two units of FC2, two units ahead of their multiplication.
//
// From SM90 in shared memory, brought by bulk copies: they need no registers, no address arithmetic
// a lane, and leave the load path to the activations. Before, in registers.
#pragma once

#include <cstdint>

#include "experts/device/barrier.cuh"
#include "experts/marlin/weight_step.cuh"

namespace moe4::cuda {

inline constexpr int kUnitStages = 2;

/// Shared memory of a block of `warps`, which starts 128-byte aligned; nothing before SM90.
constexpr int unit_stream_bytes(int warps, bool bulk_copies) {
  constexpr int kBarrierBytes = kUnitStages * static_cast<int>(sizeof(uint64_t));
  return bulk_copies ? warps * (kUnitStages * kUnitBytes + kBarrierBytes) : 0;
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

class UnitStream {
 public:
  static constexpr bool kBulkCopies = true;

  __device__ __forceinline__ UnitStream(uint8_t* shared, int warps, int lane)
      : units_(shared + static_cast<int>(threadIdx.x) / 32 * kUnitStages * kUnitBytes),
        full_(reinterpret_cast<uint64_t*>(shared + warps * kUnitStages * kUnitBytes) +
              static_cast<int>(threadIdx.x) / 32 * kUnitStages),
        lane_(lane) {
    if (lane == 0) {
      for (int stage = 0; stage < kUnitStages; ++stage) barrier_init(&full_[stage], 1);
      fence_barrier_init();
    }
    __syncwarp();
  }

  /// The first unit of a stage; null: none.
  template <int kStage>
  __device__ __forceinline__ void start(const uint8_t* unit) {
    if (lane_ == 0 && unit != nullptr) {
      bulk_load(units_ + kStage * kUnitBytes, unit, kUnitBytes, &full_[kStage]);
    }
  }

  /// acc += the stage's unit times tokens; then the stage fetches `after`, if not null. Stages take
  /// turns.
  template <int kStage, typename RefillTokens>
  __device__ __forceinline__ void multiply(const TokenFragments& tokens, float (&acc)[1][4],
                                           const uint8_t* after, RefillTokens refill_tokens) {
    const uint8_t* const unit = units_ + kStage * kUnitBytes;
    barrier_wait(&full_[kStage], phase_);
    if (kStage == kUnitStages - 1) phase_ ^= 1;
    WeightFragments<1> weights;
    weights.scales[0] = *reinterpret_cast<const uint2*>(unit + kUnitScaleOffset + lane_ * 8);
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      weights.words[0][chunk] = *reinterpret_cast<const uint4*>(unit + chunk * 512 + lane_ * 16);
    }
    multiply_step(weights, tokens, acc, nullptr, false, lane_, refill_tokens);
    __syncwarp();  // every lane has its words
    start<kStage>(after);
  }

 private:
  uint8_t* const units_;
  uint64_t* const full_;
  const int lane_;
  uint32_t phase_ = 0;
};

#else

class UnitStream {
 public:
  static constexpr bool kBulkCopies = false;

  __device__ __forceinline__ UnitStream(uint8_t* /*shared*/, int /*warps*/, int lane)
      : lane_(lane) {}

  template <int kStage>
  __device__ __forceinline__ void start(const uint8_t* unit) {
    load_weights(stages_[kStage], unit, unit != nullptr, lane_);
  }

  template <int kStage, typename RefillTokens>
  __device__ __forceinline__ void multiply(const TokenFragments& tokens, float (&acc)[1][4],
                                           const uint8_t* after, RefillTokens refill_tokens) {
    multiply_step(stages_[kStage], tokens, acc, after, after != nullptr, lane_, refill_tokens);
  }

 private:
  WeightFragments<1> stages_[kUnitStages] = {};
  const int lane_;
};

#endif

}  // namespace moe4::cuda
