// What every GPU backend promises beyond the conformance suite, one claim a test: right for any
// number of tokens and experts, the same bits every time, no allocation, no synchronisation, memory
// within bounds, TP shards that add up. docs/gpu-testing.md maps the claims to these tests.
#include <gtest/gtest.h>

#include <array>
#include <condition_variable>
#include <map>
#include <mutex>
#include <tuple>

#include "moe/shard.h"
#include "ops/experts/gpu_targets.h"
#include "support/cuda_calls.h"

namespace moe4::testing {
namespace {

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(ExpertsConformance);

MoeProblem problem(int64_t hidden, int64_t intermediate, int64_t experts, int64_t top_k) {
  return {.hidden_size = hidden,
          .intermediate_size = intermediate,
          .num_experts = experts,
          .num_local_experts = experts,
          .top_k = top_k};
}

bool same_bits(const std::vector<Bf16>& a, const std::vector<Bf16>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(Bf16)) == 0;
}

// Tokens [begin, begin + size) of a batch.
HostInput slice(const HostInput& whole, int64_t begin, int64_t size) {
  HostInput part = whole;
  part.num_tokens = size;
  const auto cut = [&](auto& values, int64_t width) {
    values.assign(values.begin() + begin * width, values.begin() + (begin + size) * width);
  };
  cut(part.hidden_states, whole.hidden_size);
  cut(part.routing.ids, whole.top_k);
  cut(part.routing.weights, whole.top_k);
  return part;
}

// Single tokens of a batch.
HostInput gather(const HostInput& whole, const std::vector<int64_t>& tokens) {
  HostInput some = whole;
  some.num_tokens = 0;
  some.hidden_states.clear();
  some.routing.ids.clear();
  some.routing.weights.clear();
  for (const int64_t t : tokens) {
    const HostInput one = slice(whole, t, 1);
    ++some.num_tokens;
    const auto append = [](auto& to, const auto& from) {
      to.insert(to.end(), from.begin(), from.end());
    };
    append(some.hidden_states, one.hidden_states);
    append(some.routing.ids, one.routing.ids);
    append(some.routing.weights, one.routing.weights);
  }
  return some;
}

// The float64 reference with all host threads.
std::vector<float> reference(const MoeLayerWeights& weights, ActivationPrecision precision,
                             const HostInput& input) {
  static HostAdapter adapter(std::make_shared<ReferenceBackend>(), 0);
  const auto layer = adapter.backend().prepare(
      weights, {.precision = precision, .device = Device::cpu(), .threads = &adapter.threads()});
  return adapter.apply(*layer, input);
}

class GpuBackend : public ::testing::TestWithParam<GpuTarget> {
 protected:
  void SetUp() override {
    const std::string reason = no_gpu_reason(GetParam().min_sm);
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
  std::unique_ptr<PreparedExperts> prepare(const MoeLayerWeights& weights) {
    return GetParam().prepare(weights, threads_);
  }
  void expect_close(const std::vector<float>& y, const std::vector<float>& expected, int64_t hidden,
                    double factor, const std::string& label) {
    const LayerError error = compare_outputs(y, expected, hidden);
    EXPECT_LE(error.frobenius, factor * GetParam().tolerance.frobenius) << label;
    EXPECT_LE(error.worst_row, factor * GetParam().tolerance.worst_row) << label;
    EXPECT_TRUE(error.finite_alike) << label;
  }
  ThreadPool threads_{0};
};

INSTANTIATE_TEST_SUITE_P(All, GpuBackend, ::testing::ValuesIn(gpu_targets()),
                         [](const auto& info) { return info.param.name; });

// Layers and expected outputs that several targets share.
struct ExpectedRows {
  HostInput input;              ///< the whole batch
  std::vector<int64_t> tokens;  ///< those compared
  std::vector<float> rows;      ///< their outputs
};
constexpr int64_t kHidden = 256;

// Random weights take longer to make than to test.
const RandomMoe& shared_layer(const QuantScheme& scheme, int64_t hidden, int64_t intermediate,
                              int64_t experts, int64_t top_k, bool biases = false) {
  static std::map<std::tuple<bool, int64_t, int64_t, int64_t, int64_t, bool>, RandomMoe> layers;
  const auto key = std::tuple(scheme.is_mxfp4(), hidden, intermediate, experts, top_k, biases);
  if (!layers.contains(key)) {
    layers.emplace(key, make_random_moe({.problem = problem(hidden, intermediate, experts, top_k),
                                         .scheme = scheme,
                                         .biases = biases}));
  }
  return layers.at(key);
}

const RandomMoe& layer_of(const QuantScheme& scheme, int64_t experts) {
  return shared_layer(scheme, kHidden, 64, experts, std::min<int64_t>(experts, 8));
}

const ExpectedRows& expected_rows(const QuantScheme& scheme, int64_t experts, int64_t tokens,
                                  RoutingCase routing, ActivationPrecision precision) {
  static std::map<std::tuple<bool, int64_t, int64_t, RoutingCase, ActivationPrecision>,
                  ExpectedRows>
      all;
  const auto key = std::tuple(scheme.is_mxfp4(), experts, tokens, routing, precision);
  if (all.contains(key)) return all.at(key);
  const RandomMoe& moe = layer_of(scheme, experts);
  ExpectedRows expected{.input =
                            make_input(moe.weights.problem, tokens, routing, tokens + experts)};
  const int64_t samples = std::min<int64_t>(tokens, 24);  // the reference is slow
  for (int64_t i = 0; i < samples; ++i) {
    expected.tokens.push_back(samples == 1 ? 0 : i * (tokens - 1) / (samples - 1));
  }
  expected.rows = reference(moe.weights, precision, gather(expected.input, expected.tokens));
  return all.emplace(key, std::move(expected)).first->second;
}

TEST_P(GpuBackend, MatchesTheReferenceForAnyNumberOfTokensAndExpertsAndAnyRouting) {
  for (const int64_t experts : {1, 8, 32, 128, 256, 512}) {
    const auto layer = prepare(layer_of(GetParam().scheme, experts).weights);
    for (const int64_t tokens : {0, 1, 2, 7, 8, 9, 16, 33, 64, 257, 1000, 4096}) {
      for (const auto routing :
           {RoutingCase::kUniform, RoutingCase::kSkewed, RoutingCase::kAllOnOne,
            RoutingCase::kDuplicates, RoutingCase::kWithMissing}) {
        const ExpectedRows& expected =
            expected_rows(GetParam().scheme, experts, tokens, routing, GetParam().precision);
        DeviceCall call(*layer, expected.input);
        call.apply();
        const std::vector<float> y = call.output_float();
        const std::string label = std::to_string(experts) + " experts, " + std::to_string(tokens) +
                                  " tokens, " + to_string(routing);
        for (const float value : y) ASSERT_TRUE(std::isfinite(value)) << label;
        std::vector<float> rows;
        for (const int64_t t : expected.tokens) {
          rows.insert(rows.end(), y.begin() + t * kHidden, y.begin() + (t + 1) * kHidden);
        }
        // A few small rows are too few values for the roundings to average out.
        expect_close(rows, expected.rows, kHidden, tokens <= 2 ? 1.5 : 1.0, label);
        if (GetParam().precision == ActivationPrecision::kBf16) {
          EXPECT_GE(compare_outputs(rows, expected.rows, kHidden).cosine, 0.9999) << label;
        }
      }
    }
  }
}

TEST_P(GpuBackend, FiftyRunsGiveTheSameBits) {
  const RandomMoe& moe = shared_layer(GetParam().scheme, 2048, 512, 32, 8);
  const auto layer = prepare(moe.weights);
  for (const int64_t tokens : {1, 7, 64, 512}) {
    const HostInput input = make_input(moe.weights.problem, tokens, RoutingCase::kSkewed, 9);
    DeviceCall call(*layer, input);
    call.apply();
    const std::vector<Bf16> first = call.output();
    for (int run = 1; run < 50; ++run) {
      call.poison();
      call.apply();
      ASSERT_TRUE(same_bits(call.output(), first)) << tokens << " tokens, run " << run;
    }
  }
}

TEST_P(GpuBackend, ATokenGetsTheSameBitsAloneAndInBatchesOf8And64And512) {
  const RandomMoe& moe = shared_layer(GetParam().scheme, 2048, 512, 32, 8);
  const auto layer = prepare(moe.weights);
  if (layer->batch_invariant() != BatchInvariance::kFull) {
    GTEST_SKIP() << "it does not say so: " << to_string(layer->batch_invariant());
  }
  const HostInput whole = make_input(moe.weights.problem, 1024, RoutingCase::kUniform, 7);
  DeviceCall all(*layer, whole);
  all.apply();
  const std::vector<Bf16> expected = all.output();
  for (const int64_t size : {1, 8, 64, 512}) {
    for (const int64_t begin : {int64_t{0}, int64_t{129}, 1024 - size}) {
      DeviceCall call(*layer, slice(whole, begin, size));
      call.apply();
      EXPECT_TRUE(same_bits(call.output(), {expected.begin() + begin * 2048,
                                            expected.begin() + (begin + size) * 2048}))
          << "batch of " << size << " at " << begin;
    }
  }
}

// Layers whose sums run differently: a unit of K apart, three together, one chain. (b12x has no
// runs.)
std::vector<std::array<int64_t, 4>> summed_shapes() {
  if (GpuBackend::GetParam().name.starts_with("b12x")) return {{2048, 512, 32, 8}};
  return {{2048, 512, 32, 8}, {2880, 352, 8, 4}, {2048, 1024, 16, 16}};
}

// One token of a phase, alone and among others of its phase, or of both.
class TokensBits : public GpuBackend {
 protected:
  // `decode` of the tokens [begin, begin + size) are generated ones.
  std::vector<Bf16> run(const PreparedExperts& layer, const HostInput& whole, int64_t begin,
                        int64_t size, int64_t decode) {
    DeviceCall call(layer, slice(whole, begin, size));
    call.args().num_decode_tokens = decode;
    call.apply();
    return call.output();
  }
  static std::vector<Bf16> rows(const std::vector<Bf16>& all, int64_t begin, int64_t size,
                                int64_t hidden) {
    return {all.begin() + begin * hidden, all.begin() + (begin + size) * hidden};
  }
};
INSTANTIATE_TEST_SUITE_P(All, TokensBits, ::testing::ValuesIn(gpu_targets()),
                         [](const auto& info) { return info.param.name; });

TEST_P(TokensBits, AGeneratedTokenGetsTheSameBitsAloneAndInBatchesOf2To256) {
  for (const auto& [hidden, width, experts, top_k] : summed_shapes()) {
    const RandomMoe& moe = shared_layer(GetParam().scheme, hidden, width, experts, top_k, true);
    const auto layer = prepare(moe.weights);
    const HostInput whole = make_input(moe.weights.problem, 256, RoutingCase::kUniform, 7);
    const std::vector<Bf16> expected = run(*layer, whole, 0, 256, 256);
    for (const int64_t size : {1, 2, 8, 64, 96, 128}) {
      for (const int64_t begin : {int64_t{0}, int64_t{101}, 256 - size}) {
        EXPECT_TRUE(
            same_bits(run(*layer, whole, begin, size, size), rows(expected, begin, size, hidden)))
            << "H " << hidden << ", batch of " << size << " at " << begin;
      }
    }
  }
}

TEST_P(TokensBits, APromptsTokenGetsTheSameBitsAloneAndInBatchesOf8And64And512) {
  for (const auto& [hidden, width, experts, top_k] : summed_shapes()) {
    const RandomMoe& moe = shared_layer(GetParam().scheme, hidden, width, experts, top_k, true);
    const auto layer = prepare(moe.weights);
    const HostInput whole = make_input(moe.weights.problem, 1024, RoutingCase::kUniform, 8);
    const std::vector<Bf16> expected = run(*layer, whole, 0, 1024, 0);
    for (const int64_t size : {1, 8, 64, 512}) {
      for (const int64_t begin : {int64_t{0}, int64_t{129}, 1024 - size}) {
        EXPECT_TRUE(
            same_bits(run(*layer, whole, begin, size, 0), rows(expected, begin, size, hidden)))
            << "H " << hidden << ", batch of " << size << " at " << begin;
      }
    }
  }
}

TEST_P(TokensBits, BothPhasesInOneCallGetTheBitsOfTwoCalls) {
  for (const auto& [hidden, width, experts, top_k] : summed_shapes()) {
    const RandomMoe& moe = shared_layer(GetParam().scheme, hidden, width, experts, top_k, true);
    const auto layer = prepare(moe.weights);
    const HostInput whole = make_input(moe.weights.problem, 400, RoutingCase::kUniform, 9);
    for (const int64_t decode : {1, 40, 200}) {
      std::vector<Bf16> expected = run(*layer, whole, 0, decode, decode);
      const std::vector<Bf16> prompt = run(*layer, whole, decode, 400 - decode, 0);
      expected.insert(expected.end(), prompt.begin(), prompt.end());
      EXPECT_TRUE(same_bits(run(*layer, whole, 0, 400, decode), expected))
          << "H " << hidden << ", " << decode << " generated tokens";
    }
  }
}

// A stream that does not move on until it is told to.
class BlockedStream {
 public:
  BlockedStream() {
    MOE4_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    MOE4_CUDA_CHECK(cudaLaunchHostFunc(stream_, &BlockedStream::wait, this));
  }
  ~BlockedStream() {
    release();
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }
  void release() {
    const std::lock_guard lock(mutex_);
    released_ = true;
    changed_.notify_all();
  }
  cudaStream_t get() const { return stream_; }

