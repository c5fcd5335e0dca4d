// LinearGroup on the CPU: how rows and panels are distributed over threads.
#include <algorithm>

#include "ops/cpu/implementation.h"
#include "ops/cpu/parallel.h"
#include "ops/linear/cpu/cpu_linear_group.h"

namespace moe4 {
namespace {

constexpr size_t kMaxMembers = 8;
// Weight bytes of one unit of work with one token: long enough to hide its dispatch, short enough
// that threads finish together. With more tokens it is what stays in L2 beside the tokens' rows
// while blocks of tokens pass by.
constexpr int64_t kDecodeBytes = 64 << 10, kPrefillBytes = 256 << 10;
// Rows of the tokens that pass a panel together stay in L2, too.
constexpr int64_t kBlockRowBytes = 512 << 10, kMaxBlockTokens = 96;
// Fewer tokens than this fit the ways of any L1, however far apart their rows are.
constexpr int64_t kAliasingTokens = 5;

int64_t most_block_tokens(const PackedLinear& linear) {
  const PackedLinear::InputKind kind = linear.input_kind();
  const int64_t fit = kBlockRowBytes / cpu::row_bytes(kind.format, kind.k);
  return std::clamp<int64_t>(fit / 12 * 12, 12, kMaxBlockTokens);
}

int64_t block_tokens(const PackedLinear& linear, int64_t num_tokens) {
  return ceil_div(num_tokens, ceil_div(num_tokens, most_block_tokens(linear)));
}

Support accepts(const LinearGroup::Problem& problem) {
  if (problem.members.size() <= kMaxMembers) return std::nullopt;
  return Rejection{Rejection::Kind::kShape, "it takes at most 8 linears at once"};
}

}  // namespace

// One call's memory and division of work.
struct CpuLinearGroup::Buffers {
  struct Member {
    const std::byte** rows = nullptr;  // [num_tokens] inputs as the kernels want them
    std::byte* memory = nullptr;       // of rows that are made; null: another's, or x itself
    int64_t first_item = 0;            // in the list of all members' work
    int64_t panels_per_item = 1;
    int64_t block_tokens = 1;
  };
  Member members[kMaxMembers];
  int64_t items = 0;
  int64_t weight_bytes = 0;
  int64_t block = 1;  // the largest block_tokens
  float* sums = nullptr;
  std::byte* scratch = nullptr;
  cpu::WorkRanges::Range* ranges = nullptr;
};

CpuLinearGroup::CpuLinearGroup(const LinearGroup::Problem& problem,
                               const LinearGroup::Weights& weights, const OpOptions& options)
    : Prepared(problem),
      kernels_(cpu::kernels_for(options.isa)),
      threads_(options.threads != nullptr ? options.threads->size() : 1) {
  MOE4_CHECK(weights.members.size() == problem.members.size());
  // Rows that a member quantises first are its own: linears_ must not move afterwards.
  linears_.reserve(weights.members.size());
  for (size_t i = 0; i < weights.members.size(); ++i) {
    linears_.emplace_back(weights.members[i], problem.members[i].options, options.threads);
    size_t first = 0;
    while (!(linears_[first].input_kind() == linears_[i].input_kind())) ++first;
    rows_of_.push_back(first);
  }
}

int64_t CpuLinearGroup::weight_bytes() const {
  int64_t bytes = 0;
  for (const PackedLinear& linear : linears_) bytes += linear.weight_bytes();
  return bytes;
}

bool CpuLinearGroup::takes_rows_as_they_are(const PackedLinear& linear, const Rows& x) const {
  const PackedLinear::InputKind kind = linear.input_kind();
  const bool apart =
      x.rows < kAliasingTokens || !cpu::aliases_in_l1(x.stride * int64_t{sizeof(float)});
  return kind.format == cpu::RowFormat::kFloat && kind.owner == nullptr && apart &&
         kind.k % cpu::kUnitInputs == 0;
}

CpuLinearGroup::Buffers CpuLinearGroup::take_buffers(Arena& arena,
                                                     const LinearGroup::Args& args) const {
  const int64_t tokens = args.x.rows;
  Buffers b;
  int64_t most = 1;
  for (size_t i = 0; i < linears_.size(); ++i) {
    const PackedLinear& linear = linears_[i];
    Buffers::Member& m = b.members[i];
    if (rows_of_[i] == i) {
      m.rows = arena.take<const std::byte*>(tokens);
      if (!takes_rows_as_they_are(linear, args.x)) {
        const PackedLinear::InputKind kind = linear.input_kind();
        m.memory = arena.bytes(static_cast<size_t>(tokens * cpu::row_bytes(kind.format, kind.k)));
      }
    } else {
      m.rows = b.members[rows_of_[i]].rows;
    }
    m.first_item = b.items;
    const int64_t item_bytes = tokens <= 8 ? kDecodeBytes : kPrefillBytes;
    m.panels_per_item = std::max<int64_t>(1, item_bytes / linear.panel_bytes());
    m.block_tokens = block_tokens(linear, tokens);
    b.block = std::max(b.block, m.block_tokens);
    most = std::max(most, std::min(tokens, most_block_tokens(linear)));
    b.items += ceil_div(linear.num_panels(), m.panels_per_item);
    b.weight_bytes += linear.num_panels() * linear.panel_bytes();
  }
  b.sums = arena.take<float>(threads_ * most * cpu::kPanelRows);
  b.scratch = arena.bytes(static_cast<size_t>(threads_ * cpu::kScratchBytes));
  b.ranges = arena.take<cpu::WorkRanges::Range>(threads_);
  return b;
}

size_t CpuLinearGroup::workspace_size(const LinearGroup::Args& bound) const {
  if (bound.x.rows == 0) return 0;
  Arena arena = Arena::measuring();
  take_buffers(arena, bound);
  return arena.peak();
}

void CpuLinearGroup::make_rows(const PackedLinear& linear, const Rows& x, std::byte* memory,
                               const std::byte** rows, const Stream& stream) const {
  if (takes_rows_as_they_are(linear, x)) {
    for (int64_t t = 0; t < x.rows; ++t) {
      rows[t] = reinterpret_cast<const std::byte*>(x.row(t));
    }
    return;
  }
  const PackedLinear::InputKind kind = linear.input_kind();
  const int64_t bytes = cpu::row_bytes(kind.format, kind.k);
  const int64_t grain = parallel_grain(x.rows, 4 * kind.k * int64_t{sizeof(float)});
  stream.threads->parallel_for(x.rows, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      linear.make_row(kernels_, x.row(t), memory + t * bytes);
      rows[t] = memory + t * bytes;
    }
  });
}

