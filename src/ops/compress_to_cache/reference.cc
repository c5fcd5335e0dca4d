// CompressToCache in float64, entry by entry.
#include <algorithm>
#include <cmath>

#include "numerics/f16.h"
#include "ops/compress_to_cache/compress_to_cache.h"
#include "ops/cpu/implementation.h"
#include "ops/cpu/recurrent.h"

namespace moe4 {
namespace {

// One element's part of an entry: values under a weight, or several of them summed already.
struct Term {
  double weight, factors, values;
};

Term sum_of(const std::vector<Term>& terms) {
  Term sum{-INFINITY, 0, 0};
  for (const Term& term : terms) sum.weight = std::max(sum.weight, term.weight);
  for (const Term& term : terms) {
    const double factor = std::exp(term.weight - sum.weight);
    sum.factors += factor * term.factors;
    sum.values += factor * term.values;
  }
  return sum;
}

class ReferenceCompressToCache final : public Prepared<CompressToCache> {
 public:
  ReferenceCompressToCache(const CompressToCache::Problem& problem,
                           const CompressToCache::Weights& weights, const OpOptions&)
      : Prepared(problem),
        bias_(float_vector(weights.bias, problem.ratio * problem.width())),
        norm_(norm_weights(problem.norm, weights.norm, problem.dim)) {}

  size_t workspace_size(const CompressToCache::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return static_cast<int64_t>((bias_.size() + norm_.size()) * sizeof(float));
  }

  void run(const CompressToCache::Args& args, std::span<std::byte>, const Stream&) const override {
    const RecurrentStates states(*args.batch, args.state);
    for (int64_t s = 0; s < args.batch->num_seqs; ++s) {
      if (states.num_tokens(s) > 0) run_sequence(args, states, s);
    }
  }

 private:
  // Column c of token t: of kv, under its weight.
  Term term(const CompressToCache::Args& args, int64_t t, int64_t c) const {
    const int64_t i = args.batch->positions[t] % problem().ratio;
    return {static_cast<double>(args.gate.row(t)[c]) +
                static_cast<double>(bias_[i * problem().width() + c]),
            1.0, static_cast<double>(args.kv.row(t)[c])};
  }

  void run_sequence(const CompressToCache::Args& args, const RecurrentStates& states,
                    int64_t s) const {
    const CompressToCache::Problem& p = problem();
    const int64_t begin = states.first_token(s), width = p.width();
    // Terms of the entry that is being summed, and of the one behind it.
    std::vector<std::vector<Term>> own(p.dim), next(p.dim);
    float* state = states.of(s);
    const auto stored = [&](int64_t c, std::vector<Term>& terms) {
      if (states.is_new(s) || state[width + c] == 0.0f) return;
      terms.push_back({state[c], state[width + c], state[2 * width + c]});
    };
    for (int64_t d = 0; d < p.dim; ++d) {
      stored(d, own[d]);
      if (p.overlaps) stored(p.dim + d, next[d]);
    }
    for (int64_t t = begin; t < begin + states.num_tokens(s); ++t) {
      const int64_t position = args.batch->positions[t];
      std::vector<double> entry(p.dim);
      for (int64_t d = 0; d < p.dim; ++d) {
        if (position % p.ratio == 0) {
          own[d] = std::move(next[d]);
          next[d].clear();
        }
        own[d].push_back(term(args, t, p.overlaps ? p.dim + d : d));
        if (p.overlaps) next[d].push_back(term(args, t, d));
        const Term sum = sum_of(own[d]);
        entry[d] = sum.values / sum.factors;
      }
      if (position % p.ratio == p.ratio - 1) put(args, s, t, entry);
    }
    const auto keep = [&](int64_t c, const std::vector<Term>& terms) {
      const Term sum = terms.empty() ? Term{} : sum_of(terms);
      state[c] = static_cast<float>(sum.weight);
      state[width + c] = static_cast<float>(sum.factors);
      state[2 * width + c] = static_cast<float>(sum.values);
    };
    for (int64_t d = 0; d < p.dim; ++d) {
      keep(d, own[d]);
      if (p.overlaps) keep(p.dim + d, next[d]);
    }
  }

  void put(const CompressToCache::Args& args, int64_t s, int64_t t,
           std::vector<double> entry) const {
    const CompressToCache::Problem& p = problem();
    double squares = 0;
    for (const double x : entry) squares += x * x;
    const double factor =
        1.0 / std::sqrt(squares / static_cast<double>(p.dim) + static_cast<double>(p.norm.eps));
    for (int64_t d = 0; d < p.dim; ++d) entry[d] *= factor * norm_[d];
    const float* angles = args.angles.row(t);
    for (int64_t i = 0; i < p.rotary_dim / 2; ++i) {
      double& first = entry[p.dim - p.rotary_dim + 2 * i];
      double& second = entry[p.dim - p.rotary_dim + 2 * i + 1];
      const double a = first, b = second, cos = angles[i], sin = angles[p.rotary_dim / 2 + i];
      first = a * cos - b * sin;
      second = a * sin + b * cos;
    }
    const CacheTable& table = args.batch->tables[args.cache.table];
    const int64_t position = args.batch->positions[t];
    const int64_t block = table.blocks[s * table.max_blocks + position / kPageTokens];
    std::byte* page = args.cache.data + block * args.cache.unit_bytes;
    const int64_t place = position % kPageTokens / p.ratio;
    for (int64_t d = 0; d < p.dim; ++d) {
      const auto x = static_cast<float>(entry[d]);
      if (p.cache_dtype == DType::kF16) {
        reinterpret_cast<F16*>(page)[place * p.dim + d] = to_f16(x);
      } else {
        reinterpret_cast<float*>(page)[place * p.dim + d] = x;
      }
    }
  }

  std::vector<float> bias_, norm_;
};

}  // namespace

const Implementation<CompressToCache>& reference_compress_to_cache() {
  static const CpuImplementation<CompressToCache, ReferenceCompressToCache> implementation(
      "reference", only_for_tests);
  return implementation;
}

}  // namespace moe4
