// Flags that several subcommands share, and how they become library options.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "cli/memory_flags.h"
#include "moe/selector.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace moe4::cli {

/// Gives a flag its environment variable: --threads reads MOE4_THREADS.
CLI::Option* with_env(CLI::Option* option);

/// Which experts run, where and how.
struct BackendFlags {
  std::string device = "cpu";
  std::string moe_backend = "auto";
  std::string activations = "auto";
  bool fp8_activations = false;
  bool batch_invariant = false;
};
/// bench takes lists of backends and modes, and adds those two flags itself.
enum class BackendNames { kOne, kSeveral };
void add_backend_flags(CLI::App& command, BackendFlags& flags,
                       BackendNames names = BackendNames::kOne);
/// `must_run`: reject what this program cannot run here. Throws Error(kUsage) for unknown names and
/// Error(kUnavailable) when "cuda" finds no GPU.
SelectorOptions selector_options(const BackendFlags& flags, bool must_run);

/// The rest of what loading a model needs.
struct MachineFlags {
  BackendFlags backend;
  std::string dtype = "bfloat16";
  int threads = 0;  ///< 0: all
  std::string cpu_isa = "auto";
  std::vector<std::string> tuning;  ///< "hopper.tiles=16", for measurements
  MemoryFlags memory;
  bool quiet = false;
};
void add_machine_flags(CLI::App& command, MachineFlags& flags,
                       BackendNames names = BackendNames::kOne);
void add_threads_flag(CLI::App& command, int& threads);
/// A line for stderr when there are more threads than cores, else nothing.
std::string threads_note(int threads);
DType compute_dtype(const MachineFlags& flags);

/// --cpu-isa and --moe-tuning; also for commands without the other machine flags.
void add_kernel_flags(CLI::App& command, std::string& cpu_isa, std::vector<std::string>& tuning);
/// Makes `name` this process's instruction set; "auto" changes nothing. Before anything runs.
void use_cpu_isa(const std::string& name);

}  // namespace moe4::cli
