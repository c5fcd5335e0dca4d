// Aligned buffers, tensor views and dtypes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/dtype.h"
#include "base/error.h"
#include "base/tensor_view.h"

namespace moe4 {
namespace {

TEST(AlignedBuffer, StartsZeroedAndAligned) {
  for (size_t bytes : {size_t{1}, size_t{64}, size_t{4097}, size_t{3} << 20}) {
    AlignedBuffer buffer(bytes);
    EXPECT_EQ(buffer.size(), bytes);
    const size_t alignment = bytes >= (size_t{2} << 20) ? size_t{2} << 20 : 64;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % alignment, 0u) << bytes;
    EXPECT_TRUE(std::all_of(buffer.data(), buffer.data() + bytes,
                            [](std::byte b) { return b == std::byte{0}; }));
  }
}

TEST(AlignedBuffer, AnEmptyOneHasNoMemory) {
  EXPECT_EQ(AlignedBuffer().data(), nullptr);
  EXPECT_EQ(AlignedBuffer(0).size(), 0u);
}

TEST(AlignedBuffer, MovesWithoutCopying) {
  AlignedBuffer first(100);
  std::byte* data = first.data();
  const AlignedBuffer second(std::move(first));
  EXPECT_EQ(second.data(), data);
}

TEST(AlignedBuffer, AnImpossibleSizeIsUnavailable) {
  try {
    AlignedBuffer buffer(size_t{1} << 60);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
  }
}

TEST(TensorView, AColumnSliceKeepsItsRowStride) {
  std::vector<float> data(12);
  for (int i = 0; i < 12; ++i) data[i] = static_cast<float>(i);
  const TensorView slice{
      .data = data.data() + 2, .dtype = DType::kF32, .shape = {3, 2}, .row_stride = 4};
  EXPECT_EQ(slice.stride(), 4);
  EXPECT_EQ(*reinterpret_cast<const float*>(slice.row(2)), 10.0f);
  const TensorView dense{.data = data.data(), .dtype = DType::kF32, .shape = {3, 4}};
  EXPECT_EQ(dense.stride(), 4);
  EXPECT_EQ(dense.num_bytes(), 48);
}

TEST(TensorView, ShapesPrintAsPythonLists) {
  EXPECT_EQ(shape_to_string({}), "[]");
  EXPECT_EQ(shape_to_string({256, 128}), "[256, 128]");
}

TEST(DType, NamesRoundTripAndUnknownOnesAreNone) {
  for (DType dtype : {DType::kBool, DType::kU8, DType::kI8, DType::kI16, DType::kU16, DType::kI32,
                      DType::kU32, DType::kI64, DType::kU64, DType::kF8E4M3, DType::kF8E5M2,
                      DType::kF8E8M0, DType::kF16, DType::kBF16, DType::kF32, DType::kF64}) {
    EXPECT_EQ(parse_dtype(to_string(dtype)), dtype) << to_string(dtype);
    EXPECT_GT(size_of(dtype), 0);
  }
  EXPECT_FALSE(parse_dtype("F4"));
  EXPECT_FALSE(parse_dtype("bf16"));
}

}  // namespace
}  // namespace moe4
