// Distribution of linears over threads.
#include <algorithm>

#include "base/error.h"
#include "layers/linear.h"
#include "panels/work_ranges.h"

namespace moe4 {
namespace {

constexpr size_t kMaxCalls = 8;
// Weight bytes of one unit of work with one token: long enough to hide its dispatch, short enough
// that threads finish together. With more tokens it is what stays in L2 beside the tokens' rows
// while blocks of tokens pass by.
constexpr int64_t kDecodeBytes = 64 << 10, kPrefillBytes = 256 << 10;
// Rows of the tokens that pass a panel together stay in L2, too.
constexpr int64_t kBlockRowBytes = 512 << 10, kMaxBlockTokens = 96;

// A call with its inputs as the kernels want them.
struct ReadyCall {
  LinearCall call;
  const std::byte* const* rows = nullptr;  // [num_tokens]
  int64_t first_item = 0;                  // of the list of all calls' work
  int64_t panels_per_item = 1;
  int64_t block_tokens = 1;
};

bool same_inputs(const LinearCall& a, const LinearCall& b) {
  return a.x == b.x && a.x_stride == b.x_stride && a.linear->input_kind() == b.linear->input_kind();
}

// Fewer tokens than this fit the ways of any L1, however far apart their rows are.
constexpr int64_t kAliasingTokens = 5;

// Pointers to the tokens' rows: the inputs themselves where the kernels take float32 and the rows
// lie well, else new rows.
const std::byte* const* make_rows(LayerContext& context, const cpu::Kernels& kernels,
                                  const LinearCall& call, int64_t num_tokens) {
  const Linear::InputKind kind = call.linear->input_kind();
  auto** rows = context.scratch.take<const std::byte*>(num_tokens);
  const bool apart =
      num_tokens < kAliasingTokens || !cpu::aliases_in_l1(call.x_stride * int64_t{sizeof(float)});
  if (kind.format == cpu::RowFormat::kFloat && kind.owner == nullptr && apart) {
    for (int64_t t = 0; t < num_tokens; ++t) {
      rows[t] = reinterpret_cast<const std::byte*>(call.x + t * call.x_stride);
    }
    return rows;
  }
  const int64_t bytes = cpu::row_bytes(kind.format, kind.k);
  std::byte* memory = context.scratch.bytes(static_cast<size_t>(num_tokens * bytes));
  const int64_t grain = parallel_grain(num_tokens, 4 * kind.k * int64_t{sizeof(float)});
  context.threads.parallel_for(num_tokens, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      call.linear->make_row(kernels, call.x + t * call.x_stride, memory + t * bytes);
      rows[t] = memory + t * bytes;
    }
  });
  return rows;
}

int64_t block_tokens(const Linear& linear, int64_t num_tokens) {
  const Linear::InputKind kind = linear.input_kind();
  const int64_t fit = kBlockRowBytes / cpu::row_bytes(kind.format, kind.k);
  const int64_t most = std::clamp<int64_t>(fit / 12 * 12, 12, kMaxBlockTokens);
  return ceil_div(num_tokens, ceil_div(num_tokens, most));
}

// Some panels of one call for all tokens, a block of tokens at a time.
void run_item(const cpu::Kernels& kernels, const ReadyCall& ready, int64_t item, int64_t num_tokens,
              float* sums, std::byte* scratch) {
  const LinearCall& c = ready.call;
  const int64_t first = item * ready.panels_per_item;
  const int64_t last = std::min(first + ready.panels_per_item, c.linear->num_panels());
  for (int64_t t = 0; t < num_tokens; t += ready.block_tokens) {
    const int64_t n = std::min(ready.block_tokens, num_tokens - t);
    for (int64_t panel = first; panel < last; ++panel) {
      c.linear->multiply_panel(kernels, panel, ready.rows + t, n, c.y + t * c.y_stride, c.y_stride,
                               sums, scratch);
    }
  }
}

}  // namespace

void apply_linears(LayerContext& context, std::span<const LinearCall> calls, int64_t num_tokens) {
  MOE4_CHECK(calls.size() <= kMaxCalls);
  if (num_tokens == 0) return;
  Scratch::Frame frame(context.scratch);
  const cpu::Kernels& kernels = cpu::kernels_for(context.kernels.isa);

  ReadyCall ready[kMaxCalls];
  int64_t items = 0, bytes = 0, block = 1;
  for (size_t i = 0; i < calls.size(); ++i) {
    const Linear& linear = *calls[i].linear;
    ReadyCall& r = ready[i];
    r.call = calls[i];
    for (size_t j = 0; j < i && r.rows == nullptr; ++j) {
      if (same_inputs(calls[j], calls[i])) r.rows = ready[j].rows;
    }
    if (r.rows == nullptr) r.rows = make_rows(context, kernels, calls[i], num_tokens);
    r.first_item = items;
    const int64_t item_bytes = num_tokens <= 8 ? kDecodeBytes : kPrefillBytes;
    r.panels_per_item = std::max<int64_t>(1, item_bytes / linear.panel_bytes());
    r.block_tokens = block_tokens(linear, num_tokens);
    block = std::max(block, r.block_tokens);
    items += ceil_div(linear.num_panels(), r.panels_per_item);
    bytes += linear.num_panels() * linear.panel_bytes();
  }

  const int threads = context.threads.size();
  auto* sums = context.scratch.take<float>(threads * block * cpu::kPanelRows);
  std::byte* scratch = context.scratch.bytes(static_cast<size_t>(threads * cpu::kScratchBytes));
  const auto run = [&](int64_t item, int thread) {
    size_t call = calls.size() - 1;
    while (item < ready[call].first_item) --call;
    run_item(kernels, ready[call], item - ready[call].first_item, num_tokens,
             sums + thread * block * cpu::kPanelRows, scratch + thread * cpu::kScratchBytes);
  };
  if (threads == 1 || parallel_grain(items, num_tokens * bytes / items) >= items) {
    for (int64_t i = 0; i < items; ++i) run(i, 0);
    return;
  }
  // A contiguous run of panels a thread, so that each streams through memory.
  cpu::WorkRanges ranges(context.scratch.take<cpu::WorkRanges::Range>(threads), threads);
  ranges.reset(items);
  context.threads.run([&](int thread) {
    for (int64_t i; (i = ranges.take(thread)) >= 0;) run(i, thread);
  });
}

}  // namespace moe4
