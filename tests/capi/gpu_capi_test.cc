// The C interface on a GPU: every backend against the float64 reference, from host weights and from
// device pointers, eagerly and inside a CUDA graph.
#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "device/cuda/describe_device.h"
#include "device/cuda/device_buffer.h"
#include "moe4/moe4.h"
#include "numerics/f16.h"
#include "ops/experts/reference/reference_backend.h"
#include "support/c_layer.h"
#include "support/golden.h"

namespace moe4::testing {
namespace {

using cuda::allocate_device;
using cuda::DeviceArray;

template <typename T>
DeviceArray<T> upload(const T* host, size_t count) {
  auto device = allocate_device<T>(static_cast<int64_t>(count));
  MOE4_CUDA_CHECK(cudaMemcpy(device.get(), host, count * sizeof(T), cudaMemcpyHostToDevice));
  return device;
}

struct DestroyLayer {
  void operator()(moe4_layer* layer) const { moe4_layer_destroy(layer); }
};
using Layer = std::unique_ptr<moe4_layer, DestroyLayer>;

// Routed tokens on the host and on the GPU.
struct Batch {
  Batch(const MoeProblem& problem, int64_t num_tokens, uint64_t seed)
      : tokens(num_tokens),
        x(make_hidden_states(tokens, problem.hidden_size, seed)),
        routing(make_routing(RoutingCase::kWithMissing, tokens, problem.num_experts, problem.top_k,
                             seed + 1)) {
    for (const float v : x) bf16.push_back(to_bf16(v).bits);
    device_x = upload(bf16.data(), bf16.size());
    device_ids = upload(routing.ids.data(), routing.ids.size());
    device_weights = upload(routing.weights.data(), routing.weights.size());
    device_y = allocate_device<uint16_t>(static_cast<int64_t>(bf16.size()));
    clear();
  }
  void clear() { MOE4_CUDA_CHECK(cudaMemset(device_y.get(), 0xff, bf16.size() * 2)); }
  moe4_apply_args args(const Layer& layer, cudaStream_t stream, moe4_dtype dtype = MOE4_BF16) {
    const size_t bytes = moe4_layer_workspace_size(layer.get(), tokens, dtype);
    workspace = allocate_device<std::byte>(static_cast<int64_t>(bytes));
    return {.struct_size = sizeof(moe4_apply_args),
            .num_tokens = tokens,
            .hidden_states = device_x.get(),
            .topk_ids = device_ids.get(),
            .topk_weights = device_weights.get(),
            .output = device_y.get(),
            .workspace = workspace.get(),
            .workspace_bytes = bytes,
            .stream = stream,
            .hidden_dtype = dtype};
  }
  std::vector<float> output() const {
    std::vector<uint16_t> bits(bf16.size());
    MOE4_CUDA_CHECK(cudaDeviceSynchronize());
    MOE4_CUDA_CHECK(
        cudaMemcpy(bits.data(), device_y.get(), bits.size() * 2, cudaMemcpyDeviceToHost));
    std::vector<float> y;
    for (const uint16_t b : bits) y.push_back(to_float(Bf16{b}));
    return y;
  }
  std::vector<float> reference(const MoeLayerWeights& weights,
                               ActivationPrecision precision) const {
    ThreadPool threads(0);
    const auto layer =
        ReferenceBackend().prepare(weights, {.precision = precision, .threads = &threads});
    AlignedBuffer space(layer->workspace_size(tokens));
    std::vector<float> y(x.size());
    layer->apply({.num_tokens = tokens,
                  .hidden_states = bf16.data(),
                  .topk_ids = routing.ids.data(),
                  .topk_weights = routing.weights.data(),
                  .output = y.data(),
                  .output_dtype = DType::kF32,
                  .workspace = {space.data(), space.size()}});
    return y;
  }

