// wgmma.m64nNk16 with BF16 operands and float32 accumulators: A in registers, B (K-major, 128-byte
// swizzle) in shared memory, and a width N chosen at run time.
//
// The choice is a jump inside one asm statement, so that all widths name the same registers: given
// one loop per width, ptxas reserves registers for all of them at once, runs out, and serialises
// every wgmma. Fence and commit stand behind each label for the same reason: apart from their wgmma
// they cost a second, empty group.
#pragma once

#include <cstdint>

namespace moe4::cuda {

/// All but the last `Pending` groups of products of this warpgroup are done.
template <int Pending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

/// Low word of the descriptor of a B tile [n][64] in the 128-byte swizzle: rows of 128 bytes,
/// groups of 8 rows 1024 bytes apart. Add 2 for each further k16 of the 64 columns, bytes / 16 for
/// another tile. `address` is a multiple of 1024.
__device__ __forceinline__ uint32_t b_descriptor(uint32_t address) {
  return (1u << 16) | ((address & 0x3ffff) >> 4);
}

// clang-format off
// The accumulators of 8 (b + 1) tokens, as operand numbers and as operands.
#define MOE4_D0 "%0, %1, %2, %3"
#define MOE4_D1 MOE4_D0 ", %4, %5, %6, %7"
#define MOE4_D2 MOE4_D1 ", %8, %9, %10, %11"
#define MOE4_D3 MOE4_D2 ", %12, %13, %14, %15"
#define MOE4_D4 MOE4_D3 ", %16, %17, %18, %19"
#define MOE4_D5 MOE4_D4 ", %20, %21, %22, %23"
#define MOE4_D6 MOE4_D5 ", %24, %25, %26, %27"
#define MOE4_D7 MOE4_D6 ", %28, %29, %30, %31"
#define MOE4_D8 MOE4_D7 ", %32, %33, %34, %35"
#define MOE4_D9 MOE4_D8 ", %36, %37, %38, %39"
#define MOE4_D10 MOE4_D9 ", %40, %41, %42, %43"
#define MOE4_D11 MOE4_D10 ", %44, %45, %46, %47"
#define MOE4_D12 MOE4_D11 ", %48, %49, %50, %51"
#define MOE4_D13 MOE4_D12 ", %52, %53, %54, %55"
#define MOE4_D14 MOE4_D13 ", %56, %57, %58, %59"
#define MOE4_D15 MOE4_D14 ", %60, %61, %62, %63"
#define MOE4_D16 MOE4_D15 ", %64, %65, %66, %67"
#define MOE4_D17 MOE4_D16 ", %68, %69, %70, %71"
#define MOE4_D18 MOE4_D17 ", %72, %73, %74, %75"
#define MOE4_D19 MOE4_D18 ", %76, %77, %78, %79"
#define MOE4_R0 "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
#define MOE4_R1 MOE4_R0, "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define MOE4_R2 MOE4_R1, "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11])
#define MOE4_R3 MOE4_R2, "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define MOE4_R4 MOE4_R3, "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19])
#define MOE4_R5 MOE4_R4, "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23])
#define MOE4_R6 MOE4_R5, "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27])
#define MOE4_R7 MOE4_R6, "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define MOE4_R8 MOE4_R7, "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35])
#define MOE4_R9 MOE4_R8, "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39])
#define MOE4_R10 MOE4_R9, "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43])
#define MOE4_R11 MOE4_R10, "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
#define MOE4_R12 MOE4_R11, "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51])
#define MOE4_R13 MOE4_R12, "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55])
#define MOE4_R14 MOE4_R13, "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59])
#define MOE4_R15 MOE4_R14, "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define MOE4_R16 MOE4_R15, "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67])
#define MOE4_R17 MOE4_R16, "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71])
#define MOE4_R18 MOE4_R17, "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75])
#define MOE4_R19 MOE4_R18, "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79])

// One k16 step: A registers, descriptor and predicate.
#define MOE4_STEP(N, D, A, B, P) \
  "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" D "}, {" A "}, " B ", " P ", 1, 1, 0;\n"
// 64 columns: four of them, the first of which may overwrite D.
#define MOE4_STEPS(N, D, A0, A1, A2, A3, B0, B1, B2, B3, FIRST) \
  MOE4_STEP(N, D, A0, B0, FIRST) MOE4_STEP(N, D, A1, B1, "1") \
  MOE4_STEP(N, D, A2, B2, "1") MOE4_STEP(N, D, A3, B3, "1")

// Every width there is, and their labels.
#define MOE4_UP_TO_96(WIDTH) \
  WIDTH(8, MOE4_D0) WIDTH(16, MOE4_D1) WIDTH(24, MOE4_D2) WIDTH(32, MOE4_D3) \
  WIDTH(40, MOE4_D4) WIDTH(48, MOE4_D5) WIDTH(56, MOE4_D6) WIDTH(64, MOE4_D7) \
  WIDTH(72, MOE4_D8) WIDTH(80, MOE4_D9) WIDTH(88, MOE4_D10) WIDTH(96, MOE4_D11)
#define MOE4_UP_TO_160(WIDTH) MOE4_UP_TO_96(WIDTH) \
  WIDTH(104, MOE4_D12) WIDTH(112, MOE4_D13) WIDTH(120, MOE4_D14) WIDTH(128, MOE4_D15) \
  WIDTH(136, MOE4_D16) WIDTH(144, MOE4_D17) WIDTH(152, MOE4_D18) WIDTH(160, MOE4_D19)
#define MOE4_LABELS_96 "n8, n16, n24, n32, n40, n48, n56, n64, n72, n80, n88, n96"
#define MOE4_LABELS_160 MOE4_LABELS_96 ", n104, n112, n120, n128, n136, n144, n152, n160"
// The descriptors of the 64 columns at B. Sums of 32 bits: a carry of 64 would be an instruction more each.
#define MOE4_DESCRIPTORS(B, B0, B1, B2, B3) \
  "mov.b64 " B0 ", {" B ", 0x40000040};\n" \
  "add.u32 low, " B ", 2;\nmov.b64 " B1 ", {low, 0x40000040};\n" \
  "add.u32 low, " B ", 4;\nmov.b64 " B2 ", {low, 0x40000040};\n" \
  "add.u32 low, " B ", 6;\nmov.b64 " B3 ", {low, 0x40000040};\n"

// 128 columns at one width.
#define MOE4_WIDTH(N, D) \
  "n" #N ":\nwgmma.fence.sync.aligned;\n" \
  MOE4_STEPS(N, D, "%48, %49, %50, %51", "%52, %53, %54, %55", "%56, %57, %58, %59", "%60, %61, %62, %63", "b0", "b1", "b2", "b3", "first") \
  MOE4_STEPS(N, D, "%64, %65, %66, %67", "%68, %69, %70, %71", "%72, %73, %74, %75", "%76, %77, %78, %79", "b4", "b5", "b6", "b7", "1") \
  "wgmma.commit_group.sync.aligned;\nbra.uni done;\n"

/// d (+)= A B over 128 columns for the warpgroup's 64 rows and 8 (width + 1) tokens, width 0 .. 11.
/// Thread 4g + t of warp w holds d[4b + i]: row 16w + g + 8 (i / 2), token 8b + 2t + i % 2. `b0`,
/// `b4`: descriptors of the two tiles of 64 columns; 4 registers of `a` for each k16. Asynchronous:
/// one wgmma group, fenced before and committed.
__device__ __forceinline__ void multiply_128_columns(float (&d)[48], const uint32_t (&a)[32], uint32_t b0, uint32_t b4, uint32_t accumulate, uint32_t width) {
  asm volatile(
      "{\n.reg .pred first;\n.reg .b32 low;\n.reg .b64 b0, b1, b2, b3, b4, b5, b6, b7;\n"
      "setp.ne.b32 first, %82, 0;\n"
      MOE4_DESCRIPTORS("%80", "b0", "b1", "b2", "b3") MOE4_DESCRIPTORS("%81", "b4", "b5", "b6", "b7")
      "widths: .branchtargets " MOE4_LABELS_96 ";\nbrx.idx.uni %83, widths;\n"
      MOE4_UP_TO_96(MOE4_WIDTH)
      "done:\n}"
      : MOE4_R11
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(a[4]), "r"(a[5]), "r"(a[6]), "r"(a[7]),
        "r"(a[8]), "r"(a[9]), "r"(a[10]), "r"(a[11]), "r"(a[12]), "r"(a[13]), "r"(a[14]), "r"(a[15]),
        "r"(a[16]), "r"(a[17]), "r"(a[18]), "r"(a[19]), "r"(a[20]), "r"(a[21]), "r"(a[22]), "r"(a[23]),
        "r"(a[24]), "r"(a[25]), "r"(a[26]), "r"(a[27]), "r"(a[28]), "r"(a[29]), "r"(a[30]), "r"(a[31]),
        "r"(b0), "r"(b4), "r"(accumulate), "r"(width));
}

#undef MOE4_WIDTH

// 64 columns at one width.
#define MOE4_WIDTH(N, D) \
  "n" #N ":\nwgmma.fence.sync.aligned;\n" \
  MOE4_STEPS(N, D, "%80, %81, %82, %83", "%84, %85, %86, %87", "%88, %89, %90, %91", "%92, %93, %94, %95", "b0", "b1", "b2", "b3", "first") \
  "wgmma.commit_group.sync.aligned;\nbra.uni done;\n"

/// The same over 64 columns for more tokens, width 0 .. 19.
__device__ __forceinline__ void multiply_64_columns(float (&d)[80], const uint32_t (&a)[16], uint32_t b, uint32_t accumulate, uint32_t width) {
  asm volatile(
      "{\n.reg .pred first;\n.reg .b32 low;\n.reg .b64 b0, b1, b2, b3;\n"
      "setp.ne.b32 first, %97, 0;\n"
      MOE4_DESCRIPTORS("%96", "b0", "b1", "b2", "b3")
      "widths: .branchtargets " MOE4_LABELS_160 ";\nbrx.idx.uni %98, widths;\n"
      MOE4_UP_TO_160(MOE4_WIDTH)
      "done:\n}"
      : MOE4_R19
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(a[4]), "r"(a[5]), "r"(a[6]), "r"(a[7]),
        "r"(a[8]), "r"(a[9]), "r"(a[10]), "r"(a[11]), "r"(a[12]), "r"(a[13]), "r"(a[14]), "r"(a[15]),
        "r"(b), "r"(accumulate), "r"(width));
}

#undef MOE4_WIDTH
#undef MOE4_DESCRIPTORS
#undef MOE4_UP_TO_96
#undef MOE4_UP_TO_160
#undef MOE4_LABELS_96
#undef MOE4_LABELS_160

// 64 columns at a fixed width.
#define MOE4_FIXED_WIDTH(N, D, R, A0, A1, A2, A3, B, ACCUMULATE) \
  __device__ __forceinline__ void multiply_64_columns(float (&d)[N / 2], const uint32_t (&a)[16], uint32_t b, bool accumulate) { \
    asm volatile( \
        "{\n.reg .pred first;\n.reg .b64 b0, b1, b2, b3;\nsetp.ne.b32 first, " ACCUMULATE ", 0;\n" \
        "mov.b64 b0, {" B ", 0x40000040};\nadd.u64 b1, b0, 2;\nadd.u64 b2, b0, 4;\nadd.u64 b3, b0, 6;\n" \
        "wgmma.fence.sync.aligned;\n" \
        MOE4_STEPS(N, D, A0, A1, A2, A3, "b0", "b1", "b2", "b3", "first") \
        "wgmma.commit_group.sync.aligned;\n}" \
        : R \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(a[4]), "r"(a[5]), "r"(a[6]), "r"(a[7]), \
          "r"(a[8]), "r"(a[9]), "r"(a[10]), "r"(a[11]), "r"(a[12]), "r"(a[13]), "r"(a[14]), "r"(a[15]), \
          "r"(b), "r"(static_cast<uint32_t>(accumulate))); \
  }

/// The same for exactly 8, 16, 24, 32, 40, 64 or 128 tokens.
MOE4_FIXED_WIDTH(8, MOE4_D0, MOE4_R0, "%4, %5, %6, %7", "%8, %9, %10, %11", "%12, %13, %14, %15", "%16, %17, %18, %19", "%20", "%21")
MOE4_FIXED_WIDTH(16, MOE4_D1, MOE4_R1, "%8, %9, %10, %11", "%12, %13, %14, %15", "%16, %17, %18, %19", "%20, %21, %22, %23", "%24", "%25")
MOE4_FIXED_WIDTH(24, MOE4_D2, MOE4_R2, "%12, %13, %14, %15", "%16, %17, %18, %19", "%20, %21, %22, %23", "%24, %25, %26, %27", "%28", "%29")
MOE4_FIXED_WIDTH(32, MOE4_D3, MOE4_R3, "%16, %17, %18, %19", "%20, %21, %22, %23", "%24, %25, %26, %27", "%28, %29, %30, %31", "%32", "%33")
MOE4_FIXED_WIDTH(40, MOE4_D4, MOE4_R4, "%20, %21, %22, %23", "%24, %25, %26, %27", "%28, %29, %30, %31", "%32, %33, %34, %35", "%36", "%37")
MOE4_FIXED_WIDTH(64, MOE4_D7, MOE4_R7, "%32, %33, %34, %35", "%36, %37, %38, %39", "%40, %41, %42, %43", "%44, %45, %46, %47", "%48", "%49")
MOE4_FIXED_WIDTH(128, MOE4_D15, MOE4_R15, "%64, %65, %66, %67", "%68, %69, %70, %71", "%72, %73, %74, %75", "%76, %77, %78, %79", "%80", "%81")
#undef MOE4_FIXED_WIDTH

// 32 columns at a fixed width.
#define MOE4_HALF_STEP(N, D, R, A0, A1, B, ACCUMULATE) \
  __device__ __forceinline__ void multiply_32_columns(float (&d)[N / 2], const uint32_t (&a)[8], uint32_t b, bool accumulate = true) { \
    asm volatile( \
        "{\n.reg .pred first;\n.reg .b64 b0, b1;\nsetp.ne.b32 first, " ACCUMULATE ", 0;\n" \
        "mov.b64 b0, {" B ", 0x40000040};\nadd.u64 b1, b0, 2;\n" \
        "wgmma.fence.sync.aligned;\n" MOE4_STEP(N, D, A0, "b0", "first") MOE4_STEP(N, D, A1, "b1", "1") \
        "wgmma.commit_group.sync.aligned;\n}" \
        : R \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(a[4]), "r"(a[5]), "r"(a[6]), "r"(a[7]), "r"(b), \
          "r"(static_cast<uint32_t>(accumulate))); \
  }

/// d (+)= A B over 32 columns for exactly 16, 32, 64 or 128 tokens; `b` of the first 32 columns of a
/// tile, + 4 of the others.
MOE4_HALF_STEP(16, MOE4_D1, MOE4_R1, "%8, %9, %10, %11", "%12, %13, %14, %15", "%16", "%17")
MOE4_HALF_STEP(32, MOE4_D3, MOE4_R3, "%16, %17, %18, %19", "%20, %21, %22, %23", "%24", "%25")
MOE4_HALF_STEP(64, MOE4_D7, MOE4_R7, "%32, %33, %34, %35", "%36, %37, %38, %39", "%40", "%41")
MOE4_HALF_STEP(128, MOE4_D15, MOE4_R15, "%64, %65, %66, %67", "%68, %69, %70, %71", "%72", "%73")
#undef MOE4_HALF_STEP

// clang-format on
#undef MOE4_STEPS
#undef MOE4_STEP
#undef MOE4_D0
#undef MOE4_R0
#undef MOE4_D1
#undef MOE4_R1
#undef MOE4_D2
#undef MOE4_R2
#undef MOE4_D3
#undef MOE4_R3
#undef MOE4_D4
#undef MOE4_R4
#undef MOE4_D5
#undef MOE4_R5
#undef MOE4_D6
#undef MOE4_R6
#undef MOE4_D7
#undef MOE4_R7
#undef MOE4_D8
#undef MOE4_R8
#undef MOE4_D9
#undef MOE4_R9
#undef MOE4_D10
#undef MOE4_R10
#undef MOE4_D11
#undef MOE4_R11
#undef MOE4_D12
#undef MOE4_R12
#undef MOE4_D13
#undef MOE4_R13
#undef MOE4_D14
#undef MOE4_R14
#undef MOE4_D15
#undef MOE4_R15
#undef MOE4_D16
#undef MOE4_R16
#undef MOE4_D17
#undef MOE4_R17
#undef MOE4_D18
#undef MOE4_R18
#undef MOE4_D19
#undef MOE4_R19

}  // namespace moe4::cuda
