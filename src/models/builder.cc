// Embedding, layers and head; the parts of layers are in builder_*.cc.
#include "models/builder.h"

#include "base/error.h"

namespace moe4 {

Builder::Builder(const Checkpoint& checkpoint, Settings settings)
    : checkpoint_(checkpoint), settings_(std::move(settings)) {
  parts_.config = checkpoint.config();
}

void Builder::embedding(const std::string& module, int64_t vocab_size, int64_t hidden_size) {
  embedding_ = full_name(module);
  vocab_size_ = vocab_size;
  hidden_size_ = hidden_size;
}

size_t Builder::rotary(const RotarySpec& spec) {
  for (size_t i = 0; i < rotaries_.size(); ++i) {
    if (rotaries_[i] == spec) return i;
  }
  rotaries_.push_back(spec);
  parts_.rotaries.push_back(prepare<RotaryAngles>("rotary", spec, {}));
  complete(Whole::kModel);
  return rotaries_.size() - 1;
}

std::unique_ptr<Prepared<LinearGroup>> Builder::linears(const std::string& role,
                                                        const std::vector<LinearSpec>& specs,
                                                        int64_t in_features) {
  LinearGroup::Weights weights;
  std::vector<LinearOptions> options;
  for (const LinearSpec& spec : specs) {
    std::optional<LinearWeights> found = linear(spec, in_features);
    if (!found) continue;
    weights.members.push_back(*std::move(found));
    options.push_back(spec.exact ? LinearOptions{.exact_inputs = true} : settings_.linears);
  }
  if (weights.members.size() < specs.size()) return nullptr;
  auto group = prepare<LinearGroup>(role, LinearGroup::problem_of(weights, options), weights);
  for (const LinearWeights& member : weights.members) packed(member);
  return group;
}

std::unique_ptr<Prepared<LinearGroup>> Builder::group(const std::string& role,
                                                      const LinearGroup::Weights& weights) {
  const std::vector<LinearOptions> options(weights.members.size(), settings_.linears);
  return prepare<LinearGroup>(role, LinearGroup::problem_of(weights, options), weights);
}

std::unique_ptr<Prepared<AddNorm>> Builder::norm(const std::string& role, const std::string& module,
                                                 const NormSpec& spec) {
  return prepare<AddNorm>(role, {.width = hidden_size_, .norm = spec},
                          {.weight = tensor(full_name(module) + ".weight", hidden_size_)});
}

void Builder::add_layer(DecoderLayer layer) {
  complete(Whole::kLayer);
  parts_.layers.push_back(std::move(layer));
}

void Builder::layer(LayerSpec spec) {
  DecoderLayer layer;
  layer.push_back(
      {.norm = norm("norm", spec.mixer_norm, spec.norm), .mixer = std::move(spec.mixer)});
  layer.push_back({.norm = norm("norm", spec.feed_forward_norm, spec.norm),
                   .feed_forward = std::move(spec.feed_forward)});
  add_layer(std::move(layer));
}

void Builder::layer(const std::string& norm_module, std::unique_ptr<Mixer> mixer,
                    const NormSpec& spec) {
  DecoderLayer layer;
  layer.push_back({.norm = norm("norm", norm_module, spec), .mixer = std::move(mixer)});
  add_layer(std::move(layer));
}

void Builder::layer(const std::string& norm_module, std::unique_ptr<FeedForward> feed_forward,
                    const NormSpec& spec) {
  DecoderLayer layer;
  layer.push_back(
      {.norm = norm("norm", norm_module, spec), .feed_forward = std::move(feed_forward)});
  add_layer(std::move(layer));
}

void Builder::head(const std::string& norm_module, const NormSpec& spec, const std::string& module,
                   bool tied) {
  // Multimodal wrappers have lm_head at the top or inside their language model.
  const std::string nested = "language_model." + module;
  const bool is_nested = !checkpoint_.has_linear(module) && checkpoint_.has_linear(nested);
  const std::string& head = is_nested ? nested : module;
  parts_.final_norm = norm("final_norm", norm_module, spec);
  parts_.lm_head = linears("lm_head", {{tied ? embedding_ : head, vocab_size_}}, hidden_size_);
  const Embed::Problem table{.vocab_size = vocab_size_, .width = hidden_size_, .tied = tied};
  if (tied) {
    // A copy that some exporters write all the same; the configuration's word counts.
    ignore(head + ".*");
    parts_.embed_tokens = prepare<Embed>("embedding", table, {.lm_head = parts_.lm_head.get()});
  } else if (const auto weights = linear({embedding_, vocab_size_}, hidden_size_)) {
    parts_.embed_tokens = prepare<Embed>("embedding", table, {.table = *weights});
    packed(*weights);
  }
  complete(Whole::kModel);
}

}  // namespace moe4
