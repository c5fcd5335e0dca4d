// The page in the program is the page in the repository, and needs nothing else.
#include "server/page/page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

namespace moe4::server {
namespace {

TEST(ChatPage, IsTheFileAndSmall) {
  std::ifstream file(MOE4_PAGE, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  EXPECT_FALSE(text.empty());
  EXPECT_EQ(chat_page(), text);
  EXPECT_LT(text.size(), 60000U);
}

TEST(ChatPage, TakesNothingFromElsewhereAndMakesNoHtmlOfText) {
  const std::string page(chat_page());
  for (const char* word : {" src=", "@import", "innerHTML", "outerHTML", "insertAdjacentHTML",
                           "document.write", "eval(", "<link rel=\"stylesheet\""})
    EXPECT_THAT(page, testing::Not(testing::HasSubstr(word)));
  EXPECT_THAT(page, testing::HasSubstr("default-src 'none'"));
}

}  // namespace
}  // namespace moe4::server
