// Checkpoint bytes -> pinned slab -> device slab -> packed layout, two slabs in turn.
#include "ops/experts/gpu/packed_layer.h"

#include <array>
#include <cstring>
#include <vector>

#include "moe/dequantize.h"
#include "ops/experts/gpu/download.h"
#include "ops/experts/gpu/pack_weights.h"

namespace moe4::cuda {
namespace {

struct Stream {
  Stream() { MOE4_CUDA_CHECK(cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking)); }
  ~Stream() { cudaStreamDestroy(handle); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t handle = nullptr;
};

struct Event {
  Event() { MOE4_CUDA_CHECK(cudaEventCreateWithFlags(&handle, cudaEventDisableTiming)); }
  ~Event() { cudaEventDestroy(handle); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t handle = nullptr;
};

// Where an expert's linears lie in a slab.
struct SlabLayout {
  int64_t codes[3], scales[3], bytes = 0;

  void add(int index, const LinearWeights& linear) {
    codes[index] = bytes;
    bytes += round_up(linear.out_features * linear.in_features / 2, 16);
    scales[index] = bytes;
    bytes += round_up(linear.scale.num_elements(), 16);
  }
};

// Gate (or null), up, down.
std::array<const LinearWeights*, 3> linears(const ExpertWeights& expert) {
  return {expert.gate ? &*expert.gate : nullptr, &expert.up, &expert.down};
}

void copy_linear(const LinearWeights& linear, uint8_t* codes, uint8_t* scales,
                 ThreadPool& threads) {
  const int64_t code_bytes = linear.in_features / 2, scale_bytes = linear.scale.dim(1);
  threads.parallel_for(linear.out_features, 64, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      std::memcpy(codes + r * code_bytes, linear.weight.row(r), code_bytes);
      std::memcpy(scales + r * scale_bytes, linear.scale.row(r), scale_bytes);
    }
  });
}

CodeRows rows_in_slab(const uint8_t* slab, const SlabLayout& layout, int index,
                      const LinearWeights& linear, int exponent_shift) {
  return {.codes = slab + layout.codes[index],
          .code_stride = linear.in_features / 2,
          .scales = slab + layout.scales[index],
          .scale_stride = linear.scale.dim(1),
          .exponent_shift = exponent_shift};
}

// Alphas and biases of all experts as one host array, with the device pointers they will have.
class FloatTable {
 public:
  int64_t alphas(const std::vector<std::array<float, 3>>& alphas, int index) {
    const int64_t at = begin();
    for (const auto& of_expert : alphas) values_.push_back(of_expert[index]);
    return at;
  }
  // -1 when no expert has this bias; experts without one get zeros.
  int64_t biases(const MoeLayerWeights& weights, int index) {
    bool any = false;
    for (const ExpertWeights& expert : weights.experts)
      any |= !linears(expert)[index]->bias.empty();
    if (!any) return -1;
    const int64_t at = begin();
    for (const ExpertWeights& expert : weights.experts) {
      const LinearWeights& linear = *linears(expert)[index];
      const size_t next = values_.size();
      values_.resize(next + linear.out_features);
      for (int64_t r = 0; r < linear.out_features; ++r) values_[next + r] = bias_at(linear, r);
    }
    return at;
  }
  const std::vector<float>& values() const { return values_; }

 private:
  int64_t begin() {
    values_.resize(round_up(static_cast<int64_t>(values_.size()), 4));
    return static_cast<int64_t>(values_.size());
  }
  std::vector<float> values_;
};

}  // namespace

