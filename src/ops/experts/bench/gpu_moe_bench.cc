// Random layers, rotating copies and routings, one graph a row.
#include "ops/experts/bench/gpu_moe_bench.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <set>
#include <utility>

#include "device/cuda/device_buffer.h"
#include "numerics/bf16.h"
#include "ops/experts/bench/cold_read.h"
#include "ops/experts/bench/matrix_peak.h"
#include "ops/experts/bench/timed_graph.h"
#include "ops/experts/reference/reference_backend.h"

namespace moe4 {
namespace {

using cuda::allocate_device;
using cuda::DeviceArray;

// Random codes and scales of a whole layer. Copies of it share the bytes: expert e of copy c is
// expert (e + c) mod E, so that every copy computes something else.
class RandomLayer {
 public:
  RandomLayer(const MoePreset& layer, ThreadPool& threads)
      : problem_(layer.problem), scheme_(layer.scheme), block_(fp4_block(scheme_.weight.format)) {
    const MoeProblem& problem = problem_;
    if (layer.has_bias) {
      std::mt19937 random(1);
      std::normal_distribution<float> normal(0.0f, 0.1f);
      bias_.resize(static_cast<size_t>(std::max(problem.hidden_size, problem.intermediate_size)));
      for (Bf16& b : bias_) b = to_bf16(normal(random));
    }
    const int64_t per_linear = problem.intermediate_size * problem.hidden_size;
    linears_ = problem.activation.is_gated() ? 3 : 2;
    const int64_t count = problem.num_experts * linears_;
    codes_.resize(count * per_linear / 2);
    scales_.resize(count * per_linear / block_);
    threads.parallel_for(count, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        std::mt19937_64 random(i + 1);
        uint8_t* codes = codes_.data() + i * per_linear / 2;
        for (int64_t b = 0; b < per_linear / 2; b += 8) {
          const uint64_t bits = random();
          std::memcpy(codes + b, &bits, 8);
        }
        uint8_t* scales = scales_.data() + i * per_linear / block_;
        // E4M3 of 1 to 15; E8M0 of 2^-8 and 2^-7: about what global scales make of the others.
        for (int64_t b = 0; b < per_linear / block_; ++b) {
          scales[b] = scheme_.is_mxfp4() ? 119 + random() % 2 : 0x38 + random() % 31;
        }
      }
    });
  }

  MoeLayerWeights copy(int index) const {
    MoeLayerWeights weights{.problem = problem_, .scheme = scheme_};
    for (int64_t e = 0; e < problem_.num_experts; ++e) {
      const int64_t source = (e + index) % problem_.num_experts;
      ExpertWeights expert;
      int64_t next = source * linears_;
      const int64_t hidden = problem_.hidden_size, width = problem_.intermediate_size;
      if (linears_ == 3) expert.gate = linear(next++, width, hidden, e);
      expert.up = linear(next++, width, hidden, e);
      expert.down = linear(next, hidden, width, e);
      weights.experts.push_back(std::move(expert));
    }
    return weights;
  }

 private:
  LinearWeights linear(int64_t index, int64_t n, int64_t k, int64_t expert) const {
    LinearWeights l;
    l.name = "expert " + std::to_string(expert);
    l.out_features = n;
    l.in_features = k;
    l.scheme = scheme_;
    l.weight = {codes_.data() + index * n * k / 2, DType::kU8, {n, k / 2}, 0};
    l.scale = {scales_.data() + index * n * k / block_,
               scheme_.is_mxfp4() ? DType::kU8 : DType::kF8E4M3,
               {n, k / block_},
               0};
    if (!bias_.empty()) l.bias = {.data = bias_.data(), .dtype = DType::kBF16, .shape = {n}};
    if (scheme_.is_mxfp4()) return l;
    // Codes and scales have a root mean square of about 3 x 6: outputs near one.
    l.global_scale = DecodeScale{static_cast<float>((0.7 + 0.6 * (expert % 7) / 7.0) / 18.0 /
                                                    std::sqrt(static_cast<double>(k)))};
    return l;
  }

