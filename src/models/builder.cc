// Embedding, layers and head; the parts of layers are in builder_*.cc.
#include "models/builder.h"

#include "base/error.h"

namespace moe4 {

Builder::Builder(const Checkpoint& checkpoint, Settings settings)
    : checkpoint_(checkpoint), settings_(std::move(settings)) {
  parts_.config = checkpoint.config();
}

void Builder::embedding(const std::string& module, int64_t vocab_size, int64_t hidden_size,
                        float scale) {
  embedding_scale_ = scale;
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

void Builder::streams(const StreamsSpec& spec) {
  streams_ = spec;
  const StreamShape shape{.width = hidden_size_, .num_streams = spec.count};
  StreamParts parts;
  parts.fill = prepare<FillStreams>("fill_streams", shape, {});
  parts.add = prepare<AddToStreams>("add_to_streams", shape, {});
  parts_.streams = std::move(parts);
  complete(Whole::kModel);
}

std::unique_ptr<Prepared<MixStreams>> Builder::mix_streams(const std::string& role,
                                                           const std::string& prefix,
                                                           bool is_head) {
  if (!streams_) return nullptr;
  const MixStreams::Problem problem{
      .shape = {.width = hidden_size_, .num_streams = streams_->count},
      .iterations = streams_->iterations,
      .eps = streams_->eps,
      .norm_eps = streams_->norm_eps,
      .is_head = is_head};
  const std::string at = full_name(prefix);
  return prepare<MixStreams>(role, problem,
                             {.fn = tensor(at + "_fn", problem.num_mixes() * problem.shape.all()),
                              .base = tensor(at + "_base", problem.num_mixes()),
                              .scale = tensor(at + "_scale", is_head ? 1 : 3)});
}

std::unique_ptr<Prepared<LinearGroup>> Builder::linears(const std::string& role,
                                                        const std::vector<LinearSpec>& specs,
                                                        int64_t in_features) {
  LinearGroup::Weights weights;
  std::vector<LinearOptions> options;
  for (const LinearSpec& spec : specs) {
    std::optional<LinearWeights> found = linear(spec, in_features);
    if (!found) continue;
    if (spec.leaves_bias) found->bias = {};
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
  return norm_of(role, full_name(module) + ".weight", spec);
}

std::unique_ptr<Prepared<AddNorm>> Builder::norm_of(const std::string& role,
                                                    const std::string& tensor_name,
                                                    const NormSpec& spec) {
  if (tensor_name.empty()) return nullptr;
  return prepare<AddNorm>(role, {.width = hidden_size_, .norm = spec},
                          {.weight = tensor(tensor_name, hidden_size_)});
}

ResidualBlock Builder::feed_forward_block(const std::string& norm_module,
                                          std::unique_ptr<FeedForward> feed_forward,
                                          const NormSpec& spec) {
  ResidualBlock block{.norm = norm("norm", norm_module, spec),
                      .feed_forward = std::move(feed_forward)};
  std::optional<NormRoute::Problem> problem = std::exchange(norm_route_, std::nullopt);
  if (!problem) return block;
  problem->norm = {.width = hidden_size_, .norm = spec};
  auto* moe = dynamic_cast<MoeBlock*>(block.feed_forward.get());  // null while describing
  auto norm_route =
      prepare<NormRoute>("norm_route", *problem,
                         moe != nullptr ? moe->router_parts(*block.norm) : NormRoute::Weights{});
  if (moe != nullptr) moe->begin_with(std::move(norm_route));
  return block;
}

void Builder::add_layer(DecoderLayer layer) {
  complete(Whole::kLayer);
  parts_.layers.push_back(std::move(layer));
}

void Builder::layer(LayerSpec spec) {
  DecoderLayer layer;
  const auto post_norm = [&](const std::string& module) {
    return module.empty() ? nullptr : norm("post_norm", module, spec.norm);
  };
  layer.push_back({.norm = norm("norm", spec.mixer_norm, spec.norm),
                   .post_norm = post_norm(spec.mixer_post_norm),
                   .mix = mix_streams("mix_streams", spec.mixer_streams, /*is_head=*/false),
                   .mixer = std::move(spec.mixer)});
  layer.push_back(
      feed_forward_block(spec.feed_forward_norm, std::move(spec.feed_forward), spec.norm));
  layer.back().post_norm = post_norm(spec.feed_forward_post_norm);
  layer.back().mix = mix_streams("mix_streams", spec.feed_forward_streams, /*is_head=*/false);
  if (!spec.scalar.empty()) {
    const TensorRef scalar = tensor(full_name(spec.scalar), 1);
    if (!is_describing()) layer.back().scale = float_vector(scalar, 1)[0];
  }
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
  layer.push_back(feed_forward_block(norm_module, std::move(feed_forward), spec));
  add_layer(std::move(layer));
}

void Builder::head(const std::string& norm_module, const NormSpec& spec, const std::string& module,
                   bool tied, float soft_cap) {
  // Multimodal wrappers have lm_head at the top or inside their language model.
  const std::string nested = "language_model." + module;
  const bool is_nested = !checkpoint_.has_linear(module) && checkpoint_.has_linear(nested);
  const std::string& head = is_nested ? nested : module;
  if (streams_) parts_.streams->head = mix_streams("head_streams", streams_->head, true);
  parts_.final_norm = norm("final_norm", norm_module, spec);
  parts_.lm_head = linears("lm_head", {{tied ? embedding_ : head, vocab_size_}}, hidden_size_);
  const Embed::Problem table{
      .vocab_size = vocab_size_, .width = hidden_size_, .tied = tied, .scale = embedding_scale_};
  if (tied) {
    // A copy that some exporters write all the same; the configuration's word counts.
    ignore(head + ".*");
    parts_.embed_tokens = prepare<Embed>("embedding", table, {.lm_head = parts_.lm_head.get()});
  } else if (const auto weights = linear({embedding_, vocab_size_}, hidden_size_)) {
    parts_.embed_tokens = prepare<Embed>("embedding", table, {.table = *weights});
    packed(*weights);
  }
  if (soft_cap > 0) {
    parts_.soft_cap = prepare<SoftCap>("soft_cap", {.width = vocab_size_, .cap = soft_cap}, {});
  }
  complete(Whole::kModel);
}

}  // namespace moe4
