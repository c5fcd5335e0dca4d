// top_k and top_p without sorting: a histogram of exponents says in which bins the border lies, or
// the chunks' largest logits bound a small top_k; the entries there are gathered, and the last
// block to be done finds the border among them: each thread compares its own with all where they
// are few, else by eight bits of the key at a time. Where top_k has left few, that block draws,
// too.
#pragma once

#include "device/cuda/ptx/launch.cuh"
#include "ops/sample/cuda/finish_row.cuh"

namespace moe4::cuda {

// ---- in which bins the border lies -------------------------------------------------------------

/// By the whole block, when the histogram is complete. Where there is a top_k, all of the bins up
/// to its border are looked at: top_p depends on their weight.
__device__ __forceinline__ void find_bins(const SampleRow& row, RowState& state) {
  static_assert(kSampleBins == 2 * kSampleThreads);
  const int bin = 2 * static_cast<int>(threadIdx.x);
  const bool by_count = row.top_k > 0;
  uint64_t values[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    values[i] = by_count ? __ldcg(state.count + bin + i) : __ldcg(state.mass + bin + i);
  }
  uint64_t total;
  uint64_t before = block_scan(values[0] + values[1], total);
  const auto top_k = static_cast<uint64_t>(row.top_k);
  const uint64_t bound = by_count ? (top_k < total ? top_k : total) : top_p_mass(total, row.top_p);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (before < bound && bound <= before + values[i]) {
      state.region = {.first_bin = by_count ? 0 : bin + i,
                      .last_bin = bin + i,
                      .top_k = by_count ? static_cast<uint32_t>(bound) : 0,
                      .mass_before = by_count ? 0 : before,
                      .mass_bound = bound};
    }
    before += values[i];
  }
}

/// Counts of a block's entries in bins, or sums of their weights: three parts of 15 bits, so that
/// 4096 of them add up in 32, which shared memory does by itself.
struct Histogram {
  static constexpr int kParts = 3, kPartBits = 15;
  uint32_t sums[kParts][kSampleBins];

  __device__ void clear(int bin) {
#pragma unroll
    for (int i = 0; i < kParts; ++i) sums[i][bin] = 0;
  }
  __device__ uint64_t mass(int bin) const {
    uint64_t sum = 0;
#pragma unroll
    for (int i = 0; i < kParts; ++i) sum += static_cast<uint64_t>(sums[i][bin]) << i * kPartBits;
    return sum;
  }
  __device__ void add_mass(int bin, uint64_t weight) {
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      atomicAdd(&sums[i][bin],
                static_cast<uint32_t>(weight >> i * kPartBits) & ((1u << kPartBits) - 1));
    }
  }
};
static_assert(kWeightBits < Histogram::kParts * Histogram::kPartBits);
static_assert(uint64_t{kChunk} << Histogram::kPartBits <= uint64_t{1} << 32);

__global__ void __launch_bounds__(kSampleThreads) histogram_kernel(const SampleParams p) {
  __shared__ Histogram histogram;
  wait_for_previous_kernel();
  launch_dependents();
  const int64_t r = blockIdx.y;
  const SampleRow row = p.rows[r];
  if (row.scale == 0 || !is_truncated(row) || has_few(p, row)) return;
  const bool by_count = row.top_k > 0;
  float v[kItems];
  load_chunk(p, p.source(row, r), v);
  for (int i = threadIdx.x; i < kSampleBins; i += kSampleThreads) histogram.clear(i);
  const Entry best = best_of_row(p, r);  // waits for all threads
  if (best == kBadEntry || is_nothing(best)) return;
  const Exponents exponents(row, best);
  uint32_t candidates = 0;  // bit i: item i
#pragma unroll
  for (int i = 0; i < kItems; ++i) candidates |= (exponents.is_candidate(v[i]) ? 1u : 0u) << i;
  if (by_count) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if ((candidates >> i & 1) != 0) atomicAdd(&histogram.sums[0][exponents.bin(v[i])], 1u);
    }
  } else {
    uint64_t weights[kItems];
    exponents.weigh(v, candidates, weights);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (weights[i] > 0) histogram.add_mass(exponents.bin(v[i]), weights[i]);
    }
  }
  __syncthreads();
  RowState& state = p.state[r];
  for (int i = threadIdx.x; i < kSampleBins; i += kSampleThreads) {
    if (by_count) {
      if (const uint32_t count = histogram.sums[0][i]) atomicAdd(state.count + i, count);
    } else if (const unsigned long long mass = histogram.mass(i)) {
      atomicAdd(reinterpret_cast<unsigned long long*>(state.mass) + i, mass);
    }
  }
  if (is_last_block(state.counters, p.chunks)) find_bins(row, state);
}

