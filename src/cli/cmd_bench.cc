// moe4 bench: prompt and generation speed per backend and activation mode, alone and together with
// other requests, as Markdown tables that llama-bench users know.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/bench_runs.h"
#include "cli/commands.h"
#include "cli/memory_report.h"
#include "cli/memory_words.h"
#include "cli/number_flags.h"
#include "cli/plan_report.h"
#include "cli/progress.h"
#include "cli/session.h"
#include "cli/speed.h"
#include "cli/table.h"
#include "cli/tensor_io.h"
#include "engine/generator.h"

namespace moe4::cli {
namespace {

struct BenchFlags {
  std::string model;
  std::vector<std::string> backends = {"auto"};
  std::vector<std::string> activations = {"auto"};
  RunLengths lengths;
  std::vector<int64_t> requests;
  TokenSource source;
  bool json = false;
  MachineFlags machine;
};

// One backend with one activation mode.
struct BenchResult {
  std::string backend, activations;
  AloneResult alone;
  std::vector<TogetherResult> together;
  std::optional<PerplexityResult> quality;
  double gb_per_token = 0;
  double load_seconds = 0;
  int64_t device_bytes = 0;  ///< the most of the GPU at any time
};

// The fewest details that tell layers apart: "cpu", or "cpu, reference" in a mixed checkpoint.
std::string chosen_names(const Model& model, bool precision) {
  std::vector<std::string> names;
  for (const MoeLayerPlan& plan : model.moe_plan()) {
    std::string name(precision ? moe4::to_string(plan.selection.precision)
                               : plan.selection.backend->name());
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

BenchResult measure(Session& session, const BenchFlags& flags,
                    const std::vector<std::vector<int32_t>>& rows) {
  const Model& model = *session.model;
  BenchResult result{.backend = chosen_names(model, false),
                     .activations = chosen_names(model, true),
                     .gb_per_token = static_cast<double>(model.bytes_per_token()) * 1e-9,
                     .load_seconds = session.load_seconds};
  Progress progress(result.backend + " " + result.activations);
  const auto runs = static_cast<int64_t>(2 + flags.requests.size());
  const int64_t steps = runs * flags.lengths.repetitions + (rows.empty() ? 0 : 1);
  int64_t done = 0;
  const auto on_run = [&] {
    result.device_bytes = std::max(result.device_bytes, device_bytes(session));
    progress.update(++done, steps);
  };
  result.alone = measure_alone(model, flags.lengths, on_run);
  for (const int64_t requests : flags.requests) {
    result.together.push_back(measure_together(model, flags.lengths, requests, on_run));
  }
  if (!rows.empty()) result.quality = perplexity(model, rows, flags.lengths.chunk);
  return result;
}

std::vector<std::string> expand(const std::vector<std::string>& names,
                                const std::vector<std::string>& all) {
  return names.size() == 1 && names.front() == "all" ? all : names;
}

// What could be asked for by "all".
std::vector<std::string> all_backends() {
  std::vector<std::string> names;
  for (const ExpertsBackend* backend : registered_backends()) names.emplace_back(backend->name());
  return names;
}

void print_json(const Session& session, const BenchFlags& flags,
                const std::vector<BenchResult>& results, const MemoryReads& memory) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const BenchResult& result : results) {
    nlohmann::ordered_json entry = {{"backend", result.backend},
                                    {"activations", result.activations},
                                    {"load_seconds", result.load_seconds},
                                    {"peak_device_bytes", result.device_bytes},
                                    {"gb_per_token", result.gb_per_token}};
    const auto add = [&entry](const char* test, int64_t tokens, const std::optional<Rate>& rate) {
      if (!rate) return;
      entry[test] = {
          {"tokens", tokens}, {"tokens_per_second", rate->mean}, {"deviation", rate->deviation}};
    };
    add("prompt", flags.lengths.prompt, result.alone.prompt);
    add("generation", flags.lengths.generate, result.alone.generation);
    for (const TogetherResult& together : result.together) {
      entry["together"].push_back(
          {{"requests", together.requests},
           {"tokens_per_second", together.generation.mean},
           {"deviation", together.generation.deviation},
           {"longest_pause_ms", together.longest_pause_ms},
           {"prompt_tokens_per_second", together.prompt_tokens_per_second}});
    }
    if (result.quality) {
      entry["perplexity"] = result.quality->perplexity;
      entry["predictions"] = result.quality->predictions;
    }
    list.push_back(std::move(entry));
  }
  const nlohmann::ordered_json json = {
      {"model", session.checkpoint->path().string()},
      {"architecture", session.checkpoint->config().architecture},
      {"tensor_bytes", session.checkpoint->total_tensor_bytes()},
      {"device", flags.machine.backend.device},
      {"dtype", flags.machine.dtype},
      {"threads", session.threads->size()},
      {"repetitions", flags.lengths.repetitions},
      {"chunk", flags.lengths.chunk},
      {"depth", flags.lengths.depth},
      {"memory_read_gbs", memory.gbs},
      {"cache_bytes", memory.cache_bytes},
      {"peak_host_bytes", peak_host_bytes()},
      {"results", list},
  };
  fmt::print("{}\n", json.dump(2));
}

void print_table(const Session& session, const BenchFlags& flags,
                 const std::vector<BenchResult>& results, const MemoryReads& memory) {
  const auto cell = [](const std::optional<Rate>& rate) {
    return rate ? fmt::format("{:.1f} ± {:.1f}", rate->mean, rate->deviation) : std::string("-");
  };
  const bool quality = !results.empty() && results.front().quality.has_value();
  std::vector<std::string> header = {"backend",
                                     "activations",
                                     fmt::format("pp{} tok/s", flags.lengths.prompt),
                                     fmt::format("tg{} tok/s", flags.lengths.generate),
                                     "GB/token",
                                     "GB/s",
                                     "of memory"};
  if (quality) header.emplace_back("perplexity");
  Table table(header);
  for (const BenchResult& result : results) {
    std::vector<std::string> row = {result.backend,
                                    result.activations,
                                    cell(result.alone.prompt),
                                    cell(result.alone.generation),
                                    fmt::format("{:.5f}", result.gb_per_token),
                                    "-",
                                    "-"};
    if (result.alone.generation) {
      const double gbs = result.gb_per_token * result.alone.generation->mean;
      row[5] = fmt::format("{:.2f}", gbs);
      row[6] = share_cell(memory_share(result.gb_per_token, gbs, memory));
    }
    if (quality) row.push_back(fmt::format("{:.3f}", result.quality->perplexity));
    table.add(row);
  }
  fmt::print("{}, {:.3f} GB, {} threads, {}{}{}\n\n{}", session.checkpoint->config().architecture,
             static_cast<double>(session.checkpoint->total_tensor_bytes()) * 1e-9,
             session.threads->size(), flags.machine.dtype,
             memory.gbs > 0 ? fmt::format(", memory reads at {:.1f} GB/s", memory.gbs) : "",
             quality ? fmt::format(", perplexity over {} predictions",
                                   results.front().quality->predictions)
                     : "",
             table.to_string());
}

void print_together(const BenchFlags& flags, const std::vector<BenchResult>& results) {
  Table table({"backend", "activations", "requests",
               fmt::format("tg{} tok/s of all", flags.lengths.generate), "tok/s of each",
               fmt::format("longest pause ms as pp{} comes in", flags.lengths.prompt),
               "its tok/s"});
  for (const BenchResult& result : results) {
    for (const TogetherResult& one : result.together) {
      const bool prompt = one.prompt_tokens_per_second > 0;
      table.add({result.backend, result.activations, std::to_string(one.requests),
                 fmt::format("{:.1f} ± {:.1f}", one.generation.mean, one.generation.deviation),
                 fmt::format("{:.1f}", one.generation.mean / static_cast<double>(one.requests)),
                 prompt ? fmt::format("{:.1f}", one.longest_pause_ms) : "-",
                 prompt ? fmt::format("{:.1f}", one.prompt_tokens_per_second) : "-"});
    }
  }
  fmt::print("\nRequests at once, {} prompt tokens a step:\n\n{}", flags.lengths.chunk,
             table.to_string());
}

void bench(BenchFlags flags) {
  const std::vector<std::string> backends = expand(flags.backends, all_backends());
  const std::vector<std::string> modes = expand(flags.activations, {"bf16", "fp4", "fp4-static"});
  const bool all = flags.backends.front() == "all" || flags.activations.front() == "all";
  for (const std::string& backend : backends) resolve_backend_name(backend);
  for (const std::string& mode : modes) parse_activation_mode(mode);
  check_token_source(flags.source);
  if (!flags.requests.empty() && flags.lengths.generate == 0)
    throw Error(ErrorCode::kUsage, "--requests needs tokens to generate: give -n above 0");
  const bool scored = !flags.source.tokens.empty() || !flags.source.text.empty();
  const std::string advice =
      flags.requests.empty() ? "lower -p or -n" : "lower -p, -n or --requests";
  Session session;
  std::vector<std::vector<int32_t>> rows;
  std::vector<BenchResult> results;
  for (const std::string& backend : backends) {
    for (const std::string& mode : modes) {
      flags.machine.backend.moe_backend = backend;
      flags.machine.backend.activations = mode;
      try {
        if (!session.checkpoint) {
          open_checkpoint(session, flags.model, flags.machine,
                          flags.source.text.empty() ? WithTokenizer::kNo : WithTokenizer::kYes);
          if (scored) {
            rows = read_token_rows(flags.source, session.tokenizer.get(),
                                   session.checkpoint->config().vocab_size);
          }
        }
        EngineUse engines{.engines = {bench_limits(flags.lengths, 1)}, .advice = advice};
        for (const int64_t requests : flags.requests) {
          engines.engines.push_back(bench_limits(flags.lengths, requests + 1));
        }
        reload_model(session, flags.machine, engines);
      } catch (const Error& error) {
        // "all" means all that this machine and this checkpoint allow.
        if (!all || error.code() != ErrorCode::kUnavailable) throw;
        clear_progress();
        if (!flags.machine.quiet) fmt::print(stderr, "skipped: {}\n", error.what());
        continue;
      }
      const int64_t most = flags.requests.empty() ? 0 : 1 + std::ranges::max(flags.requests);
      const MemoryUse use{
          .tokens = std::max(flags.lengths.prompt, flags.lengths.depth + flags.lengths.generate) *
                    std::max<int64_t>(most, 1),
          .sequences = std::max<int64_t>(most, 1),
          .advice = advice};
      results.push_back(
          with_memory_words(session, use, [&] { return measure(session, flags, rows); }));
    }
  }
  if (results.empty())
    throw Error(ErrorCode::kUnavailable, "no backend with any of these activation modes runs here");
  // With experts on a GPU the bytes come from two memories.
  const bool one_memory = flags.machine.backend.device == "cpu";
  const MemoryReads memory = one_memory ? measure_memory(*session.threads) : MemoryReads{};
  if (flags.json) {
    print_json(session, flags, results, memory);
  } else {
    print_table(session, flags, results, memory);
    if (!flags.requests.empty()) print_together(flags, results);
  }
}

}  // namespace

void add_bench(CLI::App& app) {
  auto flags = std::make_shared<BenchFlags>();
  CLI::App* command = app.add_subcommand("bench", "Prompt and generation speed per backend");
  command->add_option("MODEL", flags->model, "Checkpoint folder")->required();
  with_env(
      command->add_option("-p,--prompt-tokens", flags->lengths.prompt, "Prompt length; 0 to skip")
          ->check(whole_number(0)));
  with_env(
      command
          ->add_option("-n,--max-tokens", flags->lengths.generate, "Tokens to generate; 0 to skip")
          ->check(whole_number(0)));
  with_env(command
               ->add_option("-d,--depth", flags->lengths.depth,
                            "Tokens of context before those that are timed being generated")
               ->check(whole_number(0, 1 << 24)));
  with_env(command->add_option("-r,--repetitions", flags->lengths.repetitions, "Runs of each test")
               ->check(whole_number(1, 1000)));
  with_env(command
               ->add_option("--chunk", flags->lengths.chunk,
                            "Prompt tokens a step; from 64 on in whole pages of 64")
               ->check(whole_number(1, 1 << 20)));
  with_env(command
               ->add_option("--requests", flags->requests,
                            "Also so many requests at once, e.g. 1,4,16,64")
               ->delimiter(',')
               ->allow_extra_args(false)
               ->check(whole_number(1, 1024)));
  add_token_source(*command, flags->source);
  add_machine_flags(*command, flags->machine, BackendNames::kSeveral);
  command->add_option("--moe-backend", flags->backends, "Names, or all")
      ->delimiter(',')
      ->allow_extra_args(false);
  command->add_option("--activations", flags->activations, "Modes, or all")
      ->delimiter(',')
      ->allow_extra_args(false);
  with_env(command->add_flag("--json", flags->json, "One JSON object on stdout"));
  command->callback([flags] { bench(*flags); });
}

}  // namespace moe4::cli
