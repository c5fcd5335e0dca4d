// Loading of the parts that architectures have in common.
#include "models/loader.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "base/error.h"
#include "moe/selector.h"

namespace moe4 {
namespace {

// Pages lying wholly inside the view go back to the system; they would be read from the file again.
void release_pages(const TensorView& view) {
  if (view.empty() || view.row_stride != 0) return;
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(view.data);
  const uintptr_t first = (begin + page - 1) / page * page;
  const uintptr_t last = (begin + static_cast<uintptr_t>(view.num_bytes())) / page * page;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

void release_expert(const ExpertWeights& expert) {
  for (const LinearWeights* linear :
       {expert.gate ? &*expert.gate : &expert.up, &expert.up, &expert.down}) {
    release_pages(linear->weight);
    release_pages(linear->scale);
  }
}

}  // namespace

ModelLoader::ModelLoader(const Checkpoint& checkpoint, const ModelOptions& options)
    : checkpoint_(checkpoint),
      options_(options),
      linear_options_{.fp8_activations = options.moe.fp8_activations,
                      .activations = options.moe.activations,
                      .exact_inputs = options.compute_dtype == DType::kF32} {}

ModelLoader::ModelLoader(const Checkpoint& checkpoint, TensorsAsked& asked,
                         std::vector<Refusal>& refusals)
    : checkpoint_(checkpoint), asked_(&asked), refusals_(&refusals) {}

void ModelLoader::require_multiple(const char* key, int64_t value, int64_t factor) const {
  if (value > 0 && value % factor == 0) return;
  throw_bad_input({.what = std::string("unsupported ") + key,
                   .file = (checkpoint_.directory() / "config.json").string(),
                   .tensor = key,
                   .expected = "a positive multiple of " + std::to_string(factor),
                   .found = std::to_string(value)});
}

void ModelLoader::refuse_missing(const std::string& where, const Error& error) {
  if (error.code() != ErrorCode::kBadInput) throw error;
  // A tensor of an absent shard is not missing.
  if (checkpoint_.is_partial()) return;
  const bool is_there = checkpoint_.has_tensor(where) || checkpoint_.has_linear(where);
  refusals_->push_back({is_there ? "unusable-tensor" : "missing-tensor", where, error.what()});
}

void ModelLoader::ask_linear(const std::string& module) {
  try {
    for (std::string& name : checkpoint_.tensors_of_linear(module)) asked_->insert(std::move(name));
  } catch (const Error& error) {
    refuse_missing(module, error);
    ask_all_below(module + ".");
  }
}

void ModelLoader::ask_tensor(const std::string& tensor) {
  asked_->insert(tensor);
  try {
    (void)checkpoint_.tensor(tensor);
  } catch (const Error& error) {
    refuse_missing(tensor, error);
  }
}

void ModelLoader::ask_experts(int64_t layer) {
  try {
    for (std::string& name : checkpoint_.tensors_of_experts(layer)) asked_->insert(std::move(name));
  } catch (const Error& error) {
    refuse_missing(name(layer, "mlp.experts"), error);
    ask_all_below(name(layer, ""));
  }
}

// What is there in some unusable form is not unexpected as well.
void ModelLoader::ask_all_below(const std::string& prefix) {
  const std::vector<std::string>& names = checkpoint_.tensor_names();
  for (auto it = std::lower_bound(names.begin(), names.end(), prefix);
       it != names.end() && it->starts_with(prefix); ++it) {
    asked_->insert(*it);
  }
}

void ModelLoader::report() const {
  if (!options_.progress) return;
  const int64_t total = checkpoint_.total_tensor_bytes();
  options_.progress(std::min(bytes_done_, total), total);
}

void ModelLoader::consumed(const TensorView& view) {
  if (view.empty() || view.row_stride != 0) return;
  release_pages(view);
  bytes_done_ += view.num_bytes();
}

void ModelLoader::consumed(const LinearWeights& weights) {
  consumed(weights.weight);
  consumed(weights.scale);
  consumed(weights.bias);
}

void ModelLoader::done() {
  bytes_done_ = checkpoint_.total_tensor_bytes();
  report();
}

std::unique_ptr<Prepared<LinearGroup>> ModelLoader::linears(const std::vector<LinearSpec>& specs,
                                                            int64_t in_features) {
  if (is_describing()) {
    for (const LinearSpec& spec : specs) ask_linear(spec.module);
    return nullptr;
  }
  LinearGroup::Weights weights;
  std::vector<LinearOptions> options;
  for (const LinearSpec& spec : specs) {
    weights.members.push_back(checkpoint_.linear(spec.module, spec.out_features, in_features));
    options.push_back(spec.exact ? LinearOptions{.exact_inputs = true} : linear_options_);
  }
  auto group =
      prepare<LinearGroup>(LinearGroup::problem_of(weights, options), weights, op_options());
  for (const LinearWeights& linear : weights.members) consumed(linear);
  report();
  return group;
}

TensorRef ModelLoader::tensor(const std::string& name) {
  if (is_describing()) {
    ask_tensor(name);
    return {name, {}};
  }
  return {name, checkpoint_.tensor(name)};
}

std::unique_ptr<Prepared<AddNorm>> ModelLoader::norm(const std::string& name) {
  const TensorRef weight = tensor(name);
  if (is_describing()) return nullptr;
  return prepare<AddNorm>({.width = config().hidden_size, .norm = norm_spec()}, {.weight = weight},
                          op_options());
}

std::unique_ptr<Mixer> ModelLoader::attention(int64_t layer, const AttentionSpec& spec) {
  const auto at = [&](const char* suffix) {
    return name(layer, std::string("self_attn.") + suffix);
  };
  AttentionParts parts;
  parts.qkv_proj = linears({{at("q_proj"), spec.q_width() * (spec.output_gate ? 2 : 1)},
                            {at("k_proj"), spec.kv_width()},
                            {at("v_proj"), spec.kv_width()}},
                           config().hidden_size);
  parts.o_proj = linears({{at("o_proj"), config().hidden_size}}, spec.q_width());
  parts.q_norm = tensor(at("q_norm.weight"));
  parts.k_norm = tensor(at("k_norm.weight"));
  if (is_describing()) return nullptr;
  return std::make_unique<Attention>(spec, std::move(parts), op_options());
}

std::unique_ptr<Mixer> ModelLoader::delta_net(int64_t layer, const DeltaNet::Problem& problem) {
  const auto at = [&](const char* suffix) {
    return name(layer, std::string("linear_attn.") + suffix);
  };
  DeltaNetParts parts;
  parts.in_proj = linears({{at("in_proj_qkv"), problem.channels()},
                           {at("in_proj_z"), problem.values()},
                           {at("in_proj_b"), problem.num_value_heads},
                           {at("in_proj_a"), problem.num_value_heads}},
                          config().hidden_size);
  parts.out_proj = linears({{at("out_proj"), config().hidden_size}}, problem.values());
  parts.weights = {.conv = tensor(at("conv1d.weight")),
                   .a_log = tensor(at("A_log")),
                   .dt_bias = tensor(at("dt_bias")),
                   .norm = tensor(at("norm.weight"))};
  if (is_describing()) return nullptr;
  return std::make_unique<DeltaNetMixer>(problem, std::move(parts), op_options());
}

std::unique_ptr<DenseMlp> ModelLoader::dense_mlp(const std::string& prefix,
                                                 int64_t intermediate_size) {
  const int64_t hidden = config().hidden_size;
  auto gate_up = linears(
      {{prefix + ".gate_proj", intermediate_size}, {prefix + ".up_proj", intermediate_size}},
      hidden);
  auto down = linears({{prefix + ".down_proj", hidden}}, intermediate_size);
  if (is_describing()) return nullptr;
  return std::make_unique<DenseMlp>(std::move(gate_up), std::move(down), ActivationParams{},
                                    op_options());
}

std::unique_ptr<Prepared<Embed>> ModelLoader::embedding(const std::string& module) {
  if (is_describing()) {
    ask_linear(module);
    return nullptr;
  }
  const ModelConfig& c = config();
  const Embed::Weights weights{.table = checkpoint_.linear(module, c.vocab_size, c.hidden_size)};
  auto table =
      prepare<Embed>({.vocab_size = c.vocab_size, .width = c.hidden_size}, weights, op_options());
  consumed(weights.table);
  report();
  return table;
}

std::unique_ptr<Prepared<Embed>> ModelLoader::tied_embedding(const Prepared<LinearGroup>* lm_head) {
  if (is_describing()) return nullptr;
  const ModelConfig& c = config();
  return prepare<Embed>({.vocab_size = c.vocab_size, .width = c.hidden_size, .tied = true},
                        {.lm_head = lm_head}, op_options());
}

DecoderParts ModelLoader::begin() {
  const ModelConfig& c = config();
  if (c.router_scoring != "softmax") {
    throw_bad_input({.what = "unsupported scoring_func",
                     .file = (checkpoint_.directory() / "config.json").string(),
                     .tensor = "scoring_func",
                     .expected = "softmax",
                     .found = c.router_scoring,
                     .hint = "moe4 plan and inspect still work on this checkpoint"});
  }
  require_multiple("hidden_size", c.hidden_size, kRowPadding);
  require_multiple("head_dim", c.head_dim, 16);
  require_multiple("num_attention_heads", c.num_attention_heads, c.num_key_value_heads);
  const auto rotary_dim =
      static_cast<int64_t>(static_cast<double>(c.head_dim) * c.partial_rotary_factor);
  require_multiple("partial_rotary_factor * head_dim", rotary_dim, 2);

  const std::string& prefix = checkpoint_.text_prefix();
  DecoderParts parts;
  parts.config = c;
  parts.rotaries.push_back(
      prepare<RotaryAngles>({.dim = rotary_dim, .theta = c.rope_theta}, {}, op_options()));
  // Multimodal wrappers have lm_head at the top or inside their language model.
  const std::string table = prefix + "embed_tokens", nested = "language_model.lm_head";
  const bool is_nested = !checkpoint_.has_linear("lm_head") && checkpoint_.has_linear(nested);
  const std::string head = is_nested ? nested : "lm_head";
  if (c.tie_word_embeddings) {
    parts.lm_head = linears({{table, c.vocab_size}}, c.hidden_size);
    // A copy that some exporters write all the same; the configuration's word counts.
    if (is_describing()) ask_all_below(head + ".");
    parts.embed_tokens = tied_embedding(parts.lm_head.get());
  } else {
    parts.embed_tokens = embedding(table);
    parts.lm_head = linears({{head, c.vocab_size}}, c.hidden_size);
  }
  parts.final_norm = norm(prefix + "norm.weight");
  return parts;
}

void ModelLoader::finish_layer(DecoderParts& parts, int64_t layer, std::unique_ptr<Mixer> mixer) {
  const ModelConfig& c = config();
  DecoderLayer out;
  out.input_norm = norm(name(layer, "input_layernorm.weight"));
  out.post_attention_norm = norm(name(layer, "post_attention_layernorm.weight"));
  out.mixer = std::move(mixer);
  if (c.is_moe_layer.at(layer)) {
    auto moe = moe_block(parts, layer);
    out.moe = moe.get();
    out.feed_forward = std::move(moe);
  } else {
    out.feed_forward = dense_mlp(name(layer, "mlp"), c.dense_intermediate_size);
  }
  parts.layers.push_back(std::move(out));
}

std::unique_ptr<MoeBlock> ModelLoader::moe_block(DecoderParts& parts, int64_t layer) {
  const ModelConfig& c = config();
  MoeBlockParts block;
  block.layer = layer;
  block.router = c.router;
  // Routing stays exact: its input is not quantised whatever the options say.
  std::vector<LinearSpec> inputs = {{name(layer, "mlp.gate"), c.router.num_experts, true}};
  if (const int64_t width = c.shared_expert_intermediate_size; width > 0) {
    inputs.push_back({name(layer, "mlp.shared_expert.gate_proj"), width});
    inputs.push_back({name(layer, "mlp.shared_expert.up_proj"), width});
    if (c.shared_expert_has_gate) inputs.push_back({name(layer, "mlp.shared_expert_gate"), 1});
    block.shared_down =
        linears({{name(layer, "mlp.shared_expert.down_proj"), c.hidden_size}}, width);
  }
  block.inputs = linears(inputs, c.hidden_size);
  if (is_describing()) {
    ask_experts(layer);
    return nullptr;
  }

  const MoeLayerWeights weights = checkpoint_.moe_layer(layer);
  Selection selection = select_backend(weights.problem, weights.scheme, options_.moe);
  if (const Support absent = selection.backend->runnable(selection.device)) {
    throw Error(ErrorCode::kUnavailable, "layer " + std::to_string(layer) + ": backend '" +
                                             std::string(selection.backend->name()) +
                                             "' cannot run here since " + absent->message);
  }
  const PrepareOptions prepare{.precision = selection.precision,
                               .device = selection.device,
                               .threads = options_.threads,
                               .copied = release_expert,
                               .tuning = options_.tuning};
  block.experts = selection.device.is_cpu()
                      ? host_experts(selection.backend->prepare(weights, prepare))
                      : options_.prepare_on_gpu(*selection.backend, weights, prepare);
  if (options_.compute_dtype == DType::kF32 && !block.experts->accepts_float32()) {
    throw Error(ErrorCode::kUsage, "--dtype float32: backend '" +
                                       std::string(selection.backend->name()) +
                                       "' takes BF16 hidden states; use --moe-backend reference");
  }
  for (const ExpertWeights& expert : weights.experts) {
    if (expert.gate) consumed(*expert.gate);
    consumed(expert.up);
    consumed(expert.down);
  }
  report();
  parts.moe_plan.push_back({.layer = layer,
                            .scheme = weights.scheme,
                            .problem = weights.problem,
                            .selection = std::move(selection)});
  return std::make_unique<MoeBlock>(std::move(block), op_options());
}

}  // namespace moe4
