// The reference against itself: holds the conformance suite's own sensitivity (its damage tests).
#include "experts/conformance.h"

namespace moe4::testing {
namespace {

INSTANTIATE_TEST_SUITE_P(
    Reference, ExpertsConformance,
    ::testing::Values(ConformanceTarget{
        .name = "reference",
        .make =
            [] { return std::make_shared<HostAdapter>(std::make_shared<ReferenceBackend>()); }}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace moe4::testing
