// gpu_delta_net_bench CALLS [JSON]: times DeltaNet on GPU 0 with the heads of Qwen3.6-35B-A3B.
//
//   gpu_delta_net_bench 1d,32d,8192p delta_net.json
//
// CALLS: numbers of tokens, "32d" of as many sequences that generate, "8192p" of one prompt. A
// figure is the median of replays of a CUDA graph of dependent calls over states larger together
// than the L2; "in a step" is the same between the projections of a layer. The floor is a cold read
// of as many bytes as are read and written of states when sequences are at all places of the ring.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <numeric>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "between_linears.h"
#include "device/cuda/describe_device.h"
#include "device/cuda/device_buffer.h"
#include "device_rows.h"
#include "ops/delta_net/delta_net.h"
#include "ops/experts/bench/cold_read.h"
#include "ops/experts/bench/timed_graph.h"

namespace {

using namespace moe4;

constexpr DeltaNet::Problem kProblem{.num_key_heads = 16,
                                     .num_value_heads = 32,
                                     .key_dim = 128,
                                     .value_dim = 128,
                                     .conv_taps = 4,
                                     .ring = DeltaNet::kMaxRing};

struct Measured {
  std::string call;
  int64_t state_bytes = 0;
  double us = 0, spread = 0, floor_us = 0, in_step_us = 0;
};

Measured time_call(const Prepared<DeltaNet>& op, const std::string& call, cudaStream_t stream,
                   const OpOptions& options) {
  const Stream on{.device = options.device, .handle = stream};
  const int64_t tokens = std::stoll(call);
  const bool decodes = call.back() == 'd';
  const int64_t seqs = decodes ? tokens : 1, unit = cache_unit_bytes(kProblem.state());
  const int64_t copies = std::clamp<int64_t>((int64_t{200} << 20) / (seqs * unit), 2, 64);
  std::vector<int32_t> starts(static_cast<size_t>(seqs + 1)), slots(static_cast<size_t>(seqs));
  std::iota(starts.begin(), starts.end(), 0);
  std::iota(slots.begin(), slots.end(), 0);
  starts.back() = static_cast<int32_t>(tokens);
  const auto query_start = on_device(starts), slot = on_device(slots);
  std::vector<int32_t> lengths(static_cast<size_t>(seqs), static_cast<int32_t>(tokens));
  if (decodes) std::iota(lengths.begin(), lengths.end(), 1004);
  const auto context = on_device(lengths);
  const CacheTable table{.state = slot.get()};
  Batch batch{.num_tokens = tokens,
              .num_seqs = seqs,
              .num_decodes = decodes ? seqs : 0,
              .max_query = decodes ? 1 : tokens,
              .query_start = query_start.get(),
              .context_len = context.get(),
              .tables = {&table, 1}};
  const auto states = cuda::allocate_device<std::byte>(copies * seqs * unit);
  MOE4_CUDA_CHECK(cudaMemset(states.get(), 0, copies * seqs * unit));
  const DeviceRows qkv(tokens, kProblem.channels(), RowFormat::kBf16);
  const DeviceRows z(tokens, kProblem.values(), RowFormat::kBf16);
  const DeviceRows a(tokens, kProblem.num_value_heads, RowFormat::kF32);
  const DeviceRows b(tokens, kProblem.num_value_heads, RowFormat::kF32);
  const DeviceRows y(tokens, kProblem.values(), RowFormat::kBf16);
  DeltaNet::Args args{.qkv = qkv.rows,
                      .z = z.rows,
                      .a = a.rows,
                      .b = b.rows,
                      .batch = &batch,
                      .cache = {states.get(), unit, 0},
                      .y = y.rows};
  const size_t workspace_bytes = op.workspace_size(args);
  const auto memory = cuda::allocate_device<std::byte>(static_cast<int64_t>(workspace_bytes));
  const std::span<std::byte> workspace{memory.get(), workspace_bytes};
  const int calls = static_cast<int>(copies) * std::max(1, 24 / static_cast<int>(copies));
  const auto run = [&](int i) {
    args.cache.data = states.get() + i % copies * seqs * unit;
    op.run(args, workspace, on);
  };
  cuda::TimedGraph graph(stream, calls, run);
  const cuda::GraphTime time = graph.time(9);
  constexpr int64_t kHidden = 2048;
  const double in_step =
      decodes ? time_between(
                    ColdLinear(kHidden, kProblem.channels() + kProblem.values(), tokens, options),
                    ColdLinear(kProblem.values(), kHidden, tokens, options), calls, on, run)
              : 0;
  const int64_t memory_floats = kProblem.state().floats[1], inputs = kProblem.state().floats[0];
  const int64_t of_token = kProblem.ring_floats() / kProblem.ring;
  const int64_t floats = decodes ? 2 * inputs + memory_floats + memory_floats / kProblem.ring +
                                       (kProblem.ring + 1) * of_token / 2
                                 : inputs + memory_floats;
  return {call, seqs * floats * int64_t{sizeof(float)}, time.median, time.spread, 0, in_step};
}

int run(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "gpu_delta_net_bench CALLS [JSON]\n");
    return 2;
  }
  const Device device = cuda::describe_device(0);
  if (device.is_cpu()) throw Error(ErrorCode::kUnavailable, "no NVIDIA GPU");
  cudaStream_t stream = nullptr;
  MOE4_CUDA_CHECK(cudaStreamCreate(&stream));
  ThreadPool threads;
  std::vector<float> conv(static_cast<size_t>(kProblem.channels() * kProblem.conv_taps), 0.25f);
  std::vector<float> heads(static_cast<size_t>(kProblem.num_value_heads), 0.5f);
  std::vector<float> norm(static_cast<size_t>(kProblem.value_dim), 1.0f);
  const auto tensor = [](const std::vector<float>& values) -> TensorRef {
    return {"weight",
            {.data = values.data(),
             .dtype = DType::kF32,
             .shape = {static_cast<int64_t>(values.size())}}};
  };
  const OpOptions options{.device = device, .threads = &threads};
  const auto op = prepare<DeltaNet>(
      kProblem, {tensor(conv), tensor(heads), tensor(heads), tensor(norm)}, options);
  constexpr int64_t kReadMemory = int64_t{2} << 30;
  const auto memory = cuda::allocate_device<std::byte>(kReadMemory);
  std::string json;
  std::printf(
      "| call | us | spread | in a step us | floor us | TB/s of states |\n"
      "|---|---|---|---|---|---|\n");
  std::istringstream calls(argv[1]);
  for (std::string call; std::getline(calls, call, ',');) {
    Measured m = time_call(*op, call, stream, options);
    m.floor_us =
        cuda::time_cold_read(memory.get(), kReadMemory, static_cast<size_t>(m.state_bytes), stream);
    std::printf("| %s | %.2f | %.3f | %.2f | %.2f | %.2f |\n", call.c_str(), m.us, m.spread,
                m.in_step_us, m.floor_us, static_cast<double>(m.state_bytes) / m.us * 1e-6);
    std::fflush(stdout);
    json += fmt::format(
        "{}{{\"call\": \"{}\", \"us\": {:.3f}, \"spread\": {:.4f}, \"in_step_us\": {:.3f}, "
        "\"floor_us\": {:.3f}, "
        "\"state_bytes\": {}}}",
        json.empty() ? "" : ",\n  ", call, m.us, m.spread, m.in_step_us, m.floor_us, m.state_bytes);
  }
  if (argc > 2) std::ofstream(argv[2]) << "[\n  " << json << "\n]\n";
  cudaStreamDestroy(stream);
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
