// Random layers, timed and checked.
#include "bench/moe_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/aligned_buffer.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "numerics/bf16.h"
#include "numerics/e4m3.h"
#include "numerics/e8m0.h"
#include "ops/experts/reference/reference_backend.h"

namespace moe4 {
namespace {

uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() { return mix(state_ += 0x9e3779b97f4a7c15u); }
  int64_t below(int64_t n) { return static_cast<int64_t>(next() % static_cast<uint64_t>(n)); }
  // Sum of twelve uniforms: close enough to normal for data.
  float normal() {
    float sum = -6.0f;
    for (int i = 0; i < 12; ++i) sum += static_cast<float>(next() >> 40) * 0x1p-24f;
    return sum;
  }

 private:
  uint64_t state_;
};

// Codes are uniform over the 16 nibbles, NVFP4's scales over 64 .. 448 in E4M3 steps and MXFP4's
// over two powers of two; scales give outputs of FC1 about unit variance.
class RandomLayer {
 public:
  RandomLayer(const MoePreset& preset, uint64_t seed, ThreadPool& threads)
      : is_mxfp4_(preset.scheme.is_mxfp4()) {
    const MoeProblem& problem = preset.problem;
    const int64_t h = problem.hidden_size, i = problem.intermediate_size;
    const int64_t block = fp4_block(preset.scheme.weight.format);
    const int64_t linears = problem.activation.is_gated() ? 3 : 2;
    code_bytes_ = h * i / 2;
    linear_bytes_ = code_bytes_ + h * i / block;
    buffer_ = AlignedBuffer(static_cast<size_t>(problem.num_experts * linears * linear_bytes_));
    threads.parallel_for(problem.num_experts * linears, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t l = begin; l < end; ++l) fill(l, h, seed);
    });
    if (preset.has_bias) {
      Random random(seed);
      bias_.resize(static_cast<size_t>(std::max(h, i)));
      for (Bf16& b : bias_) b = to_bf16(0.1f * random.normal());
    }
    weights_.problem = problem;
    weights_.scheme = preset.scheme;
    int64_t next = 0;
    for (int64_t e = 0; e < problem.num_experts; ++e) {
      const auto linear = [&](const char* name, int64_t n, int64_t k) {
        LinearWeights w;
        w.name = fmt::format("experts.{}.{}", e, name);
        w.out_features = n;
        w.in_features = k;
        w.scheme = preset.scheme;
        const std::byte* at = buffer_.data() + next++ * linear_bytes_;
        w.weight = {.data = at, .dtype = DType::kU8, .shape = {n, k / 2}};
        w.scale = {.data = at + code_bytes_,
                   .dtype = is_mxfp4_ ? DType::kU8 : DType::kF8E4M3,
                   .shape = {n, k / block}};
        // 2.93 and 207: root mean squares of the codes' values and of the scales.
        if (!is_mxfp4_) {
          w.global_scale.value = 1.0f / (2.93f * 207.0f * std::sqrt(static_cast<float>(k)));
        }
        if (preset.has_bias) w.bias = {.data = bias_.data(), .dtype = DType::kBF16, .shape = {n}};
        return w;
      };
      ExpertWeights expert;
      if (problem.activation.is_gated()) expert.gate = linear("gate_proj", i, h);
      expert.up = linear("up_proj", i, h);
      expert.down = linear("down_proj", h, i);
      weights_.experts.push_back(std::move(expert));
    }
  }
  const MoeLayerWeights& weights() const { return weights_; }
  int64_t bytes() const { return static_cast<int64_t>(buffer_.size()); }

 private:
  void fill(int64_t linear, int64_t hidden, uint64_t seed) {
    Random random(mix(seed) + static_cast<uint64_t>(linear) * 0x51ed270b7a14f3u);
    std::byte* at = buffer_.data() + linear * linear_bytes_;
    for (int64_t b = 0; b < linear_bytes_; b += 8) {
      const uint64_t bits = random.next();
      std::memcpy(at + b, &bits, static_cast<size_t>(std::min<int64_t>(8, linear_bytes_ - b)));
    }
    const int power = kE8m0Bias - std::ilogb(2.93 * std::sqrt(static_cast<double>(hidden)));
    for (int64_t b = code_bytes_; b < linear_bytes_; ++b) {
      const int bits = static_cast<int>(at[b]);
      at[b] = static_cast<std::byte>(is_mxfp4_ ? power - bits % 2 : 0x68 + bits % 23);
    }
  }

  const bool is_mxfp4_;
  int64_t code_bytes_ = 0, linear_bytes_ = 0;
  AlignedBuffer buffer_;
  std::vector<Bf16> bias_;  // of every linear, its first values
  MoeLayerWeights weights_;
};

