// Blocks of a cluster (SM90) that tell each other something by stores which report to the
// receiver's barrier: one way, where a cluster barrier waits for every write to memory and loads
// from afar come after it.
#pragma once

#include <cstdint>

namespace moe4::cuda {

/// What is at `address` of this block's shared memory, in that of block `rank` of the cluster.
__device__ __forceinline__ uint32_t address_in_block(uint32_t address, uint32_t rank) {
  uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}
/// 16 bytes to an address_in_block(); they count for `barrier`, which is there too
/// (barrier_expect()).
__device__ __forceinline__ void store_in_cluster16(uint32_t address, int4 v, uint32_t barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.s32 [%0], {%1, %2, %3, %4}, "
      "[%5];" ::"r"(address),
      "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w), "r"(barrier)
      : "memory");
}
/// 8 bytes, aligned, and 4 in the same way.
__device__ __forceinline__ void store_in_cluster8(uint32_t address, float x, float y,
                                                  uint32_t barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::
          "r"(address),
      "f"(x), "f"(y), "r"(barrier)
      : "memory");
}
__device__ __forceinline__ void store_in_cluster4(uint32_t address, float v, uint32_t barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" ::"r"(
          address),
      "f"(v), "r"(barrier)
      : "memory");
}
/// 4 bytes to an address_in_block(), to be followed by a barrier of the cluster.
__device__ __forceinline__ void store_in_cluster4(uint32_t address, float v) {
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(address), "f"(v) : "memory");
}
/// 8 bytes, aligned, in the same way.
__device__ __forceinline__ void store_in_cluster8(uint32_t address, float x, float y) {
  asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(x), "f"(y)
               : "memory");
}
/// For the phase of this parity of a barrier here.
__device__ __forceinline__ void wait_for_cluster_stores(uint32_t barrier, uint32_t parity = 0) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
      "@done bra.uni finished;\n"
      "bra.uni again;\n"
      "finished:\n"
      "}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
/// Arrives at a barrier at an address_in_block().
__device__ __forceinline__ void arrive_in_block(uint32_t barrier) {
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(barrier)
               : "memory");
}
// The first orders barrier initialisation alone (fence_barrier_init()).
__device__ __forceinline__ void arrive_in_cluster() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
/// With wait_for_cluster(): what this thread wrote and read before is before what others do after.
__device__ __forceinline__ void arrive_in_cluster_releasing() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ __forceinline__ void wait_for_cluster() {
  asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
}

}  // namespace moe4::cuda
