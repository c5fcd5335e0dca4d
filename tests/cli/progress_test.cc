// The progress bar fits whatever width there is.
#include "cli/progress.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

namespace moe4::cli {
namespace {

int width_of(const std::string& text) {
  return static_cast<int>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

TEST(ProgressLine, ShowsLabelBarShareAndTime) {
  EXPECT_EQ(progress_line("loading", 0.5, 12.4, 79),
            "loading [###############...............]  50%  12 s left");
  EXPECT_EQ(progress_line("loading", 0, 0, 79),
            "loading [..............................]   0%  0 s left");
  EXPECT_EQ(progress_line("loading", 1, 0, 79),
            "loading [##############################] 100%  0 s left");
  EXPECT_EQ(progress_line("loading", 0.5, 12.4, 79, 3.14),
            "loading [###############...............]  50%  3.1 GB/s  12 s left");
  EXPECT_EQ(progress_line("loading", 0.5, 12.4, 16, 3.14), " 50%  12 s left");
}

TEST(ProgressLine, FitsEveryWidthAndKeepsThePercentage) {
  for (const std::string label : {"loading", "", "cpu, reference bf16, fp4 (in-kernel)", "größe"}) {
    for (int columns = 0; columns < 120; ++columns) {
      const std::string line = progress_line(label, 0.25, 123456, columns, columns % 2 * 3.1);
      EXPECT_LE(width_of(line), columns) << line;
      if (columns < 4) continue;
      EXPECT_NE(line.find(" 25%"), std::string::npos) << columns << line;
    }
  }
}

TEST(ProgressLine, CutsALabelAtWholeCharactersAndDropsControls) {
  const std::string line = progress_line(
      "\x1b[31mgr\xc3\xb6\xc3\x9f"
      "e",
      0.25, 1, 10);
  EXPECT_EQ(line.find('\x1b'), std::string::npos);
  for (int columns = 5; columns < 20; ++columns) {
    const std::string cut = progress_line("\xc3\xb6\xc3\xb6\xc3\xb6\xc3\xb6", 0.25, 1, columns);
    EXPECT_EQ(std::count(cut.begin(), cut.end(), '\xc3'),
              std::count(cut.begin(), cut.end(), '\xb6'));
  }
}

}  // namespace
}  // namespace moe4::cli
