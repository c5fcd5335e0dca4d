// top_k and top_p without sorting: a histogram of exponents says in which bins the border lies,
// their entries are gathered, and the last block to be done finds the border among them, eight bits
// of the key at a time.
#pragma once

#include "device/cuda/ptx/launch.cuh"
#include "ops/sample/cuda/sample_state.cuh"

namespace moe4::cuda {

/// Calls f(i, id, logit, exponent) for the block's logits of row r that are not below `least`.
template <typename F>
__device__ __forceinline__ void each_candidate(const SampleParams& p, const SampleRow& row,
                                               int64_t r, float max, const F& f) {
  const float* source = p.source(row, r);
  const int begin = static_cast<int>(blockIdx.x) * kChunk + static_cast<int>(threadIdx.x);
  float v[kItems];
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int id = begin + i * kSampleThreads;
    v[i] = id < p.vocab_size ? source[id] : -INFINITY;
  }
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const double e = sample_exponent(v[i], max, row.scale);
    if (e >= row.least) f(i, begin + i * kSampleThreads, v[i], e);
  }
}

/// In which bins the border lies. By the whole block, when the histogram is complete.
__device__ __forceinline__ void find_bins(const SampleRow& row, RowState& state) {
  static_assert(kSampleBins == 2 * kSampleThreads);
  const int bin = 2 * static_cast<int>(threadIdx.x);
  const uint64_t counts[2] = {__ldcg(state.count + bin), __ldcg(state.count + bin + 1)};
  const uint64_t masses[2] = {__ldcg(state.mass + bin), __ldcg(state.mass + bin + 1)};
  uint64_t count, mass;
  uint64_t count_before = block_scan(counts[0] + counts[1], count);
  uint64_t mass_before = block_scan(masses[0] + masses[1], mass);
  const bool by_count = row.top_k > 0 && static_cast<uint64_t>(row.top_k) < count;
  if (!by_count && row.top_p >= 1.0f) {
    if (threadIdx.x == 0) {
      state.first_bin = 1;  // none
      state.cut = kKeepAll;
    }
    return;
  }
  const uint64_t bound = by_count ? row.top_k : top_p_mass(mass, row.top_p);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint64_t before = by_count ? count_before : mass_before;
    if (before < bound && bound <= before + (by_count ? counts[i] : masses[i])) {
      state.first_bin = by_count ? 0 : bin + i;
      state.last_bin = bin + i;
      state.top_k = by_count ? row.top_k : 0;
      state.mass_before = by_count ? 0 : mass_before;
      state.mass_bound = bound;
    }
    count_before += counts[i];
    mass_before += masses[i];
  }
}

__global__ void __launch_bounds__(kSampleThreads) histogram_kernel(const SampleParams p) {
  __shared__ uint32_t count[kSampleBins];
  __shared__ unsigned long long mass[kSampleBins];
  wait_for_previous_kernel();
  launch_dependents();
  const int64_t r = blockIdx.y;
  const SampleRow row = p.rows[r];
  if (row.scale == 0 || !is_truncated(row)) return;
  const Entry best = best_of_row(p, r);
  if (best == kBadEntry || is_nothing(best)) return;
  for (int i = threadIdx.x; i < kSampleBins; i += kSampleThreads) {
    count[i] = 0;
    mass[i] = 0;
  }
  __syncthreads();
  each_candidate(p, row, r, logit_of(key_of(best)), [&](int, int, float, double e) {
    atomicAdd(count + sample_bin(e), 1u);
    if (row.top_p < 1.0f) atomicAdd(mass + sample_bin(e), sample_weight(e));
  });
  __syncthreads();
  RowState& state = p.state[r];
  for (int i = threadIdx.x; i < kSampleBins; i += kSampleThreads) {
    if (count[i] == 0) continue;
    atomicAdd(state.count + i, count[i]);
    if (mass[i] > 0) {
      atomicAdd(reinterpret_cast<unsigned long long*>(state.mass) + i, mass[i]);
    }
  }
  if (is_last_block(state.counters, p.chunks)) find_bins(row, state);
}

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
        atomicAdd(digits + (key >> shift & 255), value);
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

