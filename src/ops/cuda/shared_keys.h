// Where keys that several tokens share lie in pages, in kernels.
#pragma once

#include <cstdint>

#include "ops/batch.h"

namespace moe4::cuda {

/// PagedSpec::page_of() and places of a ratio, which divides kPageTokens or is a multiple of it.
struct SharedKeyPlaces {
  int shift = 6;  ///< of the keys of a page, a power of 2
  int pages = 1;  ///< from a key's to the next key's, where a page has one

  SharedKeyPlaces() = default;
  explicit SharedKeyPlaces(int64_t ratio) : shift(0) {
    while (ratio << (shift + 1) <= kPageTokens) ++shift;
    if (ratio > kPageTokens) pages = static_cast<int>(ratio / kPageTokens);
  }
#ifdef __CUDACC__
  __device__ int page(int key) const { return shift > 0 ? key >> shift : (key + 1) * pages - 1; }
  __device__ int place(int key) const { return key & ((1 << shift) - 1); }
#endif
};

}  // namespace moe4::cuda
