// moe4 template: prints the prompt that a conversation becomes, byte for byte. Reads no weights.
#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>

#include "cli/commands.h"
#include "cli/conversation.h"
#include "cli/options.h"
#include "cli/standard_streams.h"
#include "cli/template_flags.h"

namespace moe4::cli {
namespace {

struct Flags {
  std::string model;
  std::string messages;
  std::string tools;
  TemplateFlags variables;
  bool no_generation_prompt = false;
};

void print_prompt(const Flags& flags) {
  const TemplateArguments arguments = template_arguments(flags.variables);
  const auto chat_template = load_chat_template(flags.model);
  TemplateContext context;
  context.set("add_generation_prompt", "true", "");
  add_messages_file(flags.messages, context);
  if (!flags.tools.empty()) add_tools_file(flags.tools, context);
  if (flags.no_generation_prompt) context.set("add_generation_prompt", "false", "");
  for (const auto& [name, value] : arguments) context.set(name, value, "--template-arg");
  write_streamed(chat_template->render(context));
}

}  // namespace

void add_template(CLI::App& app) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command =
      app.add_subcommand("template", "Print the prompt that the chat template makes of messages");
  command->add_option("MODEL", flags->model, "Checkpoint folder; weights are not needed")
      ->required();
  with_env(command
               ->add_option("--messages", flags->messages,
                            "JSON file: an array of messages, or an object with messages, tools "
                            "and other variables")
               ->required());
  with_env(command->add_option("--tools", flags->tools, "JSON file: an array of tools"));
  add_template_flags(*command, flags->variables);
  with_env(command->add_flag("--no-generation-prompt", flags->no_generation_prompt,
                             "End after the last message, without the opening of an answer"));
  command->callback([flags] { print_prompt(*flags); });
}

}  // namespace moe4::cli
