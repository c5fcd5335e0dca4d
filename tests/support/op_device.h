// Where the op suites run. The same tests are linked twice: ops_test with op_device_cpu.cc,
// gpu_ops_test with op_device_gpu.cc, in which all memory from operator new is one that the GPU can
// read and write too.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "ops/op.h"

namespace moe4::testing {

/// What implementations are prepared with here: on the CPU one a instruction set, or the GPU.
/// Empty on a machine without a GPU.
std::vector<OpOptions> op_options(ThreadPool& threads);

/// "avx2", "sm_90".
std::string name_of(const OpOptions& options);

/// Formats of activations that ops take there: float32, and BF16 on a GPU.
std::vector<RowFormat> activation_formats();

/// Makes a stream and `bytes` of workspace full of 0xff on the device of these options, calls `f`,
/// and waits. On a GPU every other call is captured in a graph that is launched once, so that tests
/// which compare bits compare both ways to run. Fails the test when f allocates, frees or waits.
void run_on_device(const Device& device, size_t bytes, ThreadPool& threads,
                   const std::function<void(std::span<std::byte>, const Stream&)>& f);

}  // namespace moe4::testing
