// wgmma.m64nNk16 with F16 operands and float32 accumulators for attention: queries times keys from
// shared memory, and weights in registers times values.
#pragma once

#include <cstdint>

namespace moe4::cuda {

/// Registers of products may change, and shared memory was written, before the next wgmma.
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/// Tiles in panels of 128-byte rows in the 128-byte swizzle, 8 rows 1024 bytes apart; `address` is
/// a multiple of 1024. Rows along m or n, columns along k (queries, keys): add 2 for each k16.
__device__ __forceinline__ uint64_t rows_descriptor(uint32_t address) {
  return (uint64_t{0x40000040} << 32) | (1u << 16) | ((address & 0x3ffff) >> 4);
}
/// Rows along k, columns along n (values), panels of 64 columns `panel_bytes` apart: add 128 for
/// each k16.
__device__ __forceinline__ uint64_t columns_descriptor(uint32_t address, uint32_t panel_bytes) {
  return (uint64_t{0x40000040} << 32) | (panel_bytes >> 4 << 16) | ((address & 0x3ffff) >> 4);
}

// clang-format off
#define MOE4_R8(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define MOE4_R32(d, i) MOE4_R8(d, i), MOE4_R8(d, i + 8), MOE4_R8(d, i + 16), MOE4_R8(d, i + 24)
#define MOE4_N32 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define MOE4_N64 MOE4_N32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define MOE4_N128 MOE4_N64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

/// d (+)= A B^T over k16 for 64 rows of each: thread 4g + t of warp w holds d[4b + i]: row
/// 16w + g + 8 (i / 2), column 8b + 2t + i % 2. Asynchronous, between wgmma_fence() and
/// wgmma_commit().
__device__ __forceinline__ void multiply_rows(float (&d)[32], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" MOE4_N32 "}, %32, %33, p, 1, 1, 0, 0;\n}"
               : MOE4_R32(d, 0) : "l"(a), "l"(b), "r"(static_cast<uint32_t>(accumulate)));
}

/// d += A B over k16, A in registers (those of mma.m16n8k16 for each warp's 16 rows), B with rows
/// along k; 64, 128 or 256 columns.
__device__ __forceinline__ void multiply_columns(float (&d)[32], const uint32_t (&a)[4], uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" MOE4_N32 "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
               : MOE4_R32(d, 0) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void multiply_columns(float (&d)[64], const uint32_t (&a)[4], uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" MOE4_N64 "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
               : MOE4_R32(d, 0), MOE4_R32(d, 32) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void multiply_columns(float (&d)[128], const uint32_t (&a)[4], uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 {" MOE4_N128 "}, {%128, %129, %130, %131}, %132, 1, 1, 1, 1;"
               : MOE4_R32(d, 0), MOE4_R32(d, 32), MOE4_R32(d, 64), MOE4_R32(d, 96) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
// clang-format on
#undef MOE4_R8
#undef MOE4_R32
#undef MOE4_N32
#undef MOE4_N64
#undef MOE4_N128

}  // namespace moe4::cuda