  int64_t tokens;
  std::vector<float> x;
  Routing routing;
  std::vector<uint16_t> bf16;
  DeviceArray<uint16_t> device_x, device_y;
  DeviceArray<int32_t> device_ids;
  DeviceArray<float> device_weights;
  DeviceArray<std::byte> workspace;
};

// Copies of a layer's codes, scales and biases in device memory, and linears that point to them.
class OnDevice {
 public:
  explicit OnDevice(CLayer& c) {
    for (std::vector<moe4_linear>* linears : {&c.gate, &c.up, &c.down}) {
      const bool down = linears == &c.down;
      const int64_t hidden = c.desc.hidden_size, width = c.desc.intermediate_size;
      for (moe4_linear& l : *linears) {
        l.codes = keep(l.codes, hidden * width / 2);
        l.scales = keep(l.scales, hidden * width / 16);
        if (l.bias != nullptr) {
          l.bias = reinterpret_cast<const uint16_t*>(
              keep(reinterpret_cast<const uint8_t*>(l.bias), 2 * (down ? hidden : width)));
        }
      }
    }
    c.desc.weights_on_device = 1;
  }

 private:
  const uint8_t* keep(const uint8_t* host, int64_t bytes) {
    arrays_.push_back(upload(host, static_cast<size_t>(bytes)));
    return arrays_.back().get();
  }
  std::vector<DeviceArray<uint8_t>> arrays_;
};

struct Target {
  const char* backend;
  const char* activations;
  ActivationPrecision precision;
  double tolerance;
};

std::vector<Target> targets() {
  std::vector<Target> all = {{"marlin", "bf16", ActivationPrecision::kBf16, 3e-3},
                             {"b12x", "bf16", ActivationPrecision::kBf16, 3e-3},
                             {"b12x", "fp4", ActivationPrecision::kFp4, 6e-3},
                             {"b12x", "fp4-static", ActivationPrecision::kFp4Static, 6e-3}};
  if (cuda::describe_device(0).sm == 90) {
    all.push_back({"hopper", "bf16", ActivationPrecision::kBf16, 3e-3});
  }
  return all;
}

CLayer random_layer(const Target& target, int64_t intermediate_size = 176) {
  CLayer c({.problem = {.hidden_size = 256,
                        .intermediate_size = intermediate_size,
                        .num_experts = 8,
                        .top_k = 2},
            .scheme = kW4A4,
            .biases = true},
           target.backend, 0);
  c.desc.activations = target.activations;
  return c;
}

Layer create(const moe4_layer_desc& desc) {
  moe4_layer* layer = nullptr;
  EXPECT_EQ(moe4_layer_create(&desc, &layer), MOE4_OK) << moe4_last_error();
  return Layer(layer);
}

class GpuCApi : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda::describe_device(0).sm < 80) GTEST_SKIP() << "no CUDA device of sm_80 or later";
  }
};

TEST_F(GpuCApi, MatchesTheReferenceFromHostWeights) {
  for (const Target& target : targets()) {
    const CLayer c = random_layer(target);
    const Layer layer = create(c.desc);
    EXPECT_STREQ(moe4_layer_backend(layer.get()), target.backend);
    for (const int64_t tokens : {0, 1, 9, 200}) {
      Batch batch(c.moe.weights.problem, tokens, tokens + 1);
      const moe4_apply_args args = batch.args(layer, nullptr);
      ASSERT_EQ(moe4_layer_apply(layer.get(), &args), MOE4_OK) << moe4_last_error();
      EXPECT_LE(relative_error(batch.output(), batch.reference(c.moe.weights, target.precision)),
                target.tolerance)
          << target.backend << " " << target.activations << ", " << tokens << " tokens";
    }
  }
}

TEST_F(GpuCApi, DevicePointersGiveTheBitsOfHostWeights) {
  for (const Target& target : targets()) {
    CLayer c = random_layer(target);
    const Layer from_host = create(c.desc);
    Layer from_device;
    {
      const OnDevice weights(c);
      from_device = create(c.desc);
    }  // the caller's copies are gone before the layer is used
    Batch batch(c.moe.weights.problem, 70, 3);
    const moe4_apply_args host_args = batch.args(from_host, nullptr);
    ASSERT_EQ(moe4_layer_apply(from_host.get(), &host_args), MOE4_OK) << moe4_last_error();
    const std::vector<float> expected = batch.output();
    batch.clear();
    const moe4_apply_args device_args = batch.args(from_device, nullptr);
    ASSERT_EQ(moe4_layer_apply(from_device.get(), &device_args), MOE4_OK) << moe4_last_error();
    EXPECT_EQ(batch.output(), expected) << target.backend << " " << target.activations;
    EXPECT_LE(relative_error(expected, batch.reference(c.moe.weights, target.precision)),
              target.tolerance);
  }
}

