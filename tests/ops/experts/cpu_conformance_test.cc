// The cpu backend on every instruction set of this machine, against the reference.
#include "ops/experts/conformance.h"
#include "ops/experts/cpu/cpu_backend.h"

namespace moe4::testing {
namespace {

std::vector<ConformanceTarget> targets() {
  std::vector<ConformanceTarget> all;
  for (const CpuIsa isa : available_cpu_isas()) {
    const auto make = [isa] {
      return std::make_shared<HostAdapter>(std::make_shared<CpuBackend>(isa));
    };
    const std::string name(to_string(isa));
    all.push_back({.name = name, .make = make});
    all.push_back({.name = name + "_mxfp4", .make = make, .scheme = kMxfp4W4A16});
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Cpu, ExpertsConformance, ::testing::ValuesIn(targets()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace moe4::testing
