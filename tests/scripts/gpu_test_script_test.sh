#!/bin/sh
# scripts/gpu_test.sh run HOST against a stand-in for ssh that runs the commands in a folder here, with
# stand-ins for the packed programs and for compute-sanitizer: archive there, run, archive back.
#
#   gpu_test_script_test.sh SOURCE_ROOT
set -eu
root=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/bin" "$work/far" "$work/pack/models"
export MOE4_GPU_PACK="$work/pack" MOE4_GPU_BUILD="$work/build" FAR="$work/far"
export PATH="$work/bin:$PATH"

program() {
  cat >"$1"
  chmod +x "$1"
}
program "$work/bin/ssh" <<'END'
#!/bin/sh
echo "$1" >>"$FAR/hosts"
shift
cd "$FAR" && exec sh -c "$*"
END
program "$work/bin/compute-sanitizer" <<'END'
#!/bin/sh
case $2 in
  racecheck)
    [ -z "${HAZARDS:-}" ] || echo "=========     and Write access at kernel+0x10 [$HAZARDS hazards]"
    echo "========= RACECHECK SUMMARY: ${HAZARDS:+1}${HAZARDS:-0} hazards displayed (0 errors, 0 warnings)"
    ;;
  *) echo "========= ERROR SUMMARY: ${SANITIZER_ERRORS:-0} errors" ;;
esac
echo "[  PASSED  ] 1 test."
END
program "$work/pack/gpu_good_test" <<'END'
#!/bin/sh
[ "$(ls -d "$MOE4_EMBEDDED_MODELS")" != "" ] || exit 9
echo "[==========] 3 tests from 1 test suite ran. (5 ms total)"
echo "[  PASSED  ] 2 tests."
echo "[  SKIPPED ] 1 test, listed below:"
END
cp "$root/scripts/gpu_run.sh" "$work/pack/run.sh"
cp "$root/scripts/gpu_sanitize.sh" "$work/pack/"

fail() {
  echo "FAILED: $1" >&2
  cat "$work/out" >&2
  exit 1
}
expect() { # STATUS CLAIM TEXT: the last run's exit status and a line of its output
  [ "$status" = "$1" ] || fail "$2: exit $status, not $1"
  grep -q "$3" "$work/out" || fail "$2: no '$3' in the output"
}
run() {
  status=0
  sh "$root/scripts/gpu_test.sh" run me@gpu "$1" >"$work/out" 2>&1 || status=$?
}

run tests
expect 0 "tests run there" "gpu_good_test: exit 0, 3 run, 2 passed, 1 skipped"
grep -q me@gpu "$FAR/hosts" || fail "ssh was not called with the host"
[ -f "$work/build/results/gpu_good_test.log" ] || fail "the log did not come back"

run "tests sanitize"
expect 0 "a clean sanitizer" "racecheck gpu_good_test activations: clean, 1 test"

export SANITIZER_ERRORS=2
run sanitize
expect 1 "errors of the sanitizer" "memcheck gpu_good_test activations: NOT CLEAN"
unset SANITIZER_ERRORS

export HAZARDS=62
run sanitize
expect 1 "hazards" "racecheck gpu_good_test activations: NOT CLEAN"
expect 1 "what was found" "Write access at kernel+0x10 .62 hazards"
unset HAZARDS

program "$work/pack/gpu_bad_test" <<'END'
#!/bin/sh
echo "[  FAILED  ] Something.Breaks (0 ms)"
exit 1
END
run tests
expect 1 "a failing test" "FAILED.*Something.Breaks"
[ -f "$work/build/results/gpu_bad_test.log" ] || fail "the log of the failure did not come back"

# A machine whose GPU is not seen skips every test, and a filter that matches nothing runs none.
program "$work/pack/gpu_bad_test" <<'END'
#!/bin/sh
echo "[==========] 3 tests from 1 test suite ran. (5 ms total)"
echo "[  PASSED  ] 0 tests."
echo "[  SKIPPED ] 3 tests, listed below:"
END
run tests
expect 1 "a program that skipped everything" "gpu_bad_test: no test passed"
program "$work/bin/compute-sanitizer" <<'END'
#!/bin/sh
echo "========= ERROR SUMMARY: 0 errors"
echo "[  PASSED  ] 0 tests."
END
run sanitize
expect 1 "a sanitizer that saw no test" "memcheck gpu_good_test activations: RAN NO TEST"

run nonsense
expect 2 "an unknown step" "unknown step"
echo ok
