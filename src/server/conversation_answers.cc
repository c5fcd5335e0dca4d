// Template, limits and forms of an answer.
#include "server/conversation_answers.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "dialog/reasoned_answer.h"
#include "dialog/written_form.h"
#include "grammar/grammar_text.h"
#include "server/prompt_text.h"

namespace moe4::server {
namespace {

JsonValue parameters_of(const JsonValue& function) {
  const auto found = function.find("parameters");
  if (found != function.end() && !found->is_null()) return *found;
  return {{"type", "object"}, {"properties", JsonValue::object()}, {"additionalProperties", false}};
}

std::string spelled_text(const Serving& serving, const std::string& text) {
  return grammar_text(serving.tokenizer,
                      format_tags(serving.formats.tools, serving.formats.reasoning), text);
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

// Calls as the model writes them, or nothing where it writes arguments in another way than JSON.
std::optional<TaggedAnswer> own_calls(const Serving& serving,
                                      const ConversationRequest& conversation,
                                      const std::vector<JsonValue>& functions) {
  std::vector<std::string> names;
  names.reserve(functions.size());
  for (const JsonValue& function : functions) names.push_back(function["name"].get<std::string>());
  const std::optional<CallsWords> words = calls_words(serving.formats.tools, names);
  if (!words) return std::nullopt;
  const auto spelled = [&](const std::string& text) { return spelled_text(serving, text); };
  TaggedAnswer answer{.before = spelled(words->before),
                      .separator = spelled(words->separator),
                      .after = spelled(words->after),
                      .needs_call = true,
                      .allows_more = words->allows_more && conversation.parallel_tool_calls};
  for (size_t i = 0; i < functions.size(); ++i) {
    answer.tags.push_back({.begin = spelled(words->of_functions[i].begin),
                           .schema = dump(parameters_of(functions[i])),
                           .end = spelled(words->of_functions[i].end)});
  }
  return answer;
}

// How an answer is to be read, and what it must be for that.
struct Form {
  AnswerForm form = AnswerForm::kDialog;
  bool has_calls = false;  // written as the model does
  std::string function;
  StructureRequest structure;
};

// Of an answer that has to call.
Form form_of_calls(const Serving& serving, const ConversationRequest& conversation) {
  const JsonValue& choice = conversation.tool_choice;
  const std::string chosen = choice == "required" ? "" : chosen_function(choice);
  std::vector<JsonValue> functions;
  for (const JsonValue& tool : conversation.tools) {
    if (chosen.empty() || tool["function"]["name"] == chosen) functions.push_back(tool["function"]);
  }
  if (auto calls = own_calls(serving, conversation, functions)) {
    if (!chosen.empty()) calls->allows_more = false;
    return {
        .has_calls = true,
        .structure = {
            .kind = StructureRequest::Kind::kCalls, .calls = std::move(*calls), .field = "tools"}};
  }
  Form form{.structure = {.kind = StructureRequest::Kind::kJsonSchema, .field = "tools"}};
  form.form = chosen.empty() ? AnswerForm::kCalls : AnswerForm::kArguments;
  form.function = chosen;
  form.structure.text =
      dump(chosen.empty() ? calls_schema(conversation) : parameters_of(functions.front()));
  return form;
}

Form form_of(const Serving& serving, const SamplingRequest& sampling,
             const ConversationRequest& conversation) {
  const JsonValue& choice = conversation.tool_choice;
  if (!conversation.tools.is_null() && choice != "auto" && choice != "none") {
    return form_of_calls(serving, conversation);
  }
  if (sampling.structure.kind != StructureRequest::Kind::kNone) {
    return {.form = AnswerForm::kText, .structure = sampling.structure};
  }
  if (conversation.tools.is_null() || choice == "none") return {};
  if (serving.formats.tools == ToolFormat::kNone) {
    refuse_field("tools",
                 "how this model calls tools is not known: the server's "
                 "--tool-call-parser says it");
  }
  return {.has_calls = true};
}

// Reasoning that the answer may begin with.
void add_reasoning(const Serving& serving, const std::string& prompt, Form& form) {
  if (form.structure.kind == StructureRequest::Kind::kNone) return;
  form.structure.reasoned = reasoned_answer(serving.tokenizer, serving.formats, prompt);
  // Calls have their own beginning.
  if (form.structure.reasoned && form.has_calls) form.structure.reasoned->answer_begin.clear();
}

}  // namespace

ConversationAnswers conversation_answers(const Serving& serving, const SamplingRequest& sampling,
                                         const ConversationRequest& conversation,
                                         std::optional<int64_t> max_tokens) {
  Form form = form_of(serving, sampling, conversation);
  const std::string prompt = render_conversation(serving, conversation);
  const std::vector<int32_t> ids = serving.tokenizer.encode(prompt);
  ConversationAnswers made{.prompt_tokens = static_cast<int64_t>(ids.size())};
  const int64_t most = tokens_to_generate(serving.max_model_len, made.prompt_tokens, max_tokens,
                                          std::nullopt, "messages");
  nlohmann::json tools;
  if (form.has_calls) tools = nlohmann::json::parse(dump(conversation.tools));
  add_reasoning(serving, prompt, form);
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
    made.readers.emplace_back(
        DialogOptions{.tools = form.has_calls ? serving.formats.tools : ToolFormat::kNone,
                      .reasoning = serving.formats.reasoning,
                      .prompt = prompt,
                      .tool_list = form.has_calls ? &tools : nullptr,
                      .stream_calls = sampling.stream},
        form.form, form.function);
  }
  return made;
}

}  // namespace moe4::server
