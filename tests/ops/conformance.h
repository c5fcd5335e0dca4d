// What implementations of every op are held against: ragged batches in paged caches, compared with
// the float64 reference.
//
// A test of an op makes a Case (a batch and its memory), runs each implementation on copies of the
// same inputs, and compares. each_implementation() fails when there was nothing to compare.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "numerics/bf16.h"
#include "ops/batch.h"
#include "ops/op.h"
#include "ops/tensor_ref.h"
#include "support/op_device.h"
#include "support/random_moe.h"
#include "support/relative_error.h"

namespace moe4::testing {

/// Rows with room between them, filled with a value that must not matter.
struct OwnedRows {
  OwnedRows() = default;
  OwnedRows(int64_t rows, int64_t width, float fill = NAN, RowFormat format = RowFormat::kF32)
      : values(rows * padded_row(width) + 16, fill), rows(rows), width(width), format(format) {
    if (format == RowFormat::kBf16) bf16.assign(values.size(), to_bf16(fill));
  }
  /// Normal values, which are BF16 numbers where that is the format.
  OwnedRows(int64_t rows, int64_t width, uint64_t seed, float scale,
            RowFormat format = RowFormat::kF32)
      : OwnedRows(rows, width, NAN, format) {
    Random random(seed);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < width; ++c) set(r, c, scale * random.normal());
    }
  }

  Rows view() {
    Rows all = Rows::padded(values.data(), rows, width);
    if (format == RowFormat::kBf16) all.data = reinterpret_cast<std::byte*>(bf16.data());
    all.format = format;
    return all;
  }
  /// The same values in another format.
  OwnedRows as(RowFormat other) {
    OwnedRows copy(rows, width, NAN, other);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < width; ++c) copy.set(r, c, at(r, c));
    }
    return copy;
  }
  float at(int64_t r, int64_t c) const {
    const int64_t i = r * padded_row(width) + c;
    return format == RowFormat::kBf16 ? to_float(bf16[i]) : values[i];
  }
  void set(int64_t r, int64_t c, float x) {
    const int64_t i = r * padded_row(width) + c;
    if (format == RowFormat::kBf16) {
      bf16[i] = to_bf16(x);
    } else {
      values[i] = x;
    }
  }
  /// The values of one row, or of all, without padding.
  std::vector<float> row(int64_t r) const {
    std::vector<float> one(width);
    for (int64_t c = 0; c < width; ++c) one[c] = at(r, c);
    return one;
  }
  std::vector<float> dense() const {
    std::vector<float> all;
    for (int64_t r = 0; r < rows; ++r) {
      const std::vector<float> one = row(r);
      all.insert(all.end(), one.begin(), one.end());
    }
    return all;
  }

  std::vector<float> values;
  std::vector<Bf16> bf16;  // instead of values
  int64_t rows = 0, width = 0;
  RowFormat format = RowFormat::kF32;
};

/// What a result may be off: `float32` and, where it was stored as BF16, half a unit of that in
/// every value (2^-9, less on average).
inline double tolerance(RowFormat format, double float32) {
  return format == RowFormat::kF32 ? float32 : std::max(float32, 0x1p-9);
}

/// A sequence's part of a batch.
struct Piece {
  int64_t context = 0;  ///< tokens before this step
  int64_t tokens = 0;   ///< 0: an empty sequence
};

