// Counts, the list of free pages, and hashes.
#include "engine/block_pool.h"

#include "base/error.h"
#include "ops/batch.h"

namespace moe4 {
namespace {

// MurmurHash3's 64-bit finaliser.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdu;
  x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53u;
  return x ^ (x >> 33);
}

}  // namespace

std::optional<PageHash> PageHasher::push(int32_t id) {
  const uint64_t x = static_cast<uint64_t>(static_cast<uint32_t>(id)) + 1;
  hash_ = {mix(hash_.low ^ x), mix(hash_.high + x * 0x9fb21c651e98df25u) ^ hash_.low};
  return ++tokens_ % kPageTokens == 0 ? std::optional(hash_) : std::nullopt;
}

std::vector<PageHash> page_hashes(const std::vector<int32_t>& ids) {
  std::vector<PageHash> hashes;
  PageHasher hasher;
  for (const int32_t id : ids) {
    if (const auto hash = hasher.push(id)) hashes.push_back(*hash);
  }
  return hashes;
}

BlockPool::BlockPool(int64_t num_pages) : pages_(static_cast<size_t>(num_pages)) {
  for (int64_t p = 0; p < num_pages; ++p) push_free(static_cast<int32_t>(p));
}

std::optional<int32_t> BlockPool::take() {
  const int32_t page = oldest_;
  if (page < 0) return std::nullopt;
  unlink(page);
  Page& p = pages_[page];
  if (p.hash) known_.erase(*p.hash);
  p.hash.reset();
  p.holders = 1;
  return page;
}

std::optional<int32_t> BlockPool::share(const PageHash& hash) {
  const auto found = known_.find(hash);
  if (found == known_.end()) return std::nullopt;
  Page& p = pages_[found->second];
  if (p.holders++ == 0) unlink(found->second);
  return found->second;
}

BlockPool::Found BlockPool::find(const PageHash& hash) const {
  const auto found = known_.find(hash);
  if (found == known_.end()) return Found::kNo;
  return pages_[found->second].holders > 0 ? Found::kInUse : Found::kFree;
}

void BlockPool::release(int32_t page) {
  Page& p = pages_.at(page);
  MOE4_CHECK(p.holders > 0);
  if (--p.holders == 0) push_free(page);
}

void BlockPool::publish(int32_t page, const PageHash& hash) {
  Page& p = pages_.at(page);
  MOE4_CHECK(p.holders > 0);
  if (p.hash) {
    MOE4_CHECK(*p.hash == hash);
    return;
  }
  if (known_.emplace(hash, page).second) p.hash = hash;
}

void BlockPool::push_free(int32_t page) {
  pages_[page].before = newest_;
  pages_[page].after = -1;
  (newest_ >= 0 ? pages_[newest_].after : oldest_) = page;
  newest_ = page;
  ++num_free_;
}

void BlockPool::unlink(int32_t page) {
  const Page& p = pages_[page];
  (p.before >= 0 ? pages_[p.before].after : oldest_) = p.after;
  (p.after >= 0 ? pages_[p.after].before : newest_) = p.before;
  --num_free_;
}

}  // namespace moe4
