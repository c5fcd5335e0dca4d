// Loading for the subcommands that run a model.
#include "cli/session.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>

#include "base/cpu_isa.h"
#include "cli/memory_words.h"
#include "cli/plan_report.h"
#include "cli/progress.h"

namespace moe4::cli {

void reload_model(Session& session, const MachineFlags& flags) {
  const auto start = std::chrono::steady_clock::now();
  session.model.reset();
  ModelOptions options{.compute_dtype = compute_dtype(flags),
                       .moe = selector_options(flags.backend, /*must_run=*/true),
                       .cpu_moe = cpu_moe(flags),
                       .threads = session.threads.get(),
                       .tuning = parse_tuning(flags.tuning)};
  Progress progress("loading");
  options.progress = [&](int64_t done, int64_t total) { progress.update(done, total); };
  session.model =
      with_memory_words(session, {.advice = "close other programs, or use a machine with more"},
                        [&] { return Model::load(*session.checkpoint, options); });
  session.load_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  clear_progress();
  if (flags.quiet) return;
  fmt::print(stderr, "{}{}", session.notes, plan_summary(group_plan(session.model->moe_plan())));
  if (flags.cpu_isa != "auto") {
    fmt::print(stderr, "CPU kernels: {}, as asked\n", to_string(cpu_isa()));
  }
  session.notes.clear();
}

GenerationDefaults open_for_generation(Session& session, const std::string& path,
                                       const MachineFlags& flags, const SamplingFlags& sampling) {
  check_sampling_flags(sampling);
  open_checkpoint(session, path, flags, WithTokenizer::kYes);
  GenerationDefaults defaults = read_generation_defaults(
      session.checkpoint->directory(), *session.tokenizer, session.checkpoint->config().vocab_size);
  keep_notes(session, defaults.notes, flags);
  if (flags.quiet) return defaults;
  for (const std::string& line : flags_without_effect(sampling, defaults))
    session.notes += "note: " + line + "\n";
  session.notes += fmt::format("stop tokens: {}{}\n", to_string(defaults.stop_tokens),
                               sampling.ignore_eos ? "; ignored" : "");
  return defaults;
}

void keep_notes(Session& session, const std::vector<CheckpointNote>& notes,
                const MachineFlags& flags) {
  if (flags.quiet) return;
  for (const CheckpointNote& note : notes) {
    if (note.level != CheckpointNote::Level::kWarning) continue;
    session.notes += fmt::format("note: {}: {}\n", note.where, note.message);
  }
}

void open_checkpoint(Session& session, const std::string& path, const MachineFlags& flags,
                     WithTokenizer tokenizer) {
  use_cpu_isa(flags.cpu_isa);
  compute_dtype(flags);
  parse_tuning(flags.tuning);
  cpu_moe(flags);
  selector_options(flags.backend, /*must_run=*/true);
  session.threads = std::make_unique<ThreadPool>(flags.threads);
  session.checkpoint = Checkpoint::open(path);
  if (tokenizer == WithTokenizer::kYes)
    session.tokenizer = Tokenizer::load(session.checkpoint->directory());
  if (!flags.quiet) session.notes += threads_note(flags.threads);
  keep_notes(session, session.checkpoint->notes(), flags);
}

Session open_session(const std::string& path, const MachineFlags& flags, WithTokenizer tokenizer) {
  Session session;
  open_checkpoint(session, path, flags, tokenizer);
  reload_model(session, flags);
  return session;
}

}  // namespace moe4::cli
