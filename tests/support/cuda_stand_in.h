// A CUDA runtime without a GPU: memory is the host's, kernels do nothing, and every launch is held
// against what it may ask for. Linked in place of CUDA's own, so that a model's launches of all
// sizes can be tried where there is no GPU.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moe4::testing {

/// CUDA C++ Programming Guide, technical specifications by compute capability.
struct StandInGpu {
  int sm = 90;
  int sm_count = 132;
  int shared_bytes = 227 << 10;  ///< a block's, opted in
  int64_t memory = int64_t{139} << 30;
};

/// From here on this is device 0. Forgets what kernels were allowed before.
void use_stand_in(const StandInGpu& gpu);

/// Launches so far, and those that a GPU would have refused: kernel and reason.
int64_t stand_in_launches();
std::vector<std::string> take_refused_launches();

}  // namespace moe4::testing