// ---- the border itself -------------------------------------------------------------------------

/// The largest key K such that entries of keys from K up have, together with `before`, values of at
/// least `target`, which all together have. `before` becomes the sum without those of K itself.
/// each(f) calls f(key, value) for the entries of a thread.
template <typename Each>
__device__ uint32_t select_key(const Each& each, uint64_t target, uint64_t& before) {
  __shared__ unsigned long long digits[256];
  __shared__ uint32_t found;
  __shared__ uint64_t found_before;
  uint32_t prefix = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    digits[threadIdx.x] = 0;
    __syncthreads();
    each([&](uint32_t key, uint64_t value) {
      if (static_cast<uint64_t>(key) >> (shift + 8) == prefix) {
        atomicAdd(digits + (key >> shift & 255), static_cast<unsigned long long>(value));
      }
    });
    __syncthreads();
    const uint32_t digit = 255 - threadIdx.x;  // from the largest down
    const uint64_t value = digits[digit];
    uint64_t total;
    const uint64_t above = before + block_scan(value, total);
    if (above < target && target <= above + value) {
      found = digit;
      found_before = above;
    }
    __syncthreads();
    prefix = prefix << 8 | found;
    before = found_before;
  }
  __syncthreads();
  return prefix;
}

/// Among more entries than kSmallList: of the list or, where that has no room, of the row. By the
/// whole block.
__device__ __forceinline__ Entry find_cut(const SampleParams& p, const SampleRow& row, int64_t r,
                                          const Exponents& exponents, const Region& region,
                                          int size) {
  const Entry* list = p.list + r * kListRoom;
  const float* source = p.source(row, r);
  const auto each = [&](const auto& f) {  // f(entry)
    if (size <= kListRoom) {
      for (int i = threadIdx.x; i < size; i += kSampleThreads) f(__ldcg(list + i));
      return;
    }
    for (int id = threadIdx.x; id < p.vocab_size; id += kSampleThreads) {
      if (!exponents.is_candidate(source[id])) continue;
      const int bin = exponents.bin(source[id]);
      if (bin >= region.first_bin && bin <= region.last_bin) f(entry_of(source[id], id));
    }
  };
  const auto weight = [&](uint32_t key) { return exponents.weight(logit_of(key)); };
  uint32_t least_key = 0;
  uint64_t before = 0;
  if (region.top_k > 0) {
    least_key = select_key(
        [&](const auto& f) { each([&](Entry entry) { f(key_of(entry), uint64_t{1}); }); },
        region.top_k, before);
  }
  if (row.top_p >= 1.0f) return static_cast<Entry>(least_key) << 32;
  uint64_t bound = region.mass_bound;
  before = region.mass_before;
  if (region.top_k > 0) {
    uint64_t mass = 0;
    each([&](Entry entry) { mass += key_of(entry) >= least_key ? weight(key_of(entry)) : 0; });
    bound = top_p_mass(block_sum(mass), row.top_p);
  }
  const uint32_t key = select_key(
      [&](const auto& f) {
        each([&](Entry entry) {
          if (key_of(entry) >= least_key) f(key_of(entry), weight(key_of(entry)));
        });
      },
      bound, before);
  // Of equals those with the lowest ids stay, as many as it takes.
  const uint64_t one = weight(key);
  const uint64_t wanted = (bound - before + one - 1) / one;
  uint64_t equals = 0;
  each([&](Entry entry) { equals += key_of(entry) == key ? 1 : 0; });
  uint32_t last = 0;
  if (wanted < block_sum(equals)) {
    uint64_t none = 0;
    last = select_key(
        [&](const auto& f) {
          each([&](Entry entry) {
            if (key_of(entry) == key) f(static_cast<uint32_t>(entry), uint64_t{1});
          });
        },
        wanted, none);
  }
  return static_cast<Entry>(key) << 32 | last;
}

