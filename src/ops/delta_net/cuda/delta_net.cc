// DeltaNet on NVIDIA GPUs: weights, workspace, and which kernels a step takes.
#include "ops/delta_net/delta_net.h"

#include <cmath>

#include "ops/cuda/device_values.h"
#include "ops/cuda/implementation.h"
#include "ops/delta_net/cuda/kernels.h"

namespace moe4 {
namespace {

using namespace cuda;

constexpr int64_t kTileWidth = 128, kChunk = 64;

class CudaDeltaNet final : public Prepared<DeltaNet> {
 public:
  CudaDeltaNet(const DeltaNet::Problem& problem, const DeltaNet::Weights& weights,
               const OpOptions& options)
      : Prepared(problem), sm_(options.device.sm) {
    const DeviceGuard guard(options.device.index);
    const int64_t channels = problem.channels(), taps = problem.conv_taps;
    const std::vector<float> file = float_vector(weights.conv, channels * taps);
    std::vector<float> conv(file.size());
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t j = 0; j < taps; ++j) conv[j * channels + c] = file[c * taps + taps - 1 - j];
    }
    std::vector<float> decay_rate = float_vector(weights.a_log, problem.num_value_heads);
    for (float& v : decay_rate) v = -std::exp(v);
    conv_ = to_device<float>(conv);
    decay_rate_ = to_device<float>(decay_rate);
    dt_bias_ = to_device<float>(float_vector(weights.dt_bias, problem.num_value_heads));
    norm_ = to_device<float>(norm_weights(problem.norm, weights.norm, problem.value_dim));
    decode_blocks_ = prepare_delta_decodes();
    prepare_delta_chunks();
    scan_stages_ = prepare_delta_scan();
  }

  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return (problem().channels() * problem().conv_taps + 2 * problem().num_value_heads +
            problem().value_dim) *
           static_cast<int64_t>(sizeof(float));
  }
  size_t workspace_size(const DeltaNet::Args& bound) const override {
    Arena arena = Arena::measuring();
    take_buffers(arena, bound.batch->num_tokens);
    return arena.peak();
  }

  void run(const DeltaNet::Args& args, std::span<std::byte> workspace,
           const Stream& stream) const override {
    Arena arena(workspace);
    const DeltaNetCall call{problem(),
                            args,
                            {conv_.get(), decay_rate_.get(), dt_bias_.get(), norm_.get()},
                            take_buffers(arena, args.batch->num_tokens),
                            sm_,
                            decode_blocks_,
                            scan_stages_,
                            static_cast<cudaStream_t>(stream.handle)};
    if (args.batch->num_decodes > 0) launch_delta_decodes(call);
    if (args.batch->num_decodes == args.batch->num_seqs) return;
    launch_delta_chunks(call);
    launch_delta_scan(call);
    launch_delta_norm(call);
  }

 private:
  DeltaNetBuffers take_buffers(Arena& arena, int64_t tokens) const {
    const int64_t keys = problem().num_key_heads * tokens * kTileWidth;
    const int64_t values = problem().num_value_heads * tokens * kTileWidth;
    return {.queries = arena.take<uint16_t>(keys),
            .keys = arena.take<uint16_t>(keys),
            .w = arena.take<uint16_t>(values),
            .u = arena.take<uint16_t>(values),
            .scores = arena.take<uint16_t>(problem().num_value_heads * tokens * kChunk),
            .decays = arena.take<float>(problem().num_value_heads * tokens)};
  }

  DeviceArray<float> conv_, decay_rate_, dt_bias_, norm_;
  int sm_, decode_blocks_ = 1, scan_stages_ = 1;
};

}  // namespace

template <>
std::unique_ptr<Prepared<DeltaNet>> prepare_on_cuda<DeltaNet>(const DeltaNet::Problem& problem,
                                                              const DeltaNet::Weights& weights,
                                                              const OpOptions& options) {
  return std::make_unique<CudaDeltaNet>(problem, weights, options);
}

}  // namespace moe4
