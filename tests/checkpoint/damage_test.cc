// Every damaged checkpoint is refused with one line that names the file and what is wrong in it.
#include "checkpoint/damage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "checkpoint/materialise.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(Damage, EveryDamagedCheckpointIsRefusedWithOneLineThatNamesTheFault) {
  testing::TempDir dir;
  int count = 0;
  testing::for_each_damage(fs::path(MOE4_TEST_DATA) / "checkpoints", dir.path(),
                           [&](const testing::Damage& damage, const fs::path& folder) {
                             SCOPED_TRACE(damage.name);
                             ++count;
                             try {
                               testing::materialise(*Checkpoint::open(folder));
                               ADD_FAILURE() << "was accepted";
                             } catch (const Error& error) {
                               const std::string message = error.what();
                               EXPECT_EQ(error.code(), ErrorCode::kBadInput) << message;
                               EXPECT_THAT(message, Not(HasSubstr("\n")));
                               EXPECT_THAT(message, HasSubstr(damage.file));
                               EXPECT_THAT(message, HasSubstr(damage.mention));
                               EXPECT_LT(message.size(), 2000u);
                             } catch (const std::exception& error) {
                               ADD_FAILURE() << "not a moe4::Error: " << error.what();
                             }
                             fs::remove_all(folder);
                           });
  EXPECT_GE(count, 300);
}

TEST(Damage, HeadersAloneNeverCrash) {
  testing::TempDir dir;
  testing::for_each_damage(
      fs::path(MOE4_TEST_DATA) / "checkpoints", dir.path(),
      [&](const testing::Damage& damage, const fs::path& folder) {
        SCOPED_TRACE(damage.name);
        try {
          testing::materialise(*Checkpoint::open(folder, {.headers_only = true}));
        } catch (const Error& error) {
          EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.what();
        }
        fs::remove_all(folder);
      });
}

}  // namespace
}  // namespace moe4
