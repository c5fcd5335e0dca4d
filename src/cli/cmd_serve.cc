// moe4 serve: an OpenAI-compatible server on the model.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/memory_flags.h"
#include "cli/memory_report.h"
#include "cli/memory_words.h"
#include "cli/number_flags.h"
#include "cli/options.h"
#include "cli/plan_report.h"
#include "cli/sampling_flags.h"
#include "cli/serving_limits.h"
#include "cli/session.h"
#include "dialog/formats.h"
#include "engine/memory_plan.h"
#include "server/server.h"
#include "text/read_text_file.h"
#include "text/template_files.h"

namespace moe4::cli {
namespace {

constexpr int64_t kMaxTemplateBytes = int64_t{4} << 20;

struct ServeFlags {
  std::string model;
  MachineFlags machine;
  server::HttpServerOptions http;
  server::RouterOptions router;
  EngineFlags engine;
  int64_t max_queued = 2048;
  std::optional<int64_t> prompt_wait_steps;
  int64_t max_body_mib = 32;
  std::vector<std::string> names;
  std::string chat_template;
  std::string tool_parser = "auto", reasoning_parser = "auto";
  bool enable_prefix_caching = false, no_enable_prefix_caching = false;
};

void check(ServeFlags& flags) {
  if (flags.enable_prefix_caching && flags.no_enable_prefix_caching) {
    throw Error(ErrorCode::kUsage,
                "--enable-prefix-caching and --no-enable-prefix-caching contradict each other");
  }
  if (flags.engine.cache_generated && flags.no_enable_prefix_caching) {
    throw Error(ErrorCode::kUsage,
                "--cache-generated needs the prefix cache: leave out --no-enable-prefix-caching");
  }
  if (flags.http.certificate_file.empty() != flags.http.key_file.empty()) {
    throw Error(ErrorCode::kUsage, "--ssl-certfile and --ssl-keyfile belong together: give both");
  }
  std::string& root = flags.router.root_path;
  while (root.ends_with('/')) root.pop_back();
  if (!root.empty() && !root.starts_with('/')) {
    throw Error(ErrorCode::kUsage, "--root-path '" + printable(root) + "': expected /PATH");
  }
  if (std::any_of(flags.router.api_keys.begin(), flags.router.api_keys.end(),
                  [](const std::string& key) { return key.empty(); })) {
    throw Error(ErrorCode::kUsage, "--api-key is empty: anyone would have it");
  }
  flags.engine.prefix_caching = !flags.no_enable_prefix_caching;
  flags.http.limits.max_body = static_cast<size_t>(flags.max_body_mib) << 20;
}

// --chat-template names a file, else the checkpoint has one or none.
void load_template(const ServeFlags& flags, const std::filesystem::path& directory,
                   server::ServerOptions& options) {
  if (flags.chat_template.empty()) {
    options.chat_template = ChatTemplate::load(directory);
    const std::vector<NamedTemplate> found = find_templates(directory);
    const auto named = std::find_if(found.begin(), found.end(),
                                    [](const auto& one) { return one.name == "default"; });
    if (named != found.end()) options.chat_template_source = named->source;
    return;
  }
  auto text = read_text_file(flags.chat_template, kMaxTemplateBytes);
  if (!text) throw_bad_input({.what = "no such chat template", .file = flags.chat_template});
  options.chat_template = ChatTemplate::load(directory, *text, flags.chat_template);
  options.chat_template_source = std::move(*text);
}

// What the flags say, else what the template and the kind of model do.
FormatChoice choose_formats_of(const ServeFlags& flags, const server::ServerOptions& options,
                               const std::string& model_type) {
  FormatChoice choice = choose_formats(options.chat_template_source, model_type);
  if (flags.tool_parser != "auto") choice.tools = parse_tool_format(flags.tool_parser);
  if (flags.reasoning_parser != "auto") {
    choice.reasoning = parse_reasoning_format(flags.reasoning_parser);
  }
  return choice;
}

void serve(ServeFlags& flags) {
  check(flags);
  Session session;
  server::ServerOptions options{
      .http = flags.http,
      .router = flags.router,
      .max_queued = flags.max_queued,
      .names = flags.names,
      .defaults = open_for_generation(session, flags.model, flags.machine, SamplingFlags()),
      .model_path = flags.model,
      .version = MOE4_VERSION};
  if (options.names.empty()) options.names = {flags.model};
  load_template(flags, session.checkpoint->path(), options);
  options.formats = choose_formats_of(flags, options, session.checkpoint->config().model_type);
  reload_model(session, flags.machine, {.flags = flags.engine});
  options.plan_json = plan_json(group_plan(session.model->moe_plan()));
  std::vector<std::string> notes;
  options.limits =
      serving_limits(session, flags.machine, flags.engine, flags.prompt_wait_steps, notes);
  const bool quiet = flags.machine.quiet;
  options.say = [quiet](const std::string& line) {
    if (!quiet) fmt::print(stderr, "{}\n", line);
  };
  for (const std::string& note : notes) options.say("note: " + note);
  if (!options.chat_template) {
    options.say(
        "note: the checkpoint has no chat template; /v1/chat/completions needs "
        "--chat-template");
  }
  options.say(fmt::format("tool calls: {}; reasoning: {} ({})", to_string(options.formats.tools),
                          to_string(options.formats.reasoning), options.formats.why));
  set_log_callback(
      [say = options.say](LogLevel, const std::string& line) { say("note: " + line); });
  const EngineLimits& limits = options.limits;
  options.say(
      fmt::format("engine: {} requests at once, {} tokens a request, {} in the caches, {} a "
                  "step",
                  limits.max_seqs, limits.max_context, limits.cache_tokens, limits.max_tokens));
  std::string memory = memory_line(memory_plan(*session.needs, limits), session.room);
  memory.pop_back();
  options.say(memory);
  const MemoryUse use{.tokens = limits.cache_tokens,
                      .sequences = limits.max_seqs,
                      .advice = "lower --kv-cache-memory-bytes"};
  with_memory_words(session, use, [&] {
    server::run_server(*session.model, *session.tokenizer, std::move(options));
  });
}

void add_http_flags(CLI::App& command, ServeFlags& flags) {
  with_env(command.add_option("--host", flags.http.host, "Address to listen on; 0.0.0.0 for all"));
  with_env(command.add_option("--port", flags.http.port, "Port; 0 for any that is free"));
  with_env(command
               .add_option("--api-key", flags.router.api_keys,
                           "Key that clients must send; may be repeated")
               ->allow_extra_args(false));
  with_env(command
               .add_option("--served-model-name", flags.names,
                           "Name of the model for clients; may be repeated; default: MODEL")
               ->allow_extra_args(false));
  with_env(command.add_option("--root-path", flags.router.root_path,
                              "Beginning of paths that a proxy leaves in"));
  with_env(command.add_option("--ssl-certfile", flags.http.certificate_file,
                              "Certificates in PEM: serve HTTPS"));
  with_env(command.add_option("--ssl-keyfile", flags.http.key_file, "Its key in PEM"));
  with_env(command.add_option("--chat-template", flags.chat_template,
                              "File with a template instead of the checkpoint's"));
  with_env(command.add_option("--tool-call-parser", flags.tool_parser,
                              "How the model writes tool calls: auto, none, hermes, qwen3_coder, "
                              "glm45, deepseek_v3, deepseek_v31, kimi_k2 or harmony"));
  with_env(command.add_option("--reasoning-parser", flags.reasoning_parser,
                              "How it writes reasoning: auto, none, qwen3, deepseek_r1, glm45 or "
                              "harmony"));
  with_env(command
               .add_option("--max-queued-requests", flags.max_queued,
                           "Requests that may wait; more are answered with 429")
               ->check(whole_number(0, 1000000)));
  add_prompt_wait_flag(command, flags.prompt_wait_steps);
  with_env(command.add_option("--max-body-mib", flags.max_body_mib, "Largest body of a request")
               ->check(whole_number(1, 1024)));
}

void add_cache_flags(CLI::App& command, ServeFlags& flags) {
  with_env(command.add_flag("--enable-prefix-caching", flags.enable_prefix_caching,
                            "Prompts go on from equal beginnings of others (the default)"));
  with_env(command.add_flag("--no-enable-prefix-caching", flags.no_enable_prefix_caching,
                            "Compute all of every prompt"));
  command.add_flag("--cache-generated", flags.engine.cache_generated,
                   "Prompts also go on from generated text, whose bits can differ");
}

}  // namespace

void add_serve(CLI::App& app) {
  auto flags = std::make_shared<ServeFlags>();
  CLI::App* command = app.add_subcommand("serve", "Serve the model by OpenAI's HTTP API");
  command->add_option("MODEL", flags->model, "Checkpoint folder")->required();
  add_http_flags(*command, *flags);
  add_engine_flags(*command, flags->engine);
  add_cache_flags(*command, *flags);
  add_machine_flags(*command, flags->machine);
  command->callback([flags] { serve(*flags); });
}

}  // namespace moe4::cli
