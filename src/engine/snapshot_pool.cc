// The table of snapshots.
#include "engine/snapshot_pool.h"

#include <algorithm>
#include <utility>

namespace moe4 {

SnapshotPool::SnapshotPool(int32_t first_slot, int64_t num_slots)
    : first_slot_(first_slot), entries_(static_cast<size_t>(num_slots)) {}

const SnapshotPool::Entry* SnapshotPool::slot_of(const PageHash& page) const {
  const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) {
    return !entry.is_pending && entry.page == page;
  });
  return found == entries_.end() ? nullptr : &*found;
}

std::optional<int32_t> SnapshotPool::find(const PageHash& page) {
  const Entry* found = slot_of(page);
  if (found == nullptr) return std::nullopt;
  const auto index = found - entries_.data();
  entries_[index].last_used = ++now_;
  return first_slot_ + static_cast<int32_t>(index);
}

std::optional<int32_t> SnapshotPool::take(const PageHash& page) {
  Entry* oldest = nullptr;
  for (Entry& entry : entries_) {
    if (entry.page == page) return std::nullopt;
    if (entry.is_pending) continue;
    const auto age = [](const Entry& e) { return std::pair(e.page.has_value(), e.last_used); };
    if (oldest == nullptr || age(entry) < age(*oldest)) oldest = &entry;
  }
  if (oldest == nullptr) return std::nullopt;
  *oldest = {.page = page, .is_pending = true, .last_used = ++now_};
  return first_slot_ + static_cast<int32_t>(oldest - entries_.data());
}

void SnapshotPool::forget(const PageHash& page) {
  for (Entry& entry : entries_) {
    if (!entry.is_pending && entry.page == page) entry = {};
  }
}

void SnapshotPool::commit() {
  for (Entry& entry : entries_) entry.is_pending = false;
}

void SnapshotPool::discard() {
  for (Entry& entry : entries_) {
    if (entry.is_pending) entry = {};
  }
}

}  // namespace moe4
