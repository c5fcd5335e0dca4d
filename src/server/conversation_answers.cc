// Template, limits and forms of an answer.
#include "server/conversation_answers.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "server/prompt_text.h"

namespace moe4::server {
namespace {

JsonValue parameters_of(const JsonValue& function) {
  const auto found = function.find("parameters");
  if (found != function.end() && !found->is_null()) return *found;
  return {{"type", "object"}, {"properties", JsonValue::object()}, {"additionalProperties", false}};
}

// A list of calls, each of one of the functions.
JsonValue calls_schema(const ConversationRequest& conversation) {
  JsonValue calls = JsonValue::array();
  for (const JsonValue& tool : conversation.tools) {
    const JsonValue& function = tool["function"];
    calls.push_back(
        {{"type", "object"},
         {"properties",
          {{"name", {{"const", function["name"]}}}, {"parameters", parameters_of(function)}}},
         {"required", {"name", "parameters"}},
         {"additionalProperties", false}});
  }
  JsonValue schema = {{"type", "array"}, {"items", {{"anyOf", std::move(calls)}}}, {"minItems", 1}};
  if (!conversation.parallel_tool_calls) schema["maxItems"] = 1;
  return schema;
}

// How an answer is to be read, and what it must be for that.
struct Form {
  AnswerForm form = AnswerForm::kDialog;
  std::string function;
  StructureRequest structure;
};

Form form_of(const SamplingRequest& sampling, const ConversationRequest& conversation) {
  const JsonValue& choice = conversation.tool_choice;
  const bool is_plain = choice == "auto" || choice == "none";
  if (conversation.tools.is_null() || is_plain) {
    const bool has_form = sampling.structure.kind != StructureRequest::Kind::kNone;
    return {.form = has_form ? AnswerForm::kText : AnswerForm::kDialog,
            .structure = sampling.structure};
  }
  Form form{.structure = {.kind = StructureRequest::Kind::kJsonSchema, .field = "tools"}};
  if (choice == "required") {
    form.form = AnswerForm::kCalls;
    form.structure.text = dump(calls_schema(conversation));
    return form;
  }
  form.form = AnswerForm::kArguments;
  form.function = chosen_function(choice);
  for (const JsonValue& tool : conversation.tools) {
    if (tool["function"]["name"] != form.function) continue;
    form.structure.text = dump(parameters_of(tool["function"]));
  }
  return form;
}

}  // namespace

ConversationAnswers conversation_answers(const Serving& serving, const SamplingRequest& sampling,
                                         const ConversationRequest& conversation,
                                         std::optional<int64_t> max_tokens) {
  const Form form = form_of(sampling, conversation);
  const bool calls_tools = !conversation.tools.is_null() && conversation.tool_choice == "auto" &&
                           form.form == AnswerForm::kDialog;
  if (calls_tools && serving.formats.tools == ToolFormat::kNone) {
    refuse_field("tools",
                 "how this model calls tools is not known: the server's "
                 "--tool-call-parser says it");
  }
  const std::string prompt = render_conversation(serving, conversation);
  const std::vector<int32_t> ids = serving.tokenizer.encode(prompt);
  ConversationAnswers made{.prompt_tokens = static_cast<int64_t>(ids.size())};
  const int64_t most = tokens_to_generate(serving.max_model_len, made.prompt_tokens, max_tokens,
                                          std::nullopt, "messages");
  nlohmann::json tools;
  if (calls_tools) tools = nlohmann::json::parse(dump(conversation.tools));
  const auto masks = serving.structures.masks(form.structure);
  const uint64_t seed = random_seed();
  for (int64_t i = 0; i < sampling.n; ++i) {
    AnswerRequest answer{
        .generate = to_generate_request(sampling, serving.defaults,
                                        serving.model.config().vocab_size, most, seed),
        .priority = sampling.priority};
    GenerateRequest& generate = answer.generate;
    generate.prompt = ids;
    generate.grammar = masks;
    generate.context = serving.max_model_len;
    generate.visible_tokens = serving.visible_tokens;
    generate.sampling.seed += static_cast<uint64_t>(i);
    made.answers.push_back(std::move(answer));
    if (form.form != AnswerForm::kDialog) {
      made.readers.emplace_back(form.form, form.function);
      continue;
    }
    made.readers.emplace_back(
        DialogOptions{.tools = calls_tools ? serving.formats.tools : ToolFormat::kNone,
                      .reasoning = serving.formats.reasoning,
                      .prompt = prompt,
                      .tool_list = calls_tools ? &tools : nullptr,
                      .stream_calls = sampling.stream});
  }
  return made;
}

}  // namespace moe4::server