// Some panels of one member for all tokens, a block of tokens at a time.
void CpuLinearGroup::run_item(const LinearGroup::Args& args, const Buffers& buffers, int64_t item,
                              int thread) const {
  size_t i = linears_.size() - 1;
  while (item < buffers.members[i].first_item) --i;
  const Buffers::Member& m = buffers.members[i];
  const PackedLinear& linear = linears_[i];
  const Rows& y = args.y[i];
  float* sums = buffers.sums + thread * buffers.block * cpu::kPanelRows;
  std::byte* scratch = buffers.scratch + thread * cpu::kScratchBytes;
  const int64_t first = (item - m.first_item) * m.panels_per_item;
  const int64_t last = std::min(first + m.panels_per_item, linear.num_panels());
  for (int64_t t = 0; t < args.x.rows; t += m.block_tokens) {
    const int64_t n = std::min(m.block_tokens, args.x.rows - t);
    for (int64_t panel = first; panel < last; ++panel) {
      linear.multiply_panel(kernels_, panel, m.rows + t, n, y.row(t), y.stride, sums, scratch);
    }
  }
}

void CpuLinearGroup::run(const LinearGroup::Args& args, std::span<std::byte> workspace,
                         const Stream& stream) const {
  if (args.x.rows == 0) return;
  const int threads = stream.threads->size();
  MOE4_CHECK(threads <= threads_);
  Arena arena(workspace);
  const Buffers buffers = take_buffers(arena, args);
  for (size_t i = 0; i < linears_.size(); ++i) {
    if (rows_of_[i] != i) continue;
    make_rows(linears_[i], args.x, buffers.members[i].memory, buffers.members[i].rows, stream);
  }
  const int64_t items = buffers.items;
  if (threads == 1 || parallel_grain(items, args.x.rows * buffers.weight_bytes / items) >= items) {
    for (int64_t i = 0; i < items; ++i) run_item(args, buffers, i, 0);
    return;
  }
  // A contiguous run of panels a thread, so that each streams through memory.
  cpu::WorkRanges ranges(buffers.ranges, threads);
  ranges.reset(items);
  stream.threads->run([&](int thread) {
    for (int64_t i; (i = ranges.take(thread)) >= 0;) run_item(args, buffers, i, thread);
  });
}

const Implementation<LinearGroup>& cpu_linear_group() {
  static const CpuImplementation<LinearGroup, CpuLinearGroup> implementation("cpu", accepts);
  return implementation;
}

}  // namespace moe4
