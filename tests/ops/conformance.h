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
#include "ops/batch.h"
#include "ops/op.h"
#include "ops/tensor_ref.h"
#include "support/allocations.h"
#include "support/random_moe.h"
#include "support/relative_error.h"

namespace moe4::testing {

/// Float32 rows with room between them, filled with a value that must not matter.
struct OwnedRows {
  OwnedRows() = default;
  OwnedRows(int64_t rows, int64_t width, float fill = NAN)
      : values(rows * padded_row(width) + 16, fill), rows(rows), width(width) {}
  /// Normal values.
  OwnedRows(int64_t rows, int64_t width, uint64_t seed, float scale) : OwnedRows(rows, width) {
    Random random(seed);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < width; ++c) view().row(r)[c] = scale * random.normal();
    }
  }

  Rows view() { return Rows::padded(values.data(), rows, width); }
  /// The values of one row, or of all, without padding.
  std::vector<float> row(int64_t r) { return {view().row(r), view().row(r) + width}; }
  std::vector<float> dense() {
    std::vector<float> all;
    for (int64_t r = 0; r < rows; ++r) {
      const std::vector<float> one = row(r);
      all.insert(all.end(), one.begin(), one.end());
    }
    return all;
  }

  std::vector<float> values;
  int64_t rows = 0, width = 0;
};

/// A sequence's part of a batch.
struct Piece {
  int64_t context = 0;  ///< tokens before this step
  int64_t tokens = 0;   ///< 0: an empty sequence
};

/// A batch over pages handed out in scrambled order, then padding sequences without pages or state
/// and padding tokens.
class RaggedBatch {
 public:
  explicit RaggedBatch(const std::vector<Piece>& pieces, int64_t padding_seqs = 0,
                       int64_t padding_tokens = 0) {
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

/// Set while implementations are judged: the float64 reference may allocate, they may not.
inline bool expect_no_allocation = false;

/// Runs an op with a workspace of exactly the size that it asks for, full of 0xff.
template <class Op>
void run_op(const Prepared<Op>& op, const typename Op::Args& args, ThreadPool& threads) {
  Arena measuring = Arena::measuring();
  Execution count{Stream::cpu(threads), measuring};
  run(op, args, count);
  AlignedBuffer memory(measuring.peak() + Arena::kAlignment);
  if (memory.size() > 0) std::memset(memory.data(), 0xff, memory.size());
  Arena arena = Arena::within({memory.data(), memory.size()});
  Execution execution{Stream::cpu(threads), arena};
  const int64_t before = allocations();
  run(op, args, execution);
  if (!expect_no_allocation) return;
  EXPECT_EQ(allocations() - before, 0) << "an op must not allocate while it runs";
}

template <class Op>
const Implementation<Op>& reference_of() {
  const Implementation<Op>& last = *implementations<Op>().back();
  EXPECT_EQ(last.name(), "reference");
  return last;
}

/// Calls check(implementation, isa) for all that take the problem on the CPU, on every instruction
/// set of this machine, the reference left out.
template <class Op>
void each_implementation(
    const typename Op::Problem& problem,
    const std::function<void(const Implementation<Op>&, const OpOptions&)>& check,
    ThreadPool& threads) {
  int compared = 0;
  for (const Implementation<Op>* implementation : implementations<Op>()) {
    if (implementation->supports(problem, Device::cpu())) continue;
    for (const CpuIsa isa : available_cpu_isas()) {
      SCOPED_TRACE(std::string(implementation->name()) + " on " + std::string(to_string(isa)));
      expect_no_allocation = true;
      check(*implementation, {.threads = &threads, .isa = isa});
      expect_no_allocation = false;
      ++compared;
    }
  }
  EXPECT_GT(compared, 0) << "nothing was compared";
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
