// Every damaged checkpoint makes the program exit with status 3 and one line that names the file.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>

#include "checkpoint/damage.h"
#include "support/run_program.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

using testing::Damage;
using ::testing::HasSubstr;
using testing::ProgramResult;
using ::testing::StartsWith;

TEST(DamagedCheckpoints, EachExits3WithOneLineNamingTheFile) {
  const testing::TempDir folder;
  int count = 0;
  testing::for_each_damage(
      std::string(MOE4_TEST_DATA) + "/checkpoints", folder.path(),
      [&](const Damage& damage, const std::filesystem::path& model) {
        ++count;
        SCOPED_TRACE(damage.name);
        const ProgramResult result =
            testing::run_program({"run", model.string(), "-p", "a", "-n", "1", "--threads", "1"});
        EXPECT_EQ(result.status, 3) << result.err;
        EXPECT_THAT(result.err, StartsWith("error: "));
        EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
        EXPECT_THAT(result.err, HasSubstr(damage.file));
        // A size that does not fit is first noticed at whichever tensor is loaded first.
        if (!damage.name.starts_with("unfit-")) {
          EXPECT_THAT(result.err, HasSubstr(damage.mention));
        }
        std::filesystem::remove_all(model);
      });
  EXPECT_GE(count, 300);
}

}  // namespace
}  // namespace moe4
