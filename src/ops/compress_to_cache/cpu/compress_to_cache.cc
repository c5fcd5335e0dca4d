// CompressToCache on the CPU: elements are summed token after token, a run of them a thread; then
// the entries that became complete are normalised, turned and stored.
#include "ops/compress_to_cache/compress_to_cache.h"

#include <algorithm>
#include <cmath>

#include "ops/cpu/cache_row.h"
#include "ops/cpu/implementation.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/recurrent.h"
#include "ops/cpu/rotate_pairs.h"

namespace moe4 {
namespace {

// Elements that one thread sums.
constexpr int64_t kRun = 64;

// What is summed of some elements: exp(weight - largest), and kv with these factors.
struct Sums {
  float *largest, *factors, *values;

  static Sums at(float* memory, int64_t width, int64_t first) {
    return {memory + first, memory + width + first, memory + 2 * width + first};
  }
  void clear(int64_t n) const {
    for (float* x : {largest, factors, values}) std::fill_n(x, n, 0.0f);
  }
  void take(const Sums& other, int64_t n) const {
    std::copy_n(other.largest, n, largest);
    std::copy_n(other.factors, n, factors);
    std::copy_n(other.values, n, values);
  }
  void add(const float* gate, const float* bias, const float* kv, int64_t n) const {
    for (int64_t d = 0; d < n; ++d) {
      const float weight = gate[d] + bias[d];
      if (factors[d] == 0.0f) {
        largest[d] = weight;
        factors[d] = 1.0f;
        values[d] = kv[d];
      } else if (weight <= largest[d]) {
        const float factor = std::exp(weight - largest[d]);
        factors[d] += factor;
        values[d] += factor * kv[d];
      } else {
        const float keep = std::exp(largest[d] - weight);
        largest[d] = weight;
        factors[d] = factors[d] * keep + 1.0f;
        values[d] = values[d] * keep + kv[d];
      }
    }
  }
};

class CpuCompressToCache final : public Prepared<CompressToCache> {
 public:
  CpuCompressToCache(const CompressToCache::Problem& problem,
                     const CompressToCache::Weights& weights, const OpOptions& options)
      : Prepared(problem),
        kernels_(op_kernels(options.isa)),
        bias_(float_vector(weights.bias, problem.ratio * problem.width())),
        norm_(norm_weights(problem.norm, weights.norm, problem.dim)) {}

  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return static_cast<int64_t>((bias_.size() / problem().ratio + norm_.size()) * sizeof(float));
  }
  size_t workspace_size(const CompressToCache::Args& bound) const override {
    Arena arena = Arena::measuring();
    take_entries(arena, *bound.batch);
    return arena.peak();
  }

  void run(const CompressToCache::Args& args, std::span<std::byte> workspace,
           const Stream& stream) const override {
    Arena arena(workspace);
    const Rows entries = take_entries(arena, *args.batch);
    const RecurrentStates states(*args.batch, args.state);
    const int64_t runs = ceil_div(problem().dim, kRun);
    for_each_sequence_head(
        *args.batch, runs, 16 * kRun * int64_t{sizeof(float)}, stream,
        [&](int64_t sequence, int64_t run) { sum(args, states, sequence, run * kRun, entries); });
    const int64_t bytes = 4 * problem().dim * int64_t{sizeof(float)} / problem().ratio;
    for_each_token_unit(*args.batch, 1, bytes, stream,
                        [&](int64_t sequence, int64_t token, int64_t) {
                          if (completes(args.batch->positions[token])) {
                            store(args, sequence, token, entries);
                          }
                        });
  }

 private:
  // A row an entry that a step completes. Tokens of one sequence share rows ratio at a time, so
  // that row t / ratio + sequence is of one entry alone.
  Rows take_entries(Arena& arena, const Batch& batch) const {
    return take_rows(arena, batch.num_tokens / problem().ratio + batch.num_seqs + 1, problem().dim);
  }
  float* entry_of(const Rows& entries, int64_t sequence, int64_t token) const {
    return entries.row(token / problem().ratio + sequence);
  }
  bool completes(int64_t position) const {
    return position % problem().ratio == problem().ratio - 1;
  }

  // Elements from `first` on, of all tokens of a sequence.
  void sum(const CompressToCache::Args& args, const RecurrentStates& states, int64_t sequence,
           int64_t first, const Rows& entries) const {
    const CompressToCache::Problem& p = problem();
    const int64_t n = std::min(kRun, p.dim - first), width = p.width();
    float* state = states.of(sequence);
    const Sums own = Sums::at(state, width, first);
    const Sums next = Sums::at(state, width, p.overlaps ? p.dim + first : first);
    if (states.is_new(sequence)) {
      own.clear(n);
      next.clear(n);
    }
    const int64_t begin = states.first_token(sequence), tokens = states.num_tokens(sequence);
    for (int64_t t = begin; t < begin + tokens; ++t) {
      const int64_t position = args.batch->positions[t], i = position % p.ratio;
      const float *kv = args.kv.row(t) + first, *gate = args.gate.row(t) + first;
      const float* bias = bias_.data() + i * width + first;
      if (i == 0 && p.overlaps) own.take(next, n);
      if (i == 0) next.clear(n);  // which are its own without an overlap
      if (p.overlaps) {
        own.add(gate + p.dim, bias + p.dim, kv + p.dim, n);
        next.add(gate, bias, kv, n);
      } else {
        own.add(gate, bias, kv, n);
      }
      if (!completes(position)) continue;
      float* entry = entry_of(entries, sequence, t) + first;
      for (int64_t d = 0; d < n; ++d) entry[d] = own.values[d] / own.factors[d];
    }
  }

  void store(const CompressToCache::Args& args, int64_t sequence, int64_t token,
             const Rows& entries) const {
    const CompressToCache::Problem& p = problem();
    float* entry = entry_of(entries, sequence, token);
    kernels_.rms_norm(entry, norm_.data(), p.norm.eps, p.dim, entry);
    rotate_pairs(args.angles.row(token), p.rotary_dim, entry + p.dim - p.rotary_dim);
    const PagedSpec spec = p.cache();
    const int64_t key = args.batch->positions[token] / p.ratio;
    const CacheTable& table = args.batch->tables[args.cache.table];
    const int64_t block = table.blocks[sequence * table.max_blocks + spec.page_of(key)];
    store_cache_row(kernels_, entry, p.dim, p.cache_dtype,
                    args.cache.data + block * args.cache.unit_bytes +
                        key % spec.keys_of_page() * p.dim * size_of(p.cache_dtype));
  }

  const OpKernels& kernels_;
  std::vector<float> bias_, norm_;
};

Support accepts(const CompressToCache::Problem& problem) {
  if (Support no = require_plain_cache(problem.cache_dtype)) return no;
  return require_multiple_of_16("the width of shared keys", problem.dim);
}

}  // namespace

const Implementation<CompressToCache>& cpu_compress_to_cache() {
  static const CpuImplementation<CompressToCache, CpuCompressToCache> implementation("cpu",
                                                                                     accepts);
  return implementation;
}

}  // namespace moe4
