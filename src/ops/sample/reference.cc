// Sample from first principles: every step on the whole vocabulary, everything sorted, weights from
// the exponential of the library in float64.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "ops/cpu/implementation.h"
#include "ops/sample/sample.h"

namespace moe4 {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class ReferenceSample final : public Prepared<Sample> {
 public:
  ReferenceSample(const Sample::Problem& problem, const Sample::Weights&, const OpOptions&)
      : Prepared(problem) {}

  size_t workspace_size(const Sample::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return 0; }

  void run(const Sample::Args& args, std::span<std::byte>, const Stream&) const override {
    for (int64_t r = 0; r < args.logits.rows; ++r) {
      const std::vector<float> logits(args.logits.row(r), args.logits.row(r) + args.logits.width);
      args.ids[r] = -1;
      args.status[r] = SampleStatus::kBadLogits;
      if (std::any_of(logits.begin(), logits.end(), [](float l) { return !(l < kInfinity); })) {
        continue;
      }
      args.ids[r] = choose(edited(args, args.rows[r], logits), args.rows[r]);
      args.status[r] = args.ids[r] >= 0 ? SampleStatus::kChosen : SampleStatus::kNothingLeft;
      if (args.ids[r] < 0) continue;
      if (args.rows[r].counts >= 0) {
        int32_t& count = args.counts[args.rows[r].counts * args.logits.width + args.ids[r]];
        count = std::max(count, 1) + 1;
      }
      if (args.logprobs != nullptr) write_logprobs(args, r, logits);
    }
  }

 private:
  static std::vector<float> edited(const Sample::Args& args, const SampleRow& row,
                                   std::vector<float> logits) {
    const auto v = static_cast<int64_t>(logits.size());
    if (row.edited < 0) return logits;
    for (int64_t i = 0; i < v; ++i) {
      float& l = logits[i];
      const bool allowed = row.mask < 0 || (args.masks[row.mask * ceil_div(v, 64) + i / 64] &
                                            uint64_t{1} << (i % 64)) != 0;
      const int32_t* forbidden = args.forbidden + row.first_forbidden;
      const bool stays =
          std::find(forbidden, forbidden + row.num_forbidden, i) == forbidden + row.num_forbidden;
      if (!allowed || !stays) l = -kInfinity;
      const auto cut = [&] { l = std::min(l, std::numeric_limits<float>::max()); };
      for (int32_t b = 0; b < row.num_biases; ++b) {
        if (args.biases[row.first_bias + b].id != i) continue;
        l += args.biases[row.first_bias + b].bias;
        cut();
      }
      const int32_t uses = row.counts < 0 ? 0 : args.counts[row.counts * v + i];
      if (uses == 0) continue;
      if (l < 0) {
        l *= row.repetition_penalty;
      } else {
        l /= row.repetition_penalty;
      }
      cut();
      if (uses == 1) continue;
      const float frequency = row.frequency_penalty * static_cast<float>(uses - 1);
      l -= frequency;
      l -= row.presence_penalty;
      cut();
    }
    return logits;
  }

  static std::vector<int32_t> ranked(const std::vector<float>& logits) {
    std::vector<int32_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
    return order;
  }

  static int32_t choose(const std::vector<float>& logits, const SampleRow& row) {
    std::vector<int32_t> left = ranked(logits);
    const float max = logits[left[0]];
    if (max == -kInfinity) return -1;
    if (row.scale == 0) return left[0];
    const auto exponent = [&](int32_t id) {
      return (static_cast<double>(logits[id]) - static_cast<double>(max)) * row.scale;
    };
    std::erase_if(left, [&](int32_t id) { return exponent(id) < row.least; });
    if (row.top_k > 0 && row.top_k < static_cast<int64_t>(left.size())) {
      const float last = logits[left[row.top_k - 1]];
      std::erase_if(left, [&](int32_t id) { return logits[id] < last; });
    }
    const auto weight = [&](int32_t id) { return std::exp2(exponent(id)); };
    const auto sum = [&] {
      double total = 0;
      for (const int32_t id : left) total += weight(id);
      return total;
    };
    if (row.top_p < 1) {
      const double bound = static_cast<double>(row.top_p) * sum();
      double mass = 0;
      size_t kept = 0;
      while (kept < left.size() && (kept == 0 || mass < bound)) mass += weight(left[kept++]);
      left.resize(kept);
    }
    std::sort(left.begin(), left.end());
    double point = static_cast<double>(row.random >> 11) * 0x1p-53 * sum();
    for (const int32_t id : left) {
      point -= weight(id);
      if (point < 0) return id;
    }
    return left.back();
  }

  static void write_logprobs(const Sample::Args& args, int64_t r,
                             const std::vector<float>& logits) {
    double sum = 0;
    const std::vector<int32_t> order = ranked(logits);
    const double max = logits[order[0]];
    for (const float l : logits) sum += std::exp(l - max);
    const auto logprob = [&](int32_t id) {
      return static_cast<float>(logits[id] - max - std::log(sum));
    };
    args.logprobs[r] = logprob(args.ids[r]);
    for (int64_t i = 0; i < args.num_top; ++i) {
      args.top_ids[r * args.num_top + i] = order[i];
      args.top_logprobs[r * args.num_top + i] = logprob(order[i]);
    }
  }
};

}  // namespace

const Implementation<Sample>& reference_sample() {
  static const CpuImplementation<Sample, ReferenceSample> implementation("reference",
                                                                         only_for_tests);
  return implementation;
}

}  // namespace moe4
