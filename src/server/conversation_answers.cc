// Template, limits and formats of an answer.
#include "server/conversation_answers.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "server/prompt_text.h"

namespace moe4::server {

ConversationAnswers conversation_answers(const Serving& serving, const SamplingRequest& sampling,
                                         const ConversationRequest& conversation,
                                         std::optional<int64_t> max_tokens) {
  const bool calls_tools = !conversation.tools.is_null() && conversation.tool_choice != "none";
  if (calls_tools && serving.formats.tools == ToolFormat::kNone) {
    refuse_field("tools",
                 "how this model calls tools is not known: the server's "
                 "--tool-call-parser says it");
  }
  const std::string prompt = render_conversation(serving, conversation);
  const std::vector<int32_t> ids = serving.tokenizer.encode(prompt);
  ConversationAnswers made{.prompt_tokens = static_cast<int64_t>(ids.size())};
  const int64_t most =
      tokens_to_generate(serving, made.prompt_tokens, max_tokens, std::nullopt, "messages");
  nlohmann::json tools;
  if (calls_tools) tools = nlohmann::json::parse(dump(conversation.tools));
  const uint64_t seed = random_seed();
  for (int64_t i = 0; i < sampling.n; ++i) {
    AnswerRequest answer{
        .generate = to_generate_request(sampling, serving.defaults,
                                        serving.model.config().vocab_size, most, seed),
        .priority = sampling.priority};
    GenerateRequest& generate = answer.generate;
    generate.prompt = ids;
    generate.context = serving.max_model_len;
    generate.visible_tokens = serving.visible_tokens;
    generate.sampling.seed += static_cast<uint64_t>(i);
    made.answers.push_back(std::move(answer));
    made.parsers.emplace_back(
        DialogOptions{.tools = calls_tools ? serving.formats.tools : ToolFormat::kNone,
                      .reasoning = serving.formats.reasoning,
                      .prompt = prompt,
                      .tool_list = calls_tools ? &tools : nullptr,
                      .stream_calls = sampling.stream});
  }
  return made;
}

}  // namespace moe4::server