 private:
  static void wait(void* self) {
    auto* stream = static_cast<BlockedStream*>(self);
    std::unique_lock lock(stream->mutex_);
    // Gives up in the end, so that an apply() that waits fails its test instead of hanging it.
    stream->changed_.wait_for(lock, std::chrono::seconds(20), [&] { return stream->released_; });
  }
  cudaStream_t stream_ = nullptr;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool released_ = false;
};

TEST_P(GpuBackend, ApplyNeitherAllocatesNorSynchronises) {
  const RandomMoe& moe = shared_layer(GetParam().scheme, 512, 256, 16, 4, true);
  const auto layer = prepare(moe.weights);
  for (const int64_t tokens : {1, 8, 64, 1000}) {
    DeviceCall call(*layer, make_input(moe.weights.problem, tokens, RoutingCase::kUniform, tokens));
    call.apply();  // the runtime loads the kernels
    const std::vector<Bf16> expected = call.output();
    call.poison();
    BlockedStream stream;
    const CudaCalls before = cuda_calls();
    call.apply(stream.get());
    const CudaCalls after = cuda_calls();
    EXPECT_EQ(cudaStreamQuery(stream.get()), cudaErrorNotReady) << "apply() waited for the stream";
    EXPECT_EQ(after.allocations, before.allocations);
    EXPECT_EQ(after.frees, before.frees);
    EXPECT_EQ(after.synchronisations, before.synchronisations);
    EXPECT_EQ(after.host_allocations, before.host_allocations);
    stream.release();
    EXPECT_TRUE(same_bits(call.output(), expected)) << tokens << " tokens";
  }
}

TEST_P(GpuBackend, ApplyIsCapturedAsKernelsAloneAndReplaysWithOtherInputs) {
  const RandomMoe& moe = shared_layer(GetParam().scheme, 512, 256, 16, 4);
  const auto layer = prepare(moe.weights);
  cudaStream_t stream = nullptr;
  MOE4_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  for (const int64_t tokens : {1, 8, 64, 1000}) {
    const HostInput input = make_input(moe.weights.problem, tokens, RoutingCase::kUniform, tokens);
    DeviceCall call(*layer, input);
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t replay = nullptr;
    MOE4_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    call.apply(stream);
    MOE4_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
    size_t count = 0;
    MOE4_CUDA_CHECK(cudaGraphGetNodes(graph, nullptr, &count));
    std::vector<cudaGraphNode_t> nodes(count);
    MOE4_CUDA_CHECK(cudaGraphGetNodes(graph, nodes.data(), &count));
    for (const cudaGraphNode_t node : nodes) {
      cudaGraphNodeType type;
      MOE4_CUDA_CHECK(cudaGraphNodeGetType(node, &type));
      EXPECT_EQ(type, cudaGraphNodeTypeKernel);
    }
    MOE4_CUDA_CHECK(cudaGraphInstantiate(&replay, graph, 0));
    MOE4_CUDA_CHECK(cudaGraphLaunch(replay, stream));
    DeviceCall eager(*layer, input);
    eager.apply();
    EXPECT_TRUE(same_bits(call.output(), eager.output())) << tokens << " tokens";

    const HostInput other =
        make_input(moe.weights.problem, tokens, RoutingCase::kSkewed, tokens + 50);
    call.set_input(other);
    MOE4_CUDA_CHECK(cudaGraphLaunch(replay, stream));
    DeviceCall fresh(*layer, other);
    fresh.apply();
    EXPECT_TRUE(same_bits(call.output(), fresh.output())) << tokens << " tokens, other input";
    cudaGraphExecDestroy(replay);
    cudaGraphDestroy(graph);
  }
  cudaStreamDestroy(stream);
}

// Dependent launches overlap: a call must not read or overwrite what the call before it still uses.
TEST_P(GpuBackend, CallsInARowSharingOneWorkspaceDoNotMix) {
  const RandomMoe& moe = shared_layer(GetParam().scheme, 512, 256, 16, 4);
  const auto layer = prepare(moe.weights);
  const size_t bytes = layer->workspace_size(300);
  const auto workspace = cuda::allocate_device<std::byte>(static_cast<int64_t>(bytes));
  std::vector<std::unique_ptr<DeviceCall>> calls;
  std::vector<std::vector<Bf16>> expected;
  for (int i = 0; i < 40; ++i) {
    const int64_t tokens = std::vector<int64_t>{1, 120, 1, 8, 300, 20, 2, 1}[i % 8];
    calls.push_back(std::make_unique<DeviceCall>(
        *layer, make_input(moe.weights.problem, tokens, RoutingCase::kUniform, 100 + i)));
    calls.back()->apply();
    expected.push_back(calls.back()->output());
    calls.back()->poison();
    calls.back()->args().workspace = {workspace.get(), bytes};
  }
  cudaStream_t stream = nullptr;
  MOE4_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  for (const bool in_graph : {false, true}) {
    if (in_graph) MOE4_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    for (const auto& call : calls) call->apply(stream);
    if (in_graph) {
      MOE4_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
      MOE4_CUDA_CHECK(cudaGraphInstantiate(&replay, graph, 0));
      MOE4_CUDA_CHECK(cudaGraphLaunch(replay, stream));
    }
    MOE4_CUDA_CHECK(cudaDeviceSynchronize());
    for (size_t i = 0; i < calls.size(); ++i) {
      ASSERT_TRUE(same_bits(calls[i]->output(), expected[i]))
          << "call " << i << (in_graph ? " in a graph" : "");
      calls[i]->poison();
    }
  }
  cudaGraphExecDestroy(replay);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

TEST_P(GpuBackend, PreparingTakesAtMostOneRawLayerAboveThePackedSize) {
  for (const int64_t experts : {2, 24}) {
    const RandomMoe& moe = shared_layer(GetParam().scheme, 1024, 512, experts, 2);
    const int64_t raw = experts * 3 * 1024 * 512 / 32 * (GetParam().scheme.is_mxfp4() ? 17 : 18);
    const int64_t before = device_bytes();
    reset_peak_device_bytes();
    const auto layer = prepare(moe.weights);
    const int64_t held = device_bytes() - before, peak = peak_device_bytes() - before;
    // Global scales and maps are the little that is not counted as weights.
    EXPECT_LE(held, layer->weight_bytes() + 64 * 1024);
    EXPECT_LE(peak, held + raw);
    // And in fact two experts suffice, for any number of them.
    EXPECT_LE(peak, held + 2 * raw / experts + 4096);
  }
}

TEST_P(GpuBackend, TpShardsOfOddSizesAddUpToTheWholeLayer) {
  for (const int64_t size : {640, 704, 1856}) {
    const RandomMoe& moe = shared_layer(GetParam().scheme, 256, size, 4, 2, true);
    const HostInput input = make_input(moe.weights.problem, 19, RoutingCase::kUniform, 5);
    const std::vector<float> expected = reference(moe.weights, GetParam().precision, input);
    for (const int ranks : {2, 3, 8}) {
      std::vector<float> sum(expected.size());
      for (int rank = 0; rank < ranks; ++rank) {
        const auto layer = prepare(shard_weights(moe.weights, ranks, rank));
        DeviceCall call(*layer, input);
        call.apply();
        const std::vector<float> part = call.output_float();
        for (size_t i = 0; i < sum.size(); ++i) sum[i] += part[i];
      }
      expect_close(sum, expected, 256, 2.0,  // every part is rounded to BF16
                   "I " + std::to_string(size) + " over " + std::to_string(ranks) + " ranks");
    }
  }
}

// Small enough for compute-sanitizer: every launch path, with partial tiles and odd sizes.
TEST_P(GpuBackend, EveryLaunchPathRunsOnOddSizes) {
  struct Shape {
    int64_t hidden, intermediate;
    std::vector<int64_t> tokens;
  };
  const int more = GetParam().scheme.is_mxfp4() ? 16 : 0;  // blocks of 32
  for (const Shape& shape :
       {Shape{336 + more, 80 + more, {1, 9, 120}}, Shape{1168 + more, 112 + more, {30}},
        Shape{2048, 304 + more, {1, 9, 300}}}) {
    const RandomMoe moe =
        make_random_moe({.problem = problem(shape.hidden, shape.intermediate, 4, 2),
                         .scheme = GetParam().scheme,
                         .biases = true});
    const auto layer = prepare(moe.weights);
    for (const int64_t tokens : shape.tokens) {
      DeviceCall call(*layer,
                      make_input(moe.weights.problem, tokens, RoutingCase::kWithMissing, tokens));
      call.apply();
      for (const float value : call.output_float()) ASSERT_TRUE(std::isfinite(value));
    }
  }
}

}  // namespace
}  // namespace moe4::testing
