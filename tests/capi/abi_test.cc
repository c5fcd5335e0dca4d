// What programs compiled against the header rely on, in numbers: a change needs another MOE4_ABI.
#include <gtest/gtest.h>

#include <cstddef>

#include "moe4/moe4.h"

namespace moe4::testing {
namespace {

#define MOE4_AT(type, field) offsetof(type, field)

TEST(CApiAbi, SizesAndPlacesAreThoseOfAbi1) {
  ASSERT_EQ(MOE4_ABI, 1);
  EXPECT_EQ(moe4_abi(), MOE4_ABI);
  EXPECT_EQ(sizeof(moe4_linear), 32u);
  EXPECT_EQ(MOE4_AT(moe4_linear, bias), 24u);
  EXPECT_EQ(sizeof(moe4_stacked_linear), 80u);
  EXPECT_EQ(MOE4_AT(moe4_stacked_linear, bias), 32u);
  EXPECT_EQ(MOE4_AT(moe4_stacked_linear, bias_stride), 72u);
  EXPECT_EQ(sizeof(moe4_layer_desc), 184u);
  EXPECT_EQ(MOE4_AT(moe4_layer_desc, activation), 48u);
  EXPECT_EQ(MOE4_AT(moe4_layer_desc, gate), 72u);
  EXPECT_EQ(MOE4_AT(moe4_layer_desc, stacked_gate), 96u);
  EXPECT_EQ(MOE4_AT(moe4_layer_desc, reciprocal_scales), 120u);
  EXPECT_EQ(MOE4_AT(moe4_layer_desc, expert_map), 128u);
  EXPECT_EQ(MOE4_AT(moe4_layer_desc, tp_size), 140u);
  EXPECT_EQ(MOE4_AT(moe4_layer_desc, backend), 160u);
  EXPECT_EQ(MOE4_AT(moe4_layer_desc, activations), 168u);
  EXPECT_EQ(MOE4_AT(moe4_layer_desc, batch_invariant), 176u);
  EXPECT_EQ(sizeof(moe4_apply_args), 88u);
  EXPECT_EQ(MOE4_AT(moe4_apply_args, workspace), 48u);
  EXPECT_EQ(MOE4_AT(moe4_apply_args, stream), 64u);
  EXPECT_EQ(MOE4_AT(moe4_apply_args, hidden_dtype), 72u);
  EXPECT_EQ(MOE4_AT(moe4_apply_args, expert_map), 80u);
  EXPECT_EQ(sizeof(moe4_model_options), 120u);
  EXPECT_EQ(MOE4_AT(moe4_model_options, cpu_moe), 56u);
  EXPECT_EQ(MOE4_AT(moe4_model_options, memory_utilization), 96u);
  EXPECT_EQ(MOE4_AT(moe4_model_options, user), 112u);
  EXPECT_EQ(sizeof(moe4_candidate), 24u);
}

TEST(CApiAbi, TheLibrarySaysItsVersionAndWhatItWasBuiltFor) {
  EXPECT_STREQ(moe4_version(), MOE4_EXPECTED_VERSION);
  EXPECT_STREQ(moe4_gpu_architectures(), MOE4_EXPECTED_ARCHITECTURES);
}

}  // namespace
}  // namespace moe4::testing
