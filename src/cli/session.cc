// Loading for the subcommands that run a model.
#include "cli/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "base/cpu_isa.h"
#include "cli/memory_report.h"
#include "cli/memory_words.h"
#include "cli/plan_report.h"
#include "cli/progress.h"
#include "device/memory.h"
#include "engine/memory_plan.h"

namespace moe4::cli {
namespace {

// Nothing but the model: an engine for one token.
EngineLimits smallest_engine() {
  return {.max_tokens = kPageTokens + 1,
          .max_seqs = 1,
          .max_context = kPageTokens,
          .cache_tokens = kPageTokens,
          .prefix_cache = false};
}

int64_t used_of(const MemoryOfDevice& memory) { return memory.total - memory.free; }

// Whether there is room, from headers alone; the layers whose experts are left to the CPU.
int64_t plan_before_loading(const Session& session, const MachineFlags& flags,
                            const ModelOptions& options, const EngineUse& use) {
  const std::optional<int64_t> layers = cpu_moe_layers(flags.memory, options.moe.device);
  const auto headers = Checkpoint::open(session.path, {.headers_only = true});
  const Device& device = options.moe.device;
  std::optional<ModelNeeds> needs =
      needs_from_headers(*headers, describe(*headers, device, cache_dtype(options)),
                         make_plan(*headers, options.moe), device, layers.value_or(0));
  if (!needs) return layers.value_or(0);  // loading it says why
  const MemoryOfDevice memory = memory_of(device);
  const int64_t room = room_of(flags.memory, memory.total, used_of(memory));
  std::vector<EngineLimits> engines = use.engines;
  if (engines.empty()) engines.push_back(smallest_engine());
  if (!layers) {
    std::optional<int64_t> most = 0;
    if (use.flags) most = fitting_cpu_moe(*needs, *use.flags, room);
    for (const EngineLimits& engine : engines) {
      const auto fitting = fitting_cpu_moe(*needs, engine, room);
      most = most && fitting ? std::optional(std::max(*most, *fitting)) : std::nullopt;
    }
    needs->cpu_moe = most.value_or(static_cast<int64_t>(needs->experts.size()));
  }
  for (const EngineLimits& engine : engines) check_room(*needs, engine, room, use.advice);
  std::vector<std::string> notes;
  if (use.flags) fit_engine(*needs, *use.flags, room, notes);
  return needs->cpu_moe;
}

// What the model has taken and what its engines will.
std::string memory_lines(const Session& session, const EngineUse& use, int64_t cpu_moe) {
  std::string text;
  if (cpu_moe > 0) {
    const auto all = std::ranges::count_if(session.model->moe_plan(), [](const auto& layer) {
      return layer.selection.device.is_cpu();
    });
    text = fmt::format("experts of {} layers on the CPU\n", all);
  }
  for (const EngineLimits& engine : use.engines) {
    text += memory_line(memory_plan(*session.needs, engine), session.room);
  }
  return text;
}

}  // namespace

void reload_model(Session& session, const MachineFlags& flags, const EngineUse& use) {
  const auto start = std::chrono::steady_clock::now();
  session.model.reset();
  ModelOptions options{.compute_dtype = compute_dtype(flags),
                       .moe = selector_options(flags.backend, /*must_run=*/true),
                       .cache_dtype = kv_cache_dtype(flags.memory),
                       .threads = session.threads.get(),
                       .tuning = parse_tuning(flags.tuning)};
  const Device& device = options.moe.device;
  if (!device.is_cpu()) {
    session.used_before = used_of(memory_of(device));
    options.cpu_moe = plan_before_loading(session, flags, options, use);
  }
  Progress progress("loading", Progress::Counts::kBytes);
  options.progress = [&](int64_t done, int64_t total) { progress.update(done, total); };
  session.model =
      with_memory_words(session, {.advice = "close other programs, or use a machine with more"},
                        [&] { return Model::load(*session.checkpoint, options); });
  session.load_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  clear_progress();
  if (!device.is_cpu()) {
    session.needs = needs_of(*session.model);
    session.needs->other_weights = device_bytes(session);
    session.room = room_of(flags.memory, memory_of(device).total, session.used_before);
    for (const EngineLimits& engine : use.engines) {
      check_room(*session.needs, engine, session.room, use.advice);
    }
  }
  if (flags.quiet) return;
  fmt::print(stderr, "{}{}", session.notes, plan_summary(group_plan(session.model->moe_plan())));
  if (session.needs) fmt::print(stderr, "{}", memory_lines(session, use, options.cpu_moe));
  if (flags.cpu_isa != "auto") {
    fmt::print(stderr, "CPU kernels: {}, as asked\n", to_string(cpu_isa()));
  }
  session.notes.clear();
}

int64_t prompt_chunk(const Device& device) {
  return device.is_cpu() ? GenerateRequest().prefill_chunk : 8192;
}

int64_t device_bytes(const Session& session) {
  const Device& device = session.model->stream().device;
  return device.is_cpu() ? 0 : used_of(memory_of(device)) - session.used_before;
}

GenerationDefaults open_for_generation(Session& session, const std::string& path,
                                       const MachineFlags& flags, const SamplingFlags& sampling) {
  check_sampling_flags(sampling);
  open_checkpoint(session, path, flags, WithTokenizer::kYes);
  GenerationDefaults defaults = read_generation_defaults(
      session.checkpoint->path(), *session.tokenizer, session.checkpoint->config().vocab_size);
  keep_notes(session, defaults.notes, flags);
  if (flags.quiet) return defaults;
  for (const std::string& line : flags_without_effect(sampling, defaults))
    session.notes += "note: " + line + "\n";
  const int64_t made_for = session.checkpoint->config().max_position_embeddings;
  if (sampling.context > made_for) {
    session.notes += fmt::format(
        "note: --ctx {} is more than the {} tokens that the model was made for: {} are used\n",
        sampling.context, made_for, made_for);
  }
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
  const SelectorOptions options = selector_options(flags.backend, /*must_run=*/true);
  session.device = options.device;
  cpu_moe_layers(flags.memory, options.device);
  kv_cache_dtype(flags.memory);
  room_of(flags.memory, 0, 0);
  session.threads = std::make_unique<ThreadPool>(flags.threads);
  session.path = path;
  session.checkpoint = Checkpoint::open(path);
  if (tokenizer == WithTokenizer::kYes)
    session.tokenizer = Tokenizer::load(session.checkpoint->path());
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
