// Selection of implementations and the way ops are called, on an op made for it.
#include "ops/op.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/aligned_buffer.h"
#include "ops/batch.h"

namespace moe4 {
namespace {

// out[0] = factor * in
struct Scale {
  static constexpr std::string_view kName = "scale";
  struct Problem {
    int64_t factor = 1;
  };
  struct Weights {};
  struct Args {
    int64_t in = 0;
    int64_t* out = nullptr;
  };
  static void check(const Problem&, const Args& args) { MOE4_CHECK(args.in >= 0); }
};

class PreparedScale final : public Prepared<Scale> {
 public:
  using Prepared::Prepared;
  size_t workspace_size(const Scale::Args&) const override { return sizeof(int64_t); }
  void run(const Scale::Args& args, std::span<std::byte> workspace, const Stream&) const override {
    auto* product = reinterpret_cast<int64_t*>(workspace.data());
    *product = problem().factor * args.in;
    *args.out = *product;
  }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return 0; }
};

// Takes factors below a limit, on the CPU only.
class Limited final : public Implementation<Scale> {
 public:
  Limited(std::string_view name, int64_t limit) : name_(name), limit_(limit) {}
  std::string_view name() const override { return name_; }
  Support supports(const Scale::Problem& problem, const Device& device) const override {
    if (!device.is_cpu()) return Rejection{Rejection::Kind::kDevice, "it needs the CPU"};
    if (problem.factor < limit_) return std::nullopt;
    return Rejection{Rejection::Kind::kShape, "the factor is too large"};
  }
  std::unique_ptr<Prepared<Scale>> prepare(const Scale::Problem& problem, const Scale::Weights&,
                                           const OpOptions&) const override {
    return std::make_unique<PreparedScale>(problem);
  }

 private:
  std::string_view name_;
  int64_t limit_;
};

}  // namespace

template <>
std::span<const Implementation<Scale>* const> implementations<Scale>() {
  static const Limited small("small", 10), large("large", 100);
  static const Implementation<Scale>* const list[] = {&small, &large};
  return list;
}

namespace {

TEST(Op, TheFirstThatCanIsSelectedAndVerdictsAreKept) {
  EXPECT_EQ(select<Scale>({.factor = 5}, Device::cpu()).implementation->name(), "small");
  const OpSelection<Scale> selection = select<Scale>({.factor = 50}, Device::cpu());
  EXPECT_EQ(selection.implementation->name(), "large");
  ASSERT_EQ(selection.verdicts.size(), 2u);
  EXPECT_EQ(selection.verdicts[0].verdict->kind, Rejection::Kind::kShape);
  EXPECT_FALSE(selection.verdicts[1].verdict.has_value());
}

TEST(Op, AnErrorNamesTheOpTheDeviceAndEveryReason) {
  try {
    select<Scale>({.factor = 500}, Device::cpu());
    FAIL() << "somebody took a factor of 500";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("scale"));
    EXPECT_THAT(error.what(), ::testing::HasSubstr("not small since the factor is too large"));
    EXPECT_THAT(error.what(), ::testing::HasSubstr("not large since"));
  }
  EXPECT_THROW(select<Scale>({.factor = 5}, Device::cuda_sm(90)), Error);
}

TEST(Op, RunGivesTheWorkspaceThatTheOpAsksForAndMeasuringOnlyCounts) {
  const auto op = prepare<Scale>({.factor = 6}, {}, {});
  ThreadPool threads(1);
  int64_t out = -1;
  Arena measuring = Arena::measuring();
  Execution count{Stream::cpu(threads), measuring};
  run(*op, {.in = 7, .out = nullptr}, count);
  EXPECT_EQ(measuring.peak(), Arena::kAlignment);

  AlignedBuffer memory(size_t{4} << 20);
  Arena arena({memory.data(), measuring.peak()});
  Execution execution{Stream::cpu(threads), arena};
  run(*op, {.in = 7, .out = &out}, execution);
  EXPECT_EQ(out, 42);
  EXPECT_THROW(run(*op, {.in = -1, .out = &out}, execution), Error);
}

TEST(Rows, ViewsKeepTheStrideAndNullStaysNull) {
  std::vector<float> values(3 * 32);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  Rows rows = Rows::dense(values.data(), 3, 32);
  const Rows part = rows.columns(4, 8).slice(1, 2);
  EXPECT_EQ(part.row(0)[0], 36.0f);
  EXPECT_EQ(part.row(1)[7], 75.0f);
  EXPECT_EQ(part.rows, 2);
  EXPECT_EQ(part.width, 8);
  Arena measuring = Arena::measuring();
  const Rows none = take_rows(measuring, 5, 33);
  EXPECT_EQ(none.stride, 64);
  EXPECT_EQ(none.columns(1, 2).slice(1, 1).data, nullptr);
}

TEST(CacheUnits, HoldAPageOrAState) {
  EXPECT_EQ(cache_unit_bytes(PagedSpec{.num_kv_heads = 2, .key_dim = 256, .value_dim = 256}),
            2 * 64 * 512 * 2);
  EXPECT_EQ(cache_unit_bytes(
                PagedSpec{.num_kv_heads = 1, .key_dim = 576, .value_dim = 0, .dtype = DType::kF32}),
            64 * 576 * 4);
  EXPECT_EQ(cache_unit_bytes(RecurrentSpec{{17, 16}}), (32 + 16) * 4);
}

}  // namespace
}  // namespace moe4
