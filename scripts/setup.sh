# Sourced by ./run, ./test and .ci/run: installs what the build needs (Debian 12) and names the build options.
# Sets CMAKE_OPTIONS, to which MOE4_CMAKE_OPTIONS of the caller are added; leaves everything else alone.

say() { printf '\n== %s\n' "$*" >&2; }

# install_packages NAME...: apt-get install of what is missing, as root or through sudo.
install_packages() {
  missing=
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
  done
  [ -n "$missing" ] || return 0
  if ! command -v apt-get >/dev/null; then
    echo "error: this script installs Debian packages; install the counterparts of:$missing" >&2
    return 4
  fi
  as_root=
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "error: run as root, or install:$missing" >&2; return 4; }
    as_root=sudo
  fi
  say "Installing$missing"
  export DEBIAN_FRONTEND=noninteractive
  # An index that is there and fresh enough spares the download.
  $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null 2>&1 && return 0
  $as_root apt-get update -qq >/dev/null
  $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
}

BUILD_PACKAGES="g++ cmake ninja-build pkg-config nlohmann-json3-dev libcli11-dev libfmt-dev libpcre2-dev
  libutf8proc-dev libboost1.81-dev libssl-dev libgtest-dev libgmock-dev python3"

# The compute capability of the first GPU as an architecture that nvcc knows: 90 -> 90a, 121 -> 121a.
gpu_architecture() {
  command -v nvcc >/dev/null || return 1
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d '. ')
  case "$capability" in
    '') return 1 ;;
    90 | 12?) echo "${capability}a" ;;
    *) echo "$capability" ;;
  esac
}

[ -x /usr/local/cuda/bin/nvcc ] && PATH="$PATH:/usr/local/cuda/bin"
CMAKE_OPTIONS=
if architecture=$(gpu_architecture); then
  CMAKE_OPTIONS="-DMOE4_CUDA=ON -DMOE4_CUDA_ARCHITECTURES=$architecture"
fi
CMAKE_OPTIONS="$CMAKE_OPTIONS ${MOE4_CMAKE_OPTIONS:-}"
if command -v ccache >/dev/null; then export CMAKE_CXX_COMPILER_LAUNCHER="${CMAKE_CXX_COMPILER_LAUNCHER-ccache}"; fi
