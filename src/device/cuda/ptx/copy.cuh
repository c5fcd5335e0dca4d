// Copies between global and shared memory that run beside the thread: bulk copies of the copy
// engine (SM90) and cp.async of single threads.
#pragma once

#include <cstdint>

#include "device/cuda/ptx/memory.cuh"

namespace moe4::cuda {

// ---- bulk copies -------------------------------------------------------------------------------

/// SM90. From global to shared memory; bytes and addresses in multiples of 16. The barrier's phase
/// has been told of them (barrier_expect()).
__device__ __forceinline__ void bulk_copy(uint32_t destination, const void* source, uint32_t bytes,
                                          uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(destination),
      "l"(source), "r"(bytes), "r"(barrier)
      : "memory");
}
/// With a policy for the L2 (evict_first_policy()).
__device__ __forceinline__ void bulk_copy(uint32_t destination, const void* source, uint32_t bytes,
                                          uint32_t barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1], %2, [%3], %4;" ::"r"(destination),
      "l"(source), "r"(bytes), "r"(barrier), "l"(policy)
      : "memory");
}

/// Shared to global memory, asynchronously; bytes and addresses in multiples of 16. What is to be
/// sent was stored before a fence_async_proxy() of whoever stored it. In a build for
/// compute-sanitizer (MOE4_RACECHECK) the thread copies, so that initcheck sees ordinary stores.
__device__ __forceinline__ void bulk_store(void* destination, uint32_t source, uint32_t bytes) {
#ifdef MOE4_RACECHECK
  for (uint32_t i = 0; i < bytes; i += 16) {
    *reinterpret_cast<uint4*>(static_cast<uint8_t*>(destination) + i) = load_shared16(source + i);
  }
#else
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(destination),
               "r"(source), "r"(bytes)
               : "memory");
#endif
}
/// This thread's bulk_store() since the last commit become a group.
__device__ __forceinline__ void bulk_store_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
/// All but the last `Pending` groups have been read: their shared memory is free.
template <int Pending>
__device__ __forceinline__ void bulk_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(Pending) : "memory");
}
/// All groups are written.
__device__ __forceinline__ void bulk_store_wait() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

// ---- cp.async ----------------------------------------------------------------------------------

/// The first `bytes` of 16, which may be 0; zeros for the rest.
__device__ __forceinline__ void copy16(uint32_t destination, const void* source, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(destination), "l"(source),
               "r"(bytes)
               : "memory");
}
/// 4 bytes or, if not `wanted`, 4 zeros.
__device__ __forceinline__ void copy4(uint32_t destination, const void* source, bool wanted) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(destination), "l"(source),
               "r"(wanted ? 4 : 0)
               : "memory");
}
/// A predicate and no branch: between copies behind branches of their own, ptxas puts three idle
/// instructions.
__device__ __forceinline__ void copy16_if(bool condition, uint32_t destination,
                                          const void* source) {
  asm volatile(
      "{\n"
      ".reg .pred wanted;\n"
      "setp.ne.b32 wanted, %2, 0;\n"
      "@wanted cp.async.cg.shared.global [%0], [%1], 16;\n"
      "}" ::"r"(destination),
      "l"(source), "r"(static_cast<uint32_t>(condition))
      : "memory");
}
/// This thread's cp.async copies since the last commit become a group; all but the last `Pending`
/// groups have landed.
__device__ __forceinline__ void copy_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int Pending>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}
/// Orders ordinary shared-memory writes that this thread made or waited for before its wgmma.
__device__ __forceinline__ void fence_async_proxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// The same for global memory too.
__device__ __forceinline__ void fence_async_proxy_all() {
  asm volatile("fence.proxy.async;" ::: "memory");
}

}  // namespace moe4::cuda
