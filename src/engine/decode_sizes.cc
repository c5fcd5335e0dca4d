// The two ladders.
#include "engine/decode_sizes.h"

#include <algorithm>

namespace moe4 {

std::vector<int64_t> decode_sizes(int64_t max_seqs) {
  std::vector<int64_t> sizes;
  int64_t size = 1;
  while (true) {
    sizes.push_back(std::min(size, max_seqs));
    if (size >= max_seqs) return sizes;
    size += size < 2 ? 1 : size < 4 ? 2 : size < 16 ? 4 : size < 32 ? 8 : 16;
  }
}

std::vector<int64_t> context_sizes(int64_t max_context) {
  std::vector<int64_t> sizes = {1024};
  while (sizes.back() < max_context) sizes.push_back(4 * sizes.back());
  return sizes;
}

}  // namespace moe4
