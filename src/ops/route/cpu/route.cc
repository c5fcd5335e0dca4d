// Route on the CPU.
#include "ops/route/route.h"

#include <algorithm>

#include "ops/cpu/implementation.h"

namespace moe4 {
namespace {

// Tokens handed to a thread at a time: some microseconds of work.
constexpr int64_t kGrain = 16;

class CpuRoute final : public Prepared<Route> {
 public:
  CpuRoute(const RouterConfig& problem, const Route::Weights& weights, const OpOptions&)
      : Prepared(problem),
        bias_(weights.correction_bias),
        scale_(weights.expert_scale),
        of_token_(weights.experts_of_token),
        config_(problem) {
    config_.correction_bias = bias_;
    config_.expert_scale = scale_;
  }

  size_t workspace_size(const Route::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return static_cast<int64_t>((bias_.size() + scale_.size()) * sizeof(float)) +
           (config_.by_token ? config_.top_k * int64_t{sizeof(int32_t)} : 0);
  }

  void run(const Route::Args& args, std::span<std::byte>, const Stream& stream) const override {
    const int64_t k = config_.num_slots();
    stream.threads->parallel_for(args.logits.rows, kGrain, [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; ++t) {
        if (args.num_rows != nullptr && args.first_row + t >= *args.num_rows) {
          std::fill_n(args.topk_ids + t * k, k, -1);
          continue;
        }
        if (config_.by_token) {
          weigh_chosen(config_, args.logits.row(t),
                       of_token_.data() + args.token_ids[t] * config_.top_k, args.topk_ids + t * k,
                       args.topk_weights + t * k);
          continue;
        }
        route_topk(config_, args.logits.row(t), 1, args.topk_ids + t * k,
                   args.topk_weights + t * k);
      }
    });
  }

 private:
  std::vector<float> bias_, scale_;
  std::vector<int32_t> of_token_;
  RouterConfig config_;
};

}  // namespace

const Implementation<Route>& cpu_route() {
  static const CpuImplementation<Route, CpuRoute> implementation("cpu");
  return implementation;
}

}  // namespace moe4
