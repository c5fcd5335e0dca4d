// moe4 bench-moe: one MoE layer of a real model's shape on random weights, against the machine's
// ceilings measured in the same run.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "base/error.h"
#include "bench/moe_bench.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "moe/selector.h"

namespace moe4::cli {
namespace {

struct BenchMoeFlags {
  std::string preset = "qwen3.6-35b-a3b";
  std::vector<std::string> backends = {"cpu"};
  std::vector<std::string> activations = {"bf16", "fp4"};
  int threads = 0;
  bool warm = false;
  bool json = false;
  MoeBenchOptions options;
};

// Backends of this machine's CPU, by name or all.
std::vector<const ExpertsBackend*> find_backends(const std::vector<std::string>& names) {
  const bool all = names.size() == 1 && names.front() == "all";
  std::vector<const ExpertsBackend*> found;
  for (const ExpertsBackend* backend : registered_backends()) {
    if (all && !backend->runnable(Device::cpu())) found.push_back(backend);
  }
  if (all) return found;
  for (const std::string& name : names) {
    const std::string resolved = resolve_backend_name(name);
    for (const ExpertsBackend* backend : registered_backends()) {
      if (backend->name() != (resolved.empty() ? "cpu" : resolved)) continue;
      if (const Support absent = backend->runnable(Device::cpu())) {
        throw Error(ErrorCode::kUnavailable,
                    fmt::format("MoE backend '{}' cannot run here since {}; use cpu or reference",
                                backend->name(), absent->message));
      }
      found.push_back(backend);
    }
  }
  return found;
}

ActivationPrecision parse_precision(const std::string& text) {
  switch (parse_activation_mode(text)) {
    case ActivationMode::kFp4:
      return ActivationPrecision::kFp4;
    case ActivationMode::kFp4Static:
      throw Error(ErrorCode::kUsage, "random weights have no calibrated scales: use bf16 or fp4");
    default:
      return ActivationPrecision::kBf16;
  }
}

void bench_moe(BenchMoeFlags flags) {
  const MoePreset preset = moe_preset(flags.preset);
  flags.options.backends = find_backends(flags.backends);
  flags.options.precisions.clear();
  for (const std::string& mode : flags.activations)
    flags.options.precisions.push_back(parse_precision(mode));
  flags.options.cold = !flags.warm;
  ThreadPool threads(flags.threads);
  const MoeBenchResult result = run_moe_bench(preset, flags.options, threads);
  fmt::print("{}\n", flags.json ? to_json(result) : to_markdown(result));
}

}  // namespace

void add_bench_moe(CLI::App& app) {
  auto flags = std::make_shared<BenchMoeFlags>();
  CLI::App* command = app.add_subcommand(
      "bench-moe", "Speed of one MoE layer of a real model's shape, against measured ceilings");
  with_env(command->add_option("--preset", flags->preset,
                               fmt::format("{}", fmt::join(moe_preset_names(), ", "))));
  with_env(command->add_option("--tokens", flags->options.tokens, "Batch sizes, e.g. 1,4,16")
               ->delimiter(',')
               ->allow_extra_args(false)
               ->check(CLI::Range(1, 1 << 20)));
  with_env(command->add_option("--moe-backend", flags->backends, "Names, or all")
               ->delimiter(',')
               ->allow_extra_args(false));
  with_env(command->add_option("--activations", flags->activations, "bf16, fp4 or both")
               ->delimiter(',')
               ->allow_extra_args(false));
  with_env(command->add_option("--threads", flags->threads, "Threads; 0 for all")
               ->check(CLI::Range(0, 4096)));
  with_env(command
               ->add_option("--seconds", flags->options.seconds_per_row,
                            "Time spent on a row, at least five runs")
               ->check(CLI::Range(0.0, 3600.0)));
  with_env(command->add_flag("--warm", flags->warm,
                             "Leave weights in the caches between runs; default: they come from "
                             "memory"));
  with_env(command->add_flag("--json", flags->json, "One JSON object on stdout"));
  command->callback([flags] { bench_moe(*flags); });
}

}  // namespace moe4::cli
