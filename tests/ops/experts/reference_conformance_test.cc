// The reference against itself: holds the conformance suite's own sensitivity (its damage tests).
#include "ops/experts/conformance.h"

namespace moe4::testing {
namespace {

std::shared_ptr<BackendAdapter> make_reference() {
  return std::make_shared<HostAdapter>(std::make_shared<ReferenceBackend>());
}

INSTANTIATE_TEST_SUITE_P(Reference, ExpertsConformance,
                         ::testing::Values(ConformanceTarget{.name = "reference",
                                                             .make = make_reference},
                                           ConformanceTarget{.name = "reference_mxfp4",
                                                             .make = make_reference,
                                                             .scheme = kMxfp4W4A16}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace moe4::testing
