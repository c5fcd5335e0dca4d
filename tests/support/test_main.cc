// main() of every test program: GoogleTest's, and two things more.
//
//   --cpu-isa=NAME   the CPU kernels of the whole run: portable, avx2, avx512 or neon
//
// A run that no test is left for, say by a mistyped filter, fails: it would show that nothing
// works.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "base/cpu_isa.h"
#include "base/error.h"

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  constexpr std::string_view kIsa = "--cpu-isa=";
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument(argv[i]);
    if (!argument.starts_with(kIsa)) {
      std::fprintf(stderr, "unknown argument '%s'\n", argv[i]);
      return 2;
    }
    try {
      moe4::set_cpu_isa(moe4::parse_cpu_isa(argument.substr(kIsa.size())));
    } catch (const moe4::Error& error) {
      std::fprintf(stderr, "%s\n", error.what());
      return static_cast<int>(error.code());
    }
  }
  const int failed = RUN_ALL_TESTS();
  if (GTEST_FLAG_GET(list_tests)) return failed;
  // A shard may well be empty.
  const bool sharded = std::getenv("GTEST_TOTAL_SHARDS") != nullptr;
  if (!sharded && testing::UnitTest::GetInstance()->test_to_run_count() == 0) {
    std::fprintf(stderr, "no test was selected: --gtest_filter matches nothing\n");
    return 1;
  }
  return failed;
}
