// Needs from headers, and words for plans.
#include "cli/memory_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/memory_limit.h"
#include "ops/batch.h"

namespace moe4::cli {

std::optional<ModelNeeds> needs_from_headers(const Checkpoint& headers,
                                             const Description& description,
                                             const std::vector<PlanGroup>& groups,
                                             const Device& device, int64_t cpu_moe) {
  if (!description.refusals.empty() || headers.is_partial()) return std::nullopt;
  std::vector<int64_t> only_cpu;
  for (const PlanGroup& group : groups) {
    if (group.selection.backend == nullptr || !group.selection.device.is_cpu()) continue;
    only_cpu.insert(only_cpu.end(), group.layers.begin(), group.layers.end());
  }
  return needs_of(description, headers.config(), device, only_cpu, cpu_moe);
}

std::string memory_line(const MemoryPlan& plan, std::optional<int64_t> room) {
  std::string text = "memory: ";
  if (plan.weights > 0) text += memory_text(plan.weights) + " of weights, ";
  text += fmt::format("{} of caches, {} of workspace, {} of logits and batches",
                      memory_text(plan.caches()), memory_text(plan.workspace),
                      memory_text(plan.buffers));
  if (plan.graphs > 0) text += fmt::format(", {} of graphs", memory_text(plan.graphs));
  if (room) {
    text += fmt::format("; {} in all of {}", memory_text(plan.total()), memory_text(*room));
  } else {
    text += fmt::format("; {} in all", memory_text(plan.total()));
  }
  if (plan.host_weights > 0) {
    text += fmt::format("; in the host's memory {} of experts", memory_text(plan.host_weights));
  }
  return text + "\n";
}

std::string caches_line(const ModelNeeds& needs, const EngineLimits& limits) {
  std::string text = "caches: ";
  if (needs.page_bytes > 0) {
    text +=
        fmt::format("{:.1f} KB a token", static_cast<double>(needs.page_bytes) / kPageTokens / 1e3);
  }
  if (needs.state_bytes > 0) {
    text += fmt::format("{}{:.1f} MB a request", needs.page_bytes > 0 ? ", " : "",
                        static_cast<double>(needs.state_bytes) / 1e6);
  }
  return text + fmt::format("; {} tokens, {} requests at once of up to {} tokens\n",
                            limits.cache_tokens, limits.max_seqs, limits.max_context);
}

nlohmann::ordered_json memory_json(const MemoryPlan& plan, const ModelNeeds& needs,
                                   const EngineLimits& limits, std::optional<int64_t> room) {
  nlohmann::ordered_json json = {
      {"weights", plan.weights},
      {"host_weights", plan.host_weights},
      {"pages", plan.pages},
      {"states", plan.states},
      {"snapshots", plan.snapshots},
      {"workspace", plan.workspace},
      {"buffers", plan.buffers},
      {"graphs", plan.graphs},
      {"total", plan.total()},
      {"room", room ? nlohmann::ordered_json(*room) : nlohmann::ordered_json(nullptr)},
      {"bytes_per_page", needs.page_bytes},
      {"bytes_per_state", needs.state_bytes},
      {"cpu_moe", std::min<int64_t>(needs.cpu_moe, static_cast<int64_t>(needs.experts.size()))},
      {"max_num_seqs", limits.max_seqs},
      {"max_model_len", limits.max_context},
      {"max_num_batched_tokens", limits.max_tokens},
      {"cache_tokens", limits.cache_tokens},
  };
  for (const ModelNeeds::Experts& layer : needs.experts) {
    json["expert_bytes"].push_back(layer.bytes);
  }
  return json;
}

int64_t peak_host_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (!line.starts_with("VmHWM:")) continue;
    int64_t kilobytes = 0;
    std::istringstream(line.substr(6)) >> kilobytes;
    return kilobytes << 10;
  }
  return 0;
}

}  // namespace moe4::cli