/// The same among up to kSmallList entries. Where they are all that top_k left, `id` becomes the
/// row's token, else -1. By the whole block.
__device__ __forceinline__ Entry find_cut_of_few(const SampleParams& p, const SampleRow& row,
                                                 int64_t r, const Exponents& exponents,
                                                 const Region& region, int size, int& id) {
  constexpr int kOwn = kSmallList / kSampleThreads;
  __shared__ Entry entries[kSmallList];
  __shared__ uint64_t weights[kSmallList];
  __shared__ uint32_t least;
  __shared__ int found;
  Entry own[kOwn];
  uint64_t weight[kOwn], before[kOwn];
  int better[kOwn];
#pragma unroll
  for (int n = 0; n < kOwn; ++n) {
    const int i = static_cast<int>(threadIdx.x) + n * kSampleThreads;
    own[n] = i < size ? __ldcg(p.list + r * kListRoom + i) : 0;
    weight[n] = i < size ? exponents.weight(logit_of(own[n])) : 0;
    entries[i] = own[n];
    weights[i] = weight[n];
    before[n] = region.mass_before;
    better[n] = 0;
  }
  if (threadIdx.x == 0) least = 0;
  __syncthreads();
  for (int i = 0; i < size; ++i) {
#pragma unroll
    for (int n = 0; n < kOwn; ++n) {
      if (entries[i] > own[n]) {
        before[n] += weights[i];
        ++better[n];
      }
    }
  }
  const bool by_count = region.top_k > 0;
  uint64_t bound = region.mass_bound;
  if (by_count) {
#pragma unroll
    for (int n = 0; n < kOwn; ++n) {
      if (own[n] > 0 && better[n] == static_cast<int>(region.top_k) - 1) least = key_of(own[n]);
    }
    __syncthreads();
    uint64_t mass = 0;
#pragma unroll
    for (int n = 0; n < kOwn; ++n) mass += key_of(own[n]) >= least ? weight[n] : 0;
    mass = block_sum(mass);
    bound = row.top_p < 1.0f ? top_p_mass(mass, row.top_p) : mass;
  }
  Entry worst = 0;  // the complement of the least that stays
#pragma unroll
  for (int n = 0; n < kOwn; ++n) {
    const bool stays = own[n] > 0 && key_of(own[n]) >= least && before[n] < bound;
    if (stays && ~own[n] > worst) worst = ~own[n];
  }
  const Entry cut = ~block_max(worst);
  id = -1;
  if (!by_count) return cut;

  // By rising id, so by falling low halves.
  uint64_t mass = 0;
#pragma unroll
  for (int n = 0; n < kOwn; ++n) {
    if (own[n] < cut) weight[n] = 0;
    mass += weight[n];
    before[n] = 0;
  }
  const uint64_t point = drawn_point(row.random, block_sum(mass));
  for (int i = 0; i < size; ++i) {
    if (entries[i] < cut) continue;
#pragma unroll
    for (int n = 0; n < kOwn; ++n) {
      if (static_cast<uint32_t>(entries[i]) > static_cast<uint32_t>(own[n])) {
        before[n] += weights[i];
      }
    }
  }
#pragma unroll
  for (int n = 0; n < kOwn; ++n) {
    if (before[n] <= point && point < before[n] + weight[n]) found = id_of(own[n]);
  }
  __syncthreads();
  id = found;
  return cut;
}