// Experts without repetition within a token. One token's experts come from a shuffled deck, so that
// none repeats before all have been used.
class Router {
 public:
  Router(const MoeProblem& problem, uint64_t seed) : problem_(problem), random_(seed) {
    deck_.resize(problem.num_experts);
    std::iota(deck_.begin(), deck_.end(), 0);
    shuffle(problem.num_experts);
  }
  void route(int64_t tokens, std::vector<int32_t>& ids) {
    ids.resize(tokens * problem_.top_k);
    for (int64_t t = 0; t < tokens; ++t) {
      if (tokens == 1) {
        if (used_ + problem_.top_k > problem_.num_experts) {
          shuffle(problem_.num_experts);
          used_ = 0;
        }
        std::copy_n(deck_.begin() + used_, problem_.top_k, ids.begin());
        used_ += problem_.top_k;
      } else {
        shuffle(problem_.top_k);
        std::copy_n(deck_.begin(), problem_.top_k, ids.begin() + t * problem_.top_k);
      }
    }
  }

 private:
  void shuffle(int64_t first) {
    for (int64_t i = 0; i < first; ++i) {
      std::swap(deck_[i], deck_[i + random_.below(problem_.num_experts - i)]);
    }
  }
  const MoeProblem& problem_;
  Random random_;
  std::vector<int32_t> deck_;
  int64_t used_ = 0;
};

struct Inputs {
  std::vector<Bf16> x;
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

Inputs make_inputs(const MoeProblem& p, int64_t tokens, uint64_t seed) {
  Inputs in;
  Random random(seed);
  in.x.resize(tokens * p.hidden_size);
  for (Bf16& v : in.x) v = to_bf16(random.normal());
  in.weights.assign(tokens * p.top_k, 1.0f / static_cast<float>(p.top_k));
  Router(p, seed + 1).route(tokens, in.ids);
  return in;
}

int64_t count_distinct(std::vector<int32_t> ids) {
  std::sort(ids.begin(), ids.end());
  return std::unique(ids.begin(), ids.end()) - ids.begin();
}

std::vector<float> apply_once(const PreparedExperts& layer, const Inputs& in, int64_t tokens,
                              int64_t hidden) {
  AlignedBuffer workspace(layer.workspace_size(tokens));
  std::vector<float> out(tokens * hidden);
  layer.apply({.num_tokens = tokens,
               .hidden_states = in.x.data(),
               .topk_ids = in.ids.data(),
               .topk_weights = in.weights.data(),
               .output = out.data(),
               .output_dtype = DType::kF32,
               .workspace = {workspace.data(), workspace.size()}});
  return out;
}

// The reference holds only the experts that the sample uses.
double relative_error(const PreparedExperts& layer, const MoeLayerWeights& weights,
                      ActivationPrecision precision, ThreadPool& threads) {
  const MoeProblem& p = weights.problem;
  const int64_t tokens = p.hidden_size > 4096 ? 1 : 2;
  const Inputs in = make_inputs(p, tokens, 77);
  MoeLayerWeights used{.problem = p, .scheme = weights.scheme};
  used.expert_map.assign(p.num_experts, -1);
  for (const int32_t id : in.ids) {
    if (used.expert_map[id] >= 0) continue;
    used.expert_map[id] = static_cast<int32_t>(used.experts.size());
    used.experts.push_back(weights.experts[id]);
  }
  used.problem.num_local_experts = static_cast<int64_t>(used.experts.size());
  const auto reference =
      ReferenceBackend().prepare(used, {.precision = precision, .threads = &threads});
  const std::vector<float> expected = apply_once(*reference, in, tokens, p.hidden_size);
  const std::vector<float> y = apply_once(layer, in, tokens, p.hidden_size);
  double diff = 0, total = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    diff += (static_cast<double>(y[i]) - expected[i]) * (static_cast<double>(y[i]) - expected[i]);
    total += static_cast<double>(expected[i]) * expected[i];
  }
  return std::sqrt(diff / total);
}

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void time_row(const PreparedExperts& layer, const MoeProblem& p, const MoeBenchOptions& options,
              ThreadPool& threads, MoeBenchRow& row) {
  constexpr int64_t kFlushBytes = int64_t{96} << 20;
  static AlignedBuffer flush(kFlushBytes);
  Inputs in = make_inputs(p, row.tokens, options.seed);
  Router router(p, options.seed + 2);
  AlignedBuffer workspace(layer.workspace_size(row.tokens));
  std::vector<Bf16> out(row.tokens * p.hidden_size);
  std::vector<double> times;
  double hit = 0;
  const double deadline = seconds_now() + options.seconds_per_row;
  // The first two runs touch the workspace and wake the threads.
  for (int run = -2; run < 5 || (seconds_now() < deadline && run < 2000); ++run) {
    router.route(row.tokens, in.ids);
    if (options.cold) {
      threads.parallel_for(kFlushBytes, kFlushBytes / 8, [&](int64_t begin, int64_t end, int) {
        volatile uint64_t sink = 0;
        uint64_t sum = 0;
        for (int64_t i = begin; i < end; i += 64) sum += static_cast<uint64_t>(flush.data()[i]);
        sink = sum;
        (void)sink;
      });
    }
    // Whoever finished early may sleep by now; a layer of a decode step finds all threads awake.
    threads.run_on_all([](int) {});
    const double start = seconds_now();
    layer.apply({.num_tokens = row.tokens,
                 .hidden_states = in.x.data(),
                 .topk_ids = in.ids.data(),
                 .topk_weights = in.weights.data(),
                 .output = out.data(),
                 .workspace = {workspace.data(), workspace.size()}});
    const double seconds = seconds_now() - start;
    if (run < 0) continue;
    times.push_back(seconds);
    hit += static_cast<double>(count_distinct(in.ids));
  }
  row.runs = static_cast<int>(times.size());
  row.experts_hit = hit / row.runs;
  std::sort(times.begin(), times.end());
  row.min_ms = times.front() * 1e3;
  row.median_ms = times[times.size() / 2] * 1e3;
}

