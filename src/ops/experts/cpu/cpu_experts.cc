// One step of a layer on the CPU, from routed tokens to their weighted sums.
//
//   route:   (token, slot) pairs sorted by expert, cut into jobs of one expert and a few tokens
//   rows:    hidden states to kernel rows, once a token (once a pair where scales differ by expert)
//   FC1:     panel x tokens -> activation -> intermediate, float32
//   rows:    intermediate to kernel rows
//   FC2:     panel x tokens -> y[pair], float32
//   combine: out[token] = sum over slots of weight * y[pair], in slot order
//
// With many jobs a thread takes whole jobs and keeps the intermediate to itself: no barrier between
// FC1 and FC2, and one expert's weights pass through one core. With few jobs (decode) the panels of
// all jobs are one list that every thread works on. Both ways call the same kernels on the same
// rows: same bits.
#include "ops/experts/cpu/cpu_experts.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "moe/activation_quant.h"
#include "moe/expert_map.h"
#include "ops/experts/cpu/packed_weights.h"
#include "panels/work_ranges.h"

namespace moe4::cpu {
namespace {

// Tokens of one expert worked on together: 64 int16 rows of 2048 inputs are 300 KB and stay in an
// L2 of 1 MiB while panels stream by.
constexpr int64_t kJobTokens = 64;
// A thread takes whole jobs when there are at least this many of them a thread: the others then
// wait for the last one at most a sixteenth of the time.
constexpr int64_t kWholeJobsPerThread = 16;
// Bounds y, the largest part of the workspace; larger batches go through in chunks.
constexpr int64_t kMaxOutputBytes = int64_t{64} << 20;
constexpr int64_t kCombineColumns = 512;
// Asked for before a phase that streams weights begins, while memory has nothing else to do.
constexpr int64_t kStartBytes = 16 << 10;

struct Job {
  int32_t expert;
  int32_t begin;  // into the sorted pairs
  int32_t count;
};

// Hands out consecutive pieces of memory; offsets are multiples of 64 bytes.
class Arena {
 public:
  size_t take(int64_t bytes) {
    const size_t begin = next_;
    next_ += static_cast<size_t>(round_up(bytes, 64));
    return begin;
  }
  size_t size() const { return next_; }

 private:
  size_t next_ = 0;
};

// The input of FC1 or FC2 of one expert, as its rows are made.
struct InputKind {
  int64_t k;
  float static_scale;  // of FP4-static and static FP8 activations
  const QuantScheme* scheme;
};

// The items of one phase of a step, done by whichever threads turn up.
struct PhaseWork {
  PhaseWork(const WorkRanges& ranges, int64_t count) : items(ranges), left(count) {}

  WorkRanges items;
  ThreadPool::Phase left;
};

// Into L2; more than a few hundred lines at once would be dropped. Inlined always: GCC 12 takes a
// function that only prefetches for one without effect and drops calls of it.
[[gnu::always_inline]] inline void ask_for(const std::byte* weights) {
  if (weights == nullptr) return;
  for (int64_t i = 0; i < kStartBytes; i += 64) __builtin_prefetch(weights + i, 0, 2);
}

class PreparedCpu final : public PreparedExperts {
 public:
  PreparedCpu(const MoeLayerWeights& weights, const PrepareOptions& options,
              const Kernels& kernels);

  bool accepts_float32() const override { return true; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return packed_.bytes(); }
  size_t workspace_size(int64_t max_tokens) const override {
    return layout(std::min(max_tokens, chunk_tokens())).total;
  }
  void apply(const ExpertsArgs& args) const override;

 private:
  // Byte offsets into the workspace, and into the part of it that one thread has to itself.
  struct Layout {
    size_t expert_offsets, pairs, jobs, ranges, rows, intermediate, down_rows, y, threads, total;
    size_t decoded, sums, up_sums, values, row_pointers, up_row_pointers, own_intermediate,
        own_down_rows, slot_rows, slot_weights, thread_bytes;
  };
  // One chunk of tokens on its way through apply().
  struct Step {
    const ExpertsArgs* args;
    int64_t first_token;
    int64_t num_tokens;
    Layout at;
    std::byte* ws;
    const int32_t* ids;    // [num_tokens, top_k]
    const float* weights;  // [num_tokens, top_k]
    int64_t num_jobs = 0;
    int64_t num_pairs = 0;  // that go to an expert of ours
    bool whole_jobs = false;

