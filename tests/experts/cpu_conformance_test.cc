// The cpu backend on every instruction set of this machine, against the reference.
#include "experts/conformance.h"
#include "experts/cpu/cpu_backend.h"

namespace moe4::testing {
namespace {

std::vector<ConformanceTarget> targets() {
  std::vector<ConformanceTarget> all;
  for (const CpuIsa isa : available_cpu_isas()) {
    all.push_back({.name = std::string(to_string(isa)), .make = [isa] {
                     return std::make_shared<HostAdapter>(std::make_shared<CpuBackend>(isa));
                   }});
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Cpu, ExpertsConformance, ::testing::ValuesIn(targets()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace moe4::testing
