// The C interface over the selector and PreparedExperts: checks, then forwards.
#include <limits>
#include <memory>
#include <new>
#include <string>

#include "base/error.h"
#include "experts/registry.h"
#include "moe/selector.h"
#include "moe4/moe4.h"
#ifdef MOE4_WITH_CUDA
#include "experts/device/cuda_device.h"
#endif

struct moe4_layer {
  std::unique_ptr<moe4::ThreadPool> threads;
  std::unique_ptr<moe4::PreparedExperts> prepared;
  std::string backend;
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

LinearWeights linear_of(const moe4_linear& from, std::string name, int64_t n, int64_t k) {
  require(from.codes != nullptr && from.scales != nullptr, "moe4_linear: codes or scales is NULL");
  LinearWeights linear;
  linear.name = std::move(name);
  linear.out_features = n;
  linear.in_features = k;
  linear.scheme = kW4A16;
  linear.weight = {from.codes, DType::kU8, {n, k / 2}, 0};
  linear.scale = {from.scales, DType::kF8E4M3, {n, k / 16}, 0};
  linear.global_scale = DecodeScale{from.global_scale};
  if (from.bias != nullptr) linear.bias = {from.bias, DType::kBF16, {n}, 0};
  return linear;
}

MoeLayerWeights weights_of(const moe4_layer_desc& desc) {
  require(desc.hidden_size > 0 && desc.intermediate_size > 0 && desc.hidden_size % 16 == 0 &&
              desc.intermediate_size % 16 == 0,
          "moe4_layer_desc: hidden_size and intermediate_size must be positive multiples of 16");
  require(desc.num_experts > 0 && desc.top_k > 0 && desc.num_local_experts > 0 &&
              desc.num_local_experts <= desc.num_experts,
          "moe4_layer_desc: num_experts, num_local_experts or top_k is out of range");
  require(desc.activation >= MOE4_SILU && desc.activation <= MOE4_RELU2,
          "moe4_layer_desc: unknown activation");
  require(desc.up != nullptr && desc.down != nullptr, "moe4_layer_desc: up or down is NULL");
  require((desc.gate == nullptr) == (desc.activation == MOE4_RELU2),
          "moe4_layer_desc: gate is NULL for MOE4_RELU2 and for no other activation");
  require(desc.expert_map != nullptr || desc.num_local_experts == desc.num_experts,
          "moe4_layer_desc: a share of the experts needs an expert_map");
  MoeLayerWeights weights;
  ActivationParams activation{.kind = static_cast<ActivationKind>(desc.activation)};
  if (activation.kind == ActivationKind::kSwigluOai) {
    activation.alpha = desc.alpha;
    activation.beta = desc.beta;
  }
  if (desc.limit > 0) activation.limit = desc.limit;
  weights.problem = {.hidden_size = desc.hidden_size,
                     .intermediate_size = desc.intermediate_size,
                     .num_experts = desc.num_experts,
                     .num_local_experts = desc.num_local_experts,
                     .top_k = desc.top_k,
                     .activation = activation,
                     .weight_on_input = desc.weight_on_input != 0};
  weights.scheme = kW4A16;
  const int64_t hidden = desc.hidden_size, width = desc.intermediate_size;
  for (int64_t e = 0; e < desc.num_local_experts; ++e) {
    const std::string name = "experts." + std::to_string(e);
    ExpertWeights expert;
    if (desc.gate != nullptr) {
      expert.gate = linear_of(desc.gate[e], name + ".gate", width, hidden);
    }
    expert.up = linear_of(desc.up[e], name + ".up", width, hidden);
    expert.down = linear_of(desc.down[e], name + ".down", hidden, width);
    weights.experts.push_back(std::move(expert));
  }
  if (desc.expert_map != nullptr) {
    weights.expert_map.assign(desc.expert_map, desc.expert_map + desc.num_experts);
  }
  return weights;
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
    const MoeLayerWeights weights = weights_of(*desc);
    const Device device = device_of(desc->device);
    const Selection selection =
        select_backend(weights.problem, weights.scheme,
                       {.device = device, .backend = desc->backend ? desc->backend : ""});
    if (const Support no = selection.backend->runnable(device)) {
      throw Error(ErrorCode::kUnavailable, "backend " + std::string(selection.backend->name()) +
                                               " cannot run since " + no->message);
    }
    auto made = std::make_unique<moe4_layer>();
    made->threads = std::make_unique<ThreadPool>(desc->num_threads);
    made->backend = selection.backend->name();
    made->prepared = selection.backend->prepare(
        weights,
        {.precision = selection.precision, .device = device, .threads = made->threads.get()});
    *layer = made.release();
  });
}

size_t moe4_layer_workspace_size(const moe4_layer* layer, int64_t max_tokens) {
  return layer == nullptr || max_tokens <= 0 ? 0 : layer->prepared->workspace_size(max_tokens);
}

moe4_status moe4_layer_apply(const moe4_layer* layer, const moe4_apply_args* args) {
  return guarded([&] {
    require(layer != nullptr && args != nullptr, "moe4_layer_apply: NULL argument");
    require(args->struct_size == sizeof(moe4_apply_args),
            "moe4_layer_apply: struct_size differs: header and library are of two versions");
    require(args->num_tokens >= 0, "moe4_layer_apply: num_tokens is negative");
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

void moe4_layer_destroy(moe4_layer* layer) { delete layer; }

const char* moe4_last_error(void) { return last_error.c_str(); }
