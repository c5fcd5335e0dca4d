// Flags about memory.
#include "cli/memory_flags.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <limits>
#include <utility>

#include "base/error.h"
#include "base/memory_limit.h"
#include "cli/number_flags.h"
#include "cli/options.h"
#include "device/memory.h"

namespace moe4::cli {

void add_memory_flags(CLI::App& command, MemoryFlags& flags) {
  with_env(command.add_option("--gpu-memory", flags.gpu_memory,
                              "Use no more of the GPU's memory than this, e.g. 24GB or 80GiB; for "
                              "plans: what an absent GPU has"));
  with_env(
      command
          .add_option("--gpu-memory-utilization", flags.utilization,
                      "Share of the GPU's memory that weights, caches and the rest may take "
                      "(0.9); on the CPU, of what is left beside the weights, for caches (0.5)")
          ->check(number_between(0.01, 1)));
  command.add_option("--cpu-moe", flags.cpu_moe,
                     "With --device cuda: the CPU computes the experts of the first N layers that "
                     "have any, of all, or with auto of as many as the GPU has no room for");
  command.add_option("--kv-cache-dtype", flags.kv_cache,
                     "Keys and values in the caches: auto (16 bits), f16, or fp8 with the "
                     "checkpoint's scales");
}

void add_engine_flags(CLI::App& command, EngineFlags& flags) {
  with_env(command
               .add_option("--max-model-len", flags.max_model_len,
                           "Most tokens of prompt and answer; 0 for the model's limit")
               ->check(whole_number(0)));
  with_env(command
               .add_option("--max-num-seqs", flags.max_num_seqs,
                           "Requests that run at once; 0 for 256 on a GPU and 64 on a CPU")
               ->check(whole_number(0)));
  with_env(command
               .add_option("--max-num-batched-tokens", flags.max_num_batched_tokens,
                           "Tokens of a step; 0 for 8192 on a GPU and 512 on a CPU")
               ->check(whole_number(0)));
  with_env(command
               .add_option("--kv-cache-memory-bytes", flags.kv_cache_memory_bytes,
                           "Memory of the caches; 0 for --gpu-memory-utilization")
               ->check(whole_number(0)));
}

int64_t parse_bytes(const std::string& flag, const std::string& text) {
  const auto refuse = [&]() {
    throw Error(ErrorCode::kUsage, flag + " '" + printable(text, 80) +
                                       "': expected bytes with a unit, such as 24GB (10^9) or "
                                       "24GiB (2^30)");
  };
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  std::string unit(end, text.data() + text.size());
  if (error != std::errc() || !std::isfinite(value) || value < 0) refuse();
  double scale = 1;
  if (!unit.empty() && unit != "B") {
    constexpr std::string_view kUnits = "KMGT";
    const size_t power = kUnits.find(static_cast<char>(std::toupper(unit.front())));
    const std::string rest = unit.substr(1);
    if (power == std::string_view::npos || (rest != "" && rest != "B" && rest != "iB")) refuse();
    scale = std::pow(rest == "iB" ? 1024.0 : 1000.0, static_cast<double>(power + 1));
  }
  if (value * scale > 1e18) refuse();
  return static_cast<int64_t>(value * scale);
}

std::optional<int64_t> cpu_moe_layers(const MemoryFlags& flags, const Device& device) {
  if (flags.cpu_moe == "0") return 0;
  int64_t layers = 0;
  const char* end = flags.cpu_moe.data() + flags.cpu_moe.size();
  const auto [stop, error] = std::from_chars(flags.cpu_moe.data(), end, layers);
  const bool is_number = error == std::errc() && stop == end && layers >= 0;
  if (!is_number && flags.cpu_moe != "all" && flags.cpu_moe != "auto") {
    throw Error(ErrorCode::kUsage, "--cpu-moe '" + printable(flags.cpu_moe, 80) +
                                       "': expected a number of layers, all or auto");
  }
  if (device.is_cpu()) {
    if (is_number && layers == 0) return 0;
    throw Error(ErrorCode::kUsage,
                "--cpu-moe: the layers are on the CPU with all their experts; use --device cuda");
  }
  if (flags.cpu_moe == "auto") return std::nullopt;
  return is_number ? layers : std::numeric_limits<int64_t>::max();
}

std::optional<DType> kv_cache_dtype(const MemoryFlags& flags) {
  const std::string& name = flags.kv_cache;
  if (name == "auto") return std::nullopt;
  if (name == "f16" || name == "fp16" || name == "float16" || name == "half") return DType::kF16;
  if (name == "fp8" || name == "fp8_e4m3") return DType::kF8E4M3;
  const char* why = "";
  if (name == "bf16" || name == "bfloat16") {
    why = "; F16 has its size and eight times its resolution";
  } else if (name == "fp8_e5m2") {
    why = "; E4M3 has its size and twice its resolution";
  }
  throw Error(ErrorCode::kUsage,
              "--kv-cache-dtype '" + printable(name, 80) + "': expected auto, f16 or fp8" + why);
}

int64_t room_now(const MemoryFlags& flags, const Device& device) {
  if (device.is_cpu()) {
    const double share = flags.utilization > 0 ? flags.utilization : kHostUtilization;
    return static_cast<int64_t>(static_cast<double>(available_memory().bytes) * share);
  }
  const MemoryOfDevice memory = memory_of(device);
  return room_of(flags, memory.total, memory.total - memory.free);
}

int64_t room_of(const MemoryFlags& flags, int64_t total, int64_t used) {
  const int64_t cap = flags.gpu_memory.empty() ? 0 : parse_bytes("--gpu-memory", flags.gpu_memory);
  return gpu_room(total, used, flags.utilization > 0 ? flags.utilization : kGpuUtilization, cap);
}

}  // namespace moe4::cli
