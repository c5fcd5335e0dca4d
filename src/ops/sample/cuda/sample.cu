// Sample on NVIDIA GPUs, in kernels of a block a chunk of 4096 logits of a row:
//
//   scan_logits   edits, the largest logit of the chunk, sums for log probabilities
//   histogram     where a row has top_p or a large top_k: in which bins of exponents the border
//   lies truncate      the border, exactly choose        weights left of the chunk; the last block
//   of a row draws, if it has not been done
//
// The second and third run only where the host says that a row may need them; greedy rows need the
// first and one block of the last. No kernel waits for another block: of each row's blocks the last
// one that is done goes on with what all of them found. All that decides is integers, so the order
// in which blocks add has no influence.
#include "device/cuda/launch.h"
#include "ops/cuda/implementation.h"
#include "ops/sample/cuda/choose.cuh"
#include "ops/sample/cuda/scan_logits.cuh"
#include "ops/sample/cuda/truncate.cuh"
#include "ops/sample/sample.h"

namespace moe4 {
namespace {

using namespace cuda;

class CudaSample final : public Prepared<Sample> {
 public:
  CudaSample(const Sample::Problem& problem, const OpOptions& options)
      : Prepared(problem), dependent_(options.device.sm >= 90) {}

  size_t workspace_size(const Sample::Args& bound) const override {
    Arena arena = Arena::measuring();
    take(arena, bound);
    return arena.peak();
  }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return 0; }

  void run(const Sample::Args& args, std::span<std::byte> workspace,
           const Stream& stream) const override {
    const int64_t rows = args.logits.rows;
    if (rows == 0) return;
    Arena arena(workspace);
    SampleParams p = take(arena, args);
    p.logits = args.logits.row(0);
    p.stride = args.logits.stride;
    p.rows = args.rows;
    p.masks = args.masks;
    p.forbidden = args.forbidden;
    p.biases = args.biases;
    p.counts = args.counts;
    p.ids = args.ids;
    p.status = args.status;
    p.logprobs = args.logprobs;
    p.top_ids = args.top_ids;
    p.top_logprobs = args.top_logprobs;
    const auto start = [&](auto* kernel, int blocks) {
      launch(kernel,
             {.grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(rows)),
              .block = dim3(kSampleThreads),
              .stream = static_cast<cudaStream_t>(stream.handle),
              .dependent = dependent_},
             p);
    };
    if (args.num_edited > 0) {
      start(args.logprobs != nullptr ? scan_logits_kernel<true, true>
                                     : scan_logits_kernel<false, true>,
            p.chunks);
    } else {
      start(args.logprobs != nullptr ? scan_logits_kernel<true, false>
                                     : scan_logits_kernel<false, false>,
            p.chunks);
    }
    if (args.any_sampled && args.any_truncated) {
      start(histogram_kernel, p.chunks);
      start(truncate_kernel, p.chunks);
    }
    start(choose_kernel, args.any_sampled ? p.chunks : 1);
  }

 private:
  // The sizes, and memory for what kernels hand each other.
  SampleParams take(Arena& arena, const Sample::Args& args) const {
    const int64_t rows = args.logits.rows;
    const int64_t chunks = ceil_div(problem().vocab_size, kChunk);
    SampleParams p{};
    p.vocab_size = static_cast<int>(problem().vocab_size);
    p.chunks = static_cast<int>(chunks);
    p.num_top = static_cast<int>(args.num_top);
    p.edited = arena.take<float>(args.num_edited * problem().vocab_size);
    p.best = arena.take<Entry>(rows * chunks);
    p.raw_max = arena.take<float>(rows * chunks);
    p.raw_sum = arena.take<double>(rows * chunks);
    p.top = arena.take<Entry>(rows * chunks * args.num_top);
    p.mass = arena.take<uint64_t>(rows * chunks);
    p.state = arena.take<RowState>(rows);
    p.list = arena.take<Entry>(rows * kListRoom);
    return p;
  }

  bool dependent_;
};

}  // namespace

template <>
std::unique_ptr<Prepared<Sample>> prepare_on_cuda<Sample>(const Sample::Problem& problem,
                                                          const Sample::Weights&,
                                                          const OpOptions& options) {
  return std::make_unique<CudaSample>(problem, options);
}

}  // namespace moe4
