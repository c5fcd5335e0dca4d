#!/bin/sh
# Runs what scripts/gpu_test.sh packed beside this file: run.sh OUT [STEPS].
# STEPS is a list out of "tests program sanitize bench" (default: all four). OUT gets logs and results;
# one line a test program, sanitizer run or benchmark goes to stdout. Exits 1 if anything failed.
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=$1
steps=${2:-tests program sanitize bench}
export LD_LIBRARY_PATH="$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export MOE4_TEST_DATA="$here/data" MOE4_EMBEDDED_MODELS="$here/models"
[ ! -d "$here/shared_models" ] || export MOE4_SHARED_MODELS="$here/shared_models"
mkdir -p "$out"
status=0

for step in $steps; do
  case $step in
    tests)
      for test in "$here"/*gpu*_test; do
        name=$(basename "$test")
        timeout "${MOE4_GPU_TEST_LIMIT:-300}" "$test" --gtest_brief=1 >"$out/$name.log" 2>&1
        code=$?
        [ $code = 0 ] || status=1
        skipped=$(sed -n 's/^\[  SKIPPED \] \([0-9]* tests*\).*/, \1 skipped/p' "$out/$name.log" | head -n 1)
        echo "$name: exit $code, $(sed -n 's/^\[==*\] //p' "$out/$name.log" | tail -n 1)$skipped"
        grep -E '^\[  FAILED  \]' "$out/$name.log" | sort -u | head -n 20
      done
      ;;
    program)
      # The command line program with experts on the GPU: text, perplexity.
      model=$here/models/tiny-qwen3_5-moe-nvfp4
      for experts in marlin:bf16 hopper:bf16 b12x:bf16 b12x:fp4 b12x:fp4-static; do
        # shellcheck disable=SC2086
        set -- --device cuda --moe-backend ${experts%:*} --activations ${experts#*:}
        "$here/moe4" run "$model" -p "Once upon a time" -n 32 -q "$@" >"$out/run.$experts.txt" 2>&1 &&
          "$here/moe4" eval "$model" --tokens "$here/models/heldout_tokens.safetensors" --json -q "$@" \
            >"$out/eval.$experts.json" 2>"$out/eval.$experts.log" || status=1
        echo "moe4 $*: perplexity $(sed -n 's/.*"perplexity": *\([0-9.]*\).*/\1/p' "$out/eval.$experts.json" | head -n 1)"
      done
      ;;
    sanitize)
      sh "$here/gpu_sanitize.sh" "$here" "$out/sanitize" || status=1
      ;;
    bench)
      tokens=${MOE4_BENCH_TOKENS:-1,2,4,8,16,32,64,128,256,512,1024,2048,4096,8192}
      timeout 550 "$here/gpu_moe_bench" "${MOE4_BENCH_SHAPES:-A,B,C}" "$tokens" \
        "${MOE4_BENCH_BACKENDS:-marlin,hopper}" "${MOE4_BF16_TFLOPS:-0}" "$out/gpu_moe.json" \
        >"$out/gpu_moe.md" 2>&1 || status=1
      cat "$out/gpu_moe.md"
      ;;
    *)
      echo "run.sh: unknown step '$step'; expected tests, program, sanitize or bench" >&2
      exit 2
      ;;
  esac
done
exit $status
