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

# build_and_test PRESET FILTER TARGET...: some test programs under a sanitizer, less what would take minutes there. Each is
# cut into a shard a core; name the longest program first.
build_and_test() {
  preset=$1
  filter=$2
  shift 2
  cmake --preset "$preset" || return 1
  cmake --build --preset "$preset" --target "$@" || return 1
  for program in "$@"; do
    seq -f "build/$preset/bin/$program %.0f" 0 $(($(nproc) - 1))
  done | GTEST_FILTER=$filter GTEST_TOTAL_SHARDS=$(nproc) xargs -P "$(nproc)" -n 2 sh -c '
    begin=$(date +%s)
    GTEST_SHARD_INDEX=$1 timeout 600 "$0" --gtest_brief=1
    status=$?
    echo "$0, shard $1: status $status after $(($(date +%s) - begin)) s"
    exit $status'
}

check_format() {
  git ls-files '*.cc' '*.h' '*.cu' '*.cuh' | xargs -P "$(nproc)" -n 50 clang-format --dry-run -Werror
}

# What a change is compared with: MOE4_CI_BASE, else where the branch left origin/main, else (on main itself) the last
# release, else the commit before.
change_base() {
  if [ -n "${MOE4_CI_BASE:-}" ]; then
    echo "$MOE4_CI_BASE"
    return
  fi
  base=$(git merge-base HEAD origin/main 2>/dev/null || true)
  if [ -z "$base" ] || [ "$base" = "$(git rev-parse HEAD)" ]; then
    base=$(git describe --tags --abbrev=0 HEAD^ 2>/dev/null || git rev-parse HEAD^)
  fi
  echo "$base"
}

# tidy FILE...: clang-tidy with .clang-tidy on files of the release build, two at a time; any finding fails.
tidy() {
  [ -f build/release/compile_commands.json ] || cmake --preset release || return 1
  printf '%s\n' "$@" | xargs -P "$(nproc)" -n 1 clang-tidy -p build/release --quiet --warnings-as-errors='*' \
    --extra-arg=-Wno-unknown-warning-option
}