TEST_F(GpuCApi, ALayerFromDevicePointersIsCapturedInAGraphAndReplaysWithNewInputs) {
  cudaStream_t stream = nullptr;
  MOE4_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  for (const Target& target : targets()) {
    CLayer c = random_layer(target);
    const OnDevice weights(c);
    const Layer layer = create(c.desc);
    for (const int64_t tokens : {1, 90}) {
      Batch batch(c.moe.weights.problem, tokens, 5), other(c.moe.weights.problem, tokens, 50);
      const moe4_apply_args args = batch.args(layer, stream);
      cudaGraph_t graph = nullptr;
      cudaGraphExec_t replay = nullptr;
      MOE4_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
      ASSERT_EQ(moe4_layer_apply(layer.get(), &args), MOE4_OK) << moe4_last_error();
      MOE4_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
      MOE4_CUDA_CHECK(cudaGraphInstantiate(&replay, graph, 0));
      MOE4_CUDA_CHECK(cudaGraphLaunch(replay, stream));
      EXPECT_LE(relative_error(batch.output(), batch.reference(c.moe.weights, target.precision)),
                target.tolerance)
          << target.backend << " " << target.activations << ", " << tokens << " tokens";

      const auto replace = [](auto& to, const auto& from, size_t bytes) {
        MOE4_CUDA_CHECK(cudaMemcpy(to.get(), from.get(), bytes, cudaMemcpyDeviceToDevice));
      };
      replace(batch.device_x, other.device_x, batch.bf16.size() * 2);
      replace(batch.device_ids, other.device_ids, batch.routing.ids.size() * 4);
      replace(batch.device_weights, other.device_weights, batch.routing.weights.size() * 4);
      batch.clear();
      MOE4_CUDA_CHECK(cudaDeviceSynchronize());
      MOE4_CUDA_CHECK(cudaGraphLaunch(replay, stream));
      EXPECT_LE(relative_error(batch.output(), other.reference(c.moe.weights, target.precision)),
                target.tolerance)
          << target.backend << " " << target.activations << ", " << tokens << " tokens, replayed";
      MOE4_CUDA_CHECK(cudaGraphExecDestroy(replay));
      MOE4_CUDA_CHECK(cudaGraphDestroy(graph));
    }
  }
  MOE4_CUDA_CHECK(cudaStreamDestroy(stream));
}

TEST_F(GpuCApi, TpRanksFromHostAndDevicePointersAddUpToTheWholeLayer) {
  for (const Target& target : targets()) {
    // Quantised shards see other rows of the intermediate in the same blocks: the same codes.
    for (const bool on_device : {false, true}) {
      CLayer c = random_layer(target, 208);  // 13 blocks over 3 ranks: 5, 4 and 4
      std::unique_ptr<OnDevice> weights;
      if (on_device) weights = std::make_unique<OnDevice>(c);
      c.desc.tp_size = 3;
      Batch batch(c.moe.weights.problem, 40, 7);
      std::vector<float> sum(batch.x.size());
      for (int rank = 0; rank < 3; ++rank) {
        c.desc.tp_rank = rank;
        const Layer layer = create(c.desc);
        EXPECT_EQ(moe4_layer_intermediate_size(layer.get()), rank == 0 ? 80 : 64);
        const moe4_apply_args args = batch.args(layer, nullptr);
        ASSERT_EQ(moe4_layer_apply(layer.get(), &args), MOE4_OK) << moe4_last_error();
        const std::vector<float> part = batch.output();
        for (size_t i = 0; i < sum.size(); ++i) sum[i] += part[i];
      }
      EXPECT_LE(relative_error(sum, batch.reference(c.moe.weights, target.precision)),
                2 * target.tolerance)  // every part is rounded to BF16
          << target.backend << " " << target.activations;
    }
  }
}

// All linears in one tensor each, scales and globals too, all on the GPU.
class StackedOnDevice {
 public:
  explicit StackedOnDevice(CLayer& c) {
    stack(c.gate, c.desc.intermediate_size, c.desc.hidden_size, gate_);
    stack(c.up, c.desc.intermediate_size, c.desc.hidden_size, up_);
    stack(c.down, c.desc.hidden_size, c.desc.intermediate_size, down_);
    c.desc.gate = c.desc.up = c.desc.down = nullptr;
    c.desc.stacked_gate = &gate_;
    c.desc.stacked_up = &up_;
    c.desc.stacked_down = &down_;
    c.desc.weights_on_device = 1;
  }

