// Layer lists: layer_types, hybrid patterns, steps, first dense layers.
#include "checkpoint/layer_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/error.h"

namespace moe4 {
namespace {

constexpr int64_t kMaxLayers = 4096;

// The words of layer_types and layers_block_type for mixers, of transformers 4 and 5.
constexpr std::array<std::pair<std::string_view, LayerKind>, 18> kMixerWords = {{
    {"full_attention", LayerKind::kFullAttention},
    {"attention", LayerKind::kFullAttention},
    {"global", LayerKind::kFullAttention},
    {"global_attention", LayerKind::kFullAttention},
    {"sliding_attention", LayerKind::kSlidingAttention},
    {"sliding", LayerKind::kSlidingAttention},
    {"sliding_window", LayerKind::kSlidingAttention},
    {"chunked_attention", LayerKind::kChunkedAttention},
    {"sparse_attention", LayerKind::kSparseAttention},
    {"deepseek_sparse_attention", LayerKind::kSparseAttention},
    {"indexed_attention", LayerKind::kSparseAttention},
    {"minimax_m3_sparse", LayerKind::kSparseAttention},
    {"compressed_sparse_attention", LayerKind::kCompressedAttention},
    {"heavily_compressed_attention", LayerKind::kCompressedAttention},
    {"linear_attention", LayerKind::kLinearAttention},
    {"mamba", LayerKind::kMamba},
    {"mamba2", LayerKind::kMamba},
    {"conv", LayerKind::kConvolution},
}};

std::string word_at(const JsonReader& text, const Json& list, int64_t i, const char* key) {
  const Json& value = list[i];
  if (!value.is_string()) {
    text.fail(key, "configuration value is not usable", "an array of strings", describe(value));
  }
  return value.get<std::string>();
}

LayerKind mixer_of(const std::string& word) {
  for (const auto& [name, kind] : kMixerWords) {
    if (name == word) return kind;
  }
  return LayerKind::kUnknown;
}

// Multi-token prediction layers that follow the model's own in its lists.
int64_t num_draft_layers(const JsonReader& text) {
  return text.integer(
      {"num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers", "num_mtp_modules"}, 0,
      kMaxLayers, 0);
}

bool is_marked(const JsonReader& text, const Json& list, int64_t i, const char* key) {
  const Json& item = list[i];
  if (item.is_boolean()) return item.get<bool>();
  if (!item.is_number()) {
    text.fail(key, "configuration value is not usable", "an array of numbers", describe(item));
  }
  return item.get<double>() != 0;
}

// The entries of whichever key lists the layers, draft layers included.
std::optional<HybridPattern> listed_pattern(const JsonReader& text) {
  std::string pattern = text.string({"hybrid_override_pattern"}, "");
  pattern.erase(std::remove(pattern.begin(), pattern.end(), '|'), pattern.end());
  if (!pattern.empty()) {
    HybridPattern found{.key = "hybrid_override_pattern", .layers = pattern};
    const size_t unknown = pattern.find_first_not_of("ME*-");
    if (unknown != std::string::npos) found.unknown = pattern.substr(unknown, 1);
    return found;
  }
  for (const char* key : {"layers_block_type", "layer_types"}) {
    const Json* list = text.array(key);
    if (list == nullptr) continue;
    HybridPattern found{.key = key};
    for (size_t i = 0; i < list->size(); ++i) {
      const std::string word = word_at(text, *list, static_cast<int64_t>(i), key);
      if (word == "moe") {
        found.layers += 'E';
      } else if (word == "mlp") {
        found.layers += '-';
      } else if (word == "mamba" || word == "mamba2" || word == "linear_attention") {
        found.layers += 'M';
      } else if (word == "attention" || word == "full_attention") {
        found.layers += '*';
      } else {
        found.layers += '?';
        if (found.unknown.empty()) found.unknown = word;
      }
    }
    return found;
  }
  return std::nullopt;
}

}  // namespace

std::optional<HybridPattern> hybrid_pattern(const JsonReader& text) {
  std::optional<HybridPattern> pattern = listed_pattern(text);
  if (!pattern) return std::nullopt;
  const auto count = static_cast<int64_t>(pattern->layers.size());
  if (count == 0 || count > kMaxLayers) {
    text.fail(pattern->key, "configuration array has the wrong length",
              fmt::format("1 to {} layers", kMaxLayers), std::to_string(count));
  }
  const int64_t layers =
      text.integer({"num_hidden_layers", "num_layers", "n_layer"}, 1, kMaxLayers, count);
  if (count != layers && count != layers + num_draft_layers(text)) {
    text.fail(pattern->key, "configuration pattern has the wrong length",
              fmt::format("{} layers (num_hidden_layers)", layers), std::to_string(count));
  }
  pattern->layers.resize(static_cast<size_t>(layers));
  return pattern;
}

namespace {

void read_hybrid_layers(const JsonReader& text, ModelConfig& config) {
  const std::optional<HybridPattern> pattern = hybrid_pattern(text);
  config.num_layers =
      pattern ? static_cast<int64_t>(pattern->layers.size())
              : text.integer({"num_hidden_layers", "num_layers", "n_layer"}, 1, kMaxLayers);
  config.layer_kinds.assign(config.num_layers, LayerKind::kFullAttention);
  config.has_feed_forward.assign(config.num_layers, true);
  config.is_moe_layer.assign(config.num_layers, false);
  for (int64_t i = 0; pattern && i < config.num_layers; ++i) {
    const char layer = pattern->layers[i];
    const bool is_feed_forward = layer == 'E' || layer == '-';
    config.layer_kinds[i] = is_feed_forward ? LayerKind::kNone
                            : layer == 'M'  ? LayerKind::kMamba
                            : layer == '*'  ? LayerKind::kFullAttention
                                            : LayerKind::kUnknown;
    config.has_feed_forward[i] = is_feed_forward;
    config.is_moe_layer[i] = layer == 'E';
  }
}

// MiniMax-M3's list of layers that choose their keys, in an object of its own in released files.
const Json* sparse_layers(const JsonReader& text) {
  const char* key = "sparse_attention_freq";
  const std::optional<JsonReader> own = text.object("sparse_attention_config");
  return own && own->has(key) ? own->array(key) : text.array(key);
}

// What the families without layer_types say about their attention.
void read_attention_patterns(const JsonReader& text, const Family& family, ModelConfig& config) {
  const auto set = [&](auto&& kind_of) {
    for (int64_t i = 0; i < config.num_layers; ++i) config.layer_kinds[i] = kind_of(i);
  };
  using enum LayerKind;
  if (family.is_qwen35 || family.is_qwen3_next) {
    const int64_t interval = text.size({"full_attention_interval"}, 4);
    set([&](int64_t i) { return (i + 1) % interval != 0 ? kLinearAttention : kFullAttention; });
  } else if (const Json* ratios = text.array("compress_ratios")) {
    check_layer_list(text, *ratios, "compress_ratios", config.num_layers);
    set([&](int64_t i) {
      return is_marked(text, *ratios, i, "compress_ratios") ? kCompressedAttention
                                                            : kSlidingAttention;
    });
  } else if (const Json* windows = text.array("hybrid_layer_pattern")) {  // MiMo: 1 is a window
    check_layer_list(text, *windows, "hybrid_layer_pattern", config.num_layers);
    set([&](int64_t i) {
      return is_marked(text, *windows, i, "hybrid_layer_pattern") ? kSlidingAttention
                                                                  : kFullAttention;
    });
  } else if (const Json* sparse = sparse_layers(text)) {
    check_layer_list(text, *sparse, "sparse_attention_freq", config.num_layers);
    set([&](int64_t i) {
      return is_marked(text, *sparse, i, "sparse_attention_freq") ? kSparseAttention
                                                                  : kFullAttention;
    });
  } else if (family.weight_on_input) {  // Llama-4: in no_rope_layers 1 means rope, in chunks
    const Json* rope = text.array("no_rope_layers");
    if (rope != nullptr && rope->empty()) rope = nullptr;
    if (rope != nullptr) check_layer_list(text, *rope, "no_rope_layers", config.num_layers);
    set([&](int64_t i) {
      const bool rotates =
          rope != nullptr ? is_marked(text, *rope, i, "no_rope_layers") : (i + 1) % 4 != 0;
      return rotates ? kChunkedAttention : kFullAttention;
    });
  } else if (family.is_gpt_oss) {
    set([](int64_t i) { return i % 2 == 0 ? kSlidingAttention : kFullAttention; });
  } else if (family.is_gemma4) {
    set([](int64_t i) { return (i + 1) % 6 != 0 ? kSlidingAttention : kFullAttention; });
  } else if (config.model_type == "mixtral" && text.has("sliding_window")) {
    set([](int64_t) { return kSlidingAttention; });
  }
}

// Marks layers given as an array of indices, or as "3,4,5" (Step).
void mark_layers(const JsonReader& text, const char* key, bool value, ModelConfig& config) {
  const Json* list = text.get(key);
  if (list == nullptr) return;
  const auto mark = [&](int64_t layer) {
    if (layer < config.num_layers) {
      config.is_moe_layer[layer] = value;
    } else if (layer >= config.num_layers + num_draft_layers(text)) {
      text.fail(key, "configuration value is not usable",
                fmt::format("layer numbers below num_hidden_layers = {}", config.num_layers),
                std::to_string(layer));
    }
  };
  if (list->is_string()) {
    std::string_view rest = list->get_ref<const std::string&>();
    while (!rest.empty()) {
      const std::string_view item = rest.substr(0, rest.find(','));
      rest.remove_prefix(std::min(rest.size(), item.size() + 1));
      const size_t first = item.find_first_not_of(' ');
      const std::string_view digits =
          first == std::string_view::npos
              ? std::string_view()
              : item.substr(first, item.find_last_not_of(' ') + 1 - first);
      if (digits.empty() || digits.size() > 4 ||
          digits.find_first_not_of("0123456789") != std::string_view::npos) {
        text.fail(key, "configuration value is not usable", "layer numbers between commas",
                  describe(*list));
      }
      mark(std::stoll(std::string(digits)));
    }
    return;
  }
  for (const Json& item : *text.array(key)) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() > static_cast<uint64_t>(kMaxLayers)) {
      text.fail(key, "configuration value is not usable",
                fmt::format("layer numbers below num_hidden_layers = {}", config.num_layers),
                describe(item));
    }
    mark(item.get<int64_t>());
  }
}

