// Linear probing; the stored hash spares most comparisons.
#include "text/string_table.h"

#include <functional>

namespace moe4 {
namespace {

uint32_t hash_of(std::string_view key) {
  const uint64_t hash = std::hash<std::string_view>()(key);
  return static_cast<uint32_t>(hash ^ hash >> 32);
}

}  // namespace

StringTable::StringTable(size_t count) {
  size_t size = 16;
  while (size < 2 * count) size *= 2;
  slots_.resize(size);
}

size_t StringTable::slot_of(std::string_view key, uint32_t hash) const {
  const size_t mask = slots_.size() - 1;
  for (size_t slot = hash & mask;; slot = (slot + 1) & mask) {
    const Slot& candidate = slots_[slot];
    if (candidate.value < 0) return slot;
    if (candidate.hash == hash &&
        std::string_view(keys_).substr(candidate.begin, candidate.length) == key) {
      return slot;
    }
  }
}

bool StringTable::insert(std::string_view key, int32_t value) {
  const uint32_t hash = hash_of(key);
  Slot& slot = slots_[slot_of(key, hash)];
  if (slot.value >= 0) return false;
  slot = {hash, static_cast<uint32_t>(keys_.size()), static_cast<uint32_t>(key.size()), value};
  keys_ += key;
  return true;
}

int32_t StringTable::find(std::string_view key) const {
  return slots_[slot_of(key, hash_of(key))].value;
}

}  // namespace moe4