 private:
  void stack(const std::vector<moe4_linear>& linears, int64_t n, int64_t k,
             moe4_stacked_linear& out) {
    std::vector<uint8_t> codes, scales;
    std::vector<uint16_t> bias;
    std::vector<float> globals, inputs;
    for (const moe4_linear& l : linears) {
      codes.insert(codes.end(), l.codes, l.codes + n * k / 2);
      scales.insert(scales.end(), l.scales, l.scales + n * k / 16);
      bias.insert(bias.end(), l.bias, l.bias + n);
      for (int twice = 0; twice < 2; ++twice) globals.push_back(l.global_scale);
      inputs.push_back(l.input_scale);
    }
    out.codes = keep(codes);
    out.scales = keep(scales);
    out.bias = keep(bias);
    out.global_scales = keep(globals);
    out.global_scales_stride = 2;
    out.input_scales = keep(inputs);
  }
  template <typename T>
  const T* keep(const std::vector<T>& host) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(host.data());
    arrays_.push_back(upload(bytes, host.size() * sizeof(T)));
    return reinterpret_cast<const T*>(arrays_.back().get());
  }
  moe4_stacked_linear gate_{}, up_{}, down_{};
  std::vector<DeviceArray<uint8_t>> arrays_;
};

TEST_F(GpuCApi, StackedTensorsOnTheDeviceGiveTheBitsOfHostWeights) {
  for (const Target& target : targets()) {
    CLayer c = random_layer(target);
    const Layer from_host = create(c.desc);
    Layer from_device;
    {
      const StackedOnDevice weights(c);
      from_device = create(c.desc);
    }
    EXPECT_GT(moe4_layer_weight_bytes(from_device.get()), 0);
    Batch batch(c.moe.weights.problem, 70, 3);
    const moe4_apply_args host_args = batch.args(from_host, nullptr);
    ASSERT_EQ(moe4_layer_apply(from_host.get(), &host_args), MOE4_OK) << moe4_last_error();
    const std::vector<float> expected = batch.output();
    batch.clear();
    const moe4_apply_args device_args = batch.args(from_device, nullptr);
    ASSERT_EQ(moe4_layer_apply(from_device.get(), &device_args), MOE4_OK) << moe4_last_error();
    EXPECT_EQ(batch.output(), expected) << target.backend << " " << target.activations;
  }
}

// Float16 and float32 rows, int64 ids and a map of the call, against BF16 rows that hold the same.
TEST_F(GpuCApi, OtherTypesOfRowsAndIdsGiveTheBitsOfBf16) {
  const Target target = targets().front();
  CLayer c = random_layer(target);
  const std::vector<int32_t> identity = {0, 1, 2, 3, 4, 5, 6, 7};
  const auto map = upload(identity.data(), identity.size());
  for (const int64_t tokens : {1, 70}) {
    c.desc.expert_map_per_call = 0;
    const Layer plain = create(c.desc);
    Batch batch(c.moe.weights.problem, tokens, 11);
    const moe4_apply_args plain_args = batch.args(plain, nullptr);
    ASSERT_EQ(moe4_layer_apply(plain.get(), &plain_args), MOE4_OK) << moe4_last_error();
    const std::vector<float> expected = batch.output();
    const std::vector<int64_t> ids(batch.routing.ids.begin(), batch.routing.ids.end());
    const auto long_ids = upload(ids.data(), ids.size());
    for (const moe4_dtype dtype : {MOE4_BF16, MOE4_F16, MOE4_F32}) {
      c.desc.expert_map_per_call = 1;
      const Layer layer = create(c.desc);
      const size_t values = batch.bf16.size();
      std::vector<float> f32;
      std::vector<F16> f16;
      for (const uint16_t bits : batch.bf16) {
        f32.push_back(to_float(Bf16{bits}));
        f16.push_back(to_f16(f32.back()));
      }
      const auto x32 = upload(f32.data(), values);
      const auto x16 = upload(f16.data(), values);
      const auto y = allocate_device<float>(static_cast<int64_t>(values));
      moe4_apply_args args = batch.args(layer, nullptr, dtype);
      if (dtype == MOE4_F32) args.hidden_states = x32.get();
      if (dtype == MOE4_F16) args.hidden_states = x16.get();
      args.output = y.get();
      args.topk_ids = long_ids.get();
      args.ids_are_int64 = 1;
      args.expert_map = map.get();
      ASSERT_EQ(moe4_layer_apply(layer.get(), &args), MOE4_OK) << moe4_last_error();
      std::vector<float> raw(values);
      MOE4_CUDA_CHECK(cudaDeviceSynchronize());
      MOE4_CUDA_CHECK(cudaMemcpy(raw.data(), y.get(), values * 4, cudaMemcpyDeviceToHost));
      for (size_t i = 0; i < values; ++i) {
        const auto half = [&](auto type) {
          return to_float(reinterpret_cast<const decltype(type)*>(raw.data())[i]);
        };
        const float found = dtype == MOE4_F32   ? raw[i]
                            : dtype == MOE4_F16 ? half(F16{})
                                                : half(Bf16{});
        const float wanted = dtype == MOE4_F16 ? to_float(to_f16(expected[i])) : expected[i];
        // Values that float16 does not hold were rounded on their way in.
        ASSERT_NEAR(found, wanted, dtype == MOE4_F16 ? 1e-2 * std::abs(wanted) + 1e-3 : 0)
            << "dtype " << dtype << ", " << tokens << " tokens, " << i;
      }
    }
  }
}

