// Blocks of growing size; a frame returns to an earlier position.
#include "layers/scratch.h"

#include <algorithm>

namespace moe4 {
namespace {

constexpr size_t kAlignment = 256;  // what Experts::apply asks of its workspace
constexpr size_t kFirstBlock = size_t{1} << 20;

}  // namespace

std::byte* Scratch::bytes(size_t size) {
  size = (size + kAlignment - 1) / kAlignment * kAlignment;
  while (block_ < blocks_.size() && used_ + size > blocks_[block_].size()) {
    ++block_;
    used_ = 0;
  }
  if (block_ == blocks_.size()) {
    const size_t last = blocks_.empty() ? kFirstBlock / 2 : blocks_.back().size();
    blocks_.emplace_back(std::max(2 * last, size));
    used_ = 0;
  }
  std::byte* p = blocks_[block_].data() + used_;
  used_ += size;
  return p;
}

}  // namespace moe4
