// Checks, then views of the caller's memory.
#include "capi/layer_desc.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "capi/gpu.h"
#include "capi/guard.h"
#include "moe/shard.h"
#include "ops/experts/registry.h"

namespace moe4::capi {
namespace {

// Far above every model, and small enough that no product of sizes leaves 64 bits.
constexpr int64_t kMaxWidth = int64_t{1} << 20;
constexpr int64_t kMaxExperts = int64_t{1} << 16;

[[noreturn]] void refuse(const char* field, const std::string& found, const std::string& expected) {
  throw Error(ErrorCode::kUsage,
              std::string("moe4_layer_desc: ") + field + " is " + found + ", expected " + expected);
}

void require_range(const char* field, int64_t value, int64_t most) {
  if (value < 1 || value > most) {
    refuse(field, std::to_string(value), "1 to " + std::to_string(most));
  }
}

void require_finite(const char* field, float value) {
  if (!std::isfinite(value)) refuse(field, std::to_string(value), "a finite number");
}

// Biases are host memory in canonical weights.
const uint16_t* host_bias(const uint16_t* bias, int64_t n, bool on_device, Canonical& out) {
  if (!on_device || bias == nullptr) return bias;
  out.biases.emplace_back(n);
  download_rows(bias, n * sizeof(uint16_t), n * sizeof(uint16_t), 1, out.biases.back().data());
  return out.biases.back().data();
}

// A reciprocal of 0 is infinite, and refused as such.
float decode_scale(float scale, bool is_reciprocal) {
  return is_reciprocal ? to_decode(EncodeScale{scale}).value : scale;
}

LinearWeights linear_of(const moe4_linear& from, std::string name, int64_t n, int64_t k,
                        bool is_reciprocal, Canonical& out) {
  if (from.codes == nullptr || from.scales == nullptr) {
    throw Error(ErrorCode::kUsage, "moe4_linear of " + name + ": codes or scales is NULL");
  }
  const float global_scale = decode_scale(from.global_scale, is_reciprocal);
  if (!std::isfinite(global_scale) || global_scale < 0) {
    throw_bad_input({.what = "global_scale is no scale",
                     .tensor = name,
                     .expected = is_reciprocal ? "a positive number that divides"
                                               : "a finite number of at least 0",
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
  linear.global_scale = DecodeScale{global_scale};
  if (from.input_scale != 0) {
    linear.input_scale = DecodeScale{decode_scale(from.input_scale, is_reciprocal)};
  }
  const uint16_t* bias = host_bias(from.bias, n, out.weights.on_device, out);
  if (bias != nullptr) linear.bias = {bias, DType::kBF16, {n}, 0};
  return linear;
}

// One float an expert, on the host.
std::vector<float> floats_of(const float* from, int64_t stride, int64_t experts, bool on_device) {
  std::vector<float> floats(experts);
  if (from == nullptr) return floats;
  if (stride == 0) stride = 1;
  if (on_device) {
    download_rows(from, sizeof(float), stride * sizeof(float), experts, floats.data());
  } else {
    for (int64_t e = 0; e < experts; ++e) floats[e] = from[e * stride];
  }
  return floats;
}

// The experts of a stacked linear one by one.
std::vector<moe4_linear> experts_of(const moe4_stacked_linear& from, const char* name, int64_t n,
                                    int64_t k, const moe4_layer_desc& desc) {
  if (from.codes == nullptr || from.scales == nullptr || from.global_scales == nullptr) {
    throw Error(ErrorCode::kUsage, std::string("moe4_stacked_linear of ") + name +
                                       ": codes, scales or global_scales is NULL");
  }
  const int64_t experts = desc.num_local_experts;
  const auto stride = [&](const char* field, int64_t given, int64_t dense) {
    if (given == 0) return dense;
    if (given < dense) {
      throw Error(ErrorCode::kUsage, std::string("moe4_stacked_linear of ") + name + ": " + field +
                                         " is " + std::to_string(given) + ", expected at least " +
                                         std::to_string(dense) + ", or 0");
    }
    return given;
  };
  const int64_t codes = stride("codes_stride", from.codes_stride, n * k / 2);
  const int64_t scales = stride("scales_stride", from.scales_stride, n * k / 16);
  const int64_t bias = stride("bias_stride", from.bias_stride, n);
  const bool on_device = desc.weights_on_device != 0;
  const std::vector<float> global_scales =
      floats_of(from.global_scales, stride("global_scales_stride", from.global_scales_stride, 1),
                experts, on_device);
  const std::vector<float> input_scales =
      floats_of(from.input_scales, stride("input_scales_stride", from.input_scales_stride, 1),
                experts, on_device);
  std::vector<moe4_linear> linears;
  for (int64_t e = 0; e < experts; ++e) {
    linears.push_back({.codes = from.codes + e * codes,
                       .scales = from.scales + e * scales,
                       .global_scale = global_scales[e],
                       .input_scale = input_scales[e],
                       .bias = from.bias == nullptr ? nullptr : from.bias + e * bias});
  }
  return linears;
}

// Codes and scales of all experts of a linear, however they were given.
std::vector<moe4_linear> linears_of(const moe4_linear* each, const moe4_stacked_linear* stacked,
                                    const char* name, int64_t n, int64_t k,
                                    const moe4_layer_desc& desc) {
  if (stacked != nullptr) return experts_of(*stacked, name, n, k, desc);
  if (each == nullptr) return {};
  return {each, each + desc.num_local_experts};
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

void check_linears(const moe4_layer_desc& desc) {
  const bool stacked =
      desc.stacked_up != nullptr || desc.stacked_down != nullptr || desc.stacked_gate != nullptr;
  require(!stacked || (desc.gate == nullptr && desc.up == nullptr && desc.down == nullptr),
          "moe4_layer_desc: linears are given one by one and stacked; set one of them");
  require(stacked ? desc.stacked_up != nullptr && desc.stacked_down != nullptr
                  : desc.up != nullptr && desc.down != nullptr,
          "moe4_layer_desc: up or down is NULL");
  const bool has_gate = desc.gate != nullptr || desc.stacked_gate != nullptr;
  require(has_gate == (desc.activation != MOE4_RELU2),
          "moe4_layer_desc: gate is NULL for MOE4_RELU2 and for no other activation");
}

ActivationMode activations_of(const moe4_layer_desc& desc) {
  return desc.activations ? parse_activation_mode(desc.activations) : ActivationMode::kBf16;
}

void register_once() {
  static const bool done = [] {
    register_builtin_backends();
    return true;
  }();
  static_cast<void>(done);
}

}  // namespace

void check_desc(const moe4_layer_desc& desc, Weights weights) {
  require_range("hidden_size", desc.hidden_size, kMaxWidth);
  require_range("intermediate_size", desc.intermediate_size, kMaxWidth);
  for (const auto& [field, value] : {std::pair("hidden_size", desc.hidden_size),
                                     std::pair("intermediate_size", desc.intermediate_size)}) {
    if (value % 16 != 0)
      refuse(field, std::to_string(value), "multiples of 16, the block of a scale");
  }
  require_range("num_experts", desc.num_experts, kMaxExperts);
  require_range("num_local_experts", desc.num_local_experts, desc.num_experts);
  require_range("top_k", desc.top_k, desc.num_experts);
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
  if (weights == Weights::kLookAt) check_linears(desc);
  require(desc.expert_map == nullptr || desc.expert_map_per_call == 0,
          "moe4_layer_desc: expert_map is given, and expert_map_per_call says that calls bring it");
  require(desc.expert_map != nullptr || desc.expert_map_per_call != 0 ||
              desc.num_local_experts == desc.num_experts,
          "moe4_layer_desc: num_local_experts below num_experts needs an expert_map");
  require(!desc.weights_on_device || desc.device >= 0,
          "moe4_layer_desc: weights_on_device needs a GPU in device");
}

MoeProblem problem_of(const moe4_layer_desc& desc) {
  ActivationParams activation{.kind = static_cast<ActivationKind>(desc.activation)};
  if (activation.kind == ActivationKind::kSwigluOai) {
    activation.alpha = desc.alpha;
    activation.beta = desc.beta;
  }
  if (desc.limit > 0) activation.limit = desc.limit;
  int64_t width = desc.intermediate_size;
  if (desc.tp_size > 1) {
    const IntermediateShard shard = intermediate_shard(width, desc.tp_size, desc.tp_rank);
    width = shard.end - shard.begin;
  }
  return {.hidden_size = desc.hidden_size,
          .intermediate_size = width,
          .num_experts = desc.expert_map_per_call ? desc.num_local_experts : desc.num_experts,
          .num_local_experts = desc.num_local_experts,
          .top_k = desc.top_k,
          .activation = activation,
          .weight_on_input = desc.weight_on_input != 0};
}

QuantScheme scheme_of(const moe4_layer_desc& desc) {
  return activations_of(desc) == ActivationMode::kFp4Static ? kW4A4 : kW4A16;
}

DType dtype_of(moe4_dtype dtype, const char* what) {
  switch (dtype) {
    case MOE4_BF16:
      return DType::kBF16;
    case MOE4_F16:
      return DType::kF16;
    case MOE4_F32:
      return DType::kF32;
  }
  throw Error(ErrorCode::kUsage, std::string(what) + ": hidden_dtype is " + std::to_string(dtype) +
                                     ", expected a moe4_dtype");
}

SelectorOptions selector_options(const moe4_layer_desc& desc) {
  register_once();
  return {.device = desc.device < 0 ? Device::cpu() : gpu(desc.device),
          .activations = activations_of(desc),
          .backend = resolve_backend_name(desc.backend ? desc.backend : ""),
          .batch_invariant = desc.batch_invariant != 0,
          .must_run = true};
}

Canonical canonical_of(const moe4_layer_desc& desc) {
  Canonical out;
  MoeLayerWeights& weights = out.weights;
  weights.problem = problem_of(desc);
  weights.problem.intermediate_size = desc.intermediate_size;  // shard_weights() cuts it
  weights.scheme = scheme_of(desc);
  weights.on_device = desc.weights_on_device != 0;
  weights.expert_map = expert_map_of(desc);
  const int64_t hidden = desc.hidden_size, width = desc.intermediate_size;
  const auto gate = linears_of(desc.gate, desc.stacked_gate, "gate", width, hidden, desc);
  const auto up = linears_of(desc.up, desc.stacked_up, "up", width, hidden, desc);
  const auto down = linears_of(desc.down, desc.stacked_down, "down", hidden, width, desc);
  const bool reciprocal = desc.reciprocal_scales != 0;
  for (int64_t e = 0; e < desc.num_local_experts; ++e) {
    const std::string name = "experts." + std::to_string(e);
    ExpertWeights expert;
    if (!gate.empty()) {
      expert.gate = linear_of(gate[e], name + ".gate_proj", width, hidden, reciprocal, out);
    }
    expert.up = linear_of(up[e], name + ".up_proj", width, hidden, reciprocal, out);
    expert.down = linear_of(down[e], name + ".down_proj", hidden, width, reciprocal, out);
    weights.experts.push_back(std::move(expert));
  }
  if (desc.tp_size > 1) weights = shard_weights(weights, desc.tp_size, desc.tp_rank);
  return out;
}

}  // namespace moe4::capi