/// The least entry of the top_k-th of the chunks' largest logits. By the whole block.
__device__ __forceinline__ Entry bound_of_few(const SampleParams& p, const SampleRow& row,
                                              int64_t r) {
  __shared__ Entry chunks[kSampleThreads];
  __shared__ Entry bound;
  const int tid = static_cast<int>(threadIdx.x);
  const Entry own = tid < p.chunks ? p.best[r * p.chunks + tid] : 0;
  chunks[tid] = own;
  __syncthreads();
  int better = 0;
  for (int c = 0; c < p.chunks; ++c) better += chunks[c] > own ? 1 : 0;
  if (tid < p.chunks && better == row.top_k - 1) bound = own >> 32 << 32;
  __syncthreads();
  return bound;
}

/// Appends the block's entries in the region, from `least` up, to the row's list.
__device__ __forceinline__ void gather(const SampleParams& p, const SampleRow& row, int64_t r,
                                       const Exponents& exponents, const Region& region,
                                       Entry least) {
  __shared__ uint32_t first_place;
  float v[kItems];
  load_chunk(p, p.source(row, r), v);
  uint32_t wanted = 0;  // bit i: item i
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int bin = exponents.bin(v[i]);
    const bool is_inside =
        bin >= region.first_bin && bin <= region.last_bin && entry_of(v[i], id_of_item(i)) >= least;
    if (is_inside && exponents.is_candidate(v[i])) wanted |= 1u << i;
  }
  uint64_t total;
  auto place = static_cast<uint32_t>(block_scan(__popc(wanted), total));
  if (total == 0) return;
  if (threadIdx.x == 0) {
    first_place = atomicAdd(&p.state[r].list_size, static_cast<uint32_t>(total));
  }
  __syncthreads();
  place += first_place;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    if ((wanted >> i & 1) == 0) continue;
    if (place < kListRoom) p.list[r * kListRoom + place] = entry_of(v[i], id_of_item(i));
    ++place;
  }
}

__global__ void __launch_bounds__(kSampleThreads) truncate_kernel(const SampleParams p) {
  wait_for_previous_kernel();
  launch_dependents();
  const int64_t r = blockIdx.y;
  const SampleRow row = p.rows[r];
  if (row.scale == 0 || !is_truncated(row)) return;
  RowState& state = p.state[r];
  Region region = state.region;
  const int chunk = static_cast<int>(blockIdx.x);
  const Entry best_of_chunk = p.best[r * p.chunks + chunk];
  const Entry best = best_of_row(p, r);
  if (best == kBadEntry || is_nothing(best)) return;
  const Exponents exponents(row, best);
  Entry least = 0;  // what is smaller is not looked at
  if (has_few(p, row)) {
    least = bound_of_few(p, row, r);
    region = {.last_bin = kSampleBins - 1, .top_k = static_cast<uint32_t>(row.top_k)};
  }
  if (best_of_chunk >= least && exponents.bin(logit_of(best_of_chunk)) <= region.last_bin) {
    gather(p, row, r, exponents, region, least);
  }
  if (!is_last_block(state.counters + 1, p.chunks)) return;
  const auto size = static_cast<int>(__ldcg(&state.list_size));
  // Fewer where candidates are few.
  if (region.top_k > static_cast<uint32_t>(size)) region.top_k = static_cast<uint32_t>(size);
  int id = -1;
  const Entry cut = size <= kSmallList ? find_cut_of_few(p, row, r, exponents, region, size, id)
                                       : find_cut(p, row, r, exponents, region, size);
  if (threadIdx.x == 0) {
    state.cut = cut;
    state.is_done = id >= 0 ? 1 : 0;
  }
  if (id >= 0) finish_row(p, row, r, SampleStatus::kChosen, id);
}

}  // namespace moe4::cuda
