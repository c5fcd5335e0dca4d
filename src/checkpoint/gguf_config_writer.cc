// What all architectures have: sizes, the embedding, lists a layer, rotary scaling.
#include "checkpoint/gguf_config_writer.h"

#include <fmt/format.h>

#include <cstring>
#include <variant>

#include "base/error.h"
#include "base/tensor_view.h"

namespace moe4 {

template <typename T>
std::vector<T> GgufConfigWriter::first_layers(const char* key, const std::vector<T>& values) const {
  if (static_cast<int64_t>(values.size()) < num_layers_) {
    metadata_.fail(prefix_ + key, "GGUF array has the wrong length",
                   fmt::format("{} entries", num_layers_), std::to_string(values.size()));
  }
  return {values.begin(), values.begin() + num_layers_};
}

std::vector<int64_t> GgufConfigWriter::per_layer(const char* key) {
  const auto values = metadata_.integers(note(key));
  if (!values) return {};
  if (values->size() == 1) return std::vector<int64_t>(num_layers_, values->front());
  return first_layers(key, *values);
}

std::vector<bool> GgufConfigWriter::marks(const char* key) {
  const std::string name = note(key);
  const GgufValue* value = metadata_.find(name);
  if (value == nullptr) return {};
  const auto* array = std::get_if<GgufArray>(&value->value);
  if (array != nullptr && array->type == GgufValueType::kBool) {
    return first_layers(key, *metadata_.booleans(name));
  }
  const auto numbers = metadata_.integers(name);
  std::vector<bool> out;
  out.reserve(numbers->size());
  for (const int64_t number : *numbers) {
    if (number != 0 && number != 1) refuse(key, "0 or 1 a layer", std::to_string(number));
    out.push_back(number == 1);
  }
  return first_layers(key, out);
}

std::vector<double> GgufConfigWriter::numbers(const char* key) {
  const auto values = metadata_.numbers(note(key));
  return values ? first_layers(key, *values) : std::vector<double>();
}

int64_t GgufConfigWriter::same_for_all(const char* key) {
  const int64_t found = same_for_marked(key, std::vector<bool>(num_layers_, true), true);
  if (found == 0) metadata_.fail(prefix_ + key, "GGUF file lacks a key", "a number", "nothing");
  return found;
}

int64_t GgufConfigWriter::same_for_marked(const char* key, const std::vector<bool>& marks,
                                          bool mark) {
  const std::vector<int64_t> values = per_layer(key);
  int64_t found = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    if (marks[i] != mark || values[i] == 0) continue;
    if (found != 0 && values[i] != found) {
      refuse(key, "one number for all layers of a kind",
             fmt::format("{} and {}", found, values[i]));
    }
    found = values[i];
  }
  return found;
}

void GgufConfigWriter::refuse_tensor(const std::string& name, const std::string& expected) const {
  throw_bad_input({.what = "GGUF tensor is not supported",
                   .file = metadata_.file(),
                   .tensor = "tensor " + name,
                   .expected = expected,
                   .found = "others",
                   .hint = "use the model's safetensors"});
}

bool GgufConfigWriter::layer_has(int64_t layer, const char* name) const {
  return has_tensor(fmt::format("blk.{}.{}", layer, name));
}

std::vector<float> GgufConfigWriter::values(const std::string& name) const {
  const GgufTensor* found = tensor(name);
  if (found == nullptr) return {};
  if (found->type == nullptr || found->type->id != GgmlTypeId::kF32 || found->shape.size() != 1) {
    throw_bad_input({.what = "GGUF tensor has the wrong form",
                     .file = metadata_.file(),
                     .tensor = "tensor " + name,
                     .expected = "a vector of F32",
                     .found = shape_to_string(found->shape)});
  }
  const std::byte* data = model_.file_of(*found).data(*found);
  if (data == nullptr) return {};
  std::vector<float> out(static_cast<size_t>(found->shape[0]));
  std::memcpy(out.data(), data, out.size() * sizeof(float));
  return out;
}

