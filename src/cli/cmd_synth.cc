// moe4 synth: a full-shape checkpoint with random weights, for speed work.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/number_flags.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "synth/synth.h"

namespace moe4::cli {
namespace {

struct SynthFlags {
  std::string out, headers;
  std::string format;
  SynthOptions options;
};

void synth(SynthFlags& flags) {
  SynthOptions& options = flags.options;
  if (options.preset.empty() == flags.headers.empty()) {
    throw Error(ErrorCode::kUsage, "synth takes either --preset or --headers");
  }
  if (!flags.headers.empty() &&
      (options.num_layers > 0 || options.num_experts > 0 || !flags.format.empty())) {
    throw Error(ErrorCode::kUsage,
                "--layers, --experts and --format are a preset's: headers have their own");
  }
  if (!flags.format.empty()) options.format = parse_synth_format(flags.format);
  fmt::print(stderr, "{}", threads_note(options.fill.threads));
  Progress progress("writing", Progress::Counts::kBytes);
  options.fill.progress = [&](int64_t done, int64_t total) { progress.update(done, total); };
  const SynthResult result = flags.headers.empty()
                                 ? write_synthetic_checkpoint(flags.out, options)
                                 : fill_headers(flags.out, flags.headers, options.fill);
  clear_progress();
  fmt::print("{}: {:.2f} GB in {} tensors, {} file(s)\n", flags.out,
             static_cast<double>(result.bytes) * 1e-9, result.tensors, result.shards);
}

}  // namespace

void add_synth(CLI::App& app) {
  auto flags = std::make_shared<SynthFlags>();
  CLI::App* command =
      app.add_subcommand("synth", "Write a full-shape checkpoint with random weights");
  with_env(command->add_option("--preset", flags->options.preset,
                               fmt::format("One of {}", fmt::join(synth_presets(), ", "))));
  with_env(command->add_option("--headers", flags->headers,
                               "Instead of a preset: a folder whose .safetensors files may end "
                               "after their headers"));
  command->add_option("OUT", flags->out, "Folder to create")->required();
  with_env(command
               ->add_option("--layers", flags->options.num_layers,
                            "Fewer or more layers (0: the preset's own)")
               ->check(whole_number(0, 1 << 20)));
  with_env(command
               ->add_option("--experts", flags->options.num_experts,
                            "Experts a layer (0: the preset's own)")
               ->check(whole_number(0, 1 << 20)));
  with_env(command->add_option("--format", flags->format,
                               "modelopt-mixed (default), modelopt or compressed-tensors"));
  with_env(command->add_option("--seed", flags->options.fill.seed, "Other weights")
               ->check(whole_number_64()));
  add_threads_flag(*command, flags->options.fill.threads);
  command->callback([flags] { synth(*flags); });
}

}  // namespace moe4::cli
