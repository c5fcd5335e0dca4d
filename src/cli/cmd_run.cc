// moe4 run: continues a prompt, streaming the text to stdout and everything else to stderr.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/constraint_flags.h"
#include "cli/conversation.h"
#include "cli/memory_words.h"
#include "cli/plan_report.h"
#include "cli/sampling_flags.h"
#include "cli/session.h"
#include "cli/speed.h"
#include "cli/standard_streams.h"
#include "cli/template_flags.h"
#include "dialog/formats.h"
#include "dialog/reasoned_answer.h"
#include "grammar/grammar.h"

namespace moe4::cli {
namespace {

struct RunFlags {
  std::string model;
  std::string prompt;
  bool chat = false;
  bool json = false;
  MachineFlags machine;
  SamplingFlags sampling;
  ConstraintFlags constraint;
  TemplateFlags variables;
};

void print_json(const Session& session, const GenerationDefaults& defaults,
                const GenerateResult& result, const Speed& speed) {
  nlohmann::ordered_json stop_tokens = nlohmann::ordered_json::array();
  for (const StopToken& token : defaults.stop_tokens)
    stop_tokens.push_back({{"id", token.id}, {"text", token.text}, {"from", token.sources}});
  const nlohmann::ordered_json json = {
      {"text", result.text},
      {"tokens", result.tokens},
      {"stop_reason", to_string(result.reason)},
      {"stop_tokens", std::move(stop_tokens)},
      {"prompt_tokens", result.prompt_tokens},
      {"prompt_tokens_per_second", speed.prompt_tokens_per_second},
      {"generation_tokens_per_second", speed.generation_tokens_per_second},
      {"gb_per_token", speed.gb_per_token},
      {"gb_per_second", speed.gb_per_second},
      {"memory_share", speed.memory_share.share ? nlohmann::ordered_json(*speed.memory_share.share)
                                                : nlohmann::ordered_json(nullptr)},
      {"memory_read_gbs", speed.memory.gbs},
      {"cache_bytes", speed.memory.cache_bytes},
      {"load_seconds", session.load_seconds},
      {"plan", nlohmann::ordered_json::parse(plan_json(group_plan(session.model->moe_plan())))},
  };
  // Text cut in the middle of a character must not break the JSON.
  fmt::print("{}\n", json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
}

void run(const RunFlags& flags) {
  TemplateArguments arguments = template_arguments(flags.variables);
  if (!arguments.empty() && !flags.chat)
    throw Error(ErrorCode::kUsage, "--template-arg needs --chat: no template is used without it");
  // What can be wrong without the weights is found before they are loaded.
  std::shared_ptr<const Grammar> grammar = constraint_grammar(flags.constraint);
  Session session;
  const GenerationDefaults defaults =
      open_for_generation(session, flags.model, flags.machine, flags.sampling);
  std::string prompt = flags.prompt;
  if (flags.chat) {
    Conversation conversation(session.checkpoint->path(), std::move(arguments));
    conversation.add("user", flags.prompt);
    prompt = conversation.prompt();
  }
  std::vector<int32_t> tags;  // that the text shall show
  if (flags.chat && grammar != nullptr) {
    const FormatChoice formats =
        formats_of_checkpoint(session.checkpoint->path(), session.checkpoint->config().model_type);
    if (const auto reasoned = reasoned_answer(*session.tokenizer, formats, prompt)) {
      grammar = compile_reasoned_answer(*reasoned, *grammar);
      tags = tag_tokens(*session.tokenizer, ToolFormat::kNone, formats.reasoning);
    }
  }
  if (prompt.empty())
    throw Error(ErrorCode::kUsage, "--prompt is empty: there is nothing to continue");
  GenerateRequest request = make_request(flags.sampling, defaults, session.checkpoint->config(),
                                         session.tokenizer->encode(prompt));
  request.prefill_chunk = prompt_chunk(session.device);
  request.visible_tokens = tags;
  request.grammar = constraint_masks(std::move(grammar), *session.tokenizer);
  reload_model(session, flags.machine,
               {.engines = {limits_for(session.checkpoint->config(), request)},
                .advice = "lower -n or --ctx"});
  const auto stream = [&](const std::string& piece) {
    write_streamed(piece);
    return true;
  };
  const MemoryUse use{
      .tokens = static_cast<int64_t>(request.prompt.size()) + request.max_new_tokens,
      .advice = "lower -n or --ctx"};
  const GenerateResult result = with_memory_words(session, use, [&] {
    return generate(*session.model, session.tokenizer.get(), request,
                    flags.json ? TextCallback() : TextCallback(stream));
  });
  // With experts on a GPU the bytes come from two memories.
  const bool one_memory = flags.machine.backend.device == "cpu";
  const MemoryReads memory =
      one_memory && !flags.machine.quiet ? measure_memory(*session.threads) : MemoryReads{};
  const Speed speed = measure_speed(result, session.model->bytes_per_token(), memory);
  if (flags.json) {
    print_json(session, defaults, result, speed);
    return;
  }
  write_streamed("\n");
  if (!flags.machine.quiet) fmt::print(stderr, "{}\n", speed_line(result, speed));
}

}  // namespace

void add_run(CLI::App& app) {
  auto flags = std::make_shared<RunFlags>();
  CLI::App* command =
      app.add_subcommand("run", "Continue a prompt: text on stdout, backends and speed on stderr");
  command->add_option("MODEL", flags->model, "Checkpoint folder")->required();
  with_env(command->add_option("-p,--prompt", flags->prompt, "Text to continue")->required());
  with_env(command->add_flag("--chat", flags->chat,
                             "Put the prompt into the checkpoint's chat template first"));
  add_template_flags(*command, flags->variables);
  add_sampling_flags(*command, flags->sampling);
  add_constraint_flags(*command, flags->constraint);
  add_machine_flags(*command, flags->machine);
  with_env(command->add_flag("--json", flags->json, "One JSON object on stdout, no streaming"));
  command->callback([flags] { run(*flags); });
}

}  // namespace moe4::cli
