// The op suites on the CPU.
#include <gtest/gtest.h>

#include <cstring>

#include "base/aligned_buffer.h"
#include "support/allocations.h"
#include "support/op_device.h"

namespace moe4::testing {

std::vector<OpOptions> op_options(ThreadPool& threads) {
  std::vector<OpOptions> all;
  for (const CpuIsa isa : available_cpu_isas()) all.push_back({.threads = &threads, .isa = isa});
  return all;
}

std::string name_of(const OpOptions& options) { return std::string(to_string(options.isa)); }

std::vector<RowFormat> activation_formats() { return {RowFormat::kF32}; }

void run_on_device(const Device&, size_t bytes, ThreadPool& threads,
                   const std::function<void(std::span<std::byte>, const Stream&)>& f) {
  AlignedBuffer memory(bytes + Arena::kAlignment);
  std::memset(memory.data(), 0xff, memory.size());
  Arena arena = Arena::within({memory.data(), memory.size()});
  const std::span<std::byte> workspace{arena.bytes(bytes), bytes};
  const int64_t before = allocations();
  f(workspace, Stream::cpu(threads));
  EXPECT_EQ(allocations() - before, 0) << "an op must not allocate while it runs";
}

}  // namespace moe4::testing
