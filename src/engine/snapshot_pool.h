// Which state slots hold the recurrent state at the end of a known page of a prompt.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/block_pool.h"

namespace moe4 {

/// A fixed number of slots; when all are taken, the snapshot that was not used for longest makes
/// room. Pure bookkeeping: knows no memory. Not thread-safe.
///
/// A slot that is taken is written at the end of the step being planned: nobody finds it and nobody
/// gets it again before commit(). A snapshot that is found is read before anything of that step is
/// written, so it may make room in the same step.
class SnapshotPool {
 public:
  /// Slots [first_slot, first_slot + num_slots).
  SnapshotPool(int32_t first_slot, int64_t num_slots);

  int64_t num_slots() const { return static_cast<int64_t>(entries_.size()); }

  bool has(const PageHash& page) const { return slot_of(page) != nullptr; }
  /// The slot with the state at the end of this page, which counts as used now.
  std::optional<int32_t> find(const PageHash& page);
  /// A slot to keep the state at the end of this page; nothing when there already is or will be
  /// one, or when every slot was taken since commit().
  std::optional<int32_t> take(const PageHash& page);
  /// The state at the end of this page is not worth keeping, if there is one.
  void forget(const PageHash& page);
  /// What was taken has been written and can be found.
  void commit();
  /// What was taken will not be written.
  void discard();

 private:
  struct Entry {
    std::optional<PageHash> page;
    bool is_pending = false;
    uint64_t last_used = 0;
  };

  const Entry* slot_of(const PageHash& page) const;

  int32_t first_slot_;
  uint64_t now_ = 0;
  std::vector<Entry> entries_;  // searched one by one: there are tens, a step takes a few
};

}  // namespace moe4
