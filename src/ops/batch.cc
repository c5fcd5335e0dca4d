// Sizes of pages and states.
#include "ops/batch.h"

#include "base/checked_math.h"

namespace moe4 {

int64_t cache_unit_bytes(const CacheSpec& spec) {
  if (const auto* paged = std::get_if<PagedSpec>(&spec)) {
    const int64_t values =
        paged->num_kv_heads * paged->keys_of_page() * (paged->key_dim + paged->value_dim);
    return round_up(values * size_of(paged->dtype), 64);
  }
  int64_t floats = 0;
  for (const int64_t n : std::get<RecurrentSpec>(spec).floats) floats += round_up(n, 16);
  return floats * int64_t{sizeof(float)};
}

}  // namespace moe4