void fill_rates(const MoeBenchResult& result, MoeBenchRow& row) {
  const MoeProblem& p = result.preset.problem;
  const Ceilings& c = result.ceilings;
  const double bytes = row.experts_hit * static_cast<double>(result.weight_bytes) /
                       static_cast<double>(p.num_experts);
  const double operations = (p.activation.is_gated() ? 6.0 : 4.0) *
                            static_cast<double>(row.tokens * p.top_k) *
                            static_cast<double>(p.hidden_size * p.intermediate_size);
  const bool fp4 = row.precision != ActivationPrecision::kBf16;
  row.weight_gbs = bytes / row.median_ms * 1e-6;
  row.gops = operations / row.median_ms * 1e-6;
  const double dram_ms = bytes / row.dram_read_gbs * 1e-6;
  const double peak = fp4 ? c.int8_gops : c.int16_gops;
  const double per_expert = static_cast<double>(row.tokens * p.top_k) / row.experts_hit;
  row.roof1_ms = std::max(dram_ms, peak > 0 ? operations / peak * 1e-6 : 0.0);
  row.roof2_ms = std::max(dram_ms, operations / c.tile_gops(per_expert, fp4) * 1e-6);
}

Ceilings better(const Ceilings& a, Ceilings b) {
  const auto take = [](double& x, double y) { x = std::max(x, y); };
  take(b.dram_read_gbs, a.dram_read_gbs);
  take(b.int8_gops, a.int8_gops);
  take(b.int16_gops, a.int16_gops);
  take(b.bf16_gops, a.bf16_gops);
  take(b.fma_gops, a.fma_gops);
  for (size_t i = 0; i < b.tiles.size(); ++i) {
    take(b.tiles[i].fp4_gops, a.tiles[i].fp4_gops);
    take(b.tiles[i].int16_gops, a.tiles[i].int16_gops);
  }
  return b;
}

}  // namespace

