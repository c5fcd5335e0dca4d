#!/bin/sh
# Builds the GPU tests and benchmarks, packs them with the libraries they need, and runs them on
# another machine that has a GPU and nothing else of ours:
#
#   scripts/gpu_test.sh pack DIR            build for $MOE4_GPU_ARCH (default 90a), fill DIR
#   scripts/gpu_test.sh run HOST            pack, copy to HOST by ssh, run there, bring results back
#   DIR/run.sh OUT                          on the GPU machine: tests, benchmarks, memory checker
#
# Environment: MOE4_GPU_ARCH (CMake's notation), MOE4_GPU_BUILD (build folder, default build/gpu).
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
build=${MOE4_GPU_BUILD:-$root/build/gpu}

pack() {
  dir=$1
  cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DMOE4_CUDA=ON \
    -DMOE4_CUDA_ARCHITECTURES="${MOE4_GPU_ARCH:-90a}" >/dev/null
  tests=$(sed -n 's/^ *moe4_test(\(gpu_[a-z0-9_]*\).*/\1/p' "$root/tests/experts/CMakeLists.txt")
  # shellcheck disable=SC2086
  cmake --build "$build" --target $tests gpu_moe_bench
  mkdir -p "$dir/lib"
  for program in $tests gpu_moe_bench; do
    cp "$build/bin/$program" "$dir/"
    strip "$dir/$program"
    ldd "$build/bin/$program" | awk '/libfmt|libgtest|libgmock/ {print $3}' |
      xargs -r -I{} cp -L {} "$dir/lib/"
  done
  cp "$root/scripts/gpu_run.sh" "$dir/run.sh"
}

case ${1:-} in
  pack)
    pack "$2"
    ;;
  run)
    pack "$build/pack"
    ssh "$2" 'rm -rf moe4_gpu && mkdir -p moe4_gpu/out'
    scp -qr "$build/pack" "$2:moe4_gpu/pack"
    ssh "$2" 'cd moe4_gpu && sh pack/run.sh out'
    mkdir -p "$build/results"
    scp -qr "$2:moe4_gpu/out/." "$build/results/"
    echo "results in $build/results"
    ;;
  *)
    sed -n '2,9s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