/// A batch over pages handed out in scrambled order, then padding sequences without pages or state
/// and padding tokens. The first `num_decodes` sequences are said to generate.
class RaggedBatch {
 public:
  explicit RaggedBatch(const std::vector<Piece>& pieces, int64_t padding_seqs = 0,
                       int64_t padding_tokens = 0, int64_t num_decodes = 0) {
    const auto real = static_cast<int64_t>(pieces.size());
    const int64_t seqs = real + padding_seqs;
    int64_t max_blocks = 1;
    for (const Piece& p : pieces) {
      num_pages += ceil_div(p.context + p.tokens, kPageTokens);
      max_blocks = std::max(max_blocks, ceil_div(p.context + p.tokens, kPageTokens) + 1);
      batch.max_query = std::max(batch.max_query, p.tokens);
      batch.max_context = std::max(batch.max_context, p.context + p.tokens);
    }
    std::vector<int32_t> free(num_pages);
    std::iota(free.begin(), free.end(), 0);
    Random random(77);
    for (int64_t i = num_pages - 1; i > 0; --i) std::swap(free[i], free[random.below(i + 1)]);
    blocks.assign(seqs * max_blocks, -1);
    query_start.push_back(0);
    for (int64_t s = 0; s < seqs; ++s) {
      const Piece p = s < real ? pieces[s] : Piece{};
      for (int64_t b = 0; b < ceil_div(p.context + p.tokens, kPageTokens); ++b) {
        blocks[s * max_blocks + b] = free.back();
        free.pop_back();
      }
      for (int64_t t = p.context; t < p.context + p.tokens; ++t) {
        positions.push_back(static_cast<int32_t>(t));
        slots.push_back(static_cast<int32_t>(
            blocks[s * max_blocks + t / kPageTokens] * kPageTokens + t % kPageTokens));
      }
      query_start.push_back(static_cast<int32_t>(positions.size()));
      context_len.push_back(static_cast<int32_t>(p.context + p.tokens));
      state.push_back(s < real ? static_cast<int32_t>(real - 1 - s) : -1);
    }
    num_slots = real;
    for (int64_t t = 0; t < padding_tokens; ++t) {
      positions.push_back(0);
      slots.push_back(-1);
    }
    table = {.blocks = blocks.data(),
             .max_blocks = max_blocks,
             .slots = slots.data(),
             .state = state.data()};
    batch.num_tokens = static_cast<int64_t>(positions.size());
    batch.num_seqs = seqs;
    batch.num_decodes = num_decodes;
    for (int64_t s = 0; s < num_decodes; ++s) {
      batch.query_of_decode = std::max(batch.query_of_decode, pieces[s].tokens);
    }
    batch.positions = positions.data();
    batch.query_start = query_start.data();
    batch.context_len = context_len.data();
    batch.tables = {&table, 1};
  }
  RaggedBatch(const RaggedBatch&) = delete;

  int64_t real_tokens() const { return query_start.back(); }

  std::vector<int32_t> positions, query_start, context_len, blocks, slots, state;
  CacheTable table;
  Batch batch;
  int64_t num_pages = 0, num_slots = 0;
};

/// The device of the implementation that is judged; the reference runs on the CPU.
inline Device judged_device = Device::cpu();
inline bool is_judging = false;

/// Runs an op with a workspace of exactly the size that it asks for, full of 0xff.
template <class Op>
void run_op(const Prepared<Op>& op, const typename Op::Args& args, ThreadPool& threads) {
  Op::check(op.problem(), args);
  const size_t bytes = op.workspace_size(args);
  if (is_judging) {
    run_on_device(judged_device, bytes, threads,
                  [&](std::span<std::byte> workspace, const Stream& stream) {
                    op.run(args, workspace, stream);
                  });
    return;
  }
  AlignedBuffer memory(bytes + Arena::kAlignment);
  Arena arena = Arena::within({memory.data(), memory.size()});
  op.run(args, {arena.bytes(bytes), bytes}, Stream::cpu(threads));
}

template <class Op>
const Implementation<Op>& reference_of() {
  const Implementation<Op>& last = *implementations<Op>().back();
  EXPECT_EQ(last.name(), "reference");
  return last;
}

/// Calls check(implementation, options) for all that take the problem on the device of this test
/// program (on the CPU for every instruction set of this machine), the reference left out. Only
/// inside it run_op() runs what is judged.
template <class Op>
void each_implementation(
    const typename Op::Problem& problem,
    const std::function<void(const Implementation<Op>&, const OpOptions&)>& check,
    ThreadPool& threads) {
  const std::vector<OpOptions> all = op_options(threads);
  if (all.empty()) GTEST_SKIP() << "no GPU";
  int compared = 0;
  for (const Implementation<Op>* implementation : implementations<Op>()) {
    for (const OpOptions& options : all) {
      if (implementation->supports(problem, options.device)) continue;
      SCOPED_TRACE(std::string(implementation->name()) + " on " + name_of(options));
      is_judging = true;
      judged_device = options.device;
      check(*implementation, options);
      is_judging = false;
      ++compared;
    }
  }
  EXPECT_GT(compared, 0) << "nothing was compared";
}

/// Whether some implementation takes the problem on the device of this test program; where there is
/// no GPU, true, so that each_implementation() says so.
template <class Op>
bool is_judged(const typename Op::Problem& problem) {
  ThreadPool threads(1);
  const std::vector<OpOptions> all = op_options(threads);
  return all.empty() || ask<Op>(problem, all.front().device).implementation != nullptr;
}

inline bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

/// A small tensor for an op's weights; the vector stays the caller's.
inline TensorRef tensor_of(const std::vector<float>& values, const char* name = "weight") {
  return {name,
          {.data = values.data(),
           .dtype = DType::kF32,
           .shape = {static_cast<int64_t>(values.size())}}};
}

inline std::vector<float> normals(int64_t n, uint64_t seed, float scale = 1.0f,
                                  float shift = 0.0f) {
  Random random(seed);
  std::vector<float> values(n);
  for (float& v : values) v = shift + scale * random.normal();
  return values;
}

}  // namespace moe4::testing
