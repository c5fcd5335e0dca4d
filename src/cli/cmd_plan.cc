// moe4 plan: which backend would serve which layer on which device, and why not the others. Headers
// or metadata suffice, the device may be absent, and the architecture need not be one that runs.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/cuda_probe.h"
#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "cli/commands.h"
#include "cli/memory_flags.h"
#include "cli/memory_report.h"
#include "cli/op_report.h"
#include "cli/options.h"
#include "cli/plan_document.h"
#include "cli/plan_report.h"
#include "engine/memory_plan.h"
#include "models/description.h"
#include "models/missing_parts.h"

namespace moe4::cli {
namespace {

struct PlanFlags {
  std::string model;
  BackendFlags backend;
  MemoryFlags memory;
  EngineFlags engine;
  bool json = false;
};

// What a process takes of a GPU before it loads anything (an H200 of CUDA 13: 0.5 GB).
constexpr int64_t kContextBytes = 600'000'000;

// What can be said of memory; `error`: why it is not enough.
struct PlannedMemory {
  std::optional<ModelNeeds> needs;
  std::optional<int64_t> room;
  EngineLimits limits;
  std::vector<std::string> notes;
  std::optional<Error> error;
};

// Bytes that the flags leave of the GPU; nothing: nobody knows what it has.
std::optional<int64_t> room_for_plan(const PlanFlags& flags, const Device& device) {
  if (device.is_cpu()) return std::nullopt;
  int64_t total = flags.backend.device == "cuda" ? probe_cuda_memory(device.index) : 0;
  if (total == 0 && !flags.memory.gpu_memory.empty()) {
    total = parse_bytes("--gpu-memory", flags.memory.gpu_memory);
  }
  if (total == 0) return std::nullopt;
  return room_of(flags.memory, total, kContextBytes);
}

PlannedMemory plan_memory(const PlanFlags& flags, const Checkpoint& checkpoint,
                          const Description& description, const SelectorOptions& options,
                          std::vector<PlanGroup>& groups) {
  PlannedMemory planned{.room = room_for_plan(flags, options.device)};
  const std::optional<int64_t> layers = cpu_moe_layers(flags.memory, options.device);
  planned.needs =
      needs_from_headers(checkpoint, description, groups, options.device, layers.value_or(0));
  if (!planned.needs) return planned;
  ModelNeeds& needs = *planned.needs;
  if (!layers && planned.room) {
    needs.cpu_moe = fitting_cpu_moe(needs, flags.engine, *planned.room)
                        .value_or(static_cast<int64_t>(needs.experts.size()));
  }
  if (needs.cpu_moe > 0) groups = make_plan(checkpoint, options, needs.cpu_moe);
  try {
    planned.limits = fit_engine(needs, flags.engine, planned.room, planned.notes);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUnavailable) throw;
    planned.error = error;
  }
  return planned;
}

std::string text_of(const PlannedMemory& planned) {
  if (!planned.needs) return "";
  if (planned.error) return fmt::format("memory: {}\n", planned.error->what());
  std::string text = memory_line(memory_plan(*planned.needs, planned.limits), planned.room) +
                     caches_line(*planned.needs, planned.limits);
  if (!planned.room && !planned.needs->device.is_cpu()) {
    text += "note: memory: give --gpu-memory to see what fits\n";
  }
  for (const std::string& note : planned.notes) text += fmt::format("note: memory: {}\n", note);
  return text;
}

nlohmann::ordered_json json_of(const PlannedMemory& planned) {
  if (!planned.needs) return nullptr;
  if (planned.error) return {{"error", planned.error->what()}};
  return memory_json(memory_plan(*planned.needs, planned.limits), *planned.needs, planned.limits,
                     planned.room);
}

std::string router_text(const ModelConfig& config) {
  const RouterConfig& router = config.router;
  std::string text = printable(config.router_scoring, 40);
  if (router.renormalize) text += ", renormalised";
  if (router.scaling_factor != 1.0f) text += fmt::format(", times {}", router.scaling_factor);
  if (router.num_groups > 1) {
    text += fmt::format(", {} of {} groups", router.topk_groups, router.num_groups);
  }
  if (config.router_has_correction_bias) text += ", correction bias";
  if (config.router_has_logit_bias) text += ", logit bias";
  if (config.router_has_expert_scale) text += ", a scale for each expert";
  if (config.router_logit_cap > 0) text += fmt::format(", capped at {}", config.router_logit_cap);
  if (!config.is_hash_layer.empty()) text += ", by token id in the first layers";
  return text;
}

void plan(const PlanFlags& flags) {
  const SelectorOptions options = selector_options(flags.backend, /*must_run=*/false);
  const auto checkpoint = Checkpoint::open(flags.model, {.headers_only = true});
  std::vector<PlanGroup> groups = make_plan(*checkpoint, options);
  const Description description =
      describe(*checkpoint, options.device, kv_cache_dtype(flags.memory).value_or(DType::kF16));
  const PlannedMemory memory = plan_memory(flags, *checkpoint, description, options, groups);
  const std::vector<Refusal>& refused = description.refusals;
  const ModelConfig& config = checkpoint->config();
  const std::string no_run = why_not_run(config);
  if (flags.json) {
    nlohmann::ordered_json json = plan_document(*checkpoint, options, groups, description);
    json["memory"] = json_of(memory);
    fmt::print("{}\n", json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    fmt::print("{} ({}), {} checkpoint, planned for {}\n{}", config.architecture, config.model_type,
               checkpoint->dialect(), to_string(options.device), plan_text(groups));
    if (groups.empty()) {
      fmt::print("{}\n", kNoExperts);
    } else {
      fmt::print("router: {}\n", router_text(config));
    }
    fmt::print("{}{}", ops_text(description), text_of(memory));
    for (const CheckpointNote& note : checkpoint->notes()) {
      fmt::print("note: {}: {}\n", printable(note.where), printable(note.message, 1000));
    }
    if (!no_run.empty()) fmt::print("run: not possible: {}\n", no_run);
    // An unknown architecture was said.
    for (const Refusal& refusal : refused) {
      if (no_run.empty()) fmt::print("run: refused: {}\n", refusal.message);
    }
  }
  for (const PlanGroup& group : groups) {
    if (group.selection.backend == nullptr) {
      throw Error(group.error_code,
                  fmt::format("{} {}: {}", group.layers.size() == 1 ? "layer" : "layers",
                              layer_ranges(group.layers), group.error));
    }
  }
  if (memory.error) throw *memory.error;
}

}  // namespace

void add_plan(CLI::App& app) {
  auto flags = std::make_shared<PlanFlags>();
  CLI::App* command = app.add_subcommand(
      "plan", "Say which backend serves each layer and why the others do not; reads headers only");
  command->add_option("MODEL", flags->model, "Checkpoint folder")->required();
  add_backend_flags(*command, flags->backend);
  add_memory_flags(*command, flags->memory);
  add_engine_flags(*command, flags->engine);
  with_env(command->add_flag("--json", flags->json, "One JSON object on stdout"));
  command->callback([flags] { plan(*flags); });
}

}  // namespace moe4::cli
