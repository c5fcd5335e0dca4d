// Dense MLPs and mixtures of experts from a checkpoint's modules.
#include <algorithm>

#include "base/error.h"
#include "models/builder.h"

namespace moe4 {

std::vector<Builder::LinearSpec> Builder::gate_and_up(const std::string& module, int64_t width,
                                                      const ActivationParams& activation,
                                                      const BiasRule& bias) {
  std::vector<LinearSpec> specs;
  if (activation.is_gated()) specs.push_back({module + "gate_proj", width, bias});
  specs.push_back({module + "up_proj", width, bias});
  return specs;
}

std::vector<Builder::LinearSpec> Builder::gate_and_up(const std::string& at,
                                                      const SharedExpertSpec& spec) {
  const std::string module = at + spec.module + ".";
  std::vector<LinearSpec> specs;
  if (spec.activation.is_gated()) {
    specs.push_back({module + spec.gate_proj, spec.intermediate_size});
  }
  specs.push_back({module + spec.up_proj, spec.intermediate_size});
  return specs;
}

std::vector<int32_t> Builder::expert_table(const std::string& name, const RouterConfig& router) {
  const int64_t n = vocab_size_ * router.top_k;
  const TensorRef stored = tensor(name, n);
  if (is_describing()) return {};
  const DType dtype = stored.view.dtype;
  if (dtype != DType::kI64 && dtype != DType::kI32) {
    throw_bad_input({.what = "a table of experts that holds no integers",
                     .file = checkpoint_.file_of(name).string(),
                     .tensor = name,
                     .expected = "I64 or I32",
                     .found = std::string(to_string(dtype))});
  }
  std::vector<int32_t> table(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    const int64_t expert =
        dtype == DType::kI64 ? stored.view.as<int64_t>()[i] : int64_t{stored.view.as<int32_t>()[i]};
    if (expert < 0 || expert >= router.num_experts) {
      throw_bad_input(
          {.what = "a table of experts that names one that is not there",
           .file = checkpoint_.file_of(name).string(),
           .tensor = name,
           .expected = "0 to " + std::to_string(router.num_experts - 1),
           .found = std::to_string(expert) + " for token " + std::to_string(i / router.top_k)});
    }
    table[static_cast<size_t>(i)] = static_cast<int32_t>(expert);
  }
  return table;
}

std::unique_ptr<FeedForward> Builder::dense_mlp(const std::string& module,
                                                const DenseMlpSpec& spec) {
  const std::string at = full_name(module) + ".";
  const int64_t width = spec.intermediate_size;
  DenseMlpParts parts;
  parts.gate_up = linears(spec.activation.is_gated() ? "gate_up_proj" : "up_proj",
                          gate_and_up(at, width, spec.activation, spec.bias), hidden_size_);
  parts.gated =
      prepare<GatedRows>("activation", {.width = width, .activation = spec.activation}, {});
  parts.down = linears("down_proj", {{at + "down_proj", hidden_size_, spec.bias}}, width);
  if (is_describing()) return nullptr;
  return std::make_unique<DenseMlp>(std::move(parts));
}

std::unique_ptr<FeedForward> Builder::moe(const std::string& module, const MoeSpec& spec) {
  const std::string at = full_name(module) + ".";
  const SharedExpertSpec& shared = spec.shared;
  const MoeProblem routed{.hidden_size = spec.latent_size > 0 ? spec.latent_size : hidden_size_,
                          .intermediate_size = spec.intermediate_size,
                          .num_experts = spec.router.num_experts,
                          .num_local_experts = spec.router.num_experts,
                          .top_k = spec.router.top_k,
                          .activation = spec.activation,
                          .weight_on_input = spec.weight_on_input};
  RouterConfig router = spec.router;
  const bool has_shared = shared.intermediate_size > 0;
  if (has_shared && !device().is_cpu()) {
    Support why;
    router.shared_experts = shared_experts(at, spec, routed, why);
    const bool joins = router.shared_experts > 0;
    router.shared_gate = joins && !shared.gate.empty();
    OpChoice choice{.role = "shared_expert",
                    .op = "shared_expert",
                    .implementation = joins ? "experts" : "linears",
                    .verdicts = {{"experts", why}}};
    if (!joins) choice.verdicts.push_back({"linears", std::nullopt});
    chose(std::move(choice));
  }
  const bool is_apart = has_shared && router.shared_experts == 0;
  MoeBlockParts parts;
  parts.layer = layer_number();
  // Routing stays exact: its input is not quantised whatever the options say.
  std::vector<LinearSpec> inputs = {{.module = at + spec.gate,
                                     .out_features = router.num_experts,
                                     .bias = spec.gate_bias,
                                     .exact = true,
                                     .leaves_bias = spec.correction_bias == spec.gate + ".bias"}};
  std::string role = "router";
  const std::string expert = at + shared.module + ".";
  if (is_apart) {
    role += shared.activation.is_gated() ? "_shared_gate_up_proj" : "_shared_up_proj";
    for (LinearSpec& linear : gate_and_up(at, shared)) inputs.push_back(std::move(linear));
  }
  if (has_shared && !shared.gate.empty()) inputs.push_back({at + shared.gate, 1});
  if (spec.latent_size > 0) {
    role += "_to_latent";
    inputs.push_back({at + "fc1_latent_proj", spec.latent_size});
  }
  parts.inputs = linears(role, inputs, hidden_size_);
  if (is_apart) {
    parts.shared_down = linears("shared_down_proj", {{expert + shared.down_proj, hidden_size_}},
                                shared.intermediate_size);
    parts.shared_gated = prepare<GatedRows>(
        "shared_activation", {.width = shared.intermediate_size, .activation = shared.activation},
        {});
    parts.add_shared = prepare<AddScaled>(
        "add_shared", {.width = hidden_size_, .gated = !shared.gate.empty()}, {});
  }
  if (spec.latent_size > 0) {
    parts.from_latent =
        linears("from_latent", {{at + "fc2_latent_proj", hidden_size_}}, spec.latent_size);
  }
  if (!spec.router_norm.empty()) {
    parts.router_norm = norm_of("router_norm", at + spec.router_norm, spec.router_norm_spec);
  }
  if (!spec.experts_norm.empty()) {
    parts.experts_norm = norm_of("experts_norm", at + spec.experts_norm, spec.experts_norm_spec);
  }
  Route::Weights bias;
  if (!spec.correction_bias.empty()) {
    const TensorRef values = tensor(at + spec.correction_bias, router.num_experts);
    if (!is_describing()) bias.correction_bias = float_vector(values, router.num_experts);
  }
  if (!spec.expert_scale.empty()) {
    const TensorRef values = tensor(at + spec.expert_scale, router.num_experts);
    if (!is_describing()) bias.expert_scale = float_vector(values, router.num_experts);
  }
  if (router.by_token) bias.experts_of_token = expert_table(at + spec.experts_of_token, router);
  parts.route = prepare<Route>("route", router, bias);
  parts.experts = experts(at + spec.experts, routed,
                          shared_expert_weights(at, spec, routed, router.shared_experts));
  if (!device().is_cpu() && role == "router" && spec.router_norm.empty()) {
    const auto is_bf16 = [&](const LinearSpec& linear) {
      const std::string weight = linear.module + ".weight";
      return checkpoint().has_tensor(weight) &&
             checkpoint().tensor_header(weight).dtype == DType::kBF16;
    };
    norm_route_ = NormRoute::Problem{
        .bf16_router = std::all_of(inputs.begin(), inputs.end(), is_bf16), .route = router};
    if (parts.inputs != nullptr) norm_route_->router = parts.inputs->problem();
  }
  if (is_describing()) return nullptr;
  return std::make_unique<MoeBlock>(std::move(parts));
}

std::unique_ptr<FeedForward> Builder::parallel_moe(const std::string& mlp_module,
                                                   const std::string& moe_module,
                                                   const ParallelMoeSpec& spec) {
  ParallelMoeParts parts;
  parts.mlp = dense_mlp(mlp_module, spec.mlp);
  parts.mlp_norm = norm("mlp_norm", spec.mlp_norm, spec.norm);
  parts.moe = moe(moe_module, spec.moe);
  norm_route_.reset();  // that router does not read the layer's norm
  parts.moe_norm = norm("moe_norm", spec.moe_norm, spec.norm);
  parts.add = prepare<AddScaled>("add", {.width = hidden_size_}, {});
  if (is_describing()) return nullptr;
  return std::make_unique<ParallelMoe>(std::move(parts));
}

}  // namespace moe4