TEST_F(GpuCApi, TwoAppliesOfALayerMayBeInFlightOnTwoStreams) {
  for (const Target& target : targets()) {
    CLayer c = random_layer(target);
    const Layer layer = create(c.desc);
    Batch first(c.moe.weights.problem, 200, 3), second(c.moe.weights.problem, 33, 5);
    cudaStream_t streams[2];
    for (cudaStream_t& stream : streams) {
      MOE4_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    }
    const moe4_apply_args a = first.args(layer, streams[0]), b = second.args(layer, streams[1]);
    ASSERT_EQ(moe4_layer_apply(layer.get(), &a), MOE4_OK) << moe4_last_error();
    const std::vector<float> of_first = first.output();
    ASSERT_EQ(moe4_layer_apply(layer.get(), &b), MOE4_OK) << moe4_last_error();
    const std::vector<float> of_second = second.output();
    for (int i = 0; i < 20; ++i) {
      first.clear();
      second.clear();
      MOE4_CUDA_CHECK(cudaDeviceSynchronize());
      for (int piece = 0; piece < 5; ++piece) {
        ASSERT_EQ(moe4_layer_apply(layer.get(), &a), MOE4_OK) << moe4_last_error();
        ASSERT_EQ(moe4_layer_apply(layer.get(), &b), MOE4_OK) << moe4_last_error();
      }
      ASSERT_EQ(first.output(), of_first) << target.backend;
      ASSERT_EQ(second.output(), of_second) << target.backend;
    }
    for (const cudaStream_t stream : streams) MOE4_CUDA_CHECK(cudaStreamDestroy(stream));
  }
}

TEST_F(GpuCApi, RefusesBadDeviceWeightsAndArgumentsWithAMessage) {
  for (const Target& target : targets()) {
    CLayer c = random_layer(target);
    {
      CLayer bad = random_layer(target);
      bad.moe.block_scale(2, RandomMoe::Projection::kDown, 7, 1) = 0x7f;
      const OnDevice weights(bad);
      moe4_layer* layer = nullptr;
      EXPECT_EQ(moe4_layer_create(&bad.desc, &layer), MOE4_BAD_INPUT);
      EXPECT_THAT(moe4_last_error(), ::testing::HasSubstr("experts.2.down_proj"));
    }
    const Layer layer = create(c.desc);
    Batch batch(c.moe.weights.problem, 4, 9);
    const moe4_apply_args good = batch.args(layer, nullptr);
    moe4_apply_args args = good;
    args.workspace_bytes -= 1;
    EXPECT_EQ(moe4_layer_apply(layer.get(), &args), MOE4_USAGE);
    EXPECT_THAT(moe4_last_error(), ::testing::HasSubstr("workspace"));
    args = good;
    args.hidden_states = batch.device_x.get() + 1;
    EXPECT_EQ(moe4_layer_apply(layer.get(), &args), MOE4_USAGE);
    EXPECT_THAT(moe4_last_error(), ::testing::HasSubstr("aligned"));
    for (const float y : batch.output()) ASSERT_TRUE(std::isnan(y));  // untouched
  }
}

}  // namespace
}  // namespace moe4::testing
