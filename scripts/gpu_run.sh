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

# run_test PROGRAM: its log goes to OUT, one line and the names of failed tests to stdout. The long program runs in
# parts side by side, each on its own cores, so that their thread pools do not wait for one another.
run_test() {
  name=$(basename "$1")
  parts=1
  cores=$(nproc)
  if [ "$name" = gpu_backends_test ] && [ "$cores" -ge 8 ]; then parts=$((cores / 2)); fi
  part=0
  running=
  while [ $part -lt $parts ]; do
    first=$((part * cores / parts))
    last=$(((part + 1) * cores / parts - 1))
    GTEST_TOTAL_SHARDS=$parts GTEST_SHARD_INDEX=$part timeout "${MOE4_GPU_TEST_LIMIT:-300}" \
      taskset -c "$first-$last" "$1" --gtest_brief=1 >"$out/$name.$part.log" 2>&1 &
    running="$running $!"
    part=$((part + 1))
  done
  failed=0
  for job in $running; do wait "$job" || failed=$?; done
  cat "$out/$name".*.log >"$out/$name.log"
  rm "$out/$name".*.log
  counts=$(awk '/^\[==*\]/ { ran += $2 } /^\[  PASSED/ { passed += $4 } /^\[  SKIPPED/ { skipped += $4 }
    END { printf "%d run, %d passed, %d skipped", ran, passed, skipped }' "$out/$name.log")
  echo "$name: exit $failed, $counts"
  grep -E '^\[  FAILED  \]' "$out/$name.log" | sort -u | head -n 20
  case $counts in
    *' 0 passed'*)
      echo "$name: no test passed, so nothing was compared (is there a GPU?)"
      failed=1
      ;;
  esac
  return $failed
}

for step in $steps; do
  case $step in
    tests)
      for test in "$here"/*gpu*_test; do run_test "$test" || status=1; done
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
        perplexity=$(sed -n 's/.*"perplexity": *\([0-9.]*\).*/\1/p' "$out/eval.$experts.json" | head -n 1)
        echo "moe4 $*: perplexity $perplexity"
        [ -n "$perplexity" ] || status=1
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