// Step, frequency and first layers; Ernie calls them moe_layer_interval and moe_layer_start_index.
void mark_regular_layers(const JsonReader& text, ModelConfig& config) {
  const int64_t first =
      text.integer({"first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"}, 0,
                   config.num_layers, 0);
  const int64_t end_index = text.integer({"moe_layer_end_index"}, -1, kMaxLayers, -1);
  const int64_t last = end_index < 0 ? config.num_layers - 1 : end_index;
  const int64_t step =
      text.size({"decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_interval"}, 1);
  // An array of 0 and 1 in some families, a step in others.
  const Json* frequency = text.get("moe_layer_freq");
  const int64_t every =
      frequency != nullptr && !frequency->is_array() ? text.size({"moe_layer_freq"}) : 1;
  for (int64_t i = 0; i < config.num_layers; ++i) {
    config.is_moe_layer[i] = i >= first && i <= last && (i + 1) % step == 0 && i % every == 0;
  }
  if (frequency != nullptr && frequency->is_array()) {
    check_layer_list(text, *frequency, "moe_layer_freq", config.num_layers);
    for (int64_t i = 0; i < config.num_layers; ++i) {
      config.is_moe_layer[i] = is_marked(text, *frequency, i, "moe_layer_freq");
    }
  }
}

}  // namespace

