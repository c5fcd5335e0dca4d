// Shares memory among weights, workspace, pages, running states and snapshots.
#include "engine/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "base/checked_math.h"
#include "base/error.h"
#include "base/memory_limit.h"
#include "engine/decode_sizes.h"

namespace moe4 {
namespace {

// As vLLM has them for GPUs: what hides a step's overhead and no more than a prompt should wait.
constexpr int64_t kGpuSeqs = 256, kGpuTokens = 8192;
constexpr int64_t kCpuSeqs = 64, kCpuTokens = 512;
// Of prompts a step: logits of a large vocabulary take 1 MB a token.
constexpr int64_t kScoredTokens = 512;
constexpr int64_t kMaxSeqs = 4096, kMaxTokens = 65536;
constexpr int64_t kAutoSeqs = 8, kAutoContext = 32768;

// Device memory of a recorded step, per layer: about ten kernels.
constexpr int64_t kGraphBytesPerLayer = 20 << 10;

int64_t pages_of(int64_t tokens) { return ceil_div(tokens, kPageTokens); }

void check(const EngineFlags& flags, int64_t model_limit) {
  const auto refuse = [](const std::string& message) { throw Error(ErrorCode::kUsage, message); };
  if (flags.max_model_len > model_limit) {
    refuse(fmt::format("--max-model-len {} is beyond the {} tokens that the model was made for",
                       flags.max_model_len, model_limit));
  }
  if (flags.max_num_seqs > kMaxSeqs) {
    refuse(fmt::format("--max-num-seqs {}: expected at most {}", flags.max_num_seqs, kMaxSeqs));
  }
  if (flags.max_num_batched_tokens > kMaxTokens) {
    refuse(fmt::format("--max-num-batched-tokens {}: expected at most {}",
                       flags.max_num_batched_tokens, kMaxTokens));
  }
}

int64_t default_seqs(const Device& device) { return device.is_cpu() ? kCpuSeqs : kGpuSeqs; }

int64_t step_tokens(const EngineFlags& flags, const Device& device, int64_t seqs) {
  if (flags.max_num_batched_tokens == 0) {
    return std::max(device.is_cpu() ? kCpuTokens : kGpuTokens, seqs + kPageTokens);
  }
  if (flags.max_num_batched_tokens >= seqs + kPageTokens) return flags.max_num_batched_tokens;
  throw Error(ErrorCode::kUsage,
              fmt::format("--max-num-batched-tokens {} has no room for a token of each of {} "
                          "requests and {} of a prompt: raise it to {} or lower --max-num-seqs",
                          flags.max_num_batched_tokens, seqs, kPageTokens, seqs + kPageTokens));
}

// An engine whose pages hold one request of full length and no snapshots: the least that works.
EngineLimits least_limits(const EngineFlags& flags, const Device& device, int64_t seqs,
                          int64_t length) {
  const int64_t tokens = step_tokens(flags, device, seqs);
  return {.max_tokens = tokens,
          .max_seqs = seqs,
          .max_context = length,
          .cache_tokens = pages_of(length) * kPageTokens,
          .prefix_cache = flags.prefix_caching,
          .snapshot_bytes = 0,
          .cache_generated = flags.cache_generated,
          .prompt_logits = std::min(tokens, kScoredTokens)};
}

// The largest of [1, most] that fits, where what is above one that does not fit does not either.
int64_t largest(int64_t most, const std::function<bool(int64_t)>& fits) {
  int64_t low = 0, high = most;
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    if (fits(middle)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

std::optional<int64_t> least_cpu_moe(ModelNeeds needs,
                                     const std::function<bool(const ModelNeeds&)>& fits) {
  const auto layers = static_cast<int64_t>(needs.experts.size());
  for (; needs.cpu_moe <= layers; ++needs.cpu_moe) {
    if (fits(needs)) return needs.cpu_moe;
  }
  return std::nullopt;
}

std::string joined(const std::vector<std::string>& options) {
  std::string text;
  for (size_t i = 0; i < options.size(); ++i) {
    text += i == 0 ? "" : i + 1 == options.size() ? " or " : ", ";
    text += options[i];
  }
  return text;
}

// "a of weights, b of workspace, buffers and graphs".
std::string beside_caches(const MemoryPlan& plan) {
  const std::string steps = memory_text(plan.workspace + plan.buffers + plan.graphs) +
                            " of workspace, buffers and graphs";
  return plan.weights > 0 ? memory_text(plan.weights) + " of weights and " + steps : steps;
}

[[noreturn]] void throw_no_room(const ModelNeeds& needs, const EngineFlags& flags,
                                const EngineLimits& wanted, std::optional<int64_t> room) {
  const auto fits = [&](const ModelNeeds& those, int64_t seqs, int64_t length) {
    const MemoryPlan plan = memory_plan(those, least_limits(flags, those.device, seqs, length));
    if (flags.kv_cache_memory_bytes > 0) return plan.caches() <= flags.kv_cache_memory_bytes;
    return plan.total() <= *room;
  };
  std::vector<std::string> ways;
  const int64_t seqs =
      largest(wanted.max_seqs - 1, [&](int64_t n) { return fits(needs, n, wanted.max_context); });
  if (seqs > 0) ways.push_back(fmt::format("--max-num-seqs {}", seqs));
  const int64_t pages = largest(pages_of(wanted.max_context) - 1, [&](int64_t n) {
    return fits(needs, wanted.max_seqs, n * kPageTokens);
  });
  if (pages > 0) ways.push_back(fmt::format("--max-model-len {}", pages * kPageTokens));
  if (flags.kv_cache_memory_bytes > 0) {
    const MemoryPlan plan = memory_plan(needs, wanted);
    ways.push_back(fmt::format("--kv-cache-memory-bytes {}", plan.caches()));
  } else if (!needs.device.is_cpu() && !needs.experts.empty()) {
    const auto layers = least_cpu_moe(needs, [&](const ModelNeeds& those) {
      return fits(those, wanted.max_seqs, wanted.max_context);
    });
    if (layers) ways.push_back(fmt::format("--cpu-moe {}", *layers));
  }
  const MemoryPlan plan = memory_plan(needs, wanted);
  std::string message =
      fmt::format("--max-num-seqs {} with --max-model-len {} needs {} for caches; ",
                  wanted.max_seqs, wanted.max_context, memory_text(plan.caches()));
  if (flags.kv_cache_memory_bytes > 0) {
    message += memory_text(flags.kv_cache_memory_bytes) + " are given";
  } else {
    const int64_t left = std::max<int64_t>(*room - plan.total() + plan.caches(), 0);
    message += fmt::format("{} are left: {} may be used, {} are needed", memory_text(left),
                           memory_text(std::max<int64_t>(*room, 0)), beside_caches(plan));
  }
  message += ways.empty() ? "; no number of requests or tokens would fit"
                          : "; " + joined(ways) + " would fit";
  throw Error(ErrorCode::kUnavailable, message);
}

}  // namespace

MemoryPlan memory_plan(const ModelNeeds& needs, const EngineLimits& limits) {
  const RunnerLimits runner = runner_limits(limits, needs.state_bytes);
  MemoryPlan plan{.host_weights = needs.host_weights(),
                  .weights = needs.device_weights(),
                  .pages = runner.num_pages * needs.page_bytes,
                  .states = limits.max_seqs * needs.state_bytes,
                  .snapshots = (runner.num_state_slots - limits.max_seqs) * needs.state_bytes,
                  .workspace = needs.workspace(runner.step),
                  .buffers = Runner::buffer_bytes(runner, needs.vocab_size)};
  if (!needs.device.is_cpu()) {
    const auto graphs = static_cast<int64_t>(decode_sizes(limits.max_seqs).size() *
                                             context_sizes(limits.max_context).size());
    plan.graphs = graphs * needs.num_layers * kGraphBytesPerLayer;
  }
  return plan;
}

EngineLimits fit_engine(const ModelNeeds& needs, const EngineFlags& flags,
                        std::optional<int64_t> room, std::vector<std::string>& notes) {
  check(flags, needs.max_context);
  int64_t length = flags.max_model_len > 0 ? flags.max_model_len : needs.max_context;
  int64_t seqs = flags.max_num_seqs > 0 ? flags.max_num_seqs : default_seqs(needs.device);
  EngineLimits limits = least_limits(flags, needs.device, seqs, length);
  if (!room && flags.kv_cache_memory_bytes == 0) {
    const bool both = flags.max_num_seqs > 0 && flags.max_model_len > 0;
    if (both) limits.cache_tokens *= seqs;
    return limits;
  }
  const auto budget_for = [&](const EngineLimits& l) {
    if (flags.kv_cache_memory_bytes > 0) return flags.kv_cache_memory_bytes;
    const MemoryPlan plan = memory_plan(needs, l);
    return std::max<int64_t>(*room - plan.total() + plan.caches(), 0);
  };

  // Half at most for states: a request needs pages as well.
  int64_t budget = budget_for(limits);
  if (needs.state_bytes > 0 && seqs > budget / 2 / needs.state_bytes) {
    const int64_t fitting = std::max<int64_t>(budget / 2 / needs.state_bytes, 1);
    if (flags.max_num_seqs == 0 && fitting < seqs) {
      notes.push_back(fmt::format("at most {} requests run at once: memory for states", fitting));
      seqs = fitting;
      limits = least_limits(flags, needs.device, seqs, length);
      budget = budget_for(limits);
    }
  }
  if (seqs * needs.state_bytes > budget) throw_no_room(needs, flags, limits, room);

  int64_t left = budget - seqs * needs.state_bytes;
  int64_t snapshots = flags.prefix_caching && needs.state_bytes > 0 ? left / 4 : 0;
  // More than a few snapshots a request are seldom found again.
  snapshots = std::min(snapshots, 8 * seqs * needs.state_bytes);
  const int64_t most = pages_of(length) * seqs;
  const auto pages_within = [&](int64_t bytes) {
    return needs.page_bytes > 0 ? std::min(bytes / needs.page_bytes, most) : most;
  };
  // A request of full length comes before snapshots.
  if (pages_within(left - snapshots) < pages_of(length)) {
    snapshots = std::clamp<int64_t>(left - pages_of(length) * needs.page_bytes, 0, snapshots);
  }
  left -= snapshots;
  const int64_t pages = pages_within(left);
  if (pages < pages_of(length)) {
    if (flags.max_model_len > 0 || pages == 0) throw_no_room(needs, flags, limits, room);
    length = pages * kPageTokens;
    notes.push_back(
        fmt::format("the caches have {}, room for {} tokens: requests are limited to "
                    "as many",
                    memory_text(budget), length));
  }
  limits.snapshot_bytes = snapshots;
  limits.max_context = length;
  limits.cache_tokens = pages * kPageTokens;
  if (room && flags.kv_cache_memory_bytes > 0)
    check_room(needs, limits, *room, "lower --kv-cache-memory-bytes");
  return limits;
}

void check_room(const ModelNeeds& needs, const EngineLimits& limits, int64_t room,
                const std::string& advice) {
  const MemoryPlan plan = memory_plan(needs, limits);
  if (plan.total() <= room) return;
  std::vector<std::string> ways = {advice};
  const std::optional<int64_t> layers =
      needs.experts.empty() ? std::nullopt : fitting_cpu_moe(needs, limits, room);
  if (layers) ways.push_back(fmt::format("use --cpu-moe {}", *layers));
  throw Error(ErrorCode::kUnavailable,
              fmt::format("not enough memory on {}: {} are needed ({}, {} of caches for {} tokens) "
                          "and {} may be used: {}",
                          to_string(needs.device), memory_text(plan.total()), beside_caches(plan),
                          memory_text(plan.caches()), limits.cache_tokens,
                          memory_text(std::max<int64_t>(room, 0)), joined(ways)));
}

std::optional<int64_t> fitting_cpu_moe(const ModelNeeds& needs, const EngineLimits& limits,
                                       int64_t room) {
  return least_cpu_moe(
      needs, [&](const ModelNeeds& those) { return memory_plan(those, limits).total() <= room; });
}

std::optional<int64_t> fitting_cpu_moe(const ModelNeeds& needs, const EngineFlags& flags,
                                       int64_t room) {
  check(flags, needs.max_context);
  const int64_t seqs = flags.max_num_seqs > 0 ? flags.max_num_seqs : kAutoSeqs;
  const int64_t length =
      flags.max_model_len > 0 ? flags.max_model_len : std::min(needs.max_context, kAutoContext);
  return fitting_cpu_moe(needs, least_limits(flags, needs.device, seqs, length), room);
}

int64_t gpu_room(int64_t total, int64_t used, double utilization, int64_t cap) {
  const int64_t whole = cap > 0 ? std::min(cap, total) : total;
  return static_cast<int64_t>(static_cast<double>(whole) * utilization) - used;
}

}  // namespace moe4