void GgufConfigWriter::read_common() {
  // Bounded before lists of this length are made.
  constexpr int64_t kMaxLayers = 100'000;
  int64_t drafts = integer("nextn_predict_layers").value_or(0);
  const int64_t blocks = required("block_count");
  if (blocks < 1 || blocks > kMaxLayers || drafts < 0 || drafts >= blocks) {
    refuse("block_count", fmt::format("1 to {}, and more than nextn_predict_layers", kMaxLayers),
           fmt::format("{} and {}", blocks, drafts));
  }
  // Files of DeepSeek-V4 count drafts that stand in another file.
  if (prefix_ == "deepseek4." && !layer_has(blocks - drafts, "nextn.eh_proj.weight")) drafts = 0;
  num_layers_ = blocks - drafts;
  config_["num_hidden_layers"] = num_layers_;
  config_["hidden_size"] = required("embedding_length");
  copy("max_position_embeddings", integer("context_length"));
  copy("rms_norm_eps", number("attention.layer_norm_rms_epsilon"));
  copy("rope_theta", number("rope.freq_base"));
  copy("num_experts_per_tok", integer("expert_used_count"));
  config_["tie_word_embeddings"] = !has_tensor("output.weight");
  // The rows that are there count; vocab_size is often left out.
  disregard({"vocab_size", "rope.dimension_sections"});
  if (!flag("attention.causal").value_or(true)) refuse("attention.causal", "true", "false");
  constexpr const char* kEmbedding = "token_embd.weight";
  const GgufTensor* embedding = tensor(kEmbedding);
  if (embedding == nullptr || embedding->shape.size() != 2) {
    throw_bad_input({.what = "GGUF file has no embedding",
                     .file = metadata_.file(),
                     .tensor = std::string("tensor ") + kEmbedding,
                     .expected = "two dimensions",
                     .found = embedding == nullptr ? "nothing" : "another shape"});
  }
  config_["vocab_size"] = embedding->shape[0];
}

void GgufConfigWriter::read_scaling() {
  const std::string type = word("rope.scaling.type").value_or("none");
  const auto factor = number("rope.scaling.factor");
  const auto context = integer("rope.scaling.original_context_length");
  const auto attention = number("rope.scaling.yarn_attn_factor");
  const auto fast = number("rope.scaling.yarn_beta_fast");
  const auto slow = number("rope.scaling.yarn_beta_slow");
  if (const auto extension = number("rope.scaling.yarn_ext_factor"); extension && *extension != 1) {
    refuse("rope.scaling.yarn_ext_factor", "1", fmt::format("{}", *extension));
  }
  disregard({"rope.scaling.finetuned"});
  if (type == "none") return;
  if (type != "yarn" && type != "linear") {
    refuse("rope.scaling.type", "none, linear or yarn", type);
  }
  if (!factor) refuse("rope.scaling.factor", "a number", "nothing");
  Json scaling = {{"rope_type", type}, {"factor", *factor}};
  if (type == "yarn") {
    if (!context) refuse("rope.scaling.original_context_length", "a number", "nothing");
    scaling["original_max_position_embeddings"] = *context;
    if (attention) scaling["attention_factor"] = *attention;
    if (fast) scaling["beta_fast"] = *fast;
    if (slow) scaling["beta_slow"] = *slow;
  }
  config_["rope_scaling"] = std::move(scaling);
}

Json attention_layer_types(const std::vector<bool>& windows) {
  Json types = Json::array();
  for (const bool window : windows) {
    types.push_back(window ? "sliding_attention" : "full_attention");
  }
  return types;
}

// What a key that is new here does to the numbers is not known.
void GgufConfigWriter::refuse_unread() const {
  for (const auto& [key, value] : model_.files().front()->header().metadata) {
    if (!key.starts_with(prefix_) || read_.contains(key)) continue;
    metadata_.fail(key, "unsupported key of a GGUF architecture", "no such key",
                   std::string(to_string(value.type)), "use the model's safetensors");
  }
}

}  // namespace moe4
