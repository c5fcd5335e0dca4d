// Route in float64, by sorting.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "ops/cpu/implementation.h"
#include "ops/route/route.h"

namespace moe4 {
namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();

// Indices by falling value, the lower one first of equals.
std::vector<int64_t> ranked(const std::vector<double>& values) {
  std::vector<int64_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return values[a] > values[b]; });
  return order;
}

class ReferenceRoute final : public Prepared<Route> {
 public:
  ReferenceRoute(const RouterConfig& problem, const Route::Weights& weights, const OpOptions&)
      : Prepared(problem),
        bias_(weights.correction_bias),
        scale_(weights.expert_scale),
        of_token_(weights.experts_of_token) {}

  size_t workspace_size(const Route::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return static_cast<int64_t>((bias_.size() + scale_.size()) * sizeof(float));
  }

  void run(const Route::Args& args, std::span<std::byte>, const Stream&) const override {
    const int64_t k = problem().num_slots();
    for (int64_t t = 0; t < args.logits.rows; ++t) {
      if (args.num_rows != nullptr && args.first_row + t >= *args.num_rows) {
        std::fill_n(args.topk_ids + t * k, k, -1);
        continue;
      }
      run_token({args.logits.row(t), static_cast<size_t>(problem().num_experts)},
                args.logits.row(t)[problem().num_logits() - 1],
                args.token_ids != nullptr ? args.token_ids[t] : 0, args.topk_ids + t * k,
                args.topk_weights + t * k);
    }
  }

 private:
  std::vector<double> scores_of(std::span<const float> logits) const {
    std::vector<double> scores(logits.begin(), logits.end());
    const double top = *std::max_element(scores.begin(), scores.end());
    if (problem().scoring == ScoringFunction::kSigmoid) {
      for (double& s : scores) s = 1.0 / (1.0 + std::exp(-s));
    } else if (problem().scoring == ScoringFunction::kSoftmax) {
      double sum = 0;
      for (double& s : scores) sum += s = std::exp(s - top);
      for (double& s : scores) s /= sum;
    } else if (problem().scoring == ScoringFunction::kSqrtSoftplus) {
      for (double& s : scores) s = std::sqrt(std::log1p(std::exp(s)));
    }
    return scores;
  }

  // Only the best groups stay in the race; a group's score is the sum of its two best.
  void drop_groups(std::vector<double>& selection) const {
    const int64_t per_group = problem().num_experts / problem().num_groups;
    std::vector<double> groups;
    for (int64_t g = 0; g < problem().num_groups; ++g) {
      std::vector<double> of_group(selection.begin() + g * per_group,
                                   selection.begin() + (g + 1) * per_group);
      std::sort(of_group.rbegin(), of_group.rend());
      groups.push_back(of_group[0] + (per_group > 1 ? of_group[1] : 0.0));
    }
    const std::vector<int64_t> order = ranked(groups);
    for (int64_t i = problem().topk_groups; i < problem().num_groups; ++i) {
      std::fill_n(selection.begin() + order[i] * per_group, per_group, kNever);
    }
  }

  void run_token(std::span<const float> logits, double shared_gate, int32_t token, int32_t* ids,
                 float* weights) const {
    const int64_t k = problem().top_k;
    std::fill_n(ids, problem().num_slots(), -1);
    std::fill_n(weights, problem().num_slots(), 0.0f);
    if (std::any_of(logits.begin(), logits.end(), [](float x) { return std::isnan(x); })) {
      ids[0] = 0;
      weights[0] = std::numeric_limits<float>::quiet_NaN();
      return;
    }
    const std::vector<double> scores = scores_of(logits);
    std::vector<double> selection = scores;
    if (problem().by_token) {
      // As far from the end as it stands in the list.
      std::fill(selection.begin(), selection.end(), kNever);
      for (int64_t i = 0; i < k; ++i) {
        selection[of_token_[token * k + i]] = static_cast<double>(k - i);
      }
    } else if (!bias_.empty()) {
      for (size_t i = 0; i < bias_.size(); ++i) selection[i] += bias_[i];
    } else {
      selection.assign(logits.begin(), logits.end());  // the same order, and nothing underflows
    }
    if (problem().num_groups > 1) drop_groups(selection);
    const std::vector<int64_t> order = ranked(selection);
    std::vector<double> chosen;
    for (int64_t i = 0; i < k && selection[order[i]] > kNever; ++i) {
      ids[i] = static_cast<int32_t>(order[i]);
      chosen.push_back(scores[order[i]]);
    }
    double sum = 0;
    if (problem().scoring == ScoringFunction::kSoftmaxOverSelected) {
      const double top = *std::max_element(chosen.begin(), chosen.end());
      for (double& w : chosen) sum += w = std::exp(w - top);
    } else {
      sum = problem().renormalize ? std::accumulate(chosen.begin(), chosen.end(), 0.0) : 1.0;
    }
    for (size_t i = 0; i < chosen.size(); ++i) {
      const double scale = scale_.empty() ? 1.0 : static_cast<double>(scale_[ids[i]]);
      weights[i] = static_cast<float>(chosen[i] / sum * problem().scaling_factor * scale);
    }
    for (int64_t i = 0; i < problem().shared_experts; ++i) {
      ids[k + i] = static_cast<int32_t>(problem().num_experts + i);
      weights[k + i] =
          problem().shared_gate ? static_cast<float>(1.0 / (1.0 + std::exp(-shared_gate))) : 1.0f;
    }
  }

  std::vector<float> bias_, scale_;
  std::vector<int32_t> of_token_;
};

}  // namespace

const Implementation<Route>& reference_route() {
  static const CpuImplementation<Route, ReferenceRoute> implementation("reference", only_for_tests);
  return implementation;
}

}  // namespace moe4
