// b12x on whatever GPU is here: natively on SM120 and SM121, elsewhere with its one instruction in
// software, which is the same kernels, layouts, quantisation and epilogues.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "moe/dequantize.h"
#include "numerics/nvfp4.h"
#include "ops/experts/b12x/b12x_backend.h"
#include "ops/experts/b12x/prepared_layer.h"
#include "ops/experts/b12x_ptx_model.h"
#include "ops/experts/gpu_adapter.h"

namespace moe4::testing {
namespace {

// BF16: the rounding of intermediate and output. FP4: the same, as both sides quantise alike but
// for values within float32 noise of a rounding boundary.
Tolerance b12x_tolerance(ActivationPrecision precision) {
  return precision == ActivationPrecision::kBf16 ? Tolerance{3e-3, 6e-3} : Tolerance{6e-3, 4e-2};
}

// supports() offers b12x off SM12x by name only (kNotSelected): here it is asked for by name.
class B12xByName final : public ExpertsBackend {
 public:
  std::string_view name() const override { return backend_.name(); }
  Support supports(const ExpertsQuery& query) const override {
    Support verdict = backend_.supports(query);
    if (verdict && verdict->kind == Rejection::Kind::kNotSelected) return std::nullopt;
    return verdict;
  }
  Support runnable(const Device& device) const override { return backend_.runnable(device); }
  BatchBehavior batch_behavior(const ExpertsQuery& query) const override {
    return backend_.batch_behavior(query);
  }
  std::unique_ptr<PreparedExperts> prepare(const MoeLayerWeights& weights,
                                           const PrepareOptions& options) const override {
    return backend_.prepare(weights, options);
  }

 private:
  B12xBackend backend_;
};

std::shared_ptr<GpuAdapter> make_adapter() {
  return std::make_shared<GpuAdapter>(std::make_shared<B12xByName>());
}

INSTANTIATE_TEST_SUITE_P(B12x, ExpertsConformance,
                         ::testing::Values(ConformanceTarget{
                             .name = "b12x",
                             .make = make_adapter,
                             .skip_reason = [] { return no_gpu_reason(); },
                             .tolerance = b12x_tolerance}),
                         [](const auto& info) { return info.param.name; });

class B12xOnGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string reason = no_gpu_reason();
    if (!reason.empty()) GTEST_SKIP() << reason;
    adapter_ = make_adapter();
  }
  std::unique_ptr<b12x::PreparedLayer> prepare(const MoeLayerWeights& weights,
                                               ActivationPrecision precision) {
    return std::make_unique<b12x::PreparedLayer>(
        weights,
        PrepareOptions{
            .precision = precision, .device = adapter_->device(), .threads = &adapter_->threads()});
  }
  std::shared_ptr<GpuAdapter> adapter_;
};