PackedLayer::PackedLayer(const MoeLayerWeights& weights, ThreadPool& threads)
    : problem_(weights.problem) {
  MOE4_CHECK(!weights.experts.empty());
  view_.format = weight_format(weights.scheme);
  const PackedShape fc1 = this->fc1(), fc2 = this->fc2();
  const auto num_local = static_cast<int64_t>(weights.experts.size());
  bytes_ = num_local * (fc1.expert_bytes() + fc2.expert_bytes());
  fc1_ = allocate_device<uint8_t>(num_local * fc1.expert_bytes());
  fc2_ = allocate_device<uint8_t>(num_local * fc2.expert_bytes());
  alphas_.resize(weights.experts.size());
  if (weights.on_device) {
    pack_in_place(weights);
  } else {
    pack_from_host(weights, threads);
  }

  FloatTable table;
  const bool gated = problem_.activation.is_gated();
  const int64_t alpha_gate = gated ? table.alphas(alphas_, 0) : -1;
  const int64_t alpha_up = table.alphas(alphas_, 1), alpha_down = table.alphas(alphas_, 2);
  alphas_ = {};
  const int64_t bias_gate = gated ? table.biases(weights, 0) : -1;
  const int64_t bias_up = table.biases(weights, 1), bias_down = table.biases(weights, 2);
  floats_ = allocate_device<float>(static_cast<int64_t>(table.values().size()));
  MOE4_CUDA_CHECK(cudaMemcpy(floats_.get(), table.values().data(),
                             table.values().size() * sizeof(float), cudaMemcpyHostToDevice));
  if (!weights.expert_map.empty()) {
    expert_map_ = allocate_device<int32_t>(static_cast<int64_t>(weights.expert_map.size()));
    MOE4_CUDA_CHECK(cudaMemcpy(expert_map_.get(), weights.expert_map.data(),
                               weights.expert_map.size() * sizeof(int32_t),
                               cudaMemcpyHostToDevice));
  }

  const auto at = [&](int64_t offset) { return offset < 0 ? nullptr : floats_.get() + offset; };
  view_ = {.format = view_.format,
           .fc1 = fc1_.get(),
           .fc2 = fc2_.get(),
           .alpha_gate = at(alpha_gate),
           .alpha_up = at(alpha_up),
           .alpha_down = at(alpha_down),
           .bias_gate = at(bias_gate),
           .bias_up = at(bias_up),
           .bias_down = at(bias_down),
           .expert_map = expert_map_.get(),
           .hidden_size = static_cast<int32_t>(problem_.hidden_size),
           .intermediate_size = static_cast<int32_t>(problem_.intermediate_size),
           .num_experts = static_cast<int32_t>(problem_.num_experts),
           .num_local_experts = static_cast<int32_t>(num_local),
           .top_k = static_cast<int32_t>(problem_.top_k),
           .num_shared = static_cast<int32_t>(weights.expert_map.empty() ? problem_.num_shared : 0),
           .fc1_tiles = static_cast<int32_t>(fc1.tiles),
           .fc1_k_units = static_cast<int32_t>(fc1.k_units),
           .fc2_tiles = static_cast<int32_t>(fc2.tiles),
           .fc2_k_units = static_cast<int32_t>(fc2.k_units),
           .activation = problem_.activation,
           .weight_on_input = problem_.weight_on_input};
}

void PackedLayer::pack_expert(int64_t e, const ExpertWeights& expert, const CodeRows rows[3],
                              cudaStream_t stream) {
  const PackedShape fc1 = this->fc1(), fc2 = this->fc2();
  const auto weights = linears(expert);
  for (int i = 0; i < 3; ++i) {
    if (weights[i] == nullptr) continue;
    alphas_[e][i] = view_.format == WeightFormat::kMxfp4
                        ? exponent_alpha(rows[i].exponent_shift)
                        : weights[i]->global_scale.value * kAlphaScale;
  }
  pack_on_device(fc1, expert.gate ? rows[0] : rows[1], rows[1], fc1_.get() + e * fc1.expert_bytes(),
                 stream);
  pack_on_device(fc2, rows[2], rows[2], fc2_.get() + e * fc2.expert_bytes(), stream);
}

void PackedLayer::pack_in_place(const MoeLayerWeights& weights) {
  std::vector<uint8_t> copies;
  const Stream stream;
  for (size_t e = 0; e < weights.experts.size(); ++e) {
    const auto expert = linears(weights.experts[e]);
    CodeRows rows[3];
    for (int i = 0; i < 3; ++i) {
      if (expert[i] == nullptr) continue;
      rows[i] = code_rows(*expert[i], check_scales(download_for_checks(*expert[i], copies)));
    }
    pack_expert(static_cast<int64_t>(e), weights.experts[e], rows, stream.handle);
  }
  MOE4_CUDA_CHECK(cudaStreamSynchronize(stream.handle));
}

void PackedLayer::pack_from_host(const MoeLayerWeights& weights, ThreadPool& threads) {
  SlabLayout layout;
  const auto first = linears(weights.experts[0]);
  for (int i = 0; i < 3; ++i) {
    if (first[i] != nullptr) layout.add(i, *first[i]);
  }
  struct Slab {
    PinnedArray<uint8_t> host;
    DeviceArray<uint8_t> device;
    Event free;
  } slabs[2];
  for (Slab& slab : slabs) {
    slab.host = allocate_pinned<uint8_t>(layout.bytes);
    slab.device = allocate_device<uint8_t>(layout.bytes);
  }
  const Stream stream;
  for (int64_t e = 0; e < static_cast<int64_t>(weights.experts.size()); ++e) {
    Slab& slab = slabs[e % 2];
    MOE4_CUDA_CHECK(cudaEventSynchronize(slab.free.handle));
    const auto expert = linears(weights.experts[e]);
    CodeRows rows[3];
    for (int i = 0; i < 3; ++i) {
      if (expert[i] == nullptr) continue;
      const int shift = check_scales(*expert[i]);
      copy_linear(*expert[i], slab.host.get() + layout.codes[i], slab.host.get() + layout.scales[i],
                  threads);
      rows[i] = rows_in_slab(slab.device.get(), layout, i, *expert[i], shift);
    }
    MOE4_CUDA_CHECK(cudaMemcpyAsync(slab.device.get(), slab.host.get(), layout.bytes,
                                    cudaMemcpyHostToDevice, stream.handle));
    pack_expert(e, weights.experts[e], rows, stream.handle);
    MOE4_CUDA_CHECK(cudaEventRecord(slab.free.handle, stream.handle));
  }
  MOE4_CUDA_CHECK(cudaStreamSynchronize(stream.handle));
}

}  // namespace moe4::cuda
