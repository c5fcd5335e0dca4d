// The C interface over the selector and PreparedExperts: checks, then forwards.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "base/error.h"
#include "moe/selector.h"
#include "moe/shard.h"
#include "moe4/moe4.h"
#include "ops/experts/registry.h"
#ifdef MOE4_WITH_CUDA
#include "device/cuda/cuda_check.h"
#include "device/cuda/describe_device.h"
#endif

struct moe4_layer {
  std::unique_ptr<moe4::ThreadPool> threads;
  std::unique_ptr<moe4::PreparedExperts> prepared;
  std::string backend;
  int64_t intermediate_size = 0;
};

namespace {

using namespace moe4;  // NOLINT: this file is the library's outer skin

thread_local std::string last_error;

template <typename F>
moe4_status guarded(F&& f) {
  try {
    f();
    return MOE4_OK;
  } catch (const Error& error) {
    last_error = error.what();
    return static_cast<moe4_status>(error.code());
  } catch (const std::bad_alloc&) {
    last_error = "out of memory";
    return MOE4_UNAVAILABLE;
  } catch (const std::exception& error) {
    last_error = error.what();
    return MOE4_INTERNAL;
  }
}

void require(bool condition, const char* message) {
  if (!condition) throw Error(ErrorCode::kUsage, message);
}

// Far above every model, and small enough that no product of sizes leaves 64 bits.
constexpr int64_t kMaxWidth = int64_t{1} << 20;
constexpr int64_t kMaxExperts = int64_t{1} << 16;
constexpr int64_t kMaxTokens = std::numeric_limits<int32_t>::max();
constexpr int kMaxThreads = 4096;

[[noreturn]] void refuse(const char* field, const std::string& found, const std::string& expected) {
  throw Error(ErrorCode::kUsage,
              std::string("moe4_layer_desc: ") + field + " is " + found + ", expected " + expected);
}

void require_size(const char* field, int64_t value, int64_t most) {
  if (value < 1 || value > most) {
    refuse(field, std::to_string(value), "1 to " + std::to_string(most));
  }
}

void require_finite(const char* field, float value) {
  if (!std::isfinite(value)) refuse(field, std::to_string(value), "a finite number");
}

// What the C caller gave, in canonical form, and the host memory that some of it needs.
struct Canonical {
  MoeLayerWeights weights;
  std::vector<std::vector<uint16_t>> biases;
};

// Biases are host memory in canonical weights.
const uint16_t* host_bias(const uint16_t* bias, int64_t n, bool on_device, Canonical& out) {
  if (!on_device || bias == nullptr) return bias;
#ifdef MOE4_WITH_CUDA
  out.biases.emplace_back(n);
  MOE4_CUDA_CHECK(
      cudaMemcpy(out.biases.back().data(), bias, n * sizeof(uint16_t), cudaMemcpyDeviceToHost));
  return out.biases.back().data();
#else
  static_cast<void>(n), static_cast<void>(out);
  return nullptr;  // device_of() has refused
#endif
}

LinearWeights linear_of(const moe4_linear& from, std::string name, int64_t n, int64_t k,
                        Canonical& out) {
  if (from.codes == nullptr || from.scales == nullptr) {
    throw Error(ErrorCode::kUsage, "moe4_linear of " + name + ": codes or scales is NULL");
  }
  if (!std::isfinite(from.global_scale) || from.global_scale < 0) {
    throw_bad_input({.what = "global_scale is no scale",
                     .tensor = name,
                     .expected = "a finite number of at least 0",
                     .found = std::to_string(from.global_scale)});
  }
  if (!std::isfinite(from.input_scale) || from.input_scale < 0) {
    throw_bad_input({.what = "input_scale is no scale",
                     .tensor = name,
                     .expected = "a positive number, or 0 for none",
                     .found = std::to_string(from.input_scale)});
  }
  LinearWeights linear;
  linear.name = std::move(name);
  linear.out_features = n;
  linear.in_features = k;
  linear.scheme = out.weights.scheme;
  linear.weight = {from.codes, DType::kU8, {n, k / 2}, 0};
  linear.scale = {from.scales, DType::kF8E4M3, {n, k / 16}, 0};
  linear.global_scale = DecodeScale{from.global_scale};
  if (from.input_scale != 0) linear.input_scale = DecodeScale{from.input_scale};
  const uint16_t* bias = host_bias(from.bias, n, out.weights.on_device, out);
  if (bias != nullptr) linear.bias = {bias, DType::kBF16, {n}, 0};
  return linear;
}

std::vector<int32_t> expert_map_of(const moe4_layer_desc& desc) {
  if (desc.expert_map == nullptr) return {};
  std::vector<int32_t> map(desc.expert_map, desc.expert_map + desc.num_experts);
  std::vector<bool> taken(desc.num_local_experts);
  for (size_t e = 0; e < map.size(); ++e) {
    if (map[e] == -1) continue;
    const bool known = map[e] >= 0 && map[e] < desc.num_local_experts;
    if (!known || taken[map[e]]) {
      throw Error(ErrorCode::kUsage, "moe4_layer_desc: expert_map[" + std::to_string(e) + "] is " +
                                         std::to_string(map[e]) + ", " +
                                         (known ? "as another expert's"
                                                : "neither -1 nor below num_local_experts, " +
                                                      std::to_string(desc.num_local_experts)));
    }
    taken[map[e]] = true;
  }
  return map;
}

// Checks of the plain fields. Each names its field, with what is wrong.
void check_desc(const moe4_layer_desc& desc) {
  require_size("hidden_size", desc.hidden_size, kMaxWidth);
  require_size("intermediate_size", desc.intermediate_size, kMaxWidth);
  for (const auto& [field, value] : {std::pair("hidden_size", desc.hidden_size),
                                     std::pair("intermediate_size", desc.intermediate_size)}) {
    if (value % 16 != 0)
      refuse(field, std::to_string(value), "multiples of 16, the block of a scale");
  }
  require_size("num_experts", desc.num_experts, kMaxExperts);
  require_size("num_local_experts", desc.num_local_experts, desc.num_experts);
  require_size("top_k", desc.top_k, desc.num_experts);
  if (desc.activation < MOE4_SILU || desc.activation > MOE4_RELU2) {
    refuse("activation", std::to_string(desc.activation), "a moe4_activation");
  }
  require_finite("alpha", desc.alpha);
  require_finite("beta", desc.beta);
  if (std::isnan(desc.limit) || desc.limit < 0) {
    refuse("limit", std::to_string(desc.limit), "a positive number, or 0 for none");
  }
  const bool clamps = desc.activation == MOE4_SILU || desc.activation == MOE4_SWIGLU_OAI;
  if (!clamps && desc.limit > 0 && !std::isinf(desc.limit)) {
    refuse("limit", std::to_string(desc.limit), "0: MOE4_GELU_TANH and MOE4_RELU2 have no clamp");
  }
  if (desc.tp_size < 0) refuse("tp_size", std::to_string(desc.tp_size), "0, or a number of ranks");
  if (desc.tp_rank < 0 || desc.tp_rank >= std::max(desc.tp_size, 1)) {
    refuse("tp_rank", std::to_string(desc.tp_rank),
           "a TP rank of " + std::to_string(std::max(desc.tp_size, 1)));
  }
  if (desc.device < -1) {
    refuse("device", std::to_string(desc.device), "a CUDA ordinal, or -1 for the CPU");
  }
  if (desc.num_threads < 0 || desc.num_threads > kMaxThreads) {
    refuse("num_threads", std::to_string(desc.num_threads), "0 to " + std::to_string(kMaxThreads));
  }
  require(desc.up != nullptr && desc.down != nullptr, "moe4_layer_desc: up or down is NULL");
  require((desc.gate == nullptr) == (desc.activation == MOE4_RELU2),
          "moe4_layer_desc: gate is NULL for MOE4_RELU2 and for no other activation");
  require(desc.expert_map != nullptr || desc.num_local_experts == desc.num_experts,
          "moe4_layer_desc: num_local_experts below num_experts needs an expert_map");
  require(!desc.weights_on_device || desc.device >= 0,
          "moe4_layer_desc: weights_on_device needs a GPU in device");
}

Canonical canonical_of(const moe4_layer_desc& desc, ActivationMode activations) {
  ActivationParams activation{.kind = static_cast<ActivationKind>(desc.activation)};
  if (activation.kind == ActivationKind::kSwigluOai) {
    activation.alpha = desc.alpha;
    activation.beta = desc.beta;
  }
  if (desc.limit > 0) activation.limit = desc.limit;
  Canonical out;
  MoeLayerWeights& weights = out.weights;
  weights.problem = {.hidden_size = desc.hidden_size,
                     .intermediate_size = desc.intermediate_size,
                     .num_experts = desc.num_experts,
                     .num_local_experts = desc.num_local_experts,
                     .top_k = desc.top_k,
                     .activation = activation,
                     .weight_on_input = desc.weight_on_input != 0};
  weights.scheme = activations == ActivationMode::kFp4Static ? kW4A4 : kW4A16;
  weights.on_device = desc.weights_on_device != 0;
  weights.expert_map = expert_map_of(desc);
  const int64_t hidden = desc.hidden_size, width = desc.intermediate_size;
  for (int64_t e = 0; e < desc.num_local_experts; ++e) {
    const std::string name = "experts." + std::to_string(e);
    ExpertWeights expert;
    if (desc.gate != nullptr) {
      expert.gate = linear_of(desc.gate[e], name + ".gate_proj", width, hidden, out);
    }
    expert.up = linear_of(desc.up[e], name + ".up_proj", width, hidden, out);
    expert.down = linear_of(desc.down[e], name + ".down_proj", hidden, width, out);
    weights.experts.push_back(std::move(expert));
  }
  if (desc.tp_size > 1) weights = shard_weights(weights, desc.tp_size, desc.tp_rank);
  return out;
}

// What backends may rely on; they check the size of the workspace themselves.
void check_pointers(const moe4_apply_args& args) {
  require(args.num_tokens >= 0 && args.num_tokens <= kMaxTokens,
          "moe4_layer_apply: num_tokens is negative or above 2^31 - 1");
  if (args.num_tokens == 0) return;
  require(args.hidden_states != nullptr && args.topk_ids != nullptr &&
              args.topk_weights != nullptr && args.output != nullptr && args.workspace != nullptr,
          "moe4_layer_apply: a pointer is NULL");
  const auto aligned = [](const void* p, uintptr_t to) {
    return reinterpret_cast<uintptr_t>(p) % to == 0;
  };
  require(aligned(args.hidden_states, 16) && aligned(args.topk_ids, 4) &&
              aligned(args.topk_weights, 4) && aligned(args.output, 16) &&
              aligned(args.workspace, 256),
          "moe4_layer_apply: hidden_states and output must be 16-byte aligned, the workspace "
          "256-byte");
}

Device device_of(int ordinal) {
  if (ordinal < 0) return Device::cpu();
#ifdef MOE4_WITH_CUDA
  const Device device = cuda::describe_device(ordinal);
  if (!device.is_cpu()) return device;
  throw Error(ErrorCode::kUnavailable, "this machine has no GPU " + std::to_string(ordinal));
#else
  throw Error(ErrorCode::kUnavailable, "this library was built without CUDA; use device -1");
#endif
}

void register_once() {
  static const bool done = [] {
    register_builtin_backends();
    return true;
  }();
  static_cast<void>(done);
}

}  // namespace

