// DeepSeek's tokenizer splits and template constructs against tokenizers and transformers
// (scripts/make_deepseek_text_goldens.py).
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace moe4 {
namespace {

using nlohmann::ordered_json;

const ordered_json& goldens() {
  static const ordered_json loaded =
      ordered_json::parse(std::ifstream(MOE4_TEST_DATA "/text/deepseek_goldens.json"));
  return loaded;
}

TEST(DeepseekText, DigitsByThreesAndRunsOfChineseAreCutFirst) {
  const auto tokenizer = Tokenizer::parse(goldens()["tokenizer"].dump(), "deepseek");
  for (const ordered_json& one : goldens()["encode"]) {
    const auto text = one["text"].get<std::string>();
    const auto ids = one["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer->encode(text), ids) << one["text"].dump(-1, ' ', true);
    EXPECT_EQ(tokenizer->decode(ids, /*skip_special=*/false), text);
  }
}

TEST(DeepseekText, ConversationsRenderAsInTransformers) {
  const auto chat = ChatTemplate::parse(goldens()["template"].get<std::string>(), "deepseek");
  ASSERT_GE(goldens()["chat"].size(), 5u);
  for (const ordered_json& one : goldens()["chat"]) {
    EXPECT_EQ(chat->render(one["context"].dump()), one["text"].get<std::string>());
  }
}

}  // namespace
}  // namespace moe4
