// What an op takes in a step: between the linears in front of it and behind it, which leave it no
// shared memory to begin early in and nothing in the L2.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "device/cuda/device_buffer.h"
#include "device_rows.h"
#include "ops/experts/bench/timed_graph.h"
#include "ops/linear/linear_group.h"

namespace moe4 {

/// A linear of FP8 weights for rows of its own; several copies, so that none is in the L2.
class ColdLinear {
 public:
  static constexpr int kCopies = 3;

  ColdLinear(int64_t in_features, int64_t out_features, int64_t tokens, const OpOptions& options)
      : x_(tokens, in_features, RowFormat::kBf16), y_(tokens, out_features, RowFormat::kBf16) {
    const std::vector<uint8_t> bytes(static_cast<size_t>(in_features * out_features), 0x21);
    LinearGroup::Weights group;
    group.members.push_back(
        {.name = "weight",
         .out_features = out_features,
         .in_features = in_features,
         .scheme = {{QuantFormat::kFp8Tensor, false}, std::nullopt},
         .weight = {bytes.data(), DType::kF8E4M3, {out_features, in_features}}});
    const std::vector<LinearOptions> plain(1);
    for (int i = 0; i < kCopies; ++i) {
      ops_.push_back(prepare<LinearGroup>(LinearGroup::problem_of(group, plain), group, options));
    }
    workspace_bytes_ = ops_[0]->workspace_size(args());
    workspace_ = cuda::allocate_device<std::byte>(static_cast<int64_t>(workspace_bytes_) + 1);
  }
  void run(int i, const Stream& stream) const {
    ops_[static_cast<size_t>(i % kCopies)]->run(args(), {workspace_.get(), workspace_bytes_},
                                                stream);
  }

 private:
  LinearGroup::Args args() const {
    return {.x = x_.rows, .y = {&y_.rows, 1}, .num_decode_tokens = x_.rows.rows};
  }
  DeviceRows x_, y_;
  std::vector<std::unique_ptr<Prepared<LinearGroup>>> ops_;
  size_t workspace_bytes_ = 0;
  cuda::DeviceArray<std::byte> workspace_;
};

/// Microseconds of run(i), which launches on `stream`: by how much it makes a chain of `front` and
/// `behind` longer.
template <typename Run>
double time_between(const ColdLinear& front, const ColdLinear& behind, int calls,
                    const Stream& stream, const Run& run) {
  const auto handle = static_cast<cudaStream_t>(stream.handle);
  const auto chain = [&](bool with) {
    cuda::TimedGraph graph(handle, calls, [&](int i) {
      front.run(i, stream);
      if (with) run(i);
      behind.run(i, stream);
    });
    return graph.time(9).median;
  };
  return chain(true) - chain(false);
}

}  // namespace moe4
