#!/bin/sh
# Shows that b12x's machine code for SM120 and SM121 contains the block-scaled FP4 instruction.
#
#   scripts/check_b12x_sass.sh [sm_120a sm_121a ...]
#
# Compiles the kernels for each architecture, disassembles them with cuobjdump and counts tensor-core
# instructions in every function. OMMA...E2M1.E2M1.UE4M3.4X is mma.kind::mxf4nvf4 with four E4M3
# scales for 64 columns. Fails when an FP4 product lacks it or falls back to BF16 (HMMA).
# Needs nvcc 12.8 or later and cuobjdump (NVCC, CUOBJDUMP override); no GPU.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
nvcc=${NVCC:-nvcc}
cuobjdump=${CUOBJDUMP:-cuobjdump}
command -v "$nvcc" >/dev/null || { echo "check_b12x_sass: no $nvcc; set NVCC" >&2; exit 4; }
command -v "$cuobjdump" >/dev/null || {
  echo "check_b12x_sass: no $cuobjdump; set CUOBJDUMP" >&2
  exit 4
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ $# -gt 0 ] || set -- sm_120a sm_121a

for arch in "$@"; do
  "$nvcc" -std=c++20 --expt-relaxed-constexpr -I"$root/src" -cubin -o "$work/kernels.cubin" \
    -gencode "arch=compute_${arch#sm_},code=$arch" "$root/src/ops/experts/b12x/kernels.cu"
  "$cuobjdump" -sass "$work/kernels.cubin" >"$work/kernels.sass"
  echo "$arch: $(grep -o 'OMMA[A-Z0-9.]*' "$work/kernels.sass" | sort | uniq -c | tr -s ' ')"
  # Mangled names: a product is (decode|prefill|few_tokens_fc2)_kernel with bool 1 (FP4) or 0 first.
  awk -v arch="$arch" '
    /Function :/ { name = $3 }
    / OMMA\./ { omma[name]++ }
    / HMMA\./ { hmma[name]++ }
    name ~ /(decode|prefill|few_tokens_fc2)_kernelILb/ { seen[name] = 1 }
    END {
      for (n in seen) {
        fp4 = n ~ /_kernelILb1/
        products += fp4
        printf "%s  %-4s %4d FP4 %4d BF16  %s\n", arch, fp4 ? "fp4" : "bf16", omma[n], hmma[n], n
        if (fp4 ? !omma[n] || hmma[n] : omma[n] || !hmma[n]) bad = 1
      }
      if (!products || bad) { print arch ": an FP4 product does not use the instruction"; exit 1 }
    }' "$work/kernels.sass"
done
