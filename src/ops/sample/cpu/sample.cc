// Sample on the CPU: a thread a row.
#include "ops/sample/sample.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/cpu/implementation.h"
#include "ops/sample/cpu/sample_row.h"
#include "ops/sample/sample_arithmetic.h"

namespace moe4 {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// What a thread works with.
struct Scratch {
  std::span<float> edited;                // [V]
  std::span<SampleCandidate> candidates;  // [V]
};

class CpuSample final : public Prepared<Sample> {
 public:
  CpuSample(const Sample::Problem& problem, const Sample::Weights&, const OpOptions& options)
      : Prepared(problem), threads_(options.threads != nullptr ? options.threads->size() : 1) {
    Arena arena = Arena::measuring();
    take(arena);
    thread_bytes_ = static_cast<size_t>(
        round_up(static_cast<int64_t>(arena.peak()), int64_t{Arena::kAlignment}));
  }

  size_t workspace_size(const Sample::Args&) const override {
    return thread_bytes_ * static_cast<size_t>(threads_);
  }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return 0; }

  void run(const Sample::Args& args, std::span<std::byte> workspace,
           const Stream& stream) const override {
    MOE4_CHECK(stream.threads->size() <= threads_);
    stream.threads->parallel_for(args.logits.rows, 1, [&](int64_t begin, int64_t end, int thread) {
      Arena arena(workspace.subspan(thread_bytes_ * static_cast<size_t>(thread), thread_bytes_));
      const Scratch scratch = take(arena);
      for (int64_t r = begin; r < end; ++r) sample_row(args, r, scratch);
    });
  }

 private:
  Scratch take(Arena& arena) const {
    const auto v = static_cast<size_t>(problem().vocab_size);
    return {{arena.take<float>(problem().vocab_size), v},
            {arena.take<SampleCandidate>(problem().vocab_size), v}};
  }

  void edit(const Sample::Args& args, const SampleRow& row, std::span<float> logits) const {
    const int64_t v = problem().vocab_size;
    if (row.mask >= 0) {
      const uint64_t* bits = args.masks + row.mask * ceil_div(v, 64);
      for (int64_t i = 0; i < v; ++i) {
        if ((bits[i / 64] >> (i % 64) & 1) == 0) logits[i] = kMinusInfinity;
      }
    }
    for (int32_t i = 0; i < row.num_forbidden; ++i) {
      const int32_t id = args.forbidden[row.first_forbidden + i];
      if (id >= 0 && id < v) logits[id] = kMinusInfinity;
    }
    for (int32_t i = 0; i < row.num_biases; ++i) {
      const LogitBias& bias = args.biases[row.first_bias + i];
      logits[bias.id] = biased_logit(logits[bias.id], bias.bias);
    }
    if (row.counts < 0) return;
    const int32_t* counts = args.counts + row.counts * v;
    for (int64_t i = 0; i < v; ++i) logits[i] = penalized_logit(logits[i], row, counts[i]);
  }

  void sample_row(const Sample::Args& args, int64_t r, const Scratch& scratch) const {
    const SampleRow& row = args.rows[r];
    const std::span<const float> raw(args.logits.row(r), scratch.edited.size());
    args.ids[r] = -1;
    args.status[r] = SampleStatus::kBadLogits;
    if (find_bad_logit(raw) >= 0) return;
    std::span<const float> logits = raw;
    if (row.edited >= 0) {
      std::copy(raw.begin(), raw.end(), scratch.edited.begin());
      edit(args, row, scratch.edited);
      logits = scratch.edited;
    }
    const auto left = sample_candidates(logits, row, scratch.candidates);
    args.status[r] = SampleStatus::kNothingLeft;
    if (left.empty()) return;
    const int32_t id = draw(left, row.random);
    args.ids[r] = id;
    args.status[r] = SampleStatus::kChosen;
    if (row.counts >= 0) {
      int32_t& count = args.counts[row.counts * problem().vocab_size + id];
      count = count == 0 ? 2 : count + 1;
    }
    if (args.logprobs != nullptr) write_logprobs(args, r, raw, scratch.candidates);
  }

  void write_logprobs(const Sample::Args& args, int64_t r, std::span<const float> raw,
                      std::span<SampleCandidate> room) const {
    const double max = *std::max_element(raw.begin(), raw.end());
    double sum = 0;
    for (const float logit : raw) sum += std::exp(static_cast<double>(logit) - max);
    const auto logprob = [&](float logit) {
      return static_cast<float>(static_cast<double>(logit) - max - std::log(sum));
    };
    args.logprobs[r] = logprob(raw[args.ids[r]]);
    if (args.num_top == 0) return;
    for (size_t i = 0; i < raw.size(); ++i) room[i] = {0, raw[i], static_cast<int32_t>(i)};
    std::partial_sort(room.begin(), room.begin() + args.num_top, room.end(),
                      [](const SampleCandidate& a, const SampleCandidate& b) {
                        return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
                      });
    for (int64_t i = 0; i < args.num_top; ++i) {
      args.top_ids[r * args.num_top + i] = room[i].id;
      args.top_logprobs[r * args.num_top + i] = logprob(room[i].logit);
    }
  }

  int threads_;
  size_t thread_bytes_;
};

}  // namespace

const Implementation<Sample>& cpu_sample() {
  static const CpuImplementation<Sample, CpuSample> implementation("cpu");
  return implementation;
}

}  // namespace moe4
