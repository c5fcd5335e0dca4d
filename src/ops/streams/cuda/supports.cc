// FillStreams, MixStreams and AddToStreams on NVIDIA GPUs: what they take.
#include "ops/cuda/implementation.h"
#include "ops/streams/streams.h"

namespace moe4 {
namespace {

Support accepts(const StreamShape& shape) {
  const auto wrong = [](const char* what, int64_t value, const std::string& expected) {
    return Rejection{Rejection::Kind::kShape,
                     std::string(what) + " " + std::to_string(value) + " is not " + expected};
  };
  if (shape.num_streams < 1 || shape.num_streams > StreamShape::kMost) {
    return wrong("hc_mult", shape.num_streams, "1 to " + std::to_string(StreamShape::kMost));
  }
  if (shape.width <= 0 || shape.width % 16 != 0 || shape.width > 1 << 20) {
    return wrong("the width of a stream", shape.width, "a multiple of 16 up to 2^20");
  }
  return std::nullopt;
}

Support accepts_mix(const MixStreams::Problem& problem) { return accepts(problem.shape); }

}  // namespace

const Implementation<FillStreams>& cuda_fill_streams() {
  static const CudaImplementation<FillStreams> implementation(accepts);
  return implementation;
}

const Implementation<MixStreams>& cuda_mix_streams() {
  static const CudaImplementation<MixStreams> implementation(accepts_mix);
  return implementation;
}

const Implementation<AddToStreams>& cuda_add_to_streams() {
  static const CudaImplementation<AddToStreams> implementation(accepts);
  return implementation;
}

}  // namespace moe4