std::string_view to_string(LayerKind kind) {
  switch (kind) {
    case LayerKind::kFullAttention:
      return "full attention";
    case LayerKind::kSlidingAttention:
      return "sliding-window attention";
    case LayerKind::kChunkedAttention:
      return "chunked attention";
    case LayerKind::kSparseAttention:
      return "sparse attention";
    case LayerKind::kCompressedAttention:
      return "compressed attention";
    case LayerKind::kLinearAttention:
      return "gated delta net";
    case LayerKind::kMamba:
      return "Mamba-2";
    case LayerKind::kConvolution:
      return "short convolution";
    case LayerKind::kNone:
      return "none";
    case LayerKind::kUnknown:
      return "unknown";
  }
  return "?";
}

void check_layer_list(const JsonReader& text, const Json& array, const char* key,
                      int64_t num_layers) {
  const auto size = static_cast<int64_t>(array.size());
  if (size == num_layers || size == num_layers + num_draft_layers(text)) return;
  text.fail(key, "configuration array has the wrong length",
            fmt::format("{} entries (num_hidden_layers), or those of num_nextn_predict_layers more",
                        num_layers),
            std::to_string(size));
}

void read_layers(const JsonReader& text, const Family& family, ModelConfig& config) {
  if (family.is_nemotron_h) return read_hybrid_layers(text, config);
  const char* key = text.has("layer_types") ? "layer_types" : "layers_block_type";
  const Json* types = text.array(key);
  const std::optional<int64_t> listed =
      types != nullptr && !types->empty() && static_cast<int64_t>(types->size()) <= kMaxLayers
          ? std::optional<int64_t>(types->size())
          : std::nullopt;
  config.num_layers =
      text.integer({"num_hidden_layers", "num_layers", "n_layer"}, 1, kMaxLayers, listed);
  config.layer_kinds.assign(config.num_layers, LayerKind::kFullAttention);
  config.has_feed_forward.assign(config.num_layers, true);
  if (types == nullptr) {
    read_attention_patterns(text, family, config);
  } else {
    check_layer_list(text, *types, key, config.num_layers);
    for (int64_t i = 0; i < config.num_layers; ++i) {
      config.layer_kinds[i] = mixer_of(word_at(text, *types, i, key));
    }
  }
  // An indexer chooses the keys that full attention would see.
  if (text.has("index_topk") && !family.is_deepseek_v4) {
    std::replace(config.layer_kinds.begin(), config.layer_kinds.end(), LayerKind::kFullAttention,
                 LayerKind::kSparseAttention);
  }
}

