// Shared flags.
#include "cli/options.h"

#include <CLI/CLI.hpp>
#include <cctype>

#include "base/cpu_count.h"
#include "base/cpu_isa.h"
#include "base/cuda_probe.h"
#include "base/error.h"
#include "base/thread_pool.h"

namespace moe4::cli {

CLI::Option* with_env(CLI::Option* option) {
  std::string name = "MOE4_";
  for (const char c : option->get_lnames().front()) {
    name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  return option->envname(name);
}

// What changes numbers stands on the command line, where it is seen: those flags have no variable.
void add_backend_flags(CLI::App& command, BackendFlags& flags, BackendNames names) {
  command.add_option("--device", flags.device,
                     "cpu, cuda (the GPU of this machine), or sm_80 ... sm_121");
  command.add_flag("--fp8-activations", flags.fp8_activations,
                   "Quantise the inputs of FP8 layers as the checkpoint says");
  command.add_flag("--batch-invariant", flags.batch_invariant,
                   "Only backends that give a token the same bits whatever shares its "
                   "call");
  if (names == BackendNames::kSeveral) return;
  command.add_option("--moe-backend", flags.moe_backend,
                     "auto, b12x, hopper, marlin, cpu or reference");
  command.add_option(
      "--activations", flags.activations,
      "auto (BF16 unless a W4A4 checkpoint meets FP4 tensor cores), bf16, fp4 or fp4-static");
}

namespace {

Device parse_device_flag(const std::string& device) {
  return device == "cuda" ? probe_cuda_device() : parse_device(device);
}

}  // namespace

SelectorOptions selector_options(const BackendFlags& flags, bool must_run) {
  SelectorOptions options;
  options.device = parse_device_flag(flags.device);
  options.activations = parse_activation_mode(flags.activations);
  options.fp8_activations = flags.fp8_activations;
  options.backend = resolve_backend_name(flags.moe_backend);
  options.batch_invariant = flags.batch_invariant;
  options.must_run = must_run;
  return options;
}

void add_machine_flags(CLI::App& command, MachineFlags& flags, BackendNames names) {
  add_backend_flags(command, flags.backend, names);
  command.add_option("--dtype", flags.dtype,
                     "Arithmetic between the linears: bfloat16, or float32 to compare");
  add_memory_flags(command, flags.memory);
  add_threads_flag(command, flags.threads);
  add_kernel_flags(command, flags.cpu_isa, flags.tuning);
  with_env(command.add_flag("-q,--quiet", flags.quiet, "No plan and no notes on stderr"));
}

void add_threads_flag(CLI::App& command, int& threads) {
  with_env(command
               .add_option("--threads", threads,
                           "Threads; 0 for all cores that affinity and CPU quota allow")
               ->check(CLI::Range(0, ThreadPool::kMaxThreads)));
}

std::string threads_note(int threads) {
  const int cores = usable_cpus();
  if (threads <= cores) return "";
  return "note: --threads " + std::to_string(threads) + " on " + std::to_string(cores) +
         (cores == 1 ? " usable core" : " usable cores") +
         ": more threads than cores take turns and are slower\n";
}

void add_kernel_flags(CLI::App& command, std::string& cpu_isa, std::vector<std::string>& tuning) {
  // No environment variables: what exchanges kernels stands on the command line, where it is seen.
  command.add_option(
      "--cpu-isa", cpu_isa,
      "CPU kernels: auto (the best of this machine), portable, avx2, avx512 or neon");
  command
      .add_option("--moe-tuning", tuning,
                  "For measurements: NAME=VALUE instead of a backend's own choice (marlin.fc2, "
                  "hopper.min_tokens, hopper.tiles)")
      ->delimiter(',')
      ->allow_extra_args(false);
}

void use_cpu_isa(const std::string& name) {
  if (name != "auto") set_cpu_isa(parse_cpu_isa(name));
}

DType compute_dtype(const MachineFlags& flags) {
  if (flags.dtype == "bfloat16" || flags.dtype == "bf16") return DType::kBF16;
  if (flags.dtype == "float32" || flags.dtype == "f32") return DType::kF32;
  throw Error(ErrorCode::kUsage,
              "unknown dtype '" + printable(flags.dtype) + "': expected bfloat16 or float32");
}

}  // namespace moe4::cli
