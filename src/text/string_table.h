// A hash table from byte strings to ids, laid out flat so that loading 250k tokens stays quick.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moe4 {

class StringTable {
 public:
  /// Room for `count` keys. All keys together must stay below 4 GiB.
  explicit StringTable(size_t count = 0);

  /// False, and no change, when the key is already there. No more than `count` keys.
  bool insert(std::string_view key, int32_t value);
  /// -1 when the key is not there; values are never negative.
  int32_t find(std::string_view key) const;

 private:
  struct Slot {
    uint32_t hash = 0;
    uint32_t begin = 0;  // of the key in keys_
    uint32_t length = 0;
    int32_t value = -1;
  };
  size_t slot_of(std::string_view key, uint32_t hash) const;

  std::vector<Slot> slots_;  // a power of two, at most half full
  std::string keys_;
};

}  // namespace moe4