moe4_status moe4_layer_create(const moe4_layer_desc* desc, moe4_layer** layer) {
  return guarded([&] {
    require(desc != nullptr && layer != nullptr, "moe4_layer_create: NULL argument");
    require(desc->struct_size == sizeof(moe4_layer_desc),
            "moe4_layer_create: struct_size differs: header and library are of two versions");
    register_once();
    check_desc(*desc);
    const ActivationMode activations =
        desc->activations ? parse_activation_mode(desc->activations) : ActivationMode::kBf16;
    const Device device = device_of(desc->device);
    const Canonical canonical = canonical_of(*desc, activations);
    const MoeLayerWeights& weights = canonical.weights;
    const Selection selection =
        select_backend(weights.problem, weights.scheme,
                       {.device = device,
                        .activations = activations,
                        .backend = resolve_backend_name(desc->backend ? desc->backend : ""),
                        .batch_invariant = desc->batch_invariant != 0,
                        .must_run = true});
    auto made = std::make_unique<moe4_layer>();
    made->threads = std::make_unique<ThreadPool>(desc->num_threads);
    made->backend = selection.backend->name();
    made->intermediate_size = weights.problem.intermediate_size;
    made->prepared = selection.backend->prepare(
        weights,
        {.precision = selection.precision, .device = device, .threads = made->threads.get()});
    *layer = made.release();
  });
}