  MoeProblem problem_;
  QuantScheme scheme_;
  int block_;
  int64_t linears_;
  std::vector<uint8_t> codes_, scales_;
  std::vector<Bf16> bias_;  // of every linear, its first values
};

struct Batch {
  std::vector<Bf16> x;
  std::vector<int32_t> ids;  // [routings][T, k]
  std::vector<float> weights;
  double experts_hit = 0;
};

Batch random_batch(const MoeProblem& problem, int64_t tokens, int routings) {
  Batch batch;
  std::mt19937 random(static_cast<uint32_t>(tokens * 31 + 7));
  std::normal_distribution<float> normal;
  batch.x.resize(tokens * problem.hidden_size);
  for (Bf16& v : batch.x) v = to_bf16(normal(random));
  const int64_t experts = problem.num_experts - problem.num_shared;
  std::vector<int32_t> deck(problem.num_experts);  // shared ones stay at the end
  for (int64_t e = 0; e < problem.num_experts; ++e) deck[e] = static_cast<int32_t>(e);
  int64_t hit = 0;
  for (int r = 0; r < routings; ++r) {
    std::vector<bool> used(problem.num_experts);
    for (int64_t t = 0; t < tokens; ++t) {
      const auto take = [&](int32_t expert) {
        batch.ids.push_back(expert);
        used[expert] = true;
      };
      for (int64_t s = 0; s < problem.top_k - problem.num_shared; ++s) {
        std::swap(deck[s], deck[s + random() % (experts - s)]);
        take(deck[s]);
      }
      for (int64_t e = experts; e < problem.num_experts; ++e) take(deck[e]);
    }
    hit += std::count(used.begin(), used.end(), true);
  }
  batch.experts_hit = static_cast<double>(hit) / routings;
  for (int64_t t = 0; t < tokens; ++t) {
    float sum = 0;
    const size_t first = batch.weights.size();
    for (int64_t s = 0; s < problem.top_k; ++s) {
      batch.weights.push_back(0.5f + static_cast<float>(random() % 1000) / 1000.0f);
      sum += batch.weights.back();
    }
    for (size_t i = first; i < batch.weights.size(); ++i) batch.weights[i] /= sum;
  }
  return batch;
}

template <typename T>
DeviceArray<T> upload(const std::vector<T>& host) {
  auto device = allocate_device<T>(static_cast<int64_t>(host.size()));
  MOE4_CUDA_CHECK(
      cudaMemcpy(device.get(), host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  return device;
}

// Relative Frobenius error of up to `samples` tokens spread over the batch.
double sampled_error(const GpuMoeBenchOptions& options, const PreparedExperts& reference,
                     const Batch& batch, int64_t tokens, const std::vector<Bf16>& out) {
  const MoeProblem& problem = options.layer.problem;
  const int64_t hidden = problem.hidden_size, top_k = problem.top_k;
  const int64_t samples = std::min(tokens, options.reference_tokens);
  std::vector<Bf16> x;
  std::vector<int32_t> ids;
  std::vector<float> weights;
  std::vector<int64_t> chosen;
  for (int64_t i = 0; i < samples; ++i) {
    const int64_t t = samples == 1 ? 0 : i * (tokens - 1) / (samples - 1);
    chosen.push_back(t);
    x.insert(x.end(), batch.x.begin() + t * hidden, batch.x.begin() + (t + 1) * hidden);
    ids.insert(ids.end(), batch.ids.begin() + t * top_k, batch.ids.begin() + (t + 1) * top_k);
    weights.insert(weights.end(), batch.weights.begin() + t * top_k,
                   batch.weights.begin() + (t + 1) * top_k);
  }
  std::vector<float> y(samples * hidden);
  std::vector<std::byte> workspace(reference.workspace_size(samples));
  reference.apply({.num_tokens = samples,
                   .hidden_states = x.data(),
                   .topk_ids = ids.data(),
                   .topk_weights = weights.data(),
                   .output = y.data(),
                   .output_dtype = DType::kF32,
                   .workspace = workspace});
  double difference = 0, total = 0;
  for (int64_t i = 0; i < samples; ++i) {
    for (int64_t h = 0; h < hidden; ++h) {
      const double expected = y[i * hidden + h];
      const double found = to_float(out[chosen[i] * hidden + h]);
      difference += (found - expected) * (found - expected);
      total += expected * expected;
    }
  }
  return std::sqrt(difference / total);
}

double flops_a_pair(const MoeProblem& p) {
  return 2.0 * (p.activation.is_gated() ? 3 : 2) * static_cast<double>(p.hidden_size) *
         static_cast<double>(p.intermediate_size);
}

// Calls of a graph, 4 to 48, whose replay takes about 4 ms: two replays to warm up and nine that
// count are over before a chip has been at its power limit for long (as the ceiling's products
// are), and every row has the same time.
constexpr int kFewestCalls = 4, kMostCalls = 48;
constexpr double kReplayMicroseconds = 4000;
int calls_of_graph(cuda::TimedGraph&& few) {
  few.replay();
  return std::clamp(static_cast<int>(kReplayMicroseconds / few.replay()), kFewestCalls, kMostCalls);
}

struct StreamHolder {
  StreamHolder() { MOE4_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking)); }
  ~StreamHolder() { cudaStreamDestroy(stream); }
  cudaStream_t stream = nullptr;
};

}  // namespace

