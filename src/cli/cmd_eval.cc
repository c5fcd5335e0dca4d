// moe4 eval: perplexity and speed on a text or on rows of token ids.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/memory_words.h"
#include "cli/number_flags.h"
#include "cli/plan_report.h"
#include "cli/progress.h"
#include "cli/session.h"
#include "cli/tensor_io.h"
#include "engine/evaluator.h"
#include "engine/generator.h"

namespace moe4::cli {
namespace {

struct EvalFlags {
  std::string model;
  TokenSource source;
  int64_t chunk = 512;
  bool json = false;
  MachineFlags machine;
};

void eval(const EvalFlags& flags) {
  if (flags.source.text.empty() && flags.source.tokens.empty())
    throw Error(ErrorCode::kUsage, "nothing to score: give --text FILE or --tokens FILE");
  check_token_source(flags.source);
  const bool text = !flags.source.text.empty();
  Session session;
  open_checkpoint(session, flags.model, flags.machine,
                  text ? WithTokenizer::kYes : WithTokenizer::kNo);
  const auto rows = read_token_rows(flags.source, session.tokenizer.get(),
                                    session.checkpoint->config().vocab_size);
  int64_t tokens = 0;
  MemoryUse use{.advice = text ? "lower --window" : "score shorter rows"};
  for (const auto& row : rows) {
    tokens += static_cast<int64_t>(row.size());
    use.tokens = std::max(use.tokens, static_cast<int64_t>(row.size()));
  }
  reload_model(
      session, flags.machine,
      {.engines = {evaluator_limits(session.checkpoint->config(), use.tokens, flags.chunk)},
       .advice = use.advice});
  Progress progress("scoring");
  const PerplexityResult result = with_memory_words(session, use, [&] {
    return perplexity(*session.model, rows, flags.chunk,
                      [&](int64_t done, int64_t total) { progress.update(done, total); });
  });
  clear_progress();
  session.checkpoint->check_unchanged();
  const double speed = static_cast<double>(tokens) / result.seconds;
  if (flags.json) {
    const nlohmann::ordered_json json = {
        {"perplexity", result.perplexity},
        {"mean_log_likelihood", result.mean_log_likelihood},
        {"predictions", result.predictions},
        {"rows", rows.size()},
        {"tokens", tokens},
        {"seconds", result.seconds},
        {"tokens_per_second", speed},
        {"dtype", flags.machine.dtype},
        {"plan", nlohmann::ordered_json::parse(plan_json(group_plan(session.model->moe_plan())))},
    };
    fmt::print("{}\n", json.dump(2));
    return;
  }
  fmt::print("perplexity {:.4f} over {} predictions in {} rows; {:.1f} tok/s\n", result.perplexity,
             result.predictions, rows.size(), speed);
}

}  // namespace

void add_eval(CLI::App& app) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* command = app.add_subcommand("eval", "Perplexity and speed on a text or on token rows");
  command->add_option("MODEL", flags->model, "Checkpoint folder")->required();
  add_token_source(*command, flags->source);
  with_env(command->add_option("--chunk", flags->chunk, "Tokens a forward pass")
               ->check(whole_number(1, 1 << 20)));
  add_machine_flags(*command, flags->machine);
  with_env(command->add_flag("--json", flags->json, "One JSON object on stdout"));
  command->callback([flags] { eval(*flags); });
}

}  // namespace moe4::cli
