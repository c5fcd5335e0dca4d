# Sourced by .ci/run and .ci/extended: the steps of continuous integration as functions.
. scripts/setup.sh
LOG=$(mktemp -d)
trap 'rm -rf "$LOG"' EXIT
export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1

# The functions below run as conditions, where `set -e` is off: each command that matters says `|| return 1`.

# step NAME COMMAND...: runs quietly, shows the log only when the command fails, says how long it took.
step() {
  name=$1
  shift
  begin=$(date +%s)
  if "$@" >"$LOG/step" 2>&1; then
    say "$name: $(($(date +%s) - begin)) s"
  else
    tail -n 200 "$LOG/step" >&2
    echo "error: $name failed" >&2
    exit 1
  fi
}

# build_and_test PRESET FILTER TARGET...: some test programs under a sanitizer, less what would take minutes there.
build_and_test() {
  preset=$1
  export GTEST_FILTER=$2
  shift 2
  cmake --preset "$preset" || return 1
  cmake --build --preset "$preset" --target "$@" || return 1
  for program in "$@"; do
    timeout 600 "build/$preset/bin/$program" --gtest_brief=1 || return 1
  done
  unset GTEST_FILTER
}

check_format() {
  git ls-files '*.cc' '*.h' '*.cu' '*.cuh' | xargs clang-format --dry-run -Werror
}

fuzz_smoke() {
  fuzzers=$(sed -n 's/.*add_executable(\([a-z_]*_fuzz\) .*/\1/p; s/^foreach(name \(.*\))/\1/p' fuzz/CMakeLists.txt)
  cmake --preset fuzz || return 1
  cmake --build --preset fuzz --target $fuzzers || return 1
  for fuzzer in $fuzzers; do
    seeds="fuzz/corpus/${fuzzer%_fuzz}"
    mkdir -p "$LOG/corpus/$fuzzer"
    [ -d "$seeds" ] || seeds=
    "build/fuzz/bin/$fuzzer" -max_total_time=15 -rss_limit_mb=2048 -timeout=20 -verbosity=0 "$LOG/corpus/$fuzzer" $seeds || return 1
  done
}

neon_under_qemu() {
  cmake -S tests/aarch64 -B build/aarch64 -G Ninja --toolchain "$PWD/cmake/toolchains/aarch64.cmake" \
    -DCMAKE_BUILD_TYPE=Release || return 1
  cmake --build build/aarch64 || return 1
  ctest --test-dir build/aarch64 --output-on-failure
}

asan() {
  build_and_test asan '-*RealModels*' base_test numerics_test moe_test checkpoint_test text_test \
    reference_conformance_test cpu_conformance_test
}

tsan() {
  build_and_test tsan '-*RealModels*:*OverTokensAndRoutings*:*/portable:*NumberOfThreads*' base_test \
    layers_test cpu_conformance_test cpu_backend_test
}

# Every test of the CPU under a sanitizer, without the larger checkpoints of MOE4_SHARED_MODELS.
whole_suite() {
  cmake --preset "$1" || return 1
  cmake --build --preset "$1" || return 1
  ctest --test-dir "build/$1" -L cpu -j "$(nproc)" --timeout 1200 --output-on-failure
}

cuda_compile() {
  cmake --preset cuda -DMOE4_CUDA_ARCHITECTURES="90a;121a" -DMOE4_BUILD_TESTS=OFF -DMOE4_BUILD_BENCH=OFF || return 1
  cmake --build --preset cuda --target moe4_experts moe4_experts_bench moe4_shared
}
