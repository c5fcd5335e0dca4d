// Products over both halves of 64 columns in turn, as sums in the order of decode_shares() want
// them. Operands are those of wgmma_sm90.cuh.
#pragma once

#include <cstdint>

namespace moe4::cuda {

// clang-format off
#define MOE4_STEP(N, D, A, B, P) \
  "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" D "}, {" A "}, " B ", " P ", 1, 1, 0;\n"

/// d (+)= A B over the first 32 of 64 columns, e over the others, for exactly 72 or 96 rows of B. In
/// turn, so that no product waits for the one before. Asynchronous: one group, fenced before and
/// committed.
#define MOE4_D \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, " \
  "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35"
#define MOE4_E \
  "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, " \
  "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, " \
  "%70, %71"
__device__ __forceinline__ void multiply_halves(float (&d)[36], float (&e)[36],
                                                const uint32_t (&a)[2][8], uint32_t b,
                                                bool accumulate) {
  asm volatile(
      "{\n.reg .pred first;\n.reg .b64 b0, b1, b2, b3;\nsetp.ne.b32 first, %89, 0;\n"
      "mov.b64 b0, {%88, 0x40000040};\n"
      "add.u64 b1, b0, 2;\nadd.u64 b2, b0, 4;\nadd.u64 b3, b0, 6;\n"
      "wgmma.fence.sync.aligned;\n"
      MOE4_STEP(72, MOE4_D, "%72, %73, %74, %75", "b0", "first") MOE4_STEP(72, MOE4_E, "%80, %81, %82, %83", "b2", "first")
      MOE4_STEP(72, MOE4_D, "%76, %77, %78, %79", "b1", "1") MOE4_STEP(72, MOE4_E, "%84, %85, %86, %87", "b3", "1")
      "wgmma.commit_group.sync.aligned;\n}"
      :
        "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
        "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]),
        "+f"(d[35]), "+f"(e[0]), "+f"(e[1]), "+f"(e[2]), "+f"(e[3]), "+f"(e[4]), "+f"(e[5]),
        "+f"(e[6]), "+f"(e[7]), "+f"(e[8]), "+f"(e[9]), "+f"(e[10]), "+f"(e[11]), "+f"(e[12]),
        "+f"(e[13]), "+f"(e[14]), "+f"(e[15]), "+f"(e[16]), "+f"(e[17]), "+f"(e[18]), "+f"(e[19]),
        "+f"(e[20]), "+f"(e[21]), "+f"(e[22]), "+f"(e[23]), "+f"(e[24]), "+f"(e[25]), "+f"(e[26]),
        "+f"(e[27]), "+f"(e[28]), "+f"(e[29]), "+f"(e[30]), "+f"(e[31]), "+f"(e[32]), "+f"(e[33]),
        "+f"(e[34]), "+f"(e[35])
      :
        "r"(a[0][0]), "r"(a[0][1]), "r"(a[0][2]), "r"(a[0][3]), "r"(a[0][4]), "r"(a[0][5]),
        "r"(a[0][6]), "r"(a[0][7]), "r"(a[1][0]), "r"(a[1][1]), "r"(a[1][2]), "r"(a[1][3]),
        "r"(a[1][4]), "r"(a[1][5]), "r"(a[1][6]), "r"(a[1][7]), "r"(b),
        "r"(static_cast<uint32_t>(accumulate)));
}
/// d (+)= A B over 32 columns.
__device__ __forceinline__ void multiply_half(float (&d)[36], const uint32_t (&a)[8], uint32_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred first;\nsetp.ne.b32 first, %45, 0;\n.reg .b64 b0, b1;\nmov.b64 b0, {%44, 0x40000040};\nadd.u64 b1, b0, 2;\n"
      "wgmma.fence.sync.aligned;\n"
      MOE4_STEP(72, MOE4_D, "%36, %37, %38, %39", "b0", "first")
      MOE4_STEP(72, MOE4_D, "%40, %41, %42, %43", "b1", "1")
      "wgmma.commit_group.sync.aligned;\n}"
      :
        "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
        "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]),
        "+f"(d[35])
      :
        "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(a[4]), "r"(a[5]), "r"(a[6]), "r"(a[7]),
        "r"(b), "r"(static_cast<uint32_t>(accumulate)));
}
#undef MOE4_D
#undef MOE4_E
#define MOE4_D \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, " \
  "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, " \
  "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define MOE4_E \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, " \
  "%65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, " \
  "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
