// Ssm on NVIDIA GPUs: weights, workspace, and which kernels a step takes.
#include "ops/ssm/ssm.h"

#include <cmath>

#include "ops/cuda/device_values.h"
#include "ops/cuda/implementation.h"
#include "ops/ssm/cuda/kernels.h"

namespace moe4 {
namespace {

using namespace cuda;

constexpr int64_t kTileWidth = 128, kChunk = 64;

class CudaSsm final : public Prepared<Ssm> {
 public:
  CudaSsm(const Ssm::Problem& problem, const Ssm::Weights& weights, const OpOptions& options)
      : Prepared(problem), sm_(options.device.sm) {
    const DeviceGuard guard(options.device.index);
    const int64_t channels = problem.channels(), taps = problem.conv_taps;
    const std::vector<float> file = float_vector(weights.conv, channels * taps);
    std::vector<float> conv(file.size());
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t j = 0; j < taps; ++j) conv[j * channels + c] = file[c * taps + taps - 1 - j];
    }
    std::vector<float> decay_rate = float_vector(weights.a_log, problem.num_heads);
    for (float& v : decay_rate) v = -std::exp(v);
    conv_ = to_device<float>(conv);
    if (!weights.conv_bias.view.empty()) {
      conv_bias_ = to_device<float>(float_vector(weights.conv_bias, channels));
    }
    decay_rate_ = to_device<float>(decay_rate);
    d_ = to_device<float>(float_vector(weights.d, problem.num_heads));
    dt_bias_ = to_device<float>(float_vector(weights.dt_bias, problem.num_heads));
    norm_ = to_device<float>(float_vector(weights.norm, problem.inner()));
    scan_stages_ = prepare_ssm_scan();
  }

  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return (problem().channels() * (problem().conv_taps + (conv_bias_ != nullptr ? 1 : 0)) +
            3 * problem().num_heads + problem().inner()) *
           static_cast<int64_t>(sizeof(float));
  }
  size_t workspace_size(const Ssm::Args& bound) const override {
    Arena arena = Arena::measuring();
    take_buffers(arena, bound.batch->num_tokens);
    return arena.peak();
  }

  void run(const Ssm::Args& args, std::span<std::byte> workspace,
           const Stream& stream) const override {
    Arena arena(workspace);
    const SsmCall call{
        problem(),
        args,
        {conv_.get(), conv_bias_.get(), decay_rate_.get(), d_.get(), dt_bias_.get(), norm_.get()},
        take_buffers(arena, args.batch->num_tokens),
        sm_,
        scan_stages_,
        static_cast<cudaStream_t>(stream.handle)};
    const int64_t decodes = args.batch->num_decodes, seqs = args.batch->num_seqs;
    if (decodes > 0 && launch_ssm_decodes(call)) launch_ssm_norm(call, 0, decodes);
    if (decodes == seqs) return;
    launch_ssm_chunks(call);
    launch_ssm_scan(call);
    launch_ssm_norm(call, decodes, seqs);
  }

 private:
  SsmBuffers take_buffers(Arena& arena, int64_t tokens) const {
    const int64_t wide = problem().num_groups * tokens * kTileWidth;
    const int64_t inner = problem().inner() * tokens, heads = problem().num_heads * tokens;
    return {.x = arena.take<uint16_t>(inner),
            .b = arena.take<uint16_t>(wide),
            .c = arena.take<uint16_t>(wide),
            .scores = arena.take<float>(problem().num_groups * tokens * kChunk),
            .dt = arena.take<float>(heads),
            .decays = arena.take<float>(heads),
            .gated = arena.take<float>(inner)};
  }

  DeviceArray<float> conv_, conv_bias_, decay_rate_, d_, dt_bias_, norm_;
  int sm_, scan_stages_ = 1;
};

}  // namespace

template <>
std::unique_ptr<Prepared<Ssm>> prepare_on_cuda<Ssm>(const Ssm::Problem& problem,
                                                    const Ssm::Weights& weights,
                                                    const OpOptions& options) {
  return std::make_unique<CudaSsm>(problem, weights, options);
}

}  // namespace moe4
