// Measures DRAM reads, instruction peaks and the block-16 tile.
#include "bench/ceilings.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "base/aligned_buffer.h"
#include "base/cpu_isa.h"
#include "bench/peaks.h"
#include "panels/kernels.h"

namespace moe4 {
namespace {

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The best of `repeats` runs of fn on all threads.
template <typename Fn>
double best_seconds(ThreadPool& threads, int repeats, const Fn& fn) {
  double best = 1e30;
  for (int i = 0; i < repeats; ++i) {
    const double start = seconds_now();
    threads.run_on_all([&](int thread) { fn(thread); });
    best = std::min(best, seconds_now() - start);
  }
  return best;
}

uint64_t read_all(const std::byte* begin, size_t bytes) {
  uint64_t sums[16] = {};
  const auto* p = reinterpret_cast<const uint64_t*>(begin);
  for (size_t i = 0; i + 16 <= bytes / 8; i += 16) {
    for (int j = 0; j < 16; ++j) sums[j] ^= p[i + j];
  }
  for (int j = 1; j < 16; ++j) sums[0] ^= sums[j];
  return sums[0];
}

double measure_peak(ThreadPool& threads, const peaks::Peak& peak) {
  constexpr int64_t kRounds = 2'000'000;
  const double seconds = best_seconds(threads, 5, [&](int) { peak.run(kRounds); });
  return peak.operations_per_round * kRounds * threads.size() / seconds * 1e-9;
}

double measure_tile(ThreadPool& threads, int tokens, bool fp4) {
  constexpr int64_t kInputs = 512;  // a panel of 9 KB
  const cpu::Kernels& kernels = cpu::kernels_for(cpu_isa());
  const cpu::RowFormat format = fp4 ? cpu::RowFormat::kFp4 : cpu::RowFormat::kInt16;
  const int64_t row_bytes = cpu::row_bytes(format, kInputs);
  const int64_t panel_bytes = kInputs / cpu::kUnitInputs * cpu::Nvfp4Unit::kBytes;
  const int64_t sums_bytes = tokens * cpu::kPanelRows * 4;
  const int64_t bytes =
      panel_bytes + round_up(tokens * row_bytes, 64) + sums_bytes + cpu::kScratchBytes;
  std::vector<AlignedBuffer> memory;
  for (int t = 0; t < threads.size(); ++t) {
    memory.emplace_back(static_cast<size_t>(bytes));
    std::memset(memory.back().data(), 0x11, panel_bytes + tokens * row_bytes);
  }
  constexpr int kRounds = 400;
  const double seconds = best_seconds(threads, 12, [&](int t) {
    std::byte* at = memory[t].data();
    const std::byte* rows[64];
    for (int i = 0; i < tokens; ++i) rows[i] = at + panel_bytes + i * row_bytes;
    std::byte* sums = at + panel_bytes + round_up(tokens * row_bytes, 64);
    for (int r = 0; r < kRounds; ++r) {
      (fp4 ? kernels.nvfp4_fp4 : kernels.nvfp4_int16)({.panel = at,
                                                       .in_features = kInputs,
                                                       .rows = rows,
                                                       .num_tokens = tokens,
                                                       .sums = reinterpret_cast<float*>(sums),
                                                       .scratch = sums + sums_bytes});
    }
  });
  return 2.0 * kInputs * cpu::kPanelRows * tokens * kRounds * threads.size() / seconds * 1e-9;
}

}  // namespace

DramProbe::DramProbe(ThreadPool& threads) : threads_(threads), buffer_(size_t{512} << 20) {
  const size_t part = buffer_.size() / threads.size() / 4096 * 4096;
  threads.run_on_all([&](int t) { std::memset(buffer_.data() + t * part, t + 1, part); });
}

double DramProbe::measure() {
  const size_t part = buffer_.size() / threads_.size() / 4096 * 4096;
  std::vector<uint64_t> sink(threads_.size() * 8);
  const double seconds = best_seconds(
      threads_, 4, [&](int t) { sink[t * 8] = read_all(buffer_.data() + t * part, part); });
  return static_cast<double>(part) * threads_.size() / seconds * 1e-9;
}

double Ceilings::tile_gops(double tokens, bool fp4) const {
  const auto rate = [fp4](const Tile& t) { return fp4 ? t.fp4_gops : t.int16_gops; };
  for (size_t i = 1; i < tiles.size(); ++i) {
    if (tokens > tiles[i].tokens) continue;
    const double x =
        std::max(0.0, (tokens - tiles[i - 1].tokens) / (tiles[i].tokens - tiles[i - 1].tokens));
    return rate(tiles[i - 1]) + x * (rate(tiles[i]) - rate(tiles[i - 1]));
  }
  return tiles.empty() ? 0.0 : rate(tiles.back());
}

Ceilings measure_ceilings(ThreadPool& threads) {
  Ceilings c;
  c.isa = std::string(to_string(cpu_isa()));
  c.threads = threads.size();
  c.dram_read_gbs = DramProbe(threads).measure();
#if defined(__x86_64__)
  if (cpu_isa() == CpuIsa::kAvx512) {
    c.int8_gops = measure_peak(threads, peaks::avx512_int8());
    c.int16_gops = measure_peak(threads, peaks::avx512_int16());
    if (avx512_features().bf16) c.bf16_gops = measure_peak(threads, peaks::avx512_bf16());
    c.fma_gops = measure_peak(threads, peaks::avx512_fma());
  }
#endif
  for (const int tokens : {1, 2, 4, 8, 16, 32, 64}) {
    c.tiles.push_back(
        {tokens, measure_tile(threads, tokens, true), measure_tile(threads, tokens, false)});
  }
  return c;
}

std::string to_json(const Ceilings& c) {
  std::string tiles;
  for (const Ceilings::Tile& t : c.tiles) {
    tiles += fmt::format(R"({}{{"tokens": {}, "fp4_gops": {:.1f}, "int16_gops": {:.1f}}})",
                         tiles.empty() ? "" : ", ", t.tokens, t.fp4_gops, t.int16_gops);
  }
  return fmt::format(
      R"({{"isa": "{}", "threads": {}, "dram_read_gbs": {:.2f}, "int8_gops": {:.1f}, )"
      R"("int16_gops": {:.1f}, "bf16_gops": {:.1f}, "fma_gops": {:.1f}, "tiles": [{}]}})",
      c.isa, c.threads, c.dram_read_gbs, c.int8_gops, c.int16_gops, c.bf16_gops, c.fma_gops, tiles);
}

}  // namespace moe4
