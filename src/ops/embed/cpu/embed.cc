// Embed on the CPU: from a copy of the table, or from the rows of a tied lm_head.
#include "ops/embed/embed.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/aligned_buffer.h"
#include "moe/dequantize.h"
#include "numerics/e4m3.h"
#include "ops/cpu/implementation.h"
#include "ops/cpu/parallel.h"
#include "ops/linear/cpu/cpu_linear_group.h"

namespace moe4 {
namespace {

// look_up(id, out) for every row.
template <typename LookUp>
void look_up_rows(const Embed::Problem& problem, const Embed::Args& args, const Stream& stream,
                  const LookUp& look_up) {
  const int64_t grain = parallel_grain(args.y.rows, 4 * problem.width * int64_t{sizeof(float)});
  stream.threads->parallel_for(args.y.rows, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      if (args.ids[t] >= 0 && args.ids[t] < problem.vocab_size) {
        float* row = args.y.row(t);
        look_up(args.ids[t], row);
        if (problem.scale == 1.0f) continue;
        std::for_each_n(row, problem.width, [&](float& v) { v *= problem.scale; });
      } else {
        std::fill_n(args.y.row(t), problem.width, 0.0f);
      }
    }
  });
}

// Keeps the table in checkpoint order, so that a look-up touches one row.
class CpuEmbedTable final : public Prepared<Embed> {
 public:
  CpuEmbedTable(const Embed::Problem& problem, const Embed::Weights& weights,
                const OpOptions& options)
      : Prepared(problem), table_(weights.table) {
    copy(table_.weight, data_, table_.name + ".weight", options.threads);
    if (!table_.scale.empty()) {
      copy(table_.scale, scales_, table_.name + ".weight_scale", options.threads);
    }
  }

  size_t workspace_size(const Embed::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return static_cast<int64_t>(data_.size() + scales_.size()) / problem().vocab_size;
  }
  void run(const Embed::Args& args, std::span<std::byte>, const Stream& stream) const override {
    look_up_rows(problem(), args, stream,
                 [&](int64_t id, float* out) { dequantize_row(table_, id, out); });
  }

 private:
  static void copy(TensorView& view, AlignedBuffer& data, const std::string& tensor,
                   ThreadPool* threads);

  LinearWeights table_;  // views of the buffers below
  AlignedBuffer data_, scales_;
};

void CpuEmbedTable::copy(TensorView& view, AlignedBuffer& data, const std::string& tensor,
                         ThreadPool* threads) {
  const int64_t bytes = view.num_bytes(), rows = view.dim(0), row_bytes = bytes / rows;
  data = AlignedBuffer(static_cast<size_t>(bytes));
  const bool may_be_nan = view.dtype == DType::kF8E4M3;
  std::atomic<bool> good{true};
  const auto copy_rows = [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      std::byte* to = data.data() + r * row_bytes;
      std::memcpy(to, view.row(r), static_cast<size_t>(row_bytes));
      const auto* codes = reinterpret_cast<const uint8_t*>(to);
      if (may_be_nan && std::any_of(codes, codes + row_bytes, e4m3_is_nan)) {
        good.store(false, std::memory_order_relaxed);
      }
    }
  };
  if (threads != nullptr) {
    const int64_t grain = std::max<int64_t>(1, (1 << 20) / std::max<int64_t>(1, row_bytes));
    threads->parallel_for(rows, grain, copy_rows);
  } else {
    copy_rows(0, rows, 0);
  }
  if (!good.load(std::memory_order_relaxed)) {
    throw_bad_input({.what = "NaN in an FP8 tensor",
                     .tensor = tensor,
                     .expected = "finite values",
                     .hint = "download or export the checkpoint again"});
  }
  view.data = data.data();
  view.row_stride = 0;
}

// Reads the rows of lm_head's panels.
class CpuEmbedTied final : public Prepared<Embed> {
 public:
  CpuEmbedTied(const Embed::Problem& problem, const Embed::Weights& weights, const OpOptions&)
      : Prepared(problem), rows_(dynamic_cast<const CpuLinearGroup&>(*weights.lm_head).member(0)) {
    MOE4_CHECK(rows_.out_features() == problem.vocab_size && rows_.in_features() == problem.width);
  }

  size_t workspace_size(const Embed::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return rows_.weight_bytes() / problem().vocab_size; }
  void run(const Embed::Args& args, std::span<std::byte>, const Stream& stream) const override {
    look_up_rows(problem(), args, stream,
                 [&](int64_t id, float* out) { rows_.decode_row(id, out); });
  }

 private:
  const PackedLinear& rows_;
};

Support accepts_untied(const Embed::Problem& problem) {
  if (!problem.tied) return std::nullopt;
  return Rejection{Rejection::Kind::kScheme, "the table is tied to lm_head"};
}

Support accepts_tied(const Embed::Problem& problem) {
  if (problem.tied) return std::nullopt;
  return Rejection{Rejection::Kind::kScheme, "the table is not tied to lm_head"};
}

}  // namespace

const Implementation<Embed>& cpu_embed_table() {
  static const CpuImplementation<Embed, CpuEmbedTable> implementation("cpu", accepts_untied);
  return implementation;
}

const Implementation<Embed>& cpu_embed_tied() {
  static const CpuImplementation<Embed, CpuEmbedTied> implementation("cpu-tied", accepts_tied);
  return implementation;
}

}  // namespace moe4
