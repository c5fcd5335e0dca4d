#!/bin/sh
# scripts/check_goldens.py fails when it compared nothing: no checkpoints, a golden file without what was asked for, an
# unknown check.
#
#   check_goldens_test.sh SOURCE_ROOT
set -eu
root=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -c 'import numpy' 2>/dev/null || { echo "SKIPPED: no numpy"; exit 77; }
fail() {
  echo "FAILED: $1" >&2
  cat "$work/out" >&2
  exit 1
}
check() { # STATUS CLAIM TEXT ARGUMENTS...
  want=$1 claim=$2 text=$3
  shift 3
  status=0
  python3 "$root/scripts/check_goldens.py" --moe4 /bin/false "$@" >"$work/out" 2>&1 || status=$?
  [ "$status" = "$want" ] || fail "$claim: exit $status, not $want"
  grep -q -e "$text" "$work/out" || fail "$claim: no '$text' in the output"
}

mkdir -p "$work/empty"
check 1 "no checkpoints" "FAIL forward: nothing to compare" "$work/empty"
check 1 "no checkpoints for a GPU" "FAIL experts: nothing to compare" "$work/empty" --gpu
check 2 "an unknown check" "unknown forwards" "$work/empty" --only forwards

mkdir -p "$work/models/m/golden" "$work/models/m/modelopt"
printf '\002\000\000\000\000\000\000\000{}' >"$work/models/m/golden/modelopt.w4a16.safetensors"
check 1 "a golden file without layers" "no moe.\* tensors" "$work/models" --only experts
echo ok
