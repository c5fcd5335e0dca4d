#!/bin/sh
# Builds the GPU tests, the program and the benchmark, packs them with the libraries and data they
# need, and runs them on another machine that has a GPU and nothing else of ours:
#
#   scripts/gpu_test.sh pack DIR            build for $MOE4_GPU_ARCH (default 90a), fill DIR
#   scripts/gpu_test.sh run HOST [STEPS]    pack, copy to HOST by ssh, run there, bring results back
#   DIR/run.sh OUT [STEPS]                  on the GPU machine itself
#
# STEPS: "tests program sanitize bench" or some of them. Environment: MOE4_GPU_ARCH (CMake's notation),
# MOE4_GPU_BUILD (build folder, default build/gpu), MOE4_GPU_PACK (run this packed folder instead of
# building), MOE4_SHARED_MODELS (trained checkpoints with goldens: their routed experts are packed too).
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
build=${MOE4_GPU_BUILD:-$root/build/gpu}

pack() {
  dir=$1
  cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DMOE4_CUDA=ON \
    -DMOE4_CUDA_ARCHITECTURES="${MOE4_GPU_ARCH:-90a}" >/dev/null
  tests=$(find "$root/tests" -name CMakeLists.txt -exec cat {} + | sed -n 's/^ *moe4_test(\([a-z0-9_]*gpu[a-z0-9_]*\).*/\1/p')
  # shellcheck disable=SC2086
  cmake --build "$build" --target $tests moe4 gpu_moe_bench
  mkdir -p "$dir/lib" "$dir/data" "$dir/models" "$dir/racecheck"
  for program in $tests moe4 gpu_moe_bench; do
    strip -o "$dir/$program" "$build/bin/$program"
    ldd "$build/bin/$program" | awk '/libfmt|libgtest|libgmock|libpcre2|libutf8proc/ {print $3}' |
      xargs -r -I{} cp -L {} "$dir/lib/"
  done
  # The same tests with kernels that racecheck understands (src/device/cuda/ptx/barrier.cuh).
  raced=$(sh "$root/scripts/gpu_sanitize.sh" programs)
  cmake -S "$root" -B "$build/racecheck" -G Ninja -DCMAKE_BUILD_TYPE=Release -DMOE4_CUDA=ON \
    -DMOE4_RACECHECK=ON -DMOE4_CUDA_ARCHITECTURES="${MOE4_GPU_ARCH:-90a}" >/dev/null
  # shellcheck disable=SC2086
  cmake --build "$build/racecheck" --target $raced
  for program in $raced; do
    strip -o "$dir/racecheck/$program" "$build/racecheck/bin/$program"
  done
  cp -r "$root/tests/data/checkpoints" "$root/tests/data/golden" "$dir/data/"
  cp -r "$root/models/." "$dir/models/"
  if [ -n "${MOE4_SHARED_MODELS:-}" ]; then
    python3 "$root/scripts/slice_goldens.py" "$MOE4_SHARED_MODELS" "$dir/shared_models" >/dev/null
  fi
  cp "$root/scripts/gpu_run.sh" "$dir/run.sh"
  cp "$root/scripts/gpu_sanitize.sh" "$dir/"
}

run_on() {
  packed=${MOE4_GPU_PACK:-$build/pack}
  [ -n "${MOE4_GPU_PACK:-}" ] || pack "$packed"
  # One archive each way: many small files take long over a far connection.
  tar -C "$packed" -czf - . | ssh "$1" 'rm -rf moe4_gpu && mkdir -p moe4_gpu/out && tar -C moe4_gpu -xzf -'
  status=0
  ssh "$1" "cd moe4_gpu && sh ./run.sh out '$2'" </dev/null || status=$?
  mkdir -p "$build/results"
  ssh "$1" 'tar -C moe4_gpu/out -czf - .' </dev/null | tar -C "$build/results" -xzf -
  echo "results in $build/results"
  return $status
}

case ${1:-} in
  pack) pack "${2:?a folder to fill}" ;;
  run) run_on "${2:?a host to ssh to}" "${3:-tests program sanitize bench}" ;;
  *)
    sed -n '2,12s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