/// The border among the entries of the bins. By the whole block, when all are in the list.
__device__ __forceinline__ void find_cut(const SampleParams& p, const SampleRow& row, int64_t r,
                                         float max) {
  RowState& state = p.state[r];
  const int first_bin = __ldcg(&state.first_bin), last_bin = __ldcg(&state.last_bin);
  const auto top_k = static_cast<int>(__ldcg(&state.top_k));
  const auto size = static_cast<int>(__ldcg(&state.list_size));
  const Entry* list = p.list + r * kListRoom;
  const float* source = p.source(row, r);
  const auto each = [&](const auto& f) {  // f(entry)
    if (size <= kListRoom) {
      for (int i = threadIdx.x; i < size; i += kSampleThreads) f(__ldcg(list + i));
      return;
    }
    for (int id = threadIdx.x; id < p.vocab_size; id += kSampleThreads) {
      const double e = sample_exponent(source[id], max, row.scale);
      if (!(e >= row.least)) continue;
      if (sample_bin(e) >= first_bin && sample_bin(e) <= last_bin) f(entry_of(source[id], id));
    }
  };
  const auto weight = [&](uint32_t key) {
    return sample_weight(sample_exponent(logit_of(key), max, row.scale));
  };
  Cut cut = kKeepAll;
  uint64_t before = 0;
  if (top_k > 0) {
    cut.key = select_key(
        [&](const auto& f) { each([&](Entry entry) { f(key_of(entry), uint64_t{1}); }); },
        static_cast<uint64_t>(top_k), before);
  }
  if (row.top_p < 1.0f) {
    const uint32_t least_key = cut.key;
    uint64_t bound = __ldcg(&state.mass_bound);
    before = __ldcg(&state.mass_before);
    if (top_k > 0) {
      uint64_t mass = 0;
      each([&](Entry entry) { mass += key_of(entry) >= least_key ? weight(key_of(entry)) : 0; });
      bound = top_p_mass(block_sum(mass), row.top_p);
    }
    cut.key = select_key(
        [&](const auto& f) {
          each([&](Entry entry) {
            if (key_of(entry) >= least_key) f(key_of(entry), weight(key_of(entry)));
          });
        },
        bound, before);
    // Of equals those with the lowest ids stay, as many as it takes.
    const uint64_t one = weight(cut.key);
    const uint64_t wanted = (bound - before + one - 1) / one;
    uint64_t equals = 0;
    each([&](Entry entry) { equals += key_of(entry) == cut.key ? 1 : 0; });
    if (wanted < block_sum(equals)) {
      uint64_t none = 0;
      cut.last_id = id_of(select_key(
          [&](const auto& f) {
            each([&](Entry entry) {
              if (key_of(entry) == cut.key) f(static_cast<uint32_t>(entry), uint64_t{1});
            });
          },
          wanted, none));
    }
  }
  if (threadIdx.x == 0) state.cut = cut;
}

__global__ void __launch_bounds__(kSampleThreads) truncate_kernel(const SampleParams p) {
  wait_for_previous_kernel();
  launch_dependents();
  const int64_t r = blockIdx.y;
  const SampleRow row = p.rows[r];
  if (row.scale == 0 || !is_truncated(row)) return;
  const Entry best = best_of_row(p, r);
  if (best == kBadEntry || is_nothing(best)) return;
  RowState& state = p.state[r];
  const int first_bin = state.first_bin, last_bin = state.last_bin;
  if (first_bin > last_bin) return;
  const float max = logit_of(key_of(best));
  uint32_t wanted = 0;  // bit i: entry i of this thread
  each_candidate(p, row, r, max, [&](int i, int, float, double e) {
    if (sample_bin(e) >= first_bin && sample_bin(e) <= last_bin) wanted |= 1u << i;
  });
  __shared__ uint32_t first_place;
  uint64_t total;
  const auto place = static_cast<uint32_t>(block_scan(__popc(wanted), total));
  if (total > 0) {
    if (threadIdx.x == 0) first_place = atomicAdd(&state.list_size, static_cast<uint32_t>(total));
    __syncthreads();
    const float* source = p.source(row, r);
    uint32_t to = first_place + place;
    for (; wanted != 0 && to < kListRoom; wanted &= wanted - 1, ++to) {
      const int id = static_cast<int>(blockIdx.x) * kChunk + static_cast<int>(threadIdx.x) +
                     (__ffs(static_cast<int>(wanted)) - 1) * kSampleThreads;
      p.list[r * kListRoom + to] = entry_of(source[id], id);
    }
  }
  if (is_last_block(state.counters + 1, p.chunks)) find_cut(p, row, r, max);
}

}  // namespace moe4::cuda
