// Float64 experts: y[t] = sum over slots of weight * W2 act(W1 x, W3 x), one dot product at a time.
#include "ops/experts/reference/reference_backend.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/checked_math.h"
#include "moe/activation_quant.h"
#include "moe/dequantize.h"
#include "moe/expert_map.h"
#include "moe/mxfp4_exponents.h"
#include "moe/support_checks.h"
#include "numerics/bf16.h"

namespace moe4 {
namespace {

// Pairs (token, slot) worked on together; bounds the workspace whatever T and top_k are.
constexpr int64_t kMaxPairs = 512;

// Eight accumulators in a fixed order: the compiler may vectorise, the result never changes.
double dot(const float* a, const float* b, int64_t n) {
  double sum[8] = {};
  int64_t k = 0;
  for (; k + 8 <= n; k += 8) {
    for (int i = 0; i < 8; ++i)
      sum[i] += static_cast<double>(a[k + i]) * static_cast<double>(b[k + i]);
  }
  for (; k < n; ++k) sum[k % 8] += static_cast<double>(a[k]) * static_cast<double>(b[k]);
  return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

// Rewrites a row as the layer's activation key and precision say.
void quantize_input(const LinearWeights& linear, ActivationPrecision precision, const float* in,
                    int64_t n, float* out) {
  switch (precision) {
    case ActivationPrecision::kBf16:
      std::copy(in, in + n, out);
      return;
    case ActivationPrecision::kFp4:
      fake_quantize_nvfp4(in, n, DecodeScale{1.0f}, out);
      return;
    case ActivationPrecision::kFp4Static:
      fake_quantize_nvfp4(in, n, *linear.input_scale, out);
      return;
    case ActivationPrecision::kFp8:
      if (!linear.scheme.activation->dynamic) {
        fake_quantize_fp8_static(in, n, *linear.input_scale, out);
      } else {
        const bool block = linear.scheme.activation->format == QuantFormat::kFp8Block128;
        fake_quantize_fp8_dynamic(in, n, block ? 128 : n, out);
      }
      return;
  }
}

bool needs_input_scale(const LinearWeights& linear, ActivationPrecision precision) {
  return precision == ActivationPrecision::kFp4Static ||
         (precision == ActivationPrecision::kFp8 && !linear.scheme.activation->dynamic);
}

class PreparedReference final : public PreparedExperts {
 public:
  PreparedReference(const MoeLayerWeights& weights, const PrepareOptions& options)
      : problem_(weights.problem),
        expert_map_(weights.expert_map),
        precision_(options.precision),
        threads_(options.threads) {
    MOE4_CHECK(threads_ != nullptr);
    experts_.reserve(weights.experts.size());
    for (const ExpertWeights& expert : weights.experts) {
      ExpertWeights own = expert;
      if (own.gate) copy(*own.gate);
      copy(own.up);
      copy(own.down);
      experts_.push_back(std::move(own));
    }
  }

  bool accepts_float32() const override { return true; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return weight_bytes_; }

  size_t workspace_size(int64_t) const override { return layout().total; }

  void apply(const ExpertsArgs& args) const override {
    if (args.workspace.size() < layout().total) {
      throw Error(ErrorCode::kUsage, "reference: workspace of " +
                                         std::to_string(args.workspace.size()) + " bytes, needs " +
                                         std::to_string(layout().total));
    }
    const int64_t chunk = std::max<int64_t>(1, kMaxPairs / problem_.top_k);
    for (int64_t begin = 0; begin < args.num_tokens; begin += chunk) {
      apply_chunk(args, begin, std::min(begin + chunk, args.num_tokens));
    }
  }

 private:
  // Byte offsets into the workspace.
  struct Layout {
    size_t x, gate_in, up_in, act, down_in, y, row, pairs, total;
  };

  int64_t max_pairs() const {
    return std::max(problem_.top_k, kMaxPairs / problem_.top_k * problem_.top_k);
  }

  Layout layout() const {
    const int64_t pairs = max_pairs(), hidden = problem_.hidden_size,
                  width = problem_.intermediate_size;
    Layout at{};
    size_t next = 0;
    const auto take = [&next](int64_t bytes) {
      const size_t begin = next;
      next += static_cast<size_t>(round_up(bytes, 64));
      return begin;
    };
    at.x = take(pairs * hidden * sizeof(float));
    at.gate_in = take(pairs * hidden * sizeof(float));
    at.up_in = take(pairs * hidden * sizeof(float));
    at.act = take(pairs * width * sizeof(float));
    at.down_in = take(pairs * width * sizeof(float));
    at.y = take(pairs * hidden * sizeof(double));
    at.row = take(threads_->size() * 2 * round_up(std::max(hidden, width), 16) * sizeof(float));
    at.pairs = take(pairs * sizeof(int32_t));
    at.total = next;
    return at;
  }

  void copy_view(TensorView& view, int64_t bytes_per_row) {
    if (view.empty()) return;
    const int64_t rows = view.shape.empty() ? 1 : view.shape[0];
    storage_.emplace_back(static_cast<size_t>(rows * bytes_per_row));
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(storage_.back().data() + r * bytes_per_row, view.row(r), bytes_per_row);
    }
    view.data = storage_.back().data();
    view.row_stride = 0;
    weight_bytes_ += rows * bytes_per_row;
  }

  void copy(LinearWeights& linear) {
    // For what it refuses: float64 has room for every exponent.
    if (linear.scheme.is_mxfp4()) mxfp4_exponent_shift(linear, {0, 254, 0}, "reference");
    if (needs_input_scale(linear, precision_) && !linear.input_scale) {
      throw_bad_input({.what = "static activation quantisation needs a calibrated input scale",
                       .tensor = linear.name + ".input_scale",
                       .expected = "a scalar in the checkpoint",
                       .found = "none",
                       .hint = "use --activations fp4 (dynamic) or bf16"});
    }
    for (TensorView* view : {&linear.weight, &linear.scale, &linear.bias}) {
      if (view->empty()) continue;
      const int64_t rows = view->shape.empty() ? 1 : view->shape[0];
      copy_view(*view, view->num_bytes() / std::max<int64_t>(rows, 1));
    }
  }

  const ExpertWeights* expert_of(int32_t id) const {
    const int32_t local = local_expert(id, expert_map_.empty() ? nullptr : expert_map_.data(),
                                       static_cast<int32_t>(problem_.num_experts),
                                       static_cast<int32_t>(experts_.size()));
    return local < 0 ? nullptr : &experts_[local];
  }

  void apply_chunk(const ExpertsArgs& args, int64_t begin, int64_t end) const;
  void run_expert(const ExpertWeights& expert, const int32_t* pairs, int64_t n, bool round_bf16,
                  std::byte* workspace, const Layout& at) const;

  MoeProblem problem_;
  std::vector<int32_t> expert_map_;
  ActivationPrecision precision_;
  ThreadPool* threads_;
  std::vector<ExpertWeights> experts_;
  std::vector<AlignedBuffer> storage_;
  int64_t weight_bytes_ = 0;
};

// `pairs`: indices of the (token, slot) pairs of this chunk that go to the expert.
void PreparedReference::run_expert(const ExpertWeights& expert, const int32_t* pairs, int64_t n,
                                   bool round_bf16, std::byte* ws, const Layout& at) const {
  const int64_t hidden = problem_.hidden_size, width = problem_.intermediate_size;
  const int64_t row_size = round_up(std::max(hidden, width), 16);
  const auto* x = reinterpret_cast<const float*>(ws + at.x);
  auto* gate_in = reinterpret_cast<float*>(ws + at.gate_in);
  auto* up_in = reinterpret_cast<float*>(ws + at.up_in);
  auto* act = reinterpret_cast<float*>(ws + at.act);
  auto* down_in = reinterpret_cast<float*>(ws + at.down_in);
  auto* y = reinterpret_cast<double*>(ws + at.y);
  auto* rows = reinterpret_cast<float*>(ws + at.row);

  threads_->parallel_for(n, 1, [&](int64_t first, int64_t last, int) {
    for (int64_t i = first; i < last; ++i) {
      if (expert.gate)
        quantize_input(*expert.gate, precision_, x + pairs[i] * hidden, hidden,
                       gate_in + i * hidden);
      quantize_input(expert.up, precision_, x + pairs[i] * hidden, hidden, up_in + i * hidden);
    }
  });
  threads_->parallel_for(width, 8, [&](int64_t first, int64_t last, int thread) {
    float* gate_row = rows + thread * 2 * row_size;
    float* up_row = gate_row + row_size;
    for (int64_t r = first; r < last; ++r) {
      if (expert.gate) dequantize_row(*expert.gate, r, gate_row);
      dequantize_row(expert.up, r, up_row);
      for (int64_t i = 0; i < n; ++i) {
        double gate = 0.0;
        if (expert.gate) {
          gate = dot(gate_row, gate_in + i * hidden, hidden);
          gate += bias_at(*expert.gate, r);
        }
        const double up = dot(up_row, up_in + i * hidden, hidden) + bias_at(expert.up, r);
        act[i * width + r] =
            static_cast<float>(apply_activation<double>(problem_.activation, gate, up));
      }
    }
  });
  threads_->parallel_for(n, 1, [&](int64_t first, int64_t last, int) {
    for (int64_t i = first; i < last; ++i) {
      float* row = act + i * width;
      if (round_bf16 && precision_ != ActivationPrecision::kBf16) {
        for (int64_t k = 0; k < width; ++k) row[k] = round_to_bf16(row[k]);
      }
      quantize_input(expert.down, precision_, row, width, down_in + i * width);
    }
  });
  threads_->parallel_for(hidden, 8, [&](int64_t first, int64_t last, int thread) {
    float* down_row = rows + thread * 2 * row_size;
    for (int64_t r = first; r < last; ++r) {
      dequantize_row(expert.down, r, down_row);
      for (int64_t i = 0; i < n; ++i) {
        y[pairs[i] * hidden + r] =
            dot(down_row, down_in + i * width, width) + bias_at(expert.down, r);
      }
    }
  });
}

void PreparedReference::apply_chunk(const ExpertsArgs& args, int64_t begin, int64_t end) const {
  const int64_t hidden = problem_.hidden_size, top_k = problem_.top_k;
  const int64_t pairs = (end - begin) * top_k;
  const int32_t* ids = args.topk_ids + begin * top_k;
  const float* weights = args.topk_weights + begin * top_k;
  const bool bf16 = args.hidden_dtype == DType::kBF16;
  std::byte* ws = args.workspace.data();
  const Layout at = layout();
  auto* x = reinterpret_cast<float*>(ws + at.x);
  auto* y = reinterpret_cast<double*>(ws + at.y);
  auto* list = reinterpret_cast<int32_t*>(ws + at.pairs);

  // One input row a pair: with weight_on_input the rows of a token differ.
  threads_->parallel_for(pairs, 1, [&](int64_t first, int64_t last, int) {
    for (int64_t p = first; p < last; ++p) {
      const int64_t offset = (begin + p / top_k) * hidden;
      float* row = x + p * hidden;
      convert_to_float(
          static_cast<const std::byte*>(args.hidden_states) + offset * size_of(args.hidden_dtype),
          args.hidden_dtype, hidden, row);
      if (problem_.weight_on_input) {
        for (int64_t k = 0; k < hidden; ++k) {
          row[k] *= weights[p];
          if (bf16) row[k] = round_to_bf16(row[k]);
        }
      }
    }
  });
  for (const ExpertWeights& expert : experts_) {
    int64_t n = 0;
    for (int64_t p = 0; p < pairs; ++p) {
      if (expert_of(ids[p]) == &expert) list[n++] = static_cast<int32_t>(p);
    }
    if (n > 0) run_expert(expert, list, n, bf16, ws, at);
  }
  threads_->parallel_for(end - begin, 1, [&](int64_t first, int64_t last, int) {
    for (int64_t t = first; t < last; ++t) {
      for (int64_t h = 0; h < hidden; ++h) {
        double sum = 0.0;
        for (int64_t k = 0; k < top_k; ++k) {
          const int64_t p = t * top_k + k;
          if (expert_of(ids[p]) == nullptr) continue;
          sum += (problem_.weight_on_input ? 1.0 : static_cast<double>(weights[p])) *
                 y[p * hidden + h];
        }
        const int64_t at_out = (begin + t) * hidden + h;
        if (args.output_dtype == DType::kBF16) {
          static_cast<Bf16*>(args.output)[at_out] = to_bf16(static_cast<float>(sum));
        } else {
          static_cast<float*>(args.output)[at_out] = static_cast<float>(sum);
        }
      }
    }
  });
}

}  // namespace

Support ReferenceBackend::supports(const ExpertsQuery& query) const {
  if (!query.device.is_cpu()) {
    return Rejection{Rejection::Kind::kDevice,
                     "it runs on the CPU only, not on " + to_string(query.device)};
  }
  if (Support no = require_activation(query, /*late_clamp=*/true)) return no;
  const bool fp4 = query.precision == ActivationPrecision::kFp4 ||
                   query.precision == ActivationPrecision::kFp4Static;
  if (query.scheme.is_mxfp4()) {
    if (Support no = require_whole_blocks(query)) return no;  // a row's last block has no scale
  }
  if (fp4 && query.scheme.is_mxfp4()) {
    return Rejection{Rejection::Kind::kPrecision,
                     "it quantises activations to NVFP4, which MXFP4 weights do not ask for"};
  }
  if (fp4 && (query.problem.hidden_size % 16 != 0 || query.problem.intermediate_size % 16 != 0)) {
    return Rejection{Rejection::Kind::kShape,
                     "FP4 activations need sizes that are multiples of 16"};
  }
  if (query.precision == ActivationPrecision::kFp8 && !query.scheme.activation) {
    return Rejection{Rejection::Kind::kPrecision, "the layer has no FP8 activation key"};
  }
  return std::nullopt;
}

Support ReferenceBackend::runnable(const Device& device) const {
  return supports({.device = device});
}

std::unique_ptr<PreparedExperts> ReferenceBackend::prepare(const MoeLayerWeights& weights,
                                                           const PrepareOptions& options) const {
  require_host_weights(weights, name());
  return std::make_unique<PreparedReference>(weights, options);
}

}  // namespace moe4
