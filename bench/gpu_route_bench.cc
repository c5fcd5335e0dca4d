// gpu_route_bench SHAPES CALLS [JSON]: times the norm, the router and the choice of experts of
// generated tokens behind o_proj on GPU 0, as three launches and as one.
//
//   gpu_route_bench qwen3.6,gpt-oss 1,8,32,128 route.json
//
// A figure is the median of replays of a CUDA graph of dependent calls over copies of the weights,
// less that of o_proj alone. Results of both ways are compared bit for bit.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "device/cuda/describe_device.h"
#include "device_rows.h"
#include "ops/experts/bench/timed_graph.h"
#include "ops/norm_route/norm_route.h"

namespace {

using namespace moe4;

struct Shape {
  std::string_view name;
  int64_t width, experts, top_k;
  bool shared;
};
constexpr Shape kShapes[] = {{"qwen3.6", 2048, 256, 8, true},
                             {"qwen3", 2048, 128, 8, false},
                             {"gpt-oss", 2880, 128, 4, false},
                             {"512-experts", 2048, 512, 10, true},
                             {"4096-wide", 4096, 256, 8, false}};
constexpr QuantScheme kFp8{{QuantFormat::kFp8Tensor, false}, std::nullopt};

uint64_t state = 1;
uint32_t random_bits() {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<uint32_t>(state >> 33);
}
float random_normal() {
  float sum = 0;
  for (int i = 0; i < 4; ++i) sum += static_cast<float>(random_bits()) * 0x1p-31f - 0.5f;
  return sum * 1.7f;
}
uint16_t bf16_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return static_cast<uint16_t>(bits >> 16);
}

struct Bench {
  const Shape& shape;
  OpOptions options;
  Stream stream;
  cudaStream_t handle;

  std::vector<std::vector<uint16_t>> storage;
  std::vector<uint8_t> fp8;
  std::vector<std::unique_ptr<Prepared<LinearGroup>>> routers, o_projs;
  std::unique_ptr<Prepared<AddNorm>> norm;
  std::unique_ptr<Prepared<Route>> route;
  std::vector<std::unique_ptr<Prepared<NormRoute>>> composed, chosen;
  std::string chosen_name;
  NormRoute::Problem problem;

  LinearWeights bf16_linear(int64_t rows) {
    storage.emplace_back(static_cast<size_t>(rows * shape.width));
    for (uint16_t& w : storage.back()) w = bf16_of(random_normal() * 0.05f);
    return {.name = "router",
            .out_features = rows,
            .in_features = shape.width,
            .scheme = kUnquantized,
            .weight = {storage.back().data(), DType::kBF16, {rows, shape.width}}};
  }

  void prepare_all() {
    constexpr int kCopies = 32, kProjections = 8;
    LinearGroup::Weights weights;
    weights.members.push_back(bf16_linear(shape.experts));
    if (shape.shared) weights.members.push_back(bf16_linear(1));
    const std::vector<LinearOptions> plain(weights.members.size());
    problem = {.norm = {.width = shape.width, .norm = {.has_weight = false}},
               .router = LinearGroup::problem_of(weights, plain),
               .bf16_router = true,
               .route = {.num_experts = shape.experts,
                         .top_k = shape.top_k,
                         .shared_experts = shape.shared ? 1 : 0,
                         .shared_gate = shape.shared}};
    norm = prepare<AddNorm>(problem.norm, {}, options);
    route = prepare<Route>(problem.route, {}, options);
    const auto selection = select<NormRoute>(problem, options.device);
    chosen_name = selection.implementation->name();
    const Implementation<NormRoute>* three = nullptr;
    for (const auto* i : implementations<NormRoute>()) {
      if (i->name() == "composed") three = i;
    }
    for (int i = 0; i < kCopies; ++i) {
      routers.push_back(prepare<LinearGroup>(problem.router, weights, options));
      const NormRoute::Weights parts{norm.get(), routers.back().get(), route.get()};
      composed.push_back(three->prepare(problem, parts, options));
      chosen.push_back(selection.implementation->prepare(problem, parts, options));
    }
    fp8.assign(static_cast<size_t>(shape.width * 4096), 0);
    for (uint8_t& b : fp8) b = static_cast<uint8_t>(random_bits()) & 0xb7;
    LinearGroup::Weights o{{{.name = "o_proj",
                             .out_features = shape.width,
                             .in_features = 4096,
                             .scheme = kFp8,
                             .weight = {fp8.data(), DType::kF8E4M3, {shape.width, 4096}}}}};
    for (int i = 0; i < kProjections; ++i) {
      o_projs.push_back(prepare<LinearGroup>(
          LinearGroup::problem_of(o, std::vector<LinearOptions>(1)), o, options));
    }
  }

  struct Measured {
    double alone, three, one;
    bool same;
  };

