#!/bin/sh
# Runs compute-sanitizer on a part of every packed GPU test that takes each launch path once:
#
#   scripts/gpu_sanitize.sh DIR OUT [TOOLS]
#   scripts/gpu_sanitize.sh programs    names the tests that have a build of their own (MOE4_RACECHECK)
#
# DIR holds the test programs, DIR/racecheck those for racecheck and initcheck (scripts/gpu_test.sh
# pack), OUT gets the logs, TOOLS is a list out of "racecheck memcheck synccheck initcheck" (default:
# all four). Prints one verdict a tool and part of a program and the first errors of those that are not
# clean, and exits 1 if there are any. Programs run side by side, MOE4_SANITIZE_JOBS (8) at a time;
# MOE4_SANITIZE_LIMIT (100) seconds each.
set -u
if [ "$1" = programs ]; then
  echo gpu_backends_test gpu_capi_test gpu_hopper_test gpu_marlin_test gpu_ops_test
  exit 0
fi
dir=$1
out=$2
tools=${3:-racecheck memcheck synccheck initcheck}
limit=${MOE4_SANITIZE_LIMIT:-100}
export LD_LIBRARY_PATH="$dir/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
# Buffers stay as cudaMalloc gave them, so that initcheck sees what a kernel reads before writing it.
export MOE4_TEST_NO_POISON=1
mkdir -p "$out"

# The parts of a program's tests that are worth their time under a sanitizer: a name and a filter each.
parts_of() {
  case $1 in
    gpu_backends_test)
      for backend in marlin hopper b12x; do echo "$backend *EveryLaunchPathRunsOnOddSizes/$backend*"; done
      ;;
    gpu_capi_test) echo 'device_pointers *DevicePointersGiveTheBitsOfHostWeights*' ;;
    gpu_device_test) echo 'all *' ;;
    b12x_gpu_test) echo 'few_tokens *FewTokensMatchTheReference*:*RoutingWeightMayMultiplyTheInput*' ;;
    gpu_golden_layers_test) ;; # the same kernels on more layers
    gpu_models_test) ;;        # the same kernels in a row
    gpu_ops_test) echo 'small *.AWrong*:LinearGroup.Members*:Route.*:Sample.Greedy*' ;;
    gpu_hopper_test) echo 'biases *BiasesAreAdded*' ;;
    *) echo 'activations *ForEveryActivationItTakes*:*BiasesAreAdded*' ;;
  esac
}

# verdict TOOL PROGRAM PART FILTER: runs it and leaves one line in OUT/TOOL.PROGRAM.PART.verdict.
verdict() {
  log=$out/$1.$2.$3.log
  begin=$(date +%s)
  build=$dir
  case $1 in
    # What these two cannot see of a kernel is done in plain ways there (device/cuda/ptx: barrier.cuh, copy.cuh).
    racecheck | initcheck) [ ! -e "$dir/racecheck/$2" ] || build=$dir/racecheck ;;
  esac
  timeout "$limit" compute-sanitizer --tool "$1" "$build/$2" --gtest_brief=1 --gtest_filter="$4" >"$log" 2>&1
  code=$?
  summary=$(grep -E '(ERROR|RACECHECK) SUMMARY' "$log" | tail -n 1 | sed 's/^=* *//')
  passed=$(sed -n 's/^\[  PASSED  \] \([0-9]* tests*\).*/\1/p' "$log")
  case $code:${passed:-0 tests}:$summary in
    124:*) word="TIMED OUT" ;;
    0:'0 tests':*) word="RAN NO TEST" ;;
    0:*': 0 errors'* | 0:*': 0 hazards'*) word=clean ;;
    *) word="NOT CLEAN (exit $code)" ;;
  esac
  echo "$1 $2 $3: $word, ${passed:-no tests}, $(($(date +%s) - begin)) s; $summary" >"$out/$1.$2.$3.verdict"
}

# Racecheck takes longest: its runs come first.
running=0
for tool in $tools; do
  for program in "$dir"/*gpu*_test; do
    name=$(basename "$program")
    parts_of "$name" >"$out/parts"
    while read -r part filter; do
      verdict "$tool" "$name" "$part" "$filter" </dev/null &
      running=$((running + 1))
      if [ "$running" -ge "${MOE4_SANITIZE_JOBS:-8}" ]; then
        wait
        running=0
      fi
    done <"$out/parts"
  done
done
wait
ls "$out"/*.verdict >/dev/null 2>&1 || { echo "no GPU test program in $dir"; exit 1; }
cat "$out"/*.verdict
unclean=$(for verdict in "$out"/*.verdict; do grep -q ': clean' "$verdict" || echo "$verdict"; done)
for verdict in $unclean; do
  log=${verdict%.verdict}.log
  echo "-- $log begins with"
  grep -m 15 '^=========' "$log" || head -n 15 "$log"
done
[ -z "$unclean" ]
