#!/bin/sh
# Runs the packed GPU tests, benchmarks and memory checker beside this file: run.sh OUT [STEPS].
# STEPS is a list out of "tests bench sanitize" (default: all three).
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=$1
steps=${2:-tests bench sanitize}
export LD_LIBRARY_PATH="$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
mkdir -p "$out"
status=0

for step in $steps; do
  case $step in
    tests)
      for test in "$here"/gpu_*_test; do
        name=$(basename "$test")
        timeout 300 "$test" --gtest_brief=1 >"$out/$name.log" 2>&1 || status=1
        echo "== $name: $(tail -n 1 "$out/$name.log")"
        grep -E '^\[  FAILED|Failure' "$out/$name.log" | sort | uniq -c | head -n 20
      done
      ;;
    bench)
      tokens=${MOE4_BENCH_TOKENS:-1,2,4,8,16,32,64,128,256,512,1024,2048,4096,8192}
      timeout 550 "$here/gpu_moe_bench" "${MOE4_BENCH_SHAPES:-A,B,C}" "$tokens" \
        "${MOE4_BENCH_BACKENDS:-marlin,hopper}" "${MOE4_BF16_TFLOPS:-0}" "$out/gpu_moe.json" \
        2>&1 | tee "$out/gpu_moe.md" || status=1
      ;;
    sanitize)
      for tool in memcheck racecheck synccheck initcheck; do
        for test in "$here"/gpu_*_test; do
          timeout 120 compute-sanitizer --tool $tool "$test" --gtest_brief=1 \
            --gtest_filter="${MOE4_SANITIZE_FILTER:-*ForEveryActivationItTakes*:*BiasesAreAdded*}" \
            >"$out/$(basename "$test").$tool.log" 2>&1
          echo "== $tool $(basename "$test"): $(grep 'ERROR SUMMARY\|RACECHECK SUMMARY' "$out/$(basename "$test").$tool.log")"
        done
      done
      ;;
  esac
done
exit $status
