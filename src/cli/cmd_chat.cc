// moe4 chat: a conversation on the terminal, chat template applied. Ctrl-C stops an answer.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <csignal>
#include <iostream>
#include <memory>
#include <optional>
#include <utility>

#include "base/checked_math.h"
#include "base/error.h"
#include "cli/answer_display.h"
#include "cli/commands.h"
#include "cli/conversation.h"
#include "cli/memory_words.h"
#include "cli/sampling_flags.h"
#include "cli/session.h"
#include "cli/speed.h"
#include "cli/standard_streams.h"
#include "cli/template_flags.h"
#include "dialog/formats.h"
#include "engine/engine.h"

namespace moe4::cli {
namespace {

struct ChatFlags {
  std::string model;
  std::string system;
  MachineFlags machine;
  SamplingFlags sampling;
  TemplateFlags variables;
};

std::atomic<bool> interrupted = false;
static_assert(std::atomic<bool>::is_always_lock_free, "set by a signal handler");

// While an answer is generated, Ctrl-C ends the answer instead of the program.
class InterruptGuard {
 public:
  InterruptGuard() {
    interrupted = false;
    previous_ = std::signal(SIGINT, [](int) { interrupted = true; });
  }
  ~InterruptGuard() { std::signal(SIGINT, previous_); }
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

 private:
  void (*previous_)(int);
};

// The next line of stdin without its end: "\n", "\r\n" from files and pipes of other systems.
bool read_line(std::string& line) {
  if (!std::getline(std::cin, line)) return false;
  if (line.ends_with('\r')) line.pop_back();
  return true;
}

struct Turn {
  std::string prompt;
  GenerateRequest request;
};

// The whole conversation with room for an answer. Where it no longer fits, the oldest turns are
// forgotten; a turn that does not fit by itself is taken back, and nothing is returned.
std::optional<Turn> fitting_turn(const ChatFlags& flags, const Session& session,
                                 const GenerationDefaults& defaults, Conversation& conversation) {
  for (int dropped = 0;; ++dropped) {
    std::string prompt = conversation.prompt();
    std::string why = "the context has no room for an answer";
    try {
      GenerateRequest request = make_request(flags.sampling, defaults, session.model->config(),
                                             session.tokenizer->encode(prompt));
      if (request.max_new_tokens > 0 || flags.sampling.max_tokens == 0) {
        if (dropped > 0) {
          fmt::print(
              stderr, "note: the conversation no longer fits the context; forgot {}\n",
              dropped == 1 ? "its oldest turn" : fmt::format("its {} oldest turns", dropped));
        }
        request.cancel = &interrupted;
        request.prefill_chunk = prompt_chunk(session.device);
        return Turn{std::move(prompt), std::move(request)};
      }
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kBadInput) throw;
      why = error.what();
    }
    if (conversation.drop_oldest_turn()) continue;
    conversation.remove_last();
    fmt::print(stderr, "note: this turn is not answered: {}\n", why);
    return std::nullopt;
  }
}

// The engine of a conversation: turns go on from what those before had computed, answers included.
// One with twice the room is made when a turn does not fit, and computes it from its beginning.
class ChatEngine {
 public:
  static EngineLimits limits(int64_t tokens, int64_t chunk) {
    const int64_t step = std::min(chunk, round_up(tokens, kPageTokens));
    return {.max_tokens = step + 1,
            .max_seqs = 1,
            .prompt_chunk = step,
            .max_context = tokens,
            .cache_tokens = tokens,
            .cache_generated = true};
  }
  /// Before anything is said.
  static EngineLimits first_limits(const ModelConfig& config, int64_t chunk) {
    return limits(context_limit(config, kLeastRoom), chunk);
  }

  Engine& with_room_for(const Model& model, const GenerateRequest& request) {
    const int64_t most = context_limit(model.config(), request.context);
    const int64_t tokens =
        std::min(static_cast<int64_t>(request.prompt.size()) + request.max_new_tokens, most);
    if (!engine_ || engine_->limits().max_context < tokens) {
      engine_.reset();  // memory for one at a time
      const int64_t room = std::min(std::max(2 * tokens, kLeastRoom), most);
      engine_.emplace(model, limits(room, request.prefill_chunk));
    }
    return *engine_;
  }

 private:
  static constexpr int64_t kLeastRoom = 4096;

  std::optional<Engine> engine_;
};

void chat(const ChatFlags& flags) {
  TemplateArguments arguments = template_arguments(flags.variables);
  Session session;
  const GenerationDefaults defaults =
      open_for_generation(session, flags.model, flags.machine, flags.sampling);
  Conversation conversation(session.checkpoint->path(), std::move(arguments));
  reload_model(session, flags.machine,
               {.engines = {ChatEngine::first_limits(session.checkpoint->config(),
                                                     prompt_chunk(session.device))},
                .advice = "lower --ctx"});
  const ReasoningFormat reasoning =
      formats_of_checkpoint(session.checkpoint->path(), session.checkpoint->config().model_type)
          .reasoning;
  const std::vector<int32_t> tags = tag_tokens(*session.tokenizer, ToolFormat::kNone, reasoning);
  const bool styled = output_is_styled();
  const auto restart = [&] {
    conversation.clear();
    if (!flags.system.empty()) conversation.add("system", flags.system);
  };
  restart();
  const bool terminal = isatty(STDIN_FILENO) == 1;
  if (terminal) fmt::print(stderr, "/clear forgets the conversation, /exit or Ctrl-D ends it.\n");
  ChatEngine engine;
  for (std::string line;;) {
    if (terminal) fmt::print(stderr, "> ");
    if (!read_line(line) || line == "/exit") break;
    if (line.empty()) continue;
    if (line == "/clear") {
      restart();
      continue;
    }
    conversation.add("user", line);
    std::optional<Turn> turn = fitting_turn(flags, session, defaults, conversation);
    if (!turn) continue;
    GenerateRequest& request = turn->request;
    request.visible_tokens = tags;
    AnswerDisplay display(reasoning, turn->prompt, styled);
    const MemoryUse use{
        .tokens = static_cast<int64_t>(request.prompt.size()) + request.max_new_tokens,
        .advice = "lower -n or --ctx"};
    const InterruptGuard guard;
    const GenerateResult result = with_memory_words(session, use, [&] {
      return generate(engine.with_room_for(*session.model, request), session.tokenizer.get(),
                      request, [&display](const std::string& piece) {
                        write_streamed(display.show(piece));
                        return true;
                      });
    });
    write_streamed(display.finish() + "\n");
    conversation.add("assistant", display.remembered(result.text));
    if (!flags.machine.quiet) {
      const Speed speed = measure_speed(result, session.model->bytes_per_token(), {});
      fmt::print(stderr, "({})\n", speed_line(result, speed));
    }
  }
}

}  // namespace

void add_chat(CLI::App& app) {
  auto flags = std::make_shared<ChatFlags>();
  CLI::App* command = app.add_subcommand("chat", "Talk with the model, chat template applied");
  command->add_option("MODEL", flags->model, "Checkpoint folder")->required();
  with_env(command->add_option("--system", flags->system, "System message"));
  add_template_flags(*command, flags->variables);
  add_sampling_flags(*command, flags->sampling);
  add_machine_flags(*command, flags->machine);
  command->callback([flags] { chat(*flags); });
}

}  // namespace moe4::cli