    template <typename T>
    T* as(size_t offset) const {
      return reinterpret_cast<T*>(ws + offset);
    }
    template <typename T>
    T* own(int thread, size_t offset) const {
      return reinterpret_cast<T*>(ws + at.threads + thread * at.thread_bytes + offset);
    }
  };

  int64_t hidden_padded() const { return round_up(problem_.hidden_size, kPanelRows); }
  int64_t panel_columns() const { return problem_.activation.is_gated() ? 16 : kPanelRows; }
  int64_t width_padded() const {
    return round_up(packed_.fc1_panels() * panel_columns(), kUnitInputs);
  }
  int64_t hidden_row_bytes() const { return row_bytes(row_format_, problem_.hidden_size); }
  int64_t down_row_bytes() const { return row_bytes(row_format_, problem_.intermediate_size); }
  int64_t chunk_tokens() const {
    return std::max<int64_t>(16, kMaxOutputBytes / (problem_.top_k * hidden_padded() * 4));
  }
  int64_t whole_jobs_from() const { return kWholeJobsPerThread * threads_->size(); }
  int local_expert(int32_t id) const {
    return moe4::local_expert(id, expert_map_.empty() ? nullptr : expert_map_.data(),
                              static_cast<int32_t>(problem_.num_experts),
                              static_cast<int32_t>(num_local_));
  }

  Layout layout(int64_t tokens) const;
  void apply_chunk(const ExpertsArgs& args, int64_t first, int64_t count, const Layout& at) const;
  void route(Step& step) const;
  void make_row(const float* x, const InputKind& kind, std::byte* row) const;
  void make_hidden_row(const Step& step, int64_t item, int thread) const;
  void make_down_row(const Step& step, int expert, float* intermediate, std::byte* row) const;
  const std::byte* fc1_panel(const Step& step, int64_t item) const;
  const std::byte* fc2_panel(const Step& step, int64_t item) const;
  void fc1(const Step& step, const Job& job, int64_t panel, const std::byte* next, int thread,
           float* intermediate) const;
  void fc2(const Step& step, const Job& job, int64_t panel, const std::byte* next, int thread,
           const std::byte* rows) const;
  template <typename Fn>
  void work_on(PhaseWork& phase, int thread, const Fn& fn) const;
  void run_whole_jobs(const Step& step, PhaseWork& work, int thread) const;
  void run_shared_jobs(const Step& step, PhaseWork (&work)[3], int thread) const;
  void combine(const Step& step, int64_t item, int thread) const;

