// Who has which page of the KV caches, and which pages hold a known piece of a prompt.
#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

namespace moe4 {

/// What a full page holds: its own tokens and all before them. Made by page_hashes().
struct PageHash {
  uint64_t low = 0, high = 0;
  bool operator==(const PageHash&) const = default;
};

/// Hashes the pages of one sequence as its tokens come; each hash depends on all ids up to its end.
/// 128 bits: pages that are found are not compared token by token.
class PageHasher {
 public:
  /// The next token; a hash when it fills a page.
  std::optional<PageHash> push(int32_t id);

 private:
  PageHash hash_{0x9e3779b97f4a7c15u, 0xd1b54a32d192ed03u};
  int64_t tokens_ = 0;
};

/// Of the full pages of some token ids, in order.
std::vector<PageHash> page_hashes(const std::vector<int32_t>& ids);

/// For tables with pages as keys.
struct PageHashHasher {
  size_t operator()(const PageHash& h) const { return static_cast<size_t>(h.low); }
};

/// Pages are shared by sequences with a common prefix and counted. A page that nobody holds is
/// free; it keeps its hash until it is taken for something else, the longest unused first. Pure
/// bookkeeping: knows no memory. Not thread-safe.
class BlockPool {
 public:
  explicit BlockPool(int64_t num_pages);

  int64_t num_pages() const { return static_cast<int64_t>(pages_.size()); }
  int64_t num_free() const { return num_free_; }

  /// A page for the caller alone, forgotten by the prefix cache; nothing when none is free.
  std::optional<int32_t> take();
  /// A page found by its hash becomes the caller's, too.
  std::optional<int32_t> share(const PageHash& hash);
  /// Whether share() would succeed, and whether it would use up a free page.
  enum class Found { kNo, kInUse, kFree };
  Found find(const PageHash& hash) const;
  /// One holder less. `page` must be held.
  void release(int32_t page);
  /// Says that a held page now has this content for good. The first of equal pages is kept.
  void publish(int32_t page, const PageHash& hash);

  /// Holders of a page (for tests).
  int64_t holders(int32_t page) const { return pages_.at(page).holders; }

 private:
  struct Page {
    int64_t holders = 0;
    std::optional<PageHash> hash;
    int32_t before = -1, after = -1;  // in the list of free pages
  };

  void push_free(int32_t page);
  void unlink(int32_t page);

  std::vector<Page> pages_;
  std::unordered_map<PageHash, int32_t, PageHashHasher> known_;
  int32_t oldest_ = -1, newest_ = -1;  // free pages in the order in which they became free
  int64_t num_free_ = 0;
};

}  // namespace moe4