MoeBenchResult run_moe_bench(const MoePreset& preset, const MoeBenchOptions& options,
                             ThreadPool& threads) {
  const RandomLayer layer(preset, options.seed, threads);
  MoeBenchResult result{.preset = preset, .ceilings = measure_ceilings(threads)};
  result.weight_bytes = layer.bytes();
  DramProbe dram(threads);
  for (const ExpertsBackend* backend : options.backends) {
    for (const ActivationPrecision precision : options.precisions) {
      MoeBenchRow row{.backend = std::string(backend->name()), .precision = precision};
      const ExpertsQuery query{.problem = preset.problem,
                               .scheme = preset.scheme,
                               .precision = precision,
                               .device = Device::cpu()};
      Support verdict = backend->supports(query);
      if (!verdict) verdict = backend->runnable(Device::cpu());
      if (verdict) {
        row.rejection = verdict->message;
        result.rows.push_back(row);
        continue;
      }
      const auto prepared = backend->prepare(
          layer.weights(), {.precision = precision, .device = Device::cpu(), .threads = &threads});
      row.relative_error = relative_error(*prepared, layer.weights(), precision, threads);
      for (const int64_t tokens : options.tokens) {
        row.tokens = tokens;
        // Memory of a shared machine changes its speed now and then: a row that saw it change is
        // timed again, since no ceiling is right for it.
        for (int attempt = 0; attempt < 4; ++attempt) {
          const double before = dram.measure();
          time_row(*prepared, preset.problem, options, threads, row);
          const double after = dram.measure();
          row.dram_read_gbs = 0.5 * (before + after);
          if (std::max(before, after) < 1.15 * std::min(before, after)) break;
        }
        result.rows.push_back(row);
      }
    }
  }
  result.ceilings = better(result.ceilings, measure_ceilings(threads));
  for (MoeBenchRow& row : result.rows) {
    if (row.rejection.empty()) fill_rates(result, row);
  }
  return result;
}

std::string to_json(const MoeBenchResult& result) {
  const MoeProblem& p = result.preset.problem;
  std::string rows;
  for (const MoeBenchRow& r : result.rows) {
    rows += rows.empty() ? "\n  " : ",\n  ";
    if (!r.rejection.empty()) {
      rows += fmt::format(R"({{"backend": "{}", "activations": "{}", "rejected": "{}"}})",
                          r.backend, to_string(r.precision), r.rejection);
      continue;
    }
    rows += fmt::format(
        R"({{"backend": "{}", "activations": "{}", "tokens": {}, "runs": {}, "experts_hit": {:.1f}, )"
        R"("median_ms": {:.5f}, "min_ms": {:.5f}, "weight_gbs": {:.2f}, "dram_read_gbs": {:.2f}, "gops": {:.1f}, )"
        R"("roof1_ms": {:.5f}, "roof2_ms": {:.5f}, "median_over_roof2": {:.3f}, )"
        R"("min_over_roof2": {:.3f}, "relative_error": {:.3e}}})",
        r.backend, to_string(r.precision), r.tokens, r.runs, r.experts_hit, r.median_ms, r.min_ms,
        r.weight_gbs, r.dram_read_gbs, r.gops, r.roof1_ms, r.roof2_ms, r.median_ms / r.roof2_ms,
        r.min_ms / r.roof2_ms, r.relative_error);
  }
  return fmt::format(
      R"({{"preset": "{}", "hidden_size": {}, "intermediate_size": {}, "num_experts": {}, "top_k": {},)"
      "\n"
      R"( "weight_bytes": {}, "ceilings": {},)"
      "\n"
      R"( "rows": [{}]}})",
      result.preset.title(), p.hidden_size, p.intermediate_size, p.num_experts, p.top_k,
      result.weight_bytes, to_json(result.ceilings), rows);
}

std::string to_markdown(const MoeBenchResult& result) {
  std::string text =
      "| backend | activations | tokens | experts | median ms | min ms | GB/s | GOP/s | "
      "read share | median / roof 2 | error |\n|---|---|---|---|---|---|---|---|---|---|---|\n";
  for (const MoeBenchRow& r : result.rows) {
    if (!r.rejection.empty()) {
      text += fmt::format("| {} | {} | not run, since {} | | | | | | | | |\n", r.backend,
                          to_string(r.precision), r.rejection);
      continue;
    }
    text += fmt::format(
        "| {} | {} | {} | {:.0f} | {:.3f} | {:.3f} | {:.1f} | {:.0f} | {:.0f} % | {:.2f} | {:.1e} "
        "|\n",
        r.backend, to_string(r.precision), r.tokens, r.experts_hit, r.median_ms, r.min_ms,
        r.weight_gbs, r.gops, 100 * r.weight_gbs / r.dram_read_gbs, r.median_ms / r.roof2_ms,
        r.relative_error);
  }
  return text;
}

}  // namespace moe4