  MoeProblem problem_;
  QuantScheme scheme_;
  std::vector<int32_t> expert_map_;
  ActivationPrecision precision_;
  ThreadPool* threads_;
  const Kernels& kernels_;
  PackedWeights packed_;
  int64_t num_local_;
  RowFormat row_format_;
  void (*multiply_)(const PanelArgs&);
  float sum_unit_;
  bool row_per_pair_ = false;  // rows differ between the experts of a token
  bool up_has_own_row_ = false;
};

bool uses_static_scale(const QuantScheme& scheme, ActivationPrecision precision) {
  return precision == ActivationPrecision::kFp4Static ||
         (precision == ActivationPrecision::kFp8 && !scheme.activation->dynamic);
}

PreparedCpu::PreparedCpu(const MoeLayerWeights& weights, const PrepareOptions& options,
                         const Kernels& kernels)
    : problem_(weights.problem),
      scheme_(weights.scheme),
      expert_map_(weights.expert_map),
      precision_(options.precision),
      threads_(options.threads),
      kernels_(kernels),
      packed_(weights, *options.threads, options.copied),
      num_local_(static_cast<int64_t>(weights.experts.size())),
      row_per_pair_(weights.problem.weight_on_input) {
  row_format_ = RowFormat::kFloat;
  sum_unit_ = 1.0f;
  switch (packed_.format()) {
    case PanelFormat::kNvfp4:
      if (precision_ == ActivationPrecision::kBf16) {
        row_format_ = RowFormat::kInt16;
        multiply_ = kernels.nvfp4_int16;
        sum_unit_ = kInt16SumUnit;
      } else {
        row_format_ = RowFormat::kFp4;
        multiply_ = kernels.nvfp4_fp4;
        sum_unit_ = kFp4SumUnit;
      }
      break;
    case PanelFormat::kMxfp4:
      row_format_ = RowFormat::kInt16;
      multiply_ = kernels.mxfp4_int16;
      sum_unit_ = kInt16SumUnit;
      break;
    case PanelFormat::kBf16:
      multiply_ = kernels.dense_bf16;
      break;
    case PanelFormat::kF16:
      multiply_ = kernels.dense_f16;
      break;
    case PanelFormat::kF32:
      multiply_ = kernels.dense_f32;
      break;
    case PanelFormat::kFp8:
      multiply_ = kernels.dense_fp8;
      break;
    case PanelFormat::kFp8Groups:
      multiply_ = kernels.dense_fp8_groups;
      break;
    case PanelFormat::kQ8_0:
      multiply_ = kernels.dense_q8_0;
      break;
  }
  if (!uses_static_scale(scheme_, precision_)) return;
  for (int64_t e = 0; e < num_local_; ++e) {
    const ExpertWeights& expert = weights.experts[e];
    for (const LinearWeights* l :
         {expert.gate ? &*expert.gate : &expert.up, &expert.up, &expert.down}) {
      if (l->input_scale) continue;
      throw_bad_input({.what = "static activation quantisation needs a calibrated input scale",
                       .tensor = l->name + ".input_scale",
                       .expected = "a scalar in the checkpoint",
                       .found = "none",
                       .hint = "use --activations fp4 (dynamic) or bf16"});
    }
    const ExpertScales &s = packed_.scales(e), &s0 = packed_.scales(0);
    up_has_own_row_ = up_has_own_row_ || s.gate_input != s.up_input;
    row_per_pair_ = row_per_pair_ || s.gate_input != s0.gate_input || s.gate_input != s.up_input;
  }
}

PreparedCpu::Layout PreparedCpu::layout(int64_t tokens) const {
  const int64_t pairs = tokens * problem_.top_k;
  const int64_t jobs = std::min(pairs, num_local_ + pairs / kJobTokens);
  const int64_t shared_pairs = std::min(pairs, whole_jobs_from() * kJobTokens);
  const int64_t hidden_rows = row_per_pair_ ? pairs * (up_has_own_row_ ? 2 : 1) : tokens;
  const int threads = threads_->size();
  Layout at{};
  Arena arena;
  at.expert_offsets = arena.take((num_local_ + 1) * 4);
  at.pairs = arena.take(pairs * 4);
  at.jobs = arena.take(jobs * static_cast<int64_t>(sizeof(Job)));
  at.ranges = arena.take(int64_t{5} * threads * static_cast<int64_t>(sizeof(WorkRanges::Range)));
  at.rows = arena.take(hidden_rows * hidden_row_bytes());
  at.intermediate = arena.take(shared_pairs * width_padded() * 4);
  at.down_rows = arena.take(shared_pairs * down_row_bytes());
  at.y = arena.take(pairs * hidden_padded() * 4);
  at.threads = arena.take(0);
  Arena own;
  const int64_t job_tokens = std::min(pairs, kJobTokens);
  at.decoded = own.take(kScratchBytes);
  at.sums = own.take(job_tokens * kPanelRows * 4);
  at.up_sums = own.take(up_has_own_row_ ? job_tokens * kPanelRows * 4 : 0);
  at.values = own.take(hidden_padded() * 4);
  at.row_pointers = own.take(job_tokens * 8);
  at.up_row_pointers = own.take(job_tokens * 8);
  at.own_intermediate = own.take(job_tokens * width_padded() * 4);
  at.own_down_rows = own.take(job_tokens * down_row_bytes());
  at.slot_rows = own.take(problem_.top_k * 8);
  at.slot_weights = own.take(problem_.top_k * 4);
  at.thread_bytes = own.size();
  at.total = at.threads + threads * at.thread_bytes;
  return at;
}

void PreparedCpu::apply(const ExpertsArgs& args) const {
  const int64_t chunk = std::min(args.num_tokens, chunk_tokens());
  const Layout at = layout(chunk);
  if (args.workspace.size() < at.total) {
    throw Error(ErrorCode::kUsage, "cpu: workspace of " + std::to_string(args.workspace.size()) +
                                       " bytes, needs " + std::to_string(at.total));
  }
  for (const DType dtype : {args.hidden_dtype, args.output_dtype}) {
    if (dtype == DType::kBF16 || dtype == DType::kF32) continue;
    throw Error(ErrorCode::kUsage, "cpu: hidden states and output are BF16 or F32, not " +
                                       std::string(to_string(dtype)));
  }
  for (int64_t first = 0; first < args.num_tokens; first += chunk) {
    apply_chunk(args, first, std::min(chunk, args.num_tokens - first), at);
  }
}

// Counting sort of the pairs by expert; a pair is token * top_k + slot.
void PreparedCpu::route(Step& step) const {
  const int64_t all_pairs = step.num_tokens * problem_.top_k;
  auto* offsets = step.as<int32_t>(step.at.expert_offsets);
  auto* pairs = step.as<int32_t>(step.at.pairs);
  auto* jobs = step.as<Job>(step.at.jobs);
  std::fill_n(offsets, num_local_ + 1, 0);
  for (int64_t p = 0; p < all_pairs; ++p) {
    const int expert = local_expert(step.ids[p]);
    if (expert >= 0) ++offsets[expert];
  }
  int32_t next = 0;
  for (int64_t e = 0; e < num_local_; ++e) {
    const int32_t count = offsets[e];
    offsets[e] = next;
    // Parts of nearly equal size, none above kJobTokens.
    const auto parts = static_cast<int32_t>(ceil_div(count, kJobTokens));
    for (int32_t i = 0; i < parts; ++i) {
      const auto begin = static_cast<int32_t>(int64_t{count} * i / parts);
      const auto end = static_cast<int32_t>(int64_t{count} * (i + 1) / parts);
      jobs[step.num_jobs++] = {static_cast<int32_t>(e), next + begin, end - begin};
    }
    next += count;
  }
  step.num_pairs = next;
  for (int64_t p = 0; p < all_pairs; ++p) {
    const int expert = local_expert(step.ids[p]);
    if (expert >= 0) pairs[offsets[expert]++] = static_cast<int32_t>(p);
  }
  step.whole_jobs = step.num_jobs >= whole_jobs_from();
}

void PreparedCpu::make_row(const float* x, const InputKind& kind, std::byte* row) const {
  switch (row_format_) {
    case RowFormat::kFp4:
      kernels_.quantize_fp4(
          x, kind.k, precision_ == ActivationPrecision::kFp4 ? 1.0f : kind.static_scale, row);
      return;
    case RowFormat::kInt16:
      kernels_.quantize_int16(x, kind.k, row);
      return;
    case RowFormat::kFloat: {
      auto* out = reinterpret_cast<float*>(row);
      std::fill(out + kind.k, out + padded_inputs(kind.k), 0.0f);
      if (precision_ != ActivationPrecision::kFp8) {
        std::memcpy(out, x, kind.k * sizeof(float));
      } else if (!kind.scheme->activation->dynamic) {
        fake_quantize_fp8_static(x, kind.k, DecodeScale{kind.static_scale}, out);
      } else {
        const bool block = kind.scheme->activation->format == QuantFormat::kFp8Block128;
        fake_quantize_fp8_dynamic(x, kind.k, block ? 128 : kind.k, out);
      }
      return;
    }
  }
}

// `item`: a token, or a pair of the sorted list where rows differ between a token's experts.
void PreparedCpu::make_hidden_row(const Step& step, int64_t item, int thread) const {
  const int64_t hidden = problem_.hidden_size;
  const int64_t pair = row_per_pair_ ? step.as<int32_t>(step.at.pairs)[item] : -1;
  const int64_t token = row_per_pair_ ? pair / problem_.top_k : item;
  const int expert = row_per_pair_ ? local_expert(step.ids[pair]) : 0;
  const float factor = problem_.weight_on_input ? step.weights[pair] : 1.0f;
  const int64_t offset = (step.first_token + token) * hidden;
  const float* x;
  auto* values = step.own<float>(thread, step.at.values);
  if (step.args->hidden_dtype == DType::kBF16) {
    kernels_.load_bf16(static_cast<const uint16_t*>(step.args->hidden_states) + offset, hidden,
                       factor, true, values);
    x = values;
  } else {
    x = static_cast<const float*>(step.args->hidden_states) + offset;
    if (factor != 1.0f) {
      for (int64_t i = 0; i < hidden; ++i) values[i] = x[i] * factor;
      x = values;
    }
  }
  const ExpertScales& scales = packed_.scales(expert);
  const int64_t bytes = hidden_row_bytes();
  std::byte* rows = step.ws + step.at.rows;
  make_row(x, {hidden, scales.gate_input, &scheme_}, rows + item * bytes);
  if (up_has_own_row_) {
    make_row(x, {hidden, scales.up_input, &scheme_}, rows + (step.num_pairs + item) * bytes);
  }
}

// Rounds the intermediate in place where the kernels of other devices do, too.
void PreparedCpu::make_down_row(const Step& step, int expert, float* intermediate,
                                std::byte* row) const {
  const int64_t width = problem_.intermediate_size;
  if (precision_ != ActivationPrecision::kBf16 && step.args->hidden_dtype == DType::kBF16) {
    kernels_.round_to_bf16(intermediate, width);
  }
  make_row(intermediate, {width, packed_.scales(expert).down_input, &scheme_}, row);
}

// Panels by their place in the list of all jobs' panels; null for a place below 0.
const std::byte* PreparedCpu::fc1_panel(const Step& step, int64_t item) const {
  if (item < 0) return nullptr;
  const int64_t job = item / packed_.fc1_panels();
  return packed_.fc1_panel(step.as<Job>(step.at.jobs)[job].expert, item % packed_.fc1_panels());
}

const std::byte* PreparedCpu::fc2_panel(const Step& step, int64_t item) const {
  if (item < 0) return nullptr;
  const int64_t job = item / packed_.fc2_panels();
  return packed_.fc2_panel(step.as<Job>(step.at.jobs)[job].expert, item % packed_.fc2_panels());
}

// `next`: see PanelArgs. `intermediate`: [job.count] rows of width_padded() floats.
void PreparedCpu::fc1(const Step& step, const Job& job, int64_t panel, const std::byte* next,
                      int thread, float* intermediate) const {
  const int64_t bytes = hidden_row_bytes();
  const std::byte* rows = step.ws + step.at.rows;
  const auto* pairs = step.as<int32_t>(step.at.pairs) + job.begin;
  auto** pointers = step.own<const std::byte*>(thread, step.at.row_pointers);
  for (int32_t i = 0; i < job.count; ++i) {
    pointers[i] = rows + (row_per_pair_ ? job.begin + i : pairs[i] / problem_.top_k) * bytes;
  }
  auto* sums = step.own<float>(thread, step.at.sums);
  PanelArgs args{.panel = packed_.fc1_panel(job.expert, panel),
                 .next = next,
                 .in_features = problem_.hidden_size,
                 .rows = pointers,
                 .num_tokens = job.count,
                 .sums = sums,
                 .scratch = step.own<std::byte>(thread, step.at.decoded)};
  multiply_(args);
  const ExpertScales& scales = packed_.scales(job.expert);
  const bool static_fp4 = precision_ == ActivationPrecision::kFp4Static;
  if (up_has_own_row_ && problem_.activation.is_gated()) {
    auto** up_pointers = step.own<const std::byte*>(thread, step.at.up_row_pointers);
    for (int32_t i = 0; i < job.count; ++i) {
      up_pointers[i] = rows + (step.num_pairs + job.begin + i) * bytes;
    }
    auto* up_sums = step.own<float>(thread, step.at.up_sums);
    args.rows = up_pointers;
    args.sums = up_sums;
    multiply_(args);
    for (int64_t i = 0; i < job.count; ++i) {
      std::memcpy(sums + i * kPanelRows + 16, up_sums + i * kPanelRows + 16, 16 * sizeof(float));
    }
  }
  kernels_.activate(
      problem_.activation,
      {.sums = sums,
       .num_tokens = job.count,
       .gate_scale = scales.gate * sum_unit_ * (static_fp4 ? scales.gate_input : 1.0f),
       .up_scale = scales.up * sum_unit_ * (static_fp4 ? scales.up_input : 1.0f),
       .bias = packed_.fc1_bias(job.expert, panel),
       .out = intermediate + panel * panel_columns(),
       .out_stride = width_padded()});
}

// `rows`: [job.count] rows of down_row_bytes().
void PreparedCpu::fc2(const Step& step, const Job& job, int64_t panel, const std::byte* next,
                      int thread, const std::byte* rows) const {
  auto** pointers = step.own<const std::byte*>(thread, step.at.row_pointers);
  for (int32_t i = 0; i < job.count; ++i) pointers[i] = rows + i * down_row_bytes();
  auto* sums = step.own<float>(thread, step.at.sums);
  multiply_({.panel = packed_.fc2_panel(job.expert, panel),
             .next = next,
             .in_features = problem_.intermediate_size,
             .rows = pointers,
             .num_tokens = job.count,
             .sums = sums,
             .scratch = step.own<std::byte>(thread, step.at.decoded)});
  const ExpertScales& scales = packed_.scales(job.expert);
  const bool static_fp4 = precision_ == ActivationPrecision::kFp4Static;
  const float scale = scales.down * sum_unit_ * (static_fp4 ? scales.down_input : 1.0f);
  const float* bias = packed_.fc2_bias(job.expert, panel);
  const auto* pairs = step.as<int32_t>(step.at.pairs) + job.begin;
  auto* y = step.as<float>(step.at.y);
  for (int64_t i = 0; i < job.count; ++i) {
    kernels_.scale_panel(sums + i * kPanelRows, scale, bias,
                         y + pairs[i] * hidden_padded() + panel * kPanelRows);
  }
}

// fn(item) for every item that this thread gets; others may still be at theirs afterwards.
template <typename Fn>
void PreparedCpu::work_on(PhaseWork& phase, int thread, const Fn& fn) const {
  int64_t done = 0;
  for (int64_t i; (i = phase.items.take(thread)) >= 0; ++done) fn(i);
  threads_->finish(phase.left, done);
}

void PreparedCpu::run_whole_jobs(const Step& step, PhaseWork& work, int thread) const {
  auto* intermediate = step.own<float>(thread, step.at.own_intermediate);
  auto* rows = step.own<std::byte>(thread, step.at.own_down_rows);
  work_on(work, thread, [&](int64_t j) {
    const Job& job = step.as<Job>(step.at.jobs)[j];
    for (int64_t p = 0; p < packed_.fc1_panels(); ++p) {
      fc1(step, job, p, nullptr, thread, intermediate);
    }
    for (int32_t i = 0; i < job.count; ++i) {
      make_down_row(step, job.expert, intermediate + i * width_padded(),
                    rows + i * down_row_bytes());
    }
    for (int64_t p = 0; p < packed_.fc2_panels(); ++p) {
      const bool last = p + 1 == packed_.fc2_panels();
      const std::byte* next =
          last ? fc1_panel(step, work.items.peek(thread) * packed_.fc1_panels()) : nullptr;
      fc2(step, job, p, next, thread, rows);
    }
  });
  threads_->wait(work.left, thread);
}

// Intermediates and rows are indexed by position in the sorted pairs.
void PreparedCpu::run_shared_jobs(const Step& step, PhaseWork (&work)[3], int thread) const {
  const auto* jobs = step.as<Job>(step.at.jobs);
  auto* intermediate = step.as<float>(step.at.intermediate);
  auto* rows = step.as<std::byte>(step.at.down_rows);
  work_on(work[0], thread, [&](int64_t i) {
    const Job& job = jobs[i / packed_.fc1_panels()];
    fc1(step, job, i % packed_.fc1_panels(), fc1_panel(step, work[0].items.peek(thread)), thread,
        intermediate + job.begin * width_padded());
  });
  ask_for(fc2_panel(step, work[2].items.peek(thread)));
  threads_->wait(work[0].left, thread);
  work_on(work[1], thread, [&](int64_t i) {
    const int32_t pair = step.as<int32_t>(step.at.pairs)[i];
    make_down_row(step, local_expert(step.ids[pair]), intermediate + i * width_padded(),
                  rows + i * down_row_bytes());
  });
  threads_->wait(work[1].left, thread);
  work_on(work[2], thread, [&](int64_t i) {
    const Job& job = jobs[i / packed_.fc2_panels()];
    fc2(step, job, i % packed_.fc2_panels(), fc2_panel(step, work[2].items.peek(thread)), thread,
        rows + job.begin * down_row_bytes());
  });
  threads_->wait(work[2].left, thread);
}

// `item`: a token's run of kCombineColumns columns.
void PreparedCpu::combine(const Step& step, int64_t item, int thread) const {
  const int64_t hidden = problem_.hidden_size, top_k = problem_.top_k;
  const int64_t runs = ceil_div(hidden, kCombineColumns);
  const int64_t token = item / runs, begin = item % runs * kCombineColumns;
  const auto* y = step.as<float>(step.at.y);
  auto** rows = step.own<const float*>(thread, step.at.slot_rows);
  auto* weights = step.own<float>(thread, step.at.slot_weights);
  int64_t count = 0;
  for (int64_t pair = token * top_k; pair < (token + 1) * top_k; ++pair) {
    if (local_expert(step.ids[pair]) < 0) continue;
    rows[count] = y + pair * hidden_padded() + begin;
    weights[count++] = problem_.weight_on_input ? 1.0f : step.weights[pair];
  }
  const int64_t offset = (step.first_token + token) * hidden + begin;
  const bool float32 = step.args->output_dtype == DType::kF32;
  kernels_.combine(rows, weights, count, std::min(kCombineColumns, hidden - begin),
                   float32 ? static_cast<float*>(step.args->output) + offset : nullptr,
                   float32 ? nullptr : static_cast<uint16_t*>(step.args->output) + offset);
}

void PreparedCpu::apply_chunk(const ExpertsArgs& args, int64_t first, int64_t count,
                              const Layout& at) const {
  Step step{.args = &args,
            .first_token = first,
            .num_tokens = count,
            .at = at,
            .ws = args.workspace.data(),
            .ids = args.topk_ids + first * problem_.top_k,
            .weights = args.topk_weights + first * problem_.top_k};
  route(step);
  const int threads = threads_->size();
  int next_ranges = 0;
  const auto phase_of = [&](int64_t items) {
    WorkRanges ranges(step.as<WorkRanges::Range>(at.ranges) + int64_t{next_ranges++} * threads,
                      threads);
    ranges.reset(items);
    return PhaseWork(ranges, items);
  };
  PhaseWork rows = phase_of(row_per_pair_ ? step.num_pairs : count);
  PhaseWork work[3] = {phase_of(step.num_jobs * (step.whole_jobs ? 1 : packed_.fc1_panels())),
                       phase_of(step.num_pairs), phase_of(step.num_jobs * packed_.fc2_panels())};
  PhaseWork outputs = phase_of(count * ceil_div(problem_.hidden_size, kCombineColumns));
  threads_->run([&](int thread) {
    const int64_t first = work[0].items.peek(thread);
    ask_for(fc1_panel(step, step.whole_jobs ? first * packed_.fc1_panels() : first));
    work_on(rows, thread, [&](int64_t i) { make_hidden_row(step, i, thread); });
    threads_->wait(rows.left, thread);
    if (step.whole_jobs) {
      run_whole_jobs(step, work[0], thread);
    } else {
      run_shared_jobs(step, work, thread);
    }
    work_on(outputs, thread, [&](int64_t i) { combine(step, i, thread); });
  });
}

}  // namespace

std::unique_ptr<PreparedExperts> prepare_experts(const MoeLayerWeights& weights,
                                                 const PrepareOptions& options,
                                                 const Kernels& kernels) {
  MOE4_CHECK(options.threads != nullptr);
  return std::make_unique<PreparedCpu>(weights, options, kernels);
}

}  // namespace moe4::cpu