template <typename T>
cuda::DeviceArray<T> upload(const std::vector<T>& values) {
  auto array = cuda::allocate_device<T>(static_cast<int64_t>(values.size()));
  MOE4_CUDA_CHECK(
      cudaMemcpy(array.get(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  return array;
}
template <typename T>
std::vector<T> download(const T* from, int64_t count) {
  std::vector<T> values(count);
  MOE4_CUDA_CHECK(cudaMemcpy(values.data(), from, count * sizeof(T), cudaMemcpyDeviceToHost));
  return values;
}

TEST_F(B12xOnGpu, TheInstructionIsWhatPtxSpecifiesForEverySelector) {
  Random random(1);
  for (int thread_id_a = 0; thread_id_a < 2; ++thread_id_a) {
    for (int thread_id_b = 0; thread_id_b < 4; ++thread_id_b) {
      PtxBlockScaledMma model;
      model.thread_id_a = thread_id_a;
      model.thread_id_b = thread_id_b;
      std::vector<uint32_t> a, b, scale_a, scale_b;
      std::vector<float> d(128);
      for (int lane = 0; lane < 32; ++lane) {
        for (auto& word : model.a[lane]) a.push_back(word = static_cast<uint32_t>(random.next()));
        for (auto& word : model.b[lane]) b.push_back(word = static_cast<uint32_t>(random.next()));
        // Any finite scale, in lanes that are not selected too.
        for (int i = 0; i < 4; ++i) {
          model.scale_a[lane] |= static_cast<uint32_t>(random.below(0x7f)) << (8 * i);
          model.scale_b[lane] |= static_cast<uint32_t>(random.below(0x7f)) << (8 * i);
        }
        scale_a.push_back(model.scale_a[lane]);
        scale_b.push_back(model.scale_b[lane]);
      }
      for (float& x : d) x = random.normal();
      const auto on_device = upload(d);
      b12x::run_block_scaled_mma(on_device.get(), upload(a).get(), upload(b).get(),
                                 upload(scale_a).get(), upload(scale_b).get(), thread_id_a,
                                 thread_id_b, nullptr);
      MOE4_CUDA_CHECK(cudaDeviceSynchronize());
      const std::vector<float> result = download(on_device.get(), 128);
      for (int lane = 0; lane < 32; ++lane) {
        for (int i = 0; i < 4; ++i) {
          const int row = PtxBlockScaledMma::d_row(lane, i);
          const int column = PtxBlockScaledMma::d_column(lane, i);
          const double expected = d[4 * lane + i] + model.product(row, column);
          double magnitude = std::abs(d[4 * lane + i]);
          for (int k = 0; k < 64; ++k) {
            magnitude += std::abs(model.a_element(row, k) * model.a_scale(row, k / 16) *
                                  model.b_element(k, column) * model.b_scale(k / 16, column));
          }
          // A handful of float32 roundings of partial sums.
          EXPECT_NEAR(result[4 * lane + i], expected, 4 * 0x1p-24 * magnitude)
              << "lane " << lane << ", d" << i;
        }
      }
    }
  }
}

// Rows of FP4 activations in the workspace: one code and one scale byte at a time.
struct QuantisedRows {
  std::vector<uint8_t> codes, scales;
  int64_t code_stride, scale_stride;

  QuantisedRows(const b12x::TokenRows& rows, int64_t count)
      : codes(download(rows.codes, count * rows.code_stride)),
        scales(download(rows.scales, count * rows.scale_stride)),
        code_stride(rows.code_stride),
        scale_stride(rows.scale_stride) {}
  uint8_t code(int64_t row, int64_t k) const {
    const int word = static_cast<int>(k % 64 / 8), j = static_cast<int>(k % 8);
    uint32_t bits;
    std::memcpy(&bits, &codes[row * code_stride + b12x::token_word_offset(k / 64, word)], 4);
    return static_cast<uint8_t>((bits >> b12x::element_shift(j)) & 15);
  }
  uint8_t scale(int64_t row, int64_t k) const { return scales[row * scale_stride + k / 16]; }
};

TEST_F(B12xOnGpu, HiddenStatesAreQuantisedToTheBit) {
  MoeProblem p{.hidden_size = 336, .intermediate_size = 64, .num_experts = 4, .top_k = 2};
  for (const auto precision : {ActivationPrecision::kFp4, ActivationPrecision::kFp4Static}) {
    const RandomMoe moe = make_random_moe({.problem = p});
    const auto layer = prepare(moe.weights, precision);
    HostInput input = make_input(p, 24, RoutingCase::kUniform, 4);
    // Rows of many magnitudes; ties, zeros, saturation.
    for (int64_t t = 0; t < 24; ++t) {
      for (int64_t h = 0; h < 336; ++h) {
        float& x = input.hidden_states[t * 336 + h];
        x = round_to_bf16(std::ldexp(x, static_cast<int>(2 * t) - 24));
        if (t % 5 == 0) x = round_to_bf16(std::ldexp(std::round(4 * x), -2));
        if (h / 16 == t % 7) x = 0;
      }
    }
    DeviceCall call(*layer, input);
    call.apply();
    MOE4_CUDA_CHECK(cudaDeviceSynchronize());
    const bool by_pair = precision == ActivationPrecision::kFp4Static;
    const int64_t variants = by_pair ? 2 : 1, rows = by_pair ? 24 * 2 * variants : 24;
    Arena arena(call.args().workspace);
    const QuantisedRows staged(layer->take_workspace(arena, 24).staged, rows);
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t token = by_pair ? row / (2 * variants) : row;
      float global = 1.0f;
      if (by_pair) {
        const ExpertWeights& expert = moe.weights.experts[input.routing.ids[row / variants]];
        global = (row % variants == 0 ? *expert.gate : expert.up).input_scale->value;
      }
      for (int64_t k = 0; k < 336; k += 16) {
        uint8_t codes[16];
        const uint8_t scale =
            nvfp4_quantize_block(&input.hidden_states[token * 336 + k], DecodeScale{global}, codes);
        ASSERT_EQ(staged.scale(row, k), scale) << "row " << row << ", k " << k;
        for (int i = 0; i < 16; ++i) {
          ASSERT_EQ(staged.code(row, k + i), codes[i]) << "row " << row << ", k " << k + i;
        }
      }
    }
  }
}

// The budget: of all codes and scales of the FC2 input, at most this share may differ from those of
// the float64 reference (a float32 sum next to a rounding boundary of BF16 or E2M1 falls to the
// other side).
constexpr double kNibbleBudget = 1e-3;

TEST_F(B12xOnGpu, TheFc2InputDiffersFromTheReferenceWithinTheNibbleBudget) {
  MoeProblem p{.hidden_size = 2048, .intermediate_size = 512, .num_experts = 8, .top_k = 2};
  const RandomMoe moe = make_random_moe({.problem = p});
  const auto layer = prepare(moe.weights, ActivationPrecision::kFp4);
  for (const int64_t tokens :
       {16, 64}) {  // decode and prefill, which leave the sorted pairs behind
    const HostInput input = make_input(p, tokens, RoutingCase::kUniform, 6);
    DeviceCall call(*layer, input);
    call.apply();
    MOE4_CUDA_CHECK(cudaDeviceSynchronize());
    Arena arena(call.args().workspace);
    const auto at = layer->take_workspace(arena, tokens);
    const int64_t pairs = tokens * p.top_k;
    const QuantisedRows rows(at.intermediate, pairs);
    const std::vector<int32_t> sorted = download(at.tables.sorted_pairs, pairs);
    int64_t differing = 0, total = 0;
    std::vector<float> x(p.hidden_size), weight(p.hidden_size), values(p.intermediate_size);
    // Four tokens' worth of rows are enough, and float64 dot products are slow.
    for (int64_t row = 0; row < std::min<int64_t>(pairs, 8); ++row) {
      const ExpertWeights& expert = moe.weights.experts[input.routing.ids[sorted[row]]];
      const float* token = &input.hidden_states[sorted[row] / p.top_k * p.hidden_size];
      for (int64_t k = 0; k < p.hidden_size; k += 16) {
        uint8_t codes[16];
        const uint8_t scale = nvfp4_quantize_block(token + k, DecodeScale{1.0f}, codes);
        for (int i = 0; i < 16; ++i) {
          x[k + i] = nvfp4_value(codes[i], scale, DecodeScale{1.0f});
        }
      }
      const auto dot = [&](const LinearWeights& linear, int64_t r) {
        dequantize_row(linear, r, weight.data());
        double sum = 0;
        for (int64_t k = 0; k < p.hidden_size; ++k) sum += static_cast<double>(weight[k]) * x[k];
        return sum;
      };
      for (int64_t i = 0; i < p.intermediate_size; ++i) {
        values[i] = round_to_bf16(static_cast<float>(
            apply_activation<double>(p.activation, dot(*expert.gate, i), dot(expert.up, i))));
      }
      for (int64_t k = 0; k < p.intermediate_size; k += 16) {
        uint8_t codes[16];
        const uint8_t scale = nvfp4_quantize_block(&values[k], DecodeScale{1.0f}, codes);
        differing += rows.scale(row, k) != scale;
        for (int i = 0; i < 16; ++i) differing += rows.code(row, k + i) != codes[i];
        total += 17;
      }
    }
    std::printf("FC2 input, %lld tokens: %lld of %lld codes and scales differ\n",
                static_cast<long long>(tokens), static_cast<long long>(differing),
                static_cast<long long>(total));
    EXPECT_LE(static_cast<double>(differing), kNibbleBudget * static_cast<double>(total));
  }
}

TEST_F(B12xOnGpu, EveryLaunchShapeGivesATokenTheSameBits) {
  // H / 32 = 240 tiles: more than any GPU has multiprocessors, so that few tokens take their shape.
  MoeProblem p{.hidden_size = 7680, .intermediate_size = 208, .num_experts = 4, .top_k = 2};
  const RandomMoe moe = make_random_moe({.problem = p, .biases = true});
  const HostInput whole = make_input(p, 600, RoutingCase::kSkewed, 7);
  for (const auto precision :
       {ActivationPrecision::kBf16, ActivationPrecision::kFp4, ActivationPrecision::kFp4Static}) {
    const auto layer = prepare(moe.weights, precision);
    ASSERT_EQ(layer->path(600), b12x::Path::kPrefill);
    const std::vector<float> expected = adapter_->apply(*layer, whole);
    // Calibrated scales differ by expert: the few-tokens shape, with a row a token, is not for
    // them.
    const auto few =
        precision == ActivationPrecision::kFp4Static ? b12x::Path::kDecode : b12x::Path::kFewTokens;
    for (const auto& [size, path] : {std::pair{1, few},
                                     {2, few},
                                     {8, few},
                                     {12, b12x::Path::kDecode},
                                     {64, b12x::Path::kPrefill}}) {
      ASSERT_EQ(layer->path(size), path);
      HostInput part = whole;
      part.num_tokens = size;
      part.hidden_states.resize(size * p.hidden_size);
      part.routing.ids.resize(size * p.top_k);
      part.routing.weights.resize(size * p.top_k);
      const std::vector<float> y = adapter_->apply(*layer, part);
      for (size_t i = 0; i < y.size(); ++i) {
        ASSERT_EQ(y[i], expected[i]) << size << " tokens, " << to_string(precision);
      }
    }
  }
}

// More than eight pairs of one expert, ids of -1 and tokens without any expert.
TEST_F(B12xOnGpu, FewTokensMatchTheReferenceForEveryRouting) {
  MoeProblem p{.hidden_size = 7680, .intermediate_size = 64, .num_experts = 8, .top_k = 8};
  const RandomMoe moe = make_random_moe({.problem = p});
  for (const auto precision : {ActivationPrecision::kBf16, ActivationPrecision::kFp4}) {
    const auto layer = prepare(moe.weights, precision);
    for (const int64_t tokens : {1, 3, 8}) {
      ASSERT_EQ(layer->path(tokens), b12x::Path::kFewTokens);
      for (const auto routing : {RoutingCase::kUniform, RoutingCase::kAllOnOne,
                                 RoutingCase::kDuplicates, RoutingCase::kWithMissing}) {
        const HostInput input = make_input(p, tokens, routing, 17);
        const LayerError error =
            compare_outputs(adapter_->apply(*layer, input),
                            reference_output(moe.weights, precision, input), p.hidden_size);
        EXPECT_LE(error.frobenius, b12x_tolerance(precision).frobenius)
            << tokens << " tokens, " << to_string(routing) << ", " << to_string(precision);
      }
    }
  }
}

TEST_F(B12xOnGpu, PartialOutputsInSlabsOfColumnsGiveTheSameAnswer) {
  // 3000 tokens of 8 slots and 1024 columns are 98 MB of partial outputs: more than half of any L2.
  MoeProblem p{.hidden_size = 1024, .intermediate_size = 64, .num_experts = 8, .top_k = 8};
  const RandomMoe moe = make_random_moe({.problem = p});
  const auto layer = prepare(moe.weights, ActivationPrecision::kFp4);
  const HostInput whole = make_input(p, 3000, RoutingCase::kUniform, 9);
  Arena for_many = Arena::measuring(), for_few = Arena::measuring();
  EXPECT_LT(layer->take_workspace(for_many, 3000).partial_columns, 1024);
  const std::vector<float> y = adapter_->apply(*layer, whole);
  HostInput part = whole;
  part.num_tokens = 40;
  part.hidden_states.resize(40 * 1024);
  part.routing.ids.resize(40 * 8);
  part.routing.weights.resize(40 * 8);
  EXPECT_EQ(layer->take_workspace(for_few, 40).partial_columns, 1024);
  const std::vector<float> few = adapter_->apply(*layer, part);
  for (size_t i = 0; i < few.size(); ++i) ASSERT_EQ(few[i], y[i]);
}

TEST_F(B12xOnGpu, AWorkspaceThatIsTooSmallIsRefusedBeforeTheOutputIsTouched) {
  MoeProblem p{.hidden_size = 128, .intermediate_size = 64, .num_experts = 4, .top_k = 2};
  const RandomMoe moe = make_random_moe({.problem = p});
  const auto layer = prepare(moe.weights, ActivationPrecision::kFp4);
  DeviceCall call(*layer, make_input(p, 5, RoutingCase::kUniform, 12));
  call.args().workspace = call.args().workspace.first(call.args().workspace.size() - 1);
  EXPECT_THROW(call.apply(), Error);
  for (const Bf16 x : call.output()) ASSERT_EQ(x.bits, 0xffff);
}

TEST_F(B12xOnGpu, AWorkspaceForMoreTokensServesFewer) {
  MoeProblem p{.hidden_size = 1024, .intermediate_size = 64, .num_experts = 8, .top_k = 8};
  const RandomMoe moe = make_random_moe({.problem = p});
  const auto layer = prepare(moe.weights, ActivationPrecision::kFp4Static);
  size_t before = 0;
  for (int64_t tokens = 0; tokens < 5000; tokens += 37) {
    const size_t bytes = layer->workspace_size(tokens);
    EXPECT_GE(bytes, before) << tokens;
    before = bytes;
  }
}

}  // namespace
}  // namespace moe4::testing
