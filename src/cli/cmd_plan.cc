// moe4 plan: which backend would serve which layer on which device, and why not the others. Headers
// suffice, the device may be absent.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/plan_report.h"

namespace moe4::cli {
namespace {

struct PlanFlags {
  std::string model;
  BackendFlags backend;
  bool json = false;
};

void plan(const PlanFlags& flags) {
  const SelectorOptions options = selector_options(flags.backend, /*must_run=*/false);
  const auto checkpoint = Checkpoint::open(flags.model, {.headers_only = true});
  const std::vector<PlanGroup> groups = make_plan(*checkpoint, options);
  const ModelConfig& config = checkpoint->config();
  if (flags.json) {
    const nlohmann::ordered_json json = {
        {"model", checkpoint->directory().string()},
        {"architecture", config.architecture},
        {"dialect", checkpoint->dialect()},
        {"device", to_string(options.device)},
        {"moe_backend", options.backend.empty() ? "auto" : options.backend},
        {"activations", to_string(options.activations)},
        {"batch_invariant", options.batch_invariant},
        {"groups", nlohmann::ordered_json::parse(plan_json(groups))},
    };
    fmt::print("{}\n", json.dump(2));
  } else {
    fmt::print("{} ({}), {} checkpoint, planned for {}\n{}", config.architecture, config.model_type,
               checkpoint->dialect(), to_string(options.device), plan_text(groups));
  }
  for (const PlanGroup& group : groups) {
    if (group.selection.backend == nullptr) {
      throw Error(ErrorCode::kUnavailable,
                  fmt::format("layers {}: {}", layer_ranges(group.layers), group.error));
    }
  }
}

}  // namespace

void add_plan(CLI::App& app) {
  auto flags = std::make_shared<PlanFlags>();
  CLI::App* command = app.add_subcommand(
      "plan", "Say which backend serves each layer and why the others do not; reads headers only");
  command->add_option("MODEL", flags->model, "Checkpoint folder")->required();
  add_backend_flags(*command, flags->backend);
  with_env(command->add_flag("--json", flags->json, "One JSON object on stdout"));
  command->callback([flags] { plan(*flags); });
}

}  // namespace moe4::cli