size_t moe4_layer_workspace_size(const moe4_layer* layer, int64_t max_tokens) {
  if (layer == nullptr || max_tokens <= 0 || max_tokens > kMaxTokens) return 0;
  return layer->prepared->workspace_size(max_tokens);
}

moe4_status moe4_layer_apply(const moe4_layer* layer, const moe4_apply_args* args) {
  return guarded([&] {
    require(layer != nullptr && args != nullptr, "moe4_layer_apply: NULL argument");
    require(args->struct_size == sizeof(moe4_apply_args),
            "moe4_layer_apply: struct_size differs: header and library are of two versions");
    check_pointers(*args);
    layer->prepared->apply(
        {.num_tokens = args->num_tokens,
         .hidden_states = args->hidden_states,
         .topk_ids = args->topk_ids,
         .topk_weights = args->topk_weights,
         .output = args->output,
         .workspace = {static_cast<std::byte*>(args->workspace), args->workspace_bytes},
         .stream = args->stream});
  });
}

const char* moe4_layer_backend(const moe4_layer* layer) {
  return layer == nullptr ? "" : layer->backend.c_str();
}

moe4_batch_invariance moe4_layer_batch_invariance(const moe4_layer* layer) {
  if (layer == nullptr) return MOE4_BATCH_DEPENDENT;
  switch (layer->prepared->batch_invariant()) {
    case BatchInvariance::kFull:
      return MOE4_BATCH_INVARIANT;
    case BatchInvariance::kByPhase:
      return MOE4_BATCH_INVARIANT_BY_PHASE;
    case BatchInvariance::kNone:
      break;
  }
  return MOE4_BATCH_DEPENDENT;
}

int64_t moe4_layer_intermediate_size(const moe4_layer* layer) {
  return layer == nullptr ? 0 : layer->intermediate_size;
}

void moe4_layer_destroy(moe4_layer* layer) { delete layer; }

const char* moe4_last_error(void) { return last_error.c_str(); }
