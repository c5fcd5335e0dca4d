// Loading for the subcommands that run a model.
#include "cli/session.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>

#include "cli/plan_report.h"
#include "cli/progress.h"
#include "experts/host_bridge.h"

namespace moe4::cli {

void reload_model(Session& session, const MachineFlags& flags) {
  const auto start = std::chrono::steady_clock::now();
  session.model.reset();
  ModelOptions options{.compute_dtype = compute_dtype(flags),
                       .moe = selector_options(flags.backend, /*must_run=*/true),
                       .threads = session.threads.get(),
                       .prepare_on_gpu = prepare_for_host,
                       .tuning = parse_tuning(flags.tuning)};
  Progress progress("loading");
  options.progress = [&](int64_t done, int64_t total) { progress.update(done, total); };
  session.model = Model::load(*session.checkpoint, options);
  session.load_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  clear_progress();
  if (flags.quiet) return;
  fmt::print(stderr, "{}{}", session.notes, plan_summary(group_plan(session.model->moe_plan())));
  session.notes.clear();
}

void open_checkpoint(Session& session, const std::string& path, const MachineFlags& flags,
                     WithTokenizer tokenizer) {
  use_cpu_isa(flags.cpu_isa);
  compute_dtype(flags);
  parse_tuning(flags.tuning);
  selector_options(flags.backend, /*must_run=*/true);
  session.threads = std::make_unique<ThreadPool>(flags.threads);
  session.checkpoint = Checkpoint::open(path);
  if (tokenizer == WithTokenizer::kYes)
    session.tokenizer = Tokenizer::load(session.checkpoint->directory());
  if (flags.quiet) return;
  session.notes += threads_note(flags.threads);
  for (const CheckpointNote& note : session.checkpoint->notes()) {
    if (note.level != CheckpointNote::Level::kWarning) continue;
    session.notes += fmt::format("note: {}: {}\n", note.where, note.message);
  }
}

Session open_session(const std::string& path, const MachineFlags& flags, WithTokenizer tokenizer) {
  Session session;
  open_checkpoint(session, path, flags, tokenizer);
  reload_model(session, flags);
  return session;
}

}  // namespace moe4::cli