__device__ __forceinline__ void multiply_halves(float (&d)[48], float (&e)[48],
                                                const uint32_t (&a)[2][8], uint32_t b,
                                                bool accumulate) {
  asm volatile(
      "{\n.reg .pred first;\n.reg .b64 b0, b1, b2, b3;\nsetp.ne.b32 first, %113, 0;\n"
      "mov.b64 b0, {%112, 0x40000040};\n"
      "add.u64 b1, b0, 2;\nadd.u64 b2, b0, 4;\nadd.u64 b3, b0, 6;\n"
      "wgmma.fence.sync.aligned;\n"
      MOE4_STEP(96, MOE4_D, "%96, %97, %98, %99", "b0", "first") MOE4_STEP(96, MOE4_E, "%104, %105, %106, %107", "b2", "first")
      MOE4_STEP(96, MOE4_D, "%100, %101, %102, %103", "b1", "1") MOE4_STEP(96, MOE4_E, "%108, %109, %110, %111", "b3", "1")
      "wgmma.commit_group.sync.aligned;\n}"
      :
        "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
        "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]),
        "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
        "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(e[0]),
        "+f"(e[1]), "+f"(e[2]), "+f"(e[3]), "+f"(e[4]), "+f"(e[5]), "+f"(e[6]), "+f"(e[7]),
        "+f"(e[8]), "+f"(e[9]), "+f"(e[10]), "+f"(e[11]), "+f"(e[12]), "+f"(e[13]), "+f"(e[14]),
        "+f"(e[15]), "+f"(e[16]), "+f"(e[17]), "+f"(e[18]), "+f"(e[19]), "+f"(e[20]), "+f"(e[21]),
        "+f"(e[22]), "+f"(e[23]), "+f"(e[24]), "+f"(e[25]), "+f"(e[26]), "+f"(e[27]), "+f"(e[28]),
        "+f"(e[29]), "+f"(e[30]), "+f"(e[31]), "+f"(e[32]), "+f"(e[33]), "+f"(e[34]), "+f"(e[35]),
        "+f"(e[36]), "+f"(e[37]), "+f"(e[38]), "+f"(e[39]), "+f"(e[40]), "+f"(e[41]), "+f"(e[42]),
        "+f"(e[43]), "+f"(e[44]), "+f"(e[45]), "+f"(e[46]), "+f"(e[47])
      :
        "r"(a[0][0]), "r"(a[0][1]), "r"(a[0][2]), "r"(a[0][3]), "r"(a[0][4]), "r"(a[0][5]),
        "r"(a[0][6]), "r"(a[0][7]), "r"(a[1][0]), "r"(a[1][1]), "r"(a[1][2]), "r"(a[1][3]),
        "r"(a[1][4]), "r"(a[1][5]), "r"(a[1][6]), "r"(a[1][7]), "r"(b),
        "r"(static_cast<uint32_t>(accumulate)));
}
/// d (+)= A B over 32 columns.
__device__ __forceinline__ void multiply_half(float (&d)[48], const uint32_t (&a)[8], uint32_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred first;\nsetp.ne.b32 first, %57, 0;\n.reg .b64 b0, b1;\nmov.b64 b0, {%56, 0x40000040};\nadd.u64 b1, b0, 2;\n"
      "wgmma.fence.sync.aligned;\n"
      MOE4_STEP(96, MOE4_D, "%48, %49, %50, %51", "b0", "first")
      MOE4_STEP(96, MOE4_D, "%52, %53, %54, %55", "b1", "1")
      "wgmma.commit_group.sync.aligned;\n}"
      :
        "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
        "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]),
        "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
        "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
      :
        "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(a[4]), "r"(a[5]), "r"(a[6]), "r"(a[7]),
        "r"(b), "r"(static_cast<uint32_t>(accumulate)));
}
#undef MOE4_D
#undef MOE4_E

// clang-format on
#undef MOE4_STEP

}  // namespace moe4::cuda
