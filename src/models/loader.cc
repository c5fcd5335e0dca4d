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

Linear ModelLoader::linear(const std::string& module, int64_t out_features, int64_t in_features) {
  if (is_describing()) {
    ask_linear(module);
    return {};
  }
  const LinearWeights weights = checkpoint_.linear(module, out_features, in_features);
  Linear linear(weights, linear_options_, options_.threads);
  consumed(weights);
  report();
  return linear;
}

Embedding ModelLoader::embedding(const std::string& module, int64_t rows, int64_t width) {
  if (is_describing()) {
    ask_linear(module);
    return {};
  }
  const LinearWeights weights = checkpoint_.linear(module, rows, width);
  Embedding table(weights, *options_.threads);
  consumed(weights);
  report();
  return table;
}

std::vector<float> ModelLoader::vector(const std::string& tensor, int64_t n) {
  if (is_describing()) {
    ask_tensor(tensor);
    return {};
  }
  return float_vector(checkpoint_.tensor(tensor), tensor, n);
}

std::vector<float> ModelLoader::transposed(const std::string& tensor, int64_t rows,
                                           int64_t columns) {
  const std::vector<float> file = vector(tensor, rows * columns);
  std::vector<float> out(file.size());
  if (out.empty()) return out;  // describing
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) out[c * rows + r] = file[r * columns + c];
  }
  return out;
}

RmsNorm ModelLoader::norm(const std::string& tensor, int64_t n) {
  if (is_describing()) {
    ask_tensor(tensor);
    return {};
  }
  return RmsNorm(checkpoint_.tensor(tensor), tensor, n, config().rms_norm_eps,
                 config().one_plus_weight_norm);
}

RmsNorm ModelLoader::plain_norm(const std::string& tensor, int64_t n) {
  if (is_describing()) {
    ask_tensor(tensor);
    return {};
  }
  return RmsNorm(checkpoint_.tensor(tensor), tensor, n, config().rms_norm_eps, false);
}

MlpWeights ModelLoader::mlp(const std::string& prefix, int64_t intermediate_size) {
  const int64_t hidden = config().hidden_size;
  return {.gate_proj = linear(prefix + ".gate_proj", intermediate_size, hidden),
          .up_proj = linear(prefix + ".up_proj", intermediate_size, hidden),
          .down_proj = linear(prefix + ".down_proj", hidden, intermediate_size)};
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
  if (!is_describing()) parts.rotary = Rotary(rotary_dim, c.rope_theta);
  // Multimodal wrappers have it at the top or inside their language model.
  const std::string nested = "language_model.lm_head";
  const bool is_nested = !checkpoint_.has_linear("lm_head") && checkpoint_.has_linear(nested);
  const std::string head = is_nested ? nested : "lm_head";
  if (c.tie_word_embeddings) {
    parts.lm_head = linear(prefix + "embed_tokens", c.vocab_size, c.hidden_size);
    // A copy that some exporters write all the same; the configuration's word counts.
    if (is_describing()) ask_all_below(head + ".");
  } else {
    parts.embed_tokens = embedding(prefix + "embed_tokens", c.vocab_size, c.hidden_size);
    parts.lm_head = linear(head, c.vocab_size, c.hidden_size);
  }
  parts.final_norm = norm(prefix + "norm.weight", c.hidden_size);
  return parts;
}

void ModelLoader::finish_layer(DecoderParts& parts, int64_t layer, std::unique_ptr<Mixer> mixer) {
  const ModelConfig& c = config();
  DecoderLayer out;
  out.input_norm = norm(name(layer, "input_layernorm.weight"), c.hidden_size);
  out.post_attention_norm = norm(name(layer, "post_attention_layernorm.weight"), c.hidden_size);
  out.mixer = std::move(mixer);
  if (c.is_moe_layer.at(layer)) {
    auto moe = moe_block(parts, layer);
    out.moe = moe.get();
    out.feed_forward = std::move(moe);
  } else {
    out.feed_forward =
        std::make_unique<DenseMlp>(mlp(name(layer, "mlp"), c.dense_intermediate_size));
  }
  parts.layers.push_back(std::move(out));
}

std::unique_ptr<MoeBlock> ModelLoader::moe_block(DecoderParts& parts, int64_t layer) {
  const ModelConfig& c = config();
  MoeBlockParts block;
  block.router_config = c.router;
  const std::string gate = name(layer, "mlp.gate");
  if (is_describing()) {
    ask_linear(gate);
  } else {
    // Routing stays exact: its input is not quantised whatever the options say.
    block.router = Linear(checkpoint_.linear(gate, c.router.num_experts, c.hidden_size),
                          {.exact_inputs = true}, options_.threads);
  }
  if (c.shared_expert_intermediate_size > 0) {
    block.shared = mlp(name(layer, "mlp.shared_expert"), c.shared_expert_intermediate_size);
  }
  if (c.shared_expert_has_gate) {
    block.shared_gate = linear(name(layer, "mlp.shared_expert_gate"), 1, c.hidden_size);
  }

  if (is_describing()) {
    ask_experts(layer);
    return std::make_unique<MoeBlock>(std::move(block));
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
  return std::make_unique<MoeBlock>(std::move(block));
}

}  // namespace moe4
