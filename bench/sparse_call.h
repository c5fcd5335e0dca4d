// What benchmarks of sparse attention call: tokens at the ends of contexts, their batch on the GPU,
// and values for caches and rows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "base/checked_math.h"
#include "device/cuda/device_buffer.h"
#include "device_rows.h"
#include "ops/batch.h"

namespace moe4::bench {

// F16 or BF16 numbers between 1/2 and 1, of both signs.
inline std::vector<uint16_t> values(int64_t count) {
  std::vector<uint16_t> bits(static_cast<size_t>(count));
  uint32_t state = 12345;
  for (uint16_t& x : bits) {
    state = state * 1664525u + 1013904223u;
    x = static_cast<uint16_t>((state >> 16 & 0x83ffu) | 0x3800u);
  }
  return bits;
}

inline void fill(std::byte* to, int64_t bytes, const std::vector<uint16_t>& from) {
  const auto part = static_cast<int64_t>(from.size() * sizeof(uint16_t));
  for (int64_t at = 0; at < bytes; at += part) {
    MOE4_CUDA_CHECK(
        cudaMemcpy(to + at, from.data(), std::min(part, bytes - at), cudaMemcpyHostToDevice));
  }
}

// Some tokens at the end of each of some contexts.
struct Call {
  int64_t seqs = 1, tokens = 1, keys = 0, longest = 0;
  bool is_prompt = false;

  explicit Call(const std::string& text) {
    is_prompt = text.find('p') != std::string::npos;
    const size_t cut = text.find(is_prompt ? 'p' : 'x'), bound = text.find('/');
    (is_prompt ? tokens : seqs) = std::stoll(text);
    longest = keys = std::stoll(text.substr(cut + 1));
    if (bound != std::string::npos) longest = std::stoll(text.substr(bound + 1));
  }
};

// The batch of a call on the device; pages of a sequence lie one behind the other.
struct CalledBatch {
  explicit CalledBatch(const Call& call) {
    const int64_t pages = ceil_div(call.keys, kPageTokens);
    std::vector<int32_t> starts, pages_of(static_cast<size_t>(call.seqs * pages)), positions, slots;
    for (int64_t s = 0; s <= call.seqs; ++s) {
      starts.push_back(static_cast<int32_t>(s * call.tokens));
    }
    std::iota(pages_of.begin(), pages_of.end(), 0);
    for (int64_t s = 0; s < call.seqs; ++s) {
      for (int64_t p = call.keys - call.tokens; p < call.keys; ++p) {
        positions.push_back(static_cast<int32_t>(p));
        slots.push_back(static_cast<int32_t>(s * pages * kPageTokens + p));
      }
    }
    query_start = on_device(starts), blocks = on_device(pages_of);
    position = on_device(positions), slot = on_device(slots);
    context = on_device(
        std::vector<int32_t>(static_cast<size_t>(call.seqs), static_cast<int32_t>(call.keys)));
    table = {.blocks = blocks.get(), .max_blocks = pages, .slots = slot.get()};
    batch = {.num_tokens = call.seqs * call.tokens,
             .num_seqs = call.seqs,
             .num_decodes = call.is_prompt ? 0 : call.seqs,
             .max_query = call.tokens,
             .max_context = call.longest,
             .positions = position.get(),
             .query_start = query_start.get(),
             .context_len = context.get(),
             .tables = {&table, 1}};
  }
  CalledBatch(const CalledBatch&) = delete;

  cuda::DeviceArray<int32_t> query_start, blocks, position, slot, context;
  CacheTable table;
  Batch batch;
};

}  // namespace moe4::bench