# Sources that the change touched, within seven minutes: what is left then is named, and .ci/extended's.
tidy_changed() {
  base=$(change_base) || return 1
  files=$(git diff --name-only --diff-filter=d "$base" -- 'src/*.cc' 'tests/*.cc' 'bench/*.cc' | compiled_files) || return 1
  deadline=$(($(date +%s) + ${MOE4_TIDY_SECONDS:-420}))
  set --
  for file in $files; do
    set -- "$@" "$file"
    [ $# -ge "$(nproc)" ] || continue
    tidy "$@" || return 1
    set --
    if [ "$(date +%s)" -gt "$deadline" ]; then
      echo "note: out of time at $file; files after it are .ci/extended's"
      return 0
    fi
  done
  [ $# = 0 ] || tidy "$@"
}

tidy_all() {
  files=$(git ls-files 'src/*.cc' 'tests/*.cc' 'bench/*.cc' | compiled_files) || return 1
  tidy $files
}

# Of the files on stdin those that the release build compiles (no CUDA, no other processor's).
compiled_files() {
  [ -f build/release/compile_commands.json ] || cmake --preset release >/dev/null || return 1
  while read -r file; do
    ! grep -q "/$file\"" build/release/compile_commands.json || echo "$file"
  done
}

fuzz_smoke() {
  fuzzers=$(sed -n 's/^fuzzer(\([a-z_]*_fuzz\) .*/\1/p' fuzz/CMakeLists.txt)
  cmake --preset fuzz || return 1
  cmake --build --preset fuzz --target $fuzzers || return 1
  for fuzzer in $fuzzers; do
    seeds="fuzz/corpus/${fuzzer%_fuzz}"
    mkdir -p "$LOG/corpus/$fuzzer"
    [ -d "$seeds" ] || seeds=
    "build/fuzz/bin/$fuzzer" -max_total_time=15 -rss_limit_mb=2048 -timeout=20 -verbosity=0 "$LOG/corpus/$fuzzer" $seeds || return 1
  done
}

# Schedules of requests other than those of every run.
many_schedules() {
  cmake --preset release || return 1
  cmake --build --preset release --target engine_test || return 1
  build/release/bin/engine_test --gtest_filter='*Random*' --gtest_repeat=20 --gtest_shuffle --gtest_random_seed=1 --gtest_brief=1
}

server_clients() {
  cmake --preset release || return 1
  cmake --build --preset release --target moe4 || return 1
  python3 scripts/check_server_clients.py build/release/bin/moe4 models/tiny-qwen3_5-moe-nvfp4
}

# PyTorch's operators and transformers: some gigabytes from PyPI.
python_with_torch() {
  cmake --preset release || return 1
  cmake --build --preset release --target moe4_shared || return 1
  python3 -m venv "$LOG/venv" || return 1
  "$LOG/venv/bin/pip" install -q pytest numpy torch transformers ruff || return 1
  "$LOG/venv/bin/ruff" check --config python/pyproject.toml python tests/python || return 1
  "$LOG/venv/bin/python" -m pytest -q tests/python
}

# vLLM's layers of the oldest and the newest version that the plug-in is for: seven gigabytes each, one after the other.
vllm_layers() {
  cmake --preset release || return 1
  cmake --build --preset release --target moe4_shared || return 1
  for version in 0.26.0 0.33.0; do
    rm -rf "$LOG/vllm"
    python3 -m venv "$LOG/vllm" || return 1
    "$LOG/vllm/bin/pip" install -q --no-cache-dir --no-deps -r ".ci/vllm-$version.txt" || return 1
    "$LOG/vllm/bin/python" -m pytest -q tests/python/test_vllm_layers.py || return 1
  done
  rm -rf "$LOG/vllm"
}

# SGLang's layers of the version that the plug-in is for: six gigabytes.
sglang_layers() {
  cmake --preset release || return 1
  cmake --build --preset release --target moe4_shared || return 1
  rm -rf "$LOG/sglang"
  python3 -m venv "$LOG/sglang" || return 1
  "$LOG/sglang/bin/pip" install -q --no-cache-dir --no-deps -r .ci/sglang-0.5.23.txt || return 1
  "$LOG/sglang/bin/python" -m pytest -q tests/python/test_sglang_layers.py || return 1
  rm -rf "$LOG/sglang"
}

# The Python package with a library under ASan (C programs are among the preset's tests). Python itself is not instrumented,
# so the runtime is preloaded, beside libstdc++, whose throwing it looks for when it starts; leaks are not looked for.
python_under_asan() {
  cmake --preset asan || return 1
  cmake --build --preset asan --target moe4_shared || return 1
  env LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so.6)" \
    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 MOE4_LIBRARY="$PWD/build/asan/src/capi/libmoe4.so" \
    /usr/bin/python3 -m pytest -q -p no:cacheprovider tests/python
}

# abused_server PRESET: ten thousand clients of the worst kind against a server under a sanitizer.
abused_server() {
  cmake --preset "$1" || return 1
  cmake --build --preset "$1" --target moe4 || return 1
  python3 scripts/abuse_server.py "build/$1/bin/moe4" models/tiny-qwen3_5-moe-nvfp4
}

neon_under_qemu() {
  cmake -S tests/aarch64 -B build/aarch64 -G Ninja --toolchain "$PWD/cmake/toolchains/aarch64.cmake" \
    -DCMAKE_BUILD_TYPE=Release -DMOE4_WERROR=ON || return 1
  cmake --build build/aarch64 || return 1
  ctest --test-dir build/aarch64 -j "$(nproc)" --output-on-failure
}

asan() {
  build_and_test asan '-*RealModels*' cpu_conformance_test grammar_test reference_conformance_test checkpoint_test \
    dialog_test text_test base_test moe_test numerics_test gguf_test
}

# Ops without what compares numbers only: a thread that races does so in the tests that compare bits, too, and in the
# first problems of a suite as in the twentieth.
tsan() {
  filter='-*RealModels*:*OverTokensAndRoutings*:*/portable:*NumberOfThreads*:*Float64*:*AsTheReference*:*AbsorbedEqualsExpanded*'
  filter="$filter:*IsSeen*:*ALongPrompt*:*ListsRise*:*ManyEqualScores*:*SizesOfModels:*EveryFormatEquals*:*IsPagedAttention*"
  filter="$filter:*HaveTheBitsOfAllKeys*:Problems/*Bits.*/??:Problems/*Bits.*/4:Problems/*Bits.*/7:Problems/*Bits.*/9"
  build_and_test tsan "$filter" ops_test cpu_conformance_test base_test cpu_backend_test
}

# Every test of the CPU under a sanitizer, without the larger checkpoints of MOE4_SHARED_MODELS.
whole_suite() {
  cmake --preset "$1" || return 1
  cmake --build --preset "$1" || return 1
  ctest --test-dir "build/$1" -L cpu -j "$(nproc)" --timeout 1200 --output-on-failure
}

# What is compiled or linked differently with CUDA. The program's other sources are the same without it, and what it links
# with CUDA the library, the GPU tests and benchmarks link too.
cuda_compile() {
  cmake --preset ci-cuda || return 1
  programs=$(find tests bench -name CMakeLists.txt -exec cat {} + |
    sed -n 's/^ *\(moe4_test\|add_executable\)(\([a-z0-9_]*gpu[a-z0-9_]*\).*/\2/p')
  cmake --build --preset ci-cuda --target moe4_shared $programs || return 1
  ctest --test-dir build/ci-cuda -L launches --output-on-failure
}