GpuMoeBenchReport run_gpu_moe_bench(const GpuMoeBenchOptions& options) {
  const cuda::DeviceGuard guard(options.device.index);
  cudaDeviceProp properties{};
  MOE4_CUDA_CHECK(cudaGetDeviceProperties(&properties, options.device.index));
  const StreamHolder holder;
  cuda::MatrixPeak peak{.tflops = options.bf16_tflops, .how = "given"};
  if (peak.tflops == 0) peak = cuda::measure_bf16_peak(holder.stream);
  GpuMoeBenchReport report{.device = properties.name,
                           .bf16_tflops = peak.tflops,
                           .bf16_sustained_tflops = peak.sustained,
                           .bf16_tflops_from = peak.how};
  report.shapes.push_back({options.name, options.layer});
  const MoeProblem& problem = options.layer.problem;
  const double expert_bytes =
      flops_a_pair(problem) / 2 * (0.5 + 1.0 / fp4_block(options.layer.scheme.weight.format));

  // Cold reads first, with the memory to themselves.
  std::vector<Batch> batches;
  std::vector<double> read_floor;
  {
    const size_t size = static_cast<size_t>(options.rotation_bytes);
    const auto memory = allocate_device<std::byte>(static_cast<int64_t>(size));
    MOE4_CUDA_CHECK(cudaMemset(memory.get(), 0x5a, size));
    for (const int64_t tokens : options.tokens) {
      batches.push_back(random_batch(problem, tokens, tokens > 2048 ? 4 : options.routings));
      const double bytes = batches.back().experts_hit * expert_bytes;
      read_floor.push_back(
          cuda::time_cold_read(memory.get(), size, static_cast<size_t>(bytes), holder.stream));
      report.cold_reads.push_back({bytes, read_floor.back()});
    }
  }

  const RandomLayer random(options.layer, *options.threads);
  const ReferenceBackend reference_backend;
  const auto reference = reference_backend.prepare(
      random.copy(0), {.precision = options.precision, .threads = options.threads});
  for (const ExpertsBackend* backend : options.backends) {
    std::vector<std::unique_ptr<PreparedExperts>> copies;
    int64_t held = 0;
    while (copies.size() < 2 || held < options.rotation_bytes) {
      copies.push_back(backend->prepare(random.copy(static_cast<int>(copies.size())),
                                        {.precision = options.precision,
                                         .device = options.device,
                                         .threads = options.threads,
                                         .tuning = options.tuning}));
      held += copies.back()->weight_bytes();
    }
    for (size_t row_index = 0; row_index < options.tokens.size(); ++row_index) {
      const int64_t tokens = options.tokens[row_index];
      const TokenPhase phase =
          options.phases.empty() ? TokenPhase::kUnknown : options.phases[row_index];
      const int64_t decode_tokens = phase == TokenPhase::kDecode   ? tokens
                                    : phase == TokenPhase::kPrompt ? 0
                                                                   : -1;
      const Batch& batch = batches[row_index];
      const auto x = upload(batch.x);
      const auto ids = upload(batch.ids);
      const auto weights = upload(batch.weights);
      auto out = allocate_device<Bf16>(static_cast<int64_t>(batch.x.size()));
      const size_t workspace_bytes = copies[0]->workspace_size(tokens);
      auto workspace = allocate_device<std::byte>(static_cast<int64_t>(workspace_bytes));
      const int64_t pairs = tokens * problem.top_k;
      const auto routings = static_cast<int>(static_cast<int64_t>(batch.ids.size()) / pairs);
      const auto call = [&](int i) {
        copies[i % copies.size()]->apply({.num_tokens = tokens,
                                          .hidden_states = x.get(),
                                          .topk_ids = ids.get() + i % routings * pairs,
                                          .topk_weights = weights.get(),
                                          .output = out.get(),
                                          .num_decode_tokens = decode_tokens,
                                          .workspace = {workspace.get(), workspace_bytes},
                                          .stream = holder.stream});
      };
      MOE4_CUDA_CHECK(cudaMemset(out.get(), 0xff, batch.x.size() * sizeof(Bf16)));
      MOE4_CUDA_CHECK(cudaMemset(workspace.get(), 0xff, workspace_bytes));
      MOE4_CUDA_CHECK(cudaDeviceSynchronize());
      call(0);
      MOE4_CUDA_CHECK(cudaStreamSynchronize(holder.stream));
      std::vector<Bf16> result(batch.x.size());
      MOE4_CUDA_CHECK(
          cudaMemcpy(result.data(), out.get(), result.size() * 2, cudaMemcpyDeviceToHost));

      const int calls = calls_of_graph(cuda::TimedGraph(holder.stream, kFewestCalls, call));
      cuda::TimedGraph graph(holder.stream, calls, call);
      cuda::rest();
      const cuda::GraphTime time = graph.time(options.replays);
      const cuda::SustainedTime sustained = graph.time_sustained();
      GpuMoeBenchRow row{.shape = options.name,
                         .backend = std::string(backend->name()),
                         .activations = std::string(to_string(options.precision)),
                         .phase = phase,
                         .tokens = tokens,
                         .experts_hit = batch.experts_hit,
                         .bytes = batch.experts_hit * expert_bytes,
                         .microseconds = time.median,
                         .spread = time.spread,
                         .sm_mhz = time.sm_mhz,
                         .sustained = sustained.mean,
                         .sustained_sm_mhz = sustained.sm_mhz,
                         .calls = calls};
      const double flops = flops_a_pair(problem) * static_cast<double>(pairs);
      row.floor = std::max(read_floor[row_index], flops / peak.tflops * 1e-6);
      if (peak.sustained > 0) {
        row.sustained_floor = std::max(read_floor[row_index], flops / peak.sustained * 1e-6);
      }
      row.share_of_tflops = flops / row.microseconds * 1e-6 / peak.tflops;
      row.gigabytes_per_second = row.bytes / row.microseconds * 1e-3;
      row.tflops = flops / row.microseconds * 1e-6;
      row.share_of_bandwidth = read_floor[row_index] / row.microseconds;
      row.error = sampled_error(options, *reference, batch, tokens, result);
      report.rows.push_back(std::move(row));
    }
  }
  return report;
}

}  // namespace moe4
