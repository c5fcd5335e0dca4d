// Times one MoE layer in ggml, the peer that `moe4 bench-moe` is compared with; see README.md here.
//
// ggml_moe_layer TYPE HIDDEN INTERMEDIATE EXPERTS TOP_K TOKENS SECONDS: one JSON object. Same
// method as run_moe_bench(): uniform routing without repetition within a token, 96 MiB read between
// runs so that weights come from memory, every hardware thread. TYPE: nvfp4, or q4_0 (repacked,
// ggml's fastest 4-bit form on x86).
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

namespace {

struct Shape {
  int64_t hidden, intermediate, experts, top_k, tokens;
};

ggml_backend_buffer_type_t weight_buffers(ggml_type type) {
  if (type != GGML_TYPE_Q4_0) return ggml_backend_cpu_buffer_type();
  ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
  auto extra =
      reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(ggml_backend_reg_get_proc_address(
          ggml_backend_dev_backend_reg(cpu), "ggml_backend_dev_get_extra_bufts"));
  for (ggml_backend_buffer_type_t* b = extra ? extra(cpu) : nullptr; b && *b; ++b) {
    if (std::string(ggml_backend_buft_name(*b)) == "CPU_REPACK") return *b;
  }
  throw std::runtime_error("this ggml was built without CPU_REPACK");
}

// Random normal rows, quantised once and repeated for every expert: the kernels do not look at
// values.
void fill(ggml_tensor* experts, std::mt19937& random) {
  const int64_t columns = experts->ne[0], rows = experts->ne[1], count = experts->ne[2];
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<float> values(static_cast<size_t>(columns * rows));
  for (float& v : values) v = normal(random);
  std::vector<uint8_t> one(ggml_row_size(experts->type, columns) * rows);
  ggml_quantize_chunk(experts->type, values.data(), one.data(), 0, rows, columns, nullptr);
  std::vector<uint8_t> all(one.size() * count);
  for (int64_t e = 0; e < count; ++e)
    std::memcpy(all.data() + e * one.size(), one.data(), one.size());
  ggml_backend_tensor_set(experts, all.data(), 0, all.size());
}

std::vector<int32_t> route(const Shape& s, std::mt19937& random) {
  std::vector<int32_t> ids, deck(static_cast<size_t>(s.experts));
  std::iota(deck.begin(), deck.end(), 0);
  for (int64_t t = 0; t < s.tokens; ++t) {
    for (int64_t k = 0; k < s.top_k; ++k) {
      std::uniform_int_distribution<int64_t> pick(k, s.experts - 1);
      std::swap(deck[static_cast<size_t>(k)], deck[static_cast<size_t>(pick(random))]);
      ids.push_back(deck[static_cast<size_t>(k)]);
    }
  }
  return ids;
}

void run(ggml_type type, const char* type_name, const Shape& s, double seconds) {
  const int threads = static_cast<int>(std::thread::hardware_concurrency());
  ggml_backend_t backend = ggml_backend_cpu_init();
  ggml_backend_cpu_set_n_threads(backend, threads);
  ggml_threadpool_params params = ggml_threadpool_params_default(threads);
  ggml_backend_cpu_set_threadpool(backend, ggml_threadpool_new(&params));

  ggml_context* weights = ggml_init({ggml_tensor_overhead() * 4, nullptr, true});
  ggml_tensor* gate = ggml_new_tensor_3d(weights, type, s.hidden, s.intermediate, s.experts);
  ggml_tensor* up = ggml_new_tensor_3d(weights, type, s.hidden, s.intermediate, s.experts);
  ggml_tensor* down = ggml_new_tensor_3d(weights, type, s.intermediate, s.hidden, s.experts);
  if (!ggml_backend_alloc_ctx_tensors_from_buft(weights, weight_buffers(type)))
    throw std::runtime_error("no memory for the weights");
  std::mt19937 random(1);
  for (ggml_tensor* t : {gate, up, down}) fill(t, random);

  ggml_context* inputs = ggml_init({ggml_tensor_overhead() * 4, nullptr, true});
  ggml_tensor* x = ggml_new_tensor_3d(inputs, GGML_TYPE_F32, s.hidden, 1, s.tokens);
  ggml_tensor* ids = ggml_new_tensor_2d(inputs, GGML_TYPE_I32, s.top_k, s.tokens);
  ggml_tensor* topk_weights = ggml_new_tensor_3d(inputs, GGML_TYPE_F32, 1, s.top_k, s.tokens);
  ggml_backend_alloc_ctx_tensors(inputs, backend);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> values(static_cast<size_t>(s.hidden * s.tokens));
  for (float& v : values) v = normal(random);
  ggml_backend_tensor_set(x, values.data(), 0, ggml_nbytes(x));
  values.assign(static_cast<size_t>(s.top_k * s.tokens), 1.0f / static_cast<float>(s.top_k));
  ggml_backend_tensor_set(topk_weights, values.data(), 0, ggml_nbytes(topk_weights));

  ggml_context* nodes =
      ggml_init({ggml_tensor_overhead() * 256 + ggml_graph_overhead(), nullptr, true});
  ggml_tensor* act = ggml_swiglu_split(nodes, ggml_mul_mat_id(nodes, gate, x, ids),
                                       ggml_mul_mat_id(nodes, up, x, ids));
  ggml_tensor* y = ggml_mul(nodes, ggml_mul_mat_id(nodes, down, act, ids), topk_weights);
  ggml_tensor* sum = nullptr;
  for (int64_t k = 0; k < s.top_k; ++k) {
    ggml_tensor* slot =
        ggml_view_2d(nodes, y, s.hidden, s.tokens, y->nb[2], static_cast<size_t>(k) * y->nb[1]);
    sum = sum ? ggml_add(nodes, sum, slot) : slot;
  }
  ggml_cgraph* graph = ggml_new_graph(nodes);
  ggml_build_forward_expand(graph, sum);
  ggml_gallocr_t allocator = ggml_gallocr_new(ggml_backend_get_default_buffer_type(backend));
  if (!ggml_gallocr_alloc_graph(allocator, graph))
    throw std::runtime_error("no memory for the graph");

  std::vector<uint64_t> flush((size_t{96} << 20) / 8, 1);
  volatile uint64_t sink = 0;
  std::vector<double> ms;
  double used = 0;
  for (int i = 0; i < 6 || used < seconds * 1e3; ++i) {
    const std::vector<int32_t> routing = route(s, random);
    ggml_backend_tensor_set(ids, routing.data(), 0, ggml_nbytes(ids));
    sink = sink + std::accumulate(flush.begin(), flush.end(), uint64_t{0});
    const auto begin = std::chrono::steady_clock::now();
    if (ggml_backend_graph_compute(backend, graph) != GGML_STATUS_SUCCESS)
      throw std::runtime_error("compute failed");
    const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - begin;
    if (i > 0) ms.push_back(time.count());  // the first run pays for pages and clocks
    used += time.count();
  }
  std::sort(ms.begin(), ms.end());
  std::printf(
      "{\"peer\": \"ggml\", \"type\": \"%s\", \"tokens\": %lld, \"runs\": %zu, \"median_ms\": "
      "%.5f, \"min_ms\": %.5f}\n",
      type_name, static_cast<long long>(s.tokens), ms.size(), ms[ms.size() / 2], ms[0]);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc != 8)
      throw std::runtime_error("usage: ggml_moe_layer nvfp4|q4_0 H I E TOP_K TOKENS SECONDS");
    const std::string name = argv[1];
    if (name != "nvfp4" && name != "q4_0") throw std::runtime_error("unknown type " + name);
    const auto number = [&](int i) { return std::strtoll(argv[i], nullptr, 10); };
    run(name == "nvfp4" ? GGML_TYPE_NVFP4 : GGML_TYPE_Q4_0, argv[1],
        {number(2), number(3), number(4), number(5), number(6)}, std::strtod(argv[7], nullptr));
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
}
