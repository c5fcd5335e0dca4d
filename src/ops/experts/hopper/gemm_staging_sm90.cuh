// Shared memory that epilogues pass their values through, on the way to global memory or to another
// warp.
#pragma once

#include <type_traits>

#include "device/cuda/ptx/copy.cuh"
#include "device/cuda/ptx/memory.cuh"
#include "device/cuda/ptx/warp.cuh"
#include "ops/experts/hopper/gemm_shape_sm90.cuh"

namespace moe4::cuda::hopper {

// Large tiles: a consumer group's way out. Its four warps write a slot, the copy engine sends it
// while they write the next ones or multiply. (Stores of their own stand in front of everything
// else that a warp wants of memory, its next weights too.)
template <class Shape>
class Outbox {
 public:
  __device__ __forceinline__ Outbox(uint32_t shared, int warp)
      : group_(warp / 4),
        slots_(shared + Shape::kStagingOffset + group_ * Shape::kSlots * Shape::kSlotBytes),
        sender_(threadIdx.x % 128 == 0) {}
  /// Where to write now; it is free. kSlotBytes.
  __device__ __forceinline__ uint32_t slot() const { return slots_ + next_ * Shape::kSlotBytes; }
  /// This warp has written the slot. When all have, one thread calls send(slot()), which issues
  /// bulk_store().
  template <class Send>
  __device__ __forceinline__ void close(Send send) {
    fence_async_proxy();
    // The slot after this one must be free when all have passed.
    if (sender_) bulk_store_wait_read<Shape::kSlots - 2>();
    named_barrier<128>(1 + group_);
    if (sender_) {
      send(slot());
      bulk_store_commit();
    }
    next_ = next_ + 1 == Shape::kSlots ? 0 : next_ + 1;
  }
  /// Before the kernel ends: all is written.
  __device__ __forceinline__ void finish() const {
    if (sender_) bulk_store_wait();
  }

 private:
  const int group_;
  const uint32_t slots_;
  const bool sender_;
  int next_ = 0;
};

// Other tiles: swaps values between the warps of m16 tiles 2j and 2j + 1. One for each tile, so
// that nothing of it takes registers in the loop of products.
template <class Shape>
class Exchange {
 public:
  __device__ __forceinline__ Exchange(uint32_t shared, int warp) : pair_(warp / 2) {
    asm volatile("" : "+r"(shared));  // computed here, not kept from tile to tile
    own_ = shared + Shape::kStagingOffset + warp * kWarpBytes + threadIdx.x % 32 * 16;
    other_ = own_ + (warp % 2 == 0 ? kWarpBytes : -kWarpBytes);
  }
  /// `values` become what the same lane of the other warp gives. Two slots in turn: whoever writes
  /// one again knows by the barrier between that the other has read it.
  __device__ __forceinline__ void swap(float (&values)[2][2]) {
    const auto bits = [](float v) { return __float_as_uint(v); };
    store_shared16(own_ + turn_, make_uint4(bits(values[0][0]), bits(values[0][1]),
                                            bits(values[1][0]), bits(values[1][1])));
    named_barrier<64>(1 + pair_);
    const uint4 v = load_shared16(other_ + turn_);
    turn_ ^= Shape::kSlotBytes;
    values[0][0] = __uint_as_float(v.x);
    values[0][1] = __uint_as_float(v.y);
    values[1][0] = __uint_as_float(v.z);
    values[1][1] = __uint_as_float(v.w);
  }
  /// After the last swap: the next Exchange may begin with the first slot again.
  __device__ __forceinline__ void finish() const { named_barrier<64>(1 + pair_); }

 private:
  static constexpr int kWarpBytes = Shape::kSlots * Shape::kSlotBytes;
  const int pair_;
  uint32_t own_, other_;
  uint32_t turn_ = 0;
};

// What a large tile's consumer keeps from tile to tile; others keep nothing.
struct NoOutbox {
  __device__ NoOutbox(uint32_t, int) {}
  __device__ void finish() const {}
};
template <class Shape>
using OutboxOf = std::conditional_t<(Shape::kBlocks > 1), Outbox<Shape>, NoOutbox>;

}  // namespace moe4::cuda::hopper
