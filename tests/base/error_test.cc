// Messages are one safe line that says what, where, expected, found and what to do.
#include "base/error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "base/checked_math.h"

namespace moe4 {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string message_of(const BadInput& details) {
  try {
    throw_bad_input(details);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    return error.what();
  }
}

TEST(Error, CodesAreTheExitStatusesOfTheProgram) {
  EXPECT_EQ(static_cast<int>(ErrorCode::kUsage), 2);
  EXPECT_EQ(static_cast<int>(ErrorCode::kBadInput), 3);
  EXPECT_EQ(static_cast<int>(ErrorCode::kUnavailable), 4);
}

TEST(Error, BadInputSaysEverythingInOneLine) {
  EXPECT_EQ(message_of({.what = "truncated header",
                        .file = "a.safetensors",
                        .tensor = "w",
                        .expected = "8 bytes",
                        .found = "5",
                        .hint = "download it again"}),
            "truncated header (file a.safetensors, w): expected 8 bytes, found 5; "
            "download it again");
}

TEST(Error, EmptyFieldsLeaveNoTrace) {
  EXPECT_EQ(message_of({.what = "broken"}), "broken");
  EXPECT_EQ(message_of({.what = "broken", .found = "x"}), "broken: found x");
}

TEST(Error, ControlCharactersOfForeignNamesAreEscaped) {
  const std::string message = message_of({.what = "bad", .tensor = "a\nb\x1b[31m"});
  EXPECT_THAT(message, HasSubstr("a\\x0ab\\x1b[31m"));
  EXPECT_THAT(message, Not(HasSubstr("\n")));
}

TEST(Error, LongForeignNamesAreCut) {
  EXPECT_EQ(printable(std::string(500, 'x'), 10), "xxxxxxxxxx...");
}

TEST(Error, AFailedCheckNamesExpressionAndPlace) {
  try {
    MOE4_CHECK(1 + 1 == 3);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInternal);
    EXPECT_THAT(error.what(), HasSubstr("1 + 1 == 3"));
    EXPECT_THAT(error.what(), HasSubstr("error_test.cc"));
  }
}

TEST(CheckedMath, OverflowIsNoticed) {
  EXPECT_EQ(checked_mul(int64_t{1} << 31, int64_t{1} << 31), int64_t{1} << 62);
  EXPECT_FALSE(checked_mul(int64_t{1} << 32, int64_t{1} << 31));
  EXPECT_FALSE(checked_mul(INT64_MIN, -1));
  EXPECT_EQ(checked_add(INT64_MAX, 0), INT64_MAX);
  EXPECT_FALSE(checked_add(INT64_MAX, 1));
}

TEST(CheckedMath, RoundingUpGoesToTheNextMultiple) {
  EXPECT_EQ(ceil_div(0, 16), 0);
  EXPECT_EQ(ceil_div(17, 16), 2);
  EXPECT_EQ(round_up(16, 16), 16);
  EXPECT_EQ(round_up(17, 16), 32);
}

}  // namespace
}  // namespace moe4