void read_moe_layers(const JsonReader& text, const Family& family, ModelConfig& config) {
  if (family.is_nemotron_h) {
    if (config.moe.num_experts == 0) config.is_moe_layer.assign(config.num_layers, false);
    return;
  }
  config.is_moe_layer.assign(config.num_layers, false);
  if (config.moe.num_experts == 0) return;
  mark_regular_layers(text, config);
  for (const char* key : {"moe_layers", "moe_layers_enum"}) {
    const Json* layers = text.get(key);
    if (layers == nullptr || layers->empty() || (layers->is_string() && *layers == "")) continue;
    config.is_moe_layer.assign(config.num_layers, false);
    mark_layers(text, key, true, config);
  }
  mark_layers(text, "mlp_only_layers", false, config);
  if (const Json* types = text.array("mlp_layer_types")) {
    check_layer_list(text, *types, "mlp_layer_types", config.num_layers);
    for (int64_t i = 0; i < config.num_layers; ++i) {
      const std::string word = word_at(text, *types, i, "mlp_layer_types");
      const bool routed = word == "sparse" || word == "moe" || word == "hash_moe";
      if (!routed && word != "dense") {
        text.fail("mlp_layer_types", "unknown layer type", "dense, sparse, moe or hash_moe",
                  printable(word, 80));
      }
      config.is_moe_layer[i] = routed;
      if (word == "hash_moe") {
        config.is_hash_layer.resize(config.num_layers, false);
        config.is_hash_layer[i] = true;
      }
    }
  } else if (const int64_t hashed = text.integer({"num_hash_layers"}, 0, config.num_layers, 0)) {
    config.is_hash_layer.assign(config.num_layers, false);
    for (int64_t i = 0; i < hashed; ++i) config.is_hash_layer[i] = config.is_moe_layer[i];
  }
}

}  // namespace moe4
