// moe4 bench: prompt and generation speed per backend and activation mode, as a Markdown table that
// llama-bench users know.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>

#include "cli/commands.h"
#include "cli/memory_words.h"
#include "cli/number_flags.h"
#include "cli/plan_report.h"
#include "cli/progress.h"
#include "cli/session.h"
#include "cli/speed.h"
#include "cli/table.h"
#include "cli/tensor_io.h"
#include "engine/generator.h"
#include "engine/sequence.h"

namespace moe4::cli {
namespace {

struct BenchFlags {
  std::string model;
  std::vector<std::string> backends = {"auto"};
  std::vector<std::string> activations = {"auto"};
  int64_t prompt = 512;
  int64_t generate = 128;
  int64_t chunk = 512;
  int repetitions = 3;
  TokenSource source;
  bool json = false;
  MachineFlags machine;
};

struct Rate {
  double mean = 0, deviation = 0;  // tokens per second
};

// One backend with one activation mode.
struct BenchResult {
  std::string backend, activations;
  std::optional<Rate> prompt, generation;
  std::optional<PerplexityResult> quality;
  double gb_per_token = 0;
  double load_seconds = 0;
};

Rate rate_of(const std::vector<double>& seconds, int64_t tokens) {
  Rate rate;
  for (double s : seconds) rate.mean += static_cast<double>(tokens) / s;
  rate.mean /= static_cast<double>(seconds.size());
  for (double s : seconds)
    rate.deviation += std::pow(static_cast<double>(tokens) / s - rate.mean, 2);
  if (seconds.size() > 1)
    rate.deviation = std::sqrt(rate.deviation / static_cast<double>(seconds.size() - 1));
  return rate;
}

std::vector<int32_t> random_tokens(int64_t n, int64_t vocab_size) {
  std::mt19937 rng(1);
  std::vector<int32_t> ids(n);
  for (int32_t& id : ids) id = static_cast<int32_t>(rng() % vocab_size);
  return ids;
}

double time_prompt(Sequence& sequence, const std::vector<int32_t>& ids, int64_t chunk) {
  sequence.clear();
  std::vector<float> logits;
  const auto start = std::chrono::steady_clock::now();
  for (size_t at = 0; at < ids.size(); at += chunk) {
    const size_t n = std::min<size_t>(chunk, ids.size() - at);
    const bool last = at + n == ids.size();
    sequence.forward({ids.data() + at, n}, last ? LogitsFor::kLastToken : LogitsFor::kNone, logits);
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Tokens are fed one by one; which ones does not matter to the speed.
double time_generation(Sequence& sequence, const std::vector<int32_t>& ids) {
  sequence.clear();
  std::vector<float> logits;
  const auto start = std::chrono::steady_clock::now();
  for (const int32_t& id : ids) sequence.forward({&id, 1}, LogitsFor::kLastToken, logits);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

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
  Sequence sequence(model, std::max<int64_t>({flags.prompt, flags.generate, 16}));
  const int64_t vocab = model.config().vocab_size;
  BenchResult result{.backend = chosen_names(model, false),
                     .activations = chosen_names(model, true),
                     .gb_per_token = static_cast<double>(model.bytes_per_token()) * 1e-9,
                     .load_seconds = session.load_seconds};
  Progress progress(result.backend + " " + result.activations);
  const int64_t steps = 2 * flags.repetitions + (rows.empty() ? 0 : 1);
  int64_t done = 0;
  const auto repeat = [&](int64_t tokens, const auto& run) {
    std::vector<double> seconds;
    run(random_tokens(std::min<int64_t>(tokens, 16), vocab));  // warm caches and threads
    for (int i = 0; i < flags.repetitions; ++i) {
      seconds.push_back(run(random_tokens(tokens, vocab)));
      progress.update(++done, steps);
    }
    return rate_of(seconds, tokens);
  };
  if (flags.prompt > 0) {
    result.prompt = repeat(flags.prompt, [&](const std::vector<int32_t>& ids) {
      return time_prompt(sequence, ids, flags.chunk);
    });
  }
  if (flags.generate > 0) {
    result.generation = repeat(flags.generate, [&](const std::vector<int32_t>& ids) {
      return time_generation(sequence, ids);
    });
  }
  if (!rows.empty()) result.quality = perplexity(model, rows, flags.chunk);
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
                const std::vector<BenchResult>& results, double memory_gbs) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const BenchResult& result : results) {
    nlohmann::ordered_json entry = {{"backend", result.backend},
                                    {"activations", result.activations},
                                    {"load_seconds", result.load_seconds},
                                    {"gb_per_token", result.gb_per_token}};
    const auto add = [&entry](const char* test, int64_t tokens, const std::optional<Rate>& rate) {
      if (!rate) return;
      entry[test] = {
          {"tokens", tokens}, {"tokens_per_second", rate->mean}, {"deviation", rate->deviation}};
    };
    add("prompt", flags.prompt, result.prompt);
    add("generation", flags.generate, result.generation);
    if (result.quality) {
      entry["perplexity"] = result.quality->perplexity;
      entry["predictions"] = result.quality->predictions;
    }
    list.push_back(std::move(entry));
  }
  const nlohmann::ordered_json json = {
      {"model", session.checkpoint->directory().string()},
      {"architecture", session.checkpoint->config().architecture},
      {"tensor_bytes", session.checkpoint->total_tensor_bytes()},
      {"device", flags.machine.backend.device},
      {"dtype", flags.machine.dtype},
      {"threads", session.threads->size()},
      {"repetitions", flags.repetitions},
      {"memory_read_gbs", memory_gbs},
      {"results", list},
  };
  fmt::print("{}\n", json.dump(2));
}

void print_table(const Session& session, const BenchFlags& flags,
                 const std::vector<BenchResult>& results, double memory_gbs) {
  const auto cell = [](const std::optional<Rate>& rate) {
    return rate ? fmt::format("{:.1f} ± {:.1f}", rate->mean, rate->deviation) : std::string("-");
  };
  const bool quality = !results.empty() && results.front().quality.has_value();
  std::vector<std::string> header = {"backend",
                                     "activations",
                                     fmt::format("pp{} tok/s", flags.prompt),
                                     fmt::format("tg{} tok/s", flags.generate),
                                     "GB/token",
                                     "GB/s",
                                     "of memory"};
  if (quality) header.emplace_back("perplexity");
  Table table(header);
  for (const BenchResult& result : results) {
    std::vector<std::string> row = {result.backend,
                                    result.activations,
                                    cell(result.prompt),
                                    cell(result.generation),
                                    fmt::format("{:.5f}", result.gb_per_token),
                                    "-",
                                    "-"};
    if (result.generation) {
      const double gbs = result.gb_per_token * result.generation->mean;
      row[5] = fmt::format("{:.2f}", gbs);
      if (memory_gbs > 0) row[6] = fmt::format("{:.0f}%", 100 * gbs / memory_gbs);
    }
    if (quality) row.push_back(fmt::format("{:.3f}", result.quality->perplexity));
    table.add(row);
  }
  fmt::print("{}, {:.3f} GB, {} threads, {}{}{}\n\n{}", session.checkpoint->config().architecture,
             static_cast<double>(session.checkpoint->total_tensor_bytes()) * 1e-9,
             session.threads->size(), flags.machine.dtype,
             memory_gbs > 0 ? fmt::format(", memory reads at {:.1f} GB/s", memory_gbs) : "",
             quality ? fmt::format(", perplexity over {} predictions",
                                   results.front().quality->predictions)
                     : "",
             table.to_string());
}

void bench(BenchFlags flags) {
  const std::vector<std::string> backends = expand(flags.backends, all_backends());
  const std::vector<std::string> modes = expand(flags.activations, {"bf16", "fp4", "fp4-static"});
  const bool all = flags.backends.front() == "all" || flags.activations.front() == "all";
  for (const std::string& backend : backends) resolve_backend_name(backend);
  for (const std::string& mode : modes) parse_activation_mode(mode);
  check_token_source(flags.source);
  const bool scored = !flags.source.tokens.empty() || !flags.source.text.empty();
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
        reload_model(session, flags.machine);
      } catch (const Error& error) {
        // "all" means all that this machine and this checkpoint allow.
        if (!all || error.code() != ErrorCode::kUnavailable) throw;
        clear_progress();
        if (!flags.machine.quiet) fmt::print(stderr, "skipped: {}\n", error.what());
        continue;
      }
      const MemoryUse use{.tokens = std::max(flags.prompt, flags.generate),
                          .advice = "lower -p or -n"};
      results.push_back(with_memory_words(session, flags.machine, use,
                                          [&] { return measure(session, flags, rows); }));
    }
  }
  if (results.empty())
    throw Error(ErrorCode::kUnavailable, "no backend with any of these activation modes runs here");
  // With experts on a GPU the bytes come from two memories.
  const bool one_memory = flags.machine.backend.device == "cpu";
  const double memory_gbs = one_memory ? measure_memory(*session.threads) : 0;
  if (flags.json) {
    print_json(session, flags, results, memory_gbs);
  } else {
    print_table(session, flags, results, memory_gbs);
  }
}

}  // namespace

void add_bench(CLI::App& app) {
  auto flags = std::make_shared<BenchFlags>();
  CLI::App* command = app.add_subcommand("bench", "Prompt and generation speed per backend");
  command->add_option("MODEL", flags->model, "Checkpoint folder")->required();
  with_env(command->add_option("-p,--prompt-tokens", flags->prompt, "Prompt length; 0 to skip")
               ->check(whole_number(0)));
  with_env(command->add_option("-n,--max-tokens", flags->generate, "Tokens to generate; 0 to skip")
               ->check(whole_number(0)));
  with_env(command->add_option("-r,--repetitions", flags->repetitions, "Runs of each test")
               ->check(whole_number(1, 1000)));
  with_env(command->add_option("--chunk", flags->chunk, "Prompt tokens a forward pass")
               ->check(whole_number(1, 1 << 20)));
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