  Measured time(int64_t tokens) {
    const int64_t slots = problem.route.num_slots();
    DeviceRows residual(tokens, shape.width, RowFormat::kF32);
    DeviceRows delta(tokens, shape.width, RowFormat::kBf16);
    DeviceRows y(tokens, shape.width, RowFormat::kBf16);
    DeviceRows heads(tokens, 4096, RowFormat::kBf16);
    MOE4_CUDA_CHECK(cudaMemset(heads.memory.get(), 0, static_cast<size_t>(tokens * 4096 * 2)));
    auto ids = cuda::allocate_device<int32_t>(tokens * slots);
    auto weights = cuda::allocate_device<float>(tokens * slots);
    const NormRoute::Args args{.residual = residual.rows,
                               .delta = delta.rows,
                               .y = y.rows,
                               .topk_ids = ids.get(),
                               .topk_weights = weights.get(),
                               .num_decode_tokens = tokens};
    const LinearGroup::Args o_args{
        .x = heads.rows, .y = {&delta.rows, 1}, .num_decode_tokens = tokens};
    const size_t bytes =
        std::max(composed[0]->workspace_size(args), o_projs[0]->workspace_size(o_args));
    auto memory = cuda::allocate_device<std::byte>(static_cast<int64_t>(bytes));
    const std::span<std::byte> workspace{memory.get(), bytes};

    // Bits.
    std::vector<float> start(static_cast<size_t>(tokens * shape.width));
    for (float& x : start) x = random_normal();
    std::vector<uint16_t> add(start.size());
    for (uint16_t& x : add) x = bf16_of(random_normal());
    const auto results = [&](const Prepared<NormRoute>& op) {
      MOE4_CUDA_CHECK(cudaMemcpy(residual.memory.get(), start.data(), start.size() * 4,
                                 cudaMemcpyHostToDevice));
      MOE4_CUDA_CHECK(
          cudaMemcpy(delta.memory.get(), add.data(), add.size() * 2, cudaMemcpyHostToDevice));
      MOE4_CUDA_CHECK(cudaMemset(y.memory.get(), 0xff, add.size() * 2));
      MOE4_CUDA_CHECK(cudaDeviceSynchronize());
      op.run(args, workspace, stream);
      MOE4_CUDA_CHECK(cudaStreamSynchronize(handle));
      std::vector<std::byte> all(start.size() * 6 + static_cast<size_t>(tokens * slots) * 8);
      std::byte* at = all.data();
      const auto take = [&](const void* from, size_t size) {
        MOE4_CUDA_CHECK(cudaMemcpy(at, from, size, cudaMemcpyDeviceToHost));
        at += size;
      };
      take(residual.memory.get(), start.size() * 4);
      take(y.memory.get(), start.size() * 2);
      take(ids.get(), static_cast<size_t>(tokens * slots) * 4);
      take(weights.get(), static_cast<size_t>(tokens * slots) * 4);
      return all;
    };
    Measured m{};
    m.same = true;
    for (int i = 0; i < 3; ++i) m.same = m.same && results(*composed[0]) == results(*chosen[0]);

    const int calls = 64;
    const auto timed = [&](const std::vector<std::unique_ptr<Prepared<NormRoute>>>* ops) {
      cuda::TimedGraph graph(handle, calls, [&](int i) {
        o_projs[i % o_projs.size()]->run(o_args, workspace, stream);
        if (ops != nullptr) (*ops)[i % ops->size()]->run(args, workspace, stream);
      });
      return graph.time(15).median;
    };
    m.alone = timed(nullptr);
    m.three = timed(&composed);
    m.one = timed(&chosen);
    return m;
  }
};

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

int run(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "gpu_route_bench SHAPES CALLS [JSON]\n");
    return 2;
  }
  const Device device = cuda::describe_device(0);
  if (device.is_cpu()) throw Error(ErrorCode::kUnavailable, "no NVIDIA GPU");
  ThreadPool threads;
  cudaStream_t handle = nullptr;
  MOE4_CUDA_CHECK(cudaStreamCreate(&handle));
  std::string json;
  std::printf(
      "| shape | tokens | o_proj us | three launches | one | by | same bits |\n"
      "|---|---|---|---|---|---|---|\n");
  const std::vector<std::string> calls = split(argv[2]);
  for (const std::string& name : split(argv[1])) {
    const auto* found = std::find_if(std::begin(kShapes), std::end(kShapes),
                                     [&](const Shape& s) { return s.name == name; });
    if (found == std::end(kShapes)) throw Error(ErrorCode::kUsage, "unknown shape '" + name + "'");
    const Shape& shape = *found;
    Bench bench{.shape = shape,
                .options = {.device = device, .threads = &threads},
                .stream = {.device = device, .handle = handle},
                .handle = handle};
    bench.prepare_all();
    for (const std::string& call : calls) {
      const int64_t tokens = std::stoll(call);
      const Bench::Measured m = bench.time(tokens);
      std::printf("| %s | %lld | %.2f | %.2f | %.2f | %s | %s |\n", name.c_str(),
                  static_cast<long long>(tokens), m.alone, m.three - m.alone, m.one - m.alone,
                  bench.chosen_name.c_str(), m.same ? "yes" : "NO");
      std::fflush(stdout);
      json += fmt::format(
          "{}{{\"shape\": \"{}\", \"tokens\": {}, \"o_proj_us\": {:.3f}, \"three_us\": {:.3f}, "
          "\"one_us\": {:.3f}}}",
          json.empty() ? "" : ",\n  ", name, tokens, m.alone, m.three - m.alone, m.one - m.alone);
    }
  }
  if (argc > 3) std::ofstream(argv[3]) << "[\n  " << json << "\n]\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const moe4::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
}
