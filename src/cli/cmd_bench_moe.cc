// moe4 bench-moe: one MoE layer of a real model's shape on random weights, against the ceilings of
// the CPU or the GPU measured in the same run.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "base/cuda_probe.h"
#include "base/error.h"
#include "bench/moe_bench.h"
#include "cli/commands.h"
#include "cli/number_flags.h"
#include "cli/options.h"
#include "moe/selector.h"
#include "ops/experts/bench/gpu_moe_bench.h"

namespace moe4::cli {
namespace {

struct BenchMoeFlags {
  std::string preset = "qwen3.6-35b-a3b";
  std::string device = "cpu";
  std::vector<std::string> backends = {"auto"};
  std::vector<std::string> activations;  ///< empty: what the device is for
  double bf16_tflops = 0;
  int threads = 0;
  bool warm = false;
  bool json = false;
  std::string cpu_isa = "auto";
  std::vector<std::string> tuning;
  MoeBenchOptions options;
};

// By name, or all that run on the CPU; auto is the first of those.
std::vector<const ExpertsBackend*> cpu_backends(const std::vector<std::string>& names) {
  std::vector<const ExpertsBackend*> runnable;
  for (const ExpertsBackend* backend : registered_backends()) {
    if (!backend->runnable(Device::cpu())) runnable.push_back(backend);
  }
  if (names.size() == 1 && names.front() == "all") return runnable;
  std::vector<const ExpertsBackend*> found;
  for (const std::string& name : names) {
    const std::string resolved = resolve_backend_name(name);
    if (resolved.empty() && !runnable.empty()) found.push_back(runnable.front());
    for (const ExpertsBackend* backend : registered_backends()) {
      if (backend->name() != resolved) continue;
      if (const Support absent = backend->runnable(Device::cpu())) {
        std::string others;
        for (const ExpertsBackend* other : runnable)
          others += fmt::format("{}{}", others.empty() ? "" : ", ", other->name());
        throw Error(
            ErrorCode::kUnavailable,
            fmt::format("MoE backend '{}' cannot run on cpu since {}; backends that can: {}",
                        backend->name(), absent->message, others));
      }
      found.push_back(backend);
    }
  }
  return found;
}

// What the selector would take for each name; all: every backend that it could choose by itself.
std::vector<const ExpertsBackend*> gpu_backends(const std::vector<std::string>& names,
                                                const MoePreset& preset, ActivationMode mode,
                                                const Device& device) {
  const auto select = [&](const std::string& name) {
    return select_backend(
        preset.problem, preset.scheme,
        {.device = device, .activations = mode, .backend = name, .must_run = true});
  };
  std::vector<const ExpertsBackend*> found;
  for (const std::string& name : names) {
    if (name != "all") {
      found.push_back(select(resolve_backend_name(name)).backend);
      continue;
    }
    for (const Candidate& candidate : select("").candidates) {
      if (!candidate.verdict) found.push_back(candidate.backend);
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

void bench_on_cpu(const MoePreset& preset, BenchMoeFlags& flags, ThreadPool& threads) {
  flags.options.backends = cpu_backends(flags.backends);
  flags.options.precisions.clear();
  if (flags.activations.empty()) flags.activations = {"bf16", "fp4"};
  for (const std::string& mode : flags.activations)
    flags.options.precisions.push_back(parse_precision(mode));
  flags.options.cold = !flags.warm;
  const MoeBenchResult result = run_moe_bench(preset, flags.options, threads);
  fmt::print("{}\n", flags.json ? to_json(result) : to_markdown(result));
}

void bench_on_gpu(const MoePreset& preset, BenchMoeFlags& flags, const Device& device,
                  ThreadPool& threads) {
  GpuMoeBenchReport all;
  if (flags.activations.empty()) {
    flags.activations = {"bf16"};
    if (device.has_fp4_tensor_cores()) flags.activations.push_back("fp4");
  }
  for (const std::string& mode : flags.activations) {
    const GpuMoeBenchReport report = run_gpu_moe_bench(
        {.name = std::string(preset.name),
         .layer = preset,
         .tokens = flags.options.tokens,
         .backends = gpu_backends(flags.backends, preset, parse_activation_mode(mode), device),
         .precision = parse_precision(mode),
         .device = device,
         .threads = &threads,
         .tuning = parse_tuning(flags.tuning),
         .bf16_tflops = flags.bf16_tflops});
    if (!flags.json) fmt::print("activations: {}\n\n{}\n", mode, to_markdown(report));
    all.add(report);
  }
  if (flags.json) fmt::print("{}\n", to_json(all));
}

void bench_moe(BenchMoeFlags flags) {
  use_cpu_isa(flags.cpu_isa);
  parse_tuning(flags.tuning);
  const MoePreset preset = moe_preset(flags.preset);
  const Device device = flags.device == "cuda" ? probe_cuda_device() : parse_device(flags.device);
  ThreadPool threads(flags.threads);
  fmt::print(stderr, "{}", threads_note(flags.threads));
  if (device.is_cpu()) {
    bench_on_cpu(preset, flags, threads);
  } else {
    bench_on_gpu(preset, flags, device, threads);
  }
}

}  // namespace

void add_bench_moe(CLI::App& app) {
  auto flags = std::make_shared<BenchMoeFlags>();
  CLI::App* command = app.add_subcommand(
      "bench-moe", "Speed of one MoE layer of a real model's shape, against measured ceilings");
  with_env(command->add_option("--preset", flags->preset,
                               fmt::format("{}", fmt::join(moe_preset_names(), ", "))));
  command->add_option("--device", flags->device, "cpu or cuda");
  with_env(command
               ->add_option("--bf16-tflops", flags->bf16_tflops,
                            "Dense BF16 ceiling of the GPU for the floor; 0: measure it in the run")
               ->check(number_between(0, 1e6)));
  with_env(command->add_option("--tokens", flags->options.tokens, "Batch sizes, e.g. 1,4,16")
               ->delimiter(',')
               ->allow_extra_args(false)
               ->check(whole_number(1, 1 << 20)));
  command->add_option("--moe-backend", flags->backends, "Names, or all")
      ->delimiter(',')
      ->allow_extra_args(false);
  command
      ->add_option("--activations", flags->activations,
                   "bf16, fp4 or bf16,fp4; default: bf16, and fp4 where the device has "
                   "instructions for it")
      ->delimiter(',')
      ->allow_extra_args(false);
  add_threads_flag(*command, flags->threads);
  add_kernel_flags(*command, flags->cpu_isa, flags->tuning);
  with_env(command
               ->add_option("--seconds", flags->options.seconds_per_row,
                            "Time spent on a row, at least five runs")
               ->check(number_between(0, 3600)));
  with_env(command->add_flag("--warm", flags->warm,
                             "Leave weights in the caches between runs; default: they come from "
                             "memory"));
  with_env(command->add_flag("--json", flags->json, "One JSON object on stdout"));
  command->callback([flags] { bench_moe(*flags); });
}

}  // namespace moe4::cli
