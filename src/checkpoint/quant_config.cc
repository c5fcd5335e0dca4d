// Parses quantisation metadata and answers lookups by module name.
#include "checkpoint/quant_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <unordered_set>

#include "base/error.h"
#include "checkpoint/name_matcher.h"

namespace moe4 {
namespace {

constexpr QuantKey kFp8TensorStatic{QuantFormat::kFp8Tensor, false};
constexpr QuantKey kFp8TensorDynamic{QuantFormat::kFp8Tensor, true};
constexpr QuantKey kFp8TokenDynamic{QuantFormat::kFp8Token, true};
constexpr QuantKey kFp8BlockDynamic{QuantFormat::kFp8Block128, true};

constexpr const char* kFp8InputsRemark =
    "asks for FP8 activations beside NVFP4 weights; they stay BF16";
constexpr const char* kMxfp8InputsRemark =
    "asks for FP8 activations beside MXFP4 weights; they stay BF16";

DeclaredQuant unsupported(std::string what, std::string source) {
  return {.scheme = kUnquantized, .unsupported = std::move(what), .source = std::move(source)};
}

std::string upper_case(std::string text) {
  for (char& c : text) {
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  }
  return text;
}

// ModelOpt's quant_algo, compared without case: its own exporter has written both. `group_size`: of
// the document, 0 when it does not say.
DeclaredQuant from_algorithm(const std::string& text, const std::string& source,
                             int64_t group_size = 0) {
  const std::string algorithm = upper_case(text);
  const auto make = [&](QuantKey weight, std::optional<QuantKey> activation) {
    return DeclaredQuant{.scheme = {weight, activation}, .source = source};
  };
  if (algorithm.find("NVFP4") != std::string::npos && group_size > 0 && group_size != 16) {
    return unsupported(fmt::format("NVFP4 in groups of {}", group_size), source);
  }
  if (algorithm == "NVFP4" || algorithm == "NVFP4_AWQ") return make(kNvfp4Static, kNvfp4Dynamic);
  if (algorithm == "W4A16_NVFP4") return make(kNvfp4Static, std::nullopt);
  if (algorithm == "W4A8_NVFP4_FP8") {  // the weights decode as any NVFP4 weights
    DeclaredQuant quant = make(kNvfp4Static, std::nullopt);
    quant.remark = kFp8InputsRemark;
    return quant;
  }
  if (algorithm == "MXFP4") return make(kMxfp4Static, kMxfp4Dynamic);
  if (algorithm == "W4A16_MXFP4") return make(kMxfp4Static, std::nullopt);
  if (algorithm == "W4A8_MXFP4_FP8") {
    DeclaredQuant quant = make(kMxfp4Static, std::nullopt);
    quant.remark = kMxfp8InputsRemark;
    return quant;
  }
  if (algorithm == "FP8") return make({QuantFormat::kFp8Tensor, false}, kFp8TensorStatic);
  if (algorithm == "FP8_PER_CHANNEL_PER_TOKEN") {
    return make({QuantFormat::kFp8Channel, false}, kFp8TokenDynamic);
  }
  if (algorithm == "FP8_PB_WO") return make({QuantFormat::kFp8Block128, false}, std::nullopt);
  return unsupported(algorithm, source);
}

bool is_e4m3_or_fp4(const JsonReader& args) { return args.string({"type"}, "") == "float"; }

std::optional<QuantKey> activation_key(const std::optional<JsonReader>& args, bool nvfp4_weights) {
  if (!args) return std::nullopt;
  const int64_t bits = args->integer({"num_bits"}, 1, 64, 8);
  if (!is_e4m3_or_fp4(*args)) return std::nullopt;
  if (bits == 4) return kNvfp4Dynamic;
  if (bits != 8 || nvfp4_weights) return std::nullopt;  // W4A8: activations stay BF16
  const Json* dynamic = args->get("dynamic");
  const bool is_static = dynamic == nullptr || (dynamic->is_boolean() && !dynamic->get<bool>());
  const std::string strategy = args->string({"strategy"}, "tensor");
  if (strategy == "token") return kFp8TokenDynamic;
  if (strategy == "group" || strategy == "block") return kFp8BlockDynamic;
  return is_static ? kFp8TensorStatic : kFp8TensorDynamic;
}

// FP4 weights in groups other than NVFP4's 16: MXFP4 where the block scales are powers of two, as
// the group says or its size of 32 tells.
DeclaredQuant from_fp4_group(const JsonReader& group, const JsonReader& weights, int64_t group_size,
                             const std::string& source) {
  const std::string format = group.string({"format"}, "");
  const std::string scale = weights.string({"scale_dtype"}, "");
  if (scale.find("e4m3") != std::string::npos || format.starts_with("nvfp4")) {
    return unsupported(fmt::format("NVFP4 in groups of {}", group_size), source);
  }
  if (group_size != 32) return unsupported(fmt::format("FP4 in groups of {}", group_size), source);
  DeclaredQuant quant{.scheme = kMxfp4W4A16, .source = source};
  if (const auto inputs = group.object("input_activations")) {
    const int64_t bits = inputs->integer({"num_bits"}, 1, 64, 8);
    if (bits == 4 && is_e4m3_or_fp4(*inputs)) {
      quant.scheme.activation = kMxfp4Dynamic;
    } else {
      quant.remark = kMxfp8InputsRemark;
    }
  }
  return quant;
}

// One entry of config_groups, of compressed-tensors or ModelOpt.
DeclaredQuant from_group(const JsonReader& group, const std::string& source) {
  const auto weights = group.object("weights");
  if (!weights) return {.scheme = kUnquantized, .source = source};
  const int64_t bits = weights->integer({"num_bits"}, 1, 64, 8);
  const int64_t group_size = weights->integer({"group_size"}, -1, 1 << 20, 0);
  if (!is_e4m3_or_fp4(*weights)) {
    return unsupported(fmt::format("INT{}", bits), source);
  }
  const auto inputs = group.object("input_activations");
  if (bits == 4) {
    if (group_size != 0 && group_size != 16) {
      return from_fp4_group(group, *weights, group_size, source);
    }
    DeclaredQuant quant{.scheme = {kNvfp4Static, activation_key(inputs, true)}, .source = source};
    if (inputs && !quant.scheme.activation) quant.remark = kFp8InputsRemark;
    return quant;
  }
  if (bits != 8) return unsupported(fmt::format("FP{}", bits), source);
  const std::string strategy = weights->string({"strategy"}, "tensor");
  QuantKey weight{QuantFormat::kFp8Tensor, false};
  if (strategy == "channel") weight.format = QuantFormat::kFp8Channel;
  if (strategy == "block") weight.format = QuantFormat::kFp8Block128;
  if (strategy == "group" || strategy == "tensor_group" || group_size == 32) {
    return unsupported(fmt::format("FP8 in groups of {} (MXFP8)", group_size), source);
  }
  return {.scheme = {weight, activation_key(inputs, false)}, .source = source};
}

// An array of strings.
std::vector<std::string> string_list(const JsonReader& reader, const char* key) {
  std::vector<std::string> list;
  const Json* array = reader.array(key);
  if (array == nullptr) return list;
  for (const Json& item : *array) {
    if (!item.is_string()) {
      reader.fail(key, "configuration value is not usable", "an array of strings", describe(item));
    }
    list.push_back(item.get<std::string>());
  }
  return list;
}

}  // namespace

struct QuantConfig::Impl {
  struct Group {
    NameMatcher matcher;
    std::vector<std::string> classes;
    DeclaredQuant quant;
  };

  std::string dialect = "none";
  std::string version;
  std::string kv_cache;
  int64_t block_rows = 128;
  int64_t block_columns = 128;

  std::unordered_map<std::string, DeclaredQuant> layers;  // quantized_layers
  NameMatcher ignored;
  std::unordered_set<std::string> ignored_tails;  // last components of names
  std::vector<std::string> ignored_classes;
  std::vector<Group> groups;             // in the file's order
  std::optional<DeclaredQuant> general;  // what is not ignored
  std::optional<DeclaredQuant> experts;  // moe_quant_algo

  const DeclaredQuant* find_layer(const std::vector<std::string>& names) const {
    if (layers.empty()) return nullptr;
    for (const std::string& name : names) {
      if (const auto it = layers.find(name); it != layers.end()) return &it->second;
    }
    // A prefix covers everything below it: "...mlp.experts".
    for (const std::string& name : names) {
      for (size_t dot = name.rfind('.'); dot != std::string::npos && dot > 0;
           dot = name.rfind('.', dot - 1)) {
        if (const auto it = layers.find(name.substr(0, dot)); it != layers.end()) {
          return &it->second;
        }
      }
    }
    return nullptr;
  }

  bool is_ignored(const std::vector<std::string>& names) const {
    if (matches_any(ignored, names)) return true;
    if (ignored_tails.empty()) return false;
    for (const std::string& name : names) {
      for (size_t dot = name.rfind('.'); dot != std::string::npos && dot > 0;
           dot = name.rfind('.', dot - 1)) {
        if (ignored_tails.contains(name.substr(dot + 1))) return true;
      }
    }
    return false;
  }

  static bool matches_any(const NameMatcher& matcher, const std::vector<std::string>& names) {
    if (matcher.empty()) return false;
    for (const std::string& name : names) {
      if (matcher.matches(name)) return true;
    }
    return false;
  }
};

// Fills an Impl from the two documents.
class QuantConfigParser {
 public:
  QuantConfigParser(QuantConfig::Impl& out, std::vector<CheckpointNote>& notes)
      : out_(out), notes_(notes) {}

  void config(const QuantDocument& document) {
    const JsonReader reader(*document.json, document.file, "quantization_config");
    group_order_ = &document.group_order;
    const std::string method = reader.string({"quant_method"}, "");
    // Servers write modelopt_fp4 and modelopt_mixed too.
    if (method.starts_with("modelopt") || (method.empty() && reader.has("quant_algo"))) {
      out_.dialect = "modelopt";
      modelopt(reader, reader);
    } else if (method == "compressed-tensors" || (method.empty() && reader.has("config_groups"))) {
      out_.dialect = "compressed-tensors";
      out_.version = reader.string({"version"}, "");
      compressed_tensors(reader);
    } else if (method == "fp8") {
      out_.dialect = "fp8";
      fp8(reader, document.expert_dtype);
    } else if (method == "mxfp4") {  // gpt-oss: experts, and whatever else is not excluded
      out_.dialect = "mxfp4";
      out_.general = DeclaredQuant{.scheme = kMxfp4W4A16, .source = "quant_method mxfp4"};
      add_skipped_modules(reader);
    } else if (method.empty()) {
      reader.fail("quant_method", "quantisation config names no method",
                  "modelopt, compressed-tensors or fp8", "nothing");
    } else {
      out_.dialect = method;
      out_.general = unsupported(method, "quant_method " + method);
    }
  }

  void hf_quant(const QuantDocument& document) {
    const JsonReader root(*document.json, document.file);
    group_order_ = &document.group_order;
    const auto quantization = root.object("quantization");
    if (!quantization) {
      root.fail("quantization", "configuration key is missing", "an object", "nothing");
    }
    if (out_.dialect == "fp8") {
      // DeepSeek-V4: the model's own FP8 with ModelOpt's experts on top. The general rule stays.
      const auto general = out_.general;
      modelopt(root, *quantization);
      out_.general = general;
      return;
    }
    if (out_.dialect != "none" && out_.dialect != "modelopt") {
      // The config of an earlier life of the model, forgotten in config.json.
      notes_.push_back({.where = document.file,
                        .message = "quantization_config in config.json (" +
                                   printable(out_.dialect, 40) +
                                   ") is ignored for hf_quant_config.json"});
      out_ = QuantConfig::Impl();
    }
    out_.dialect = "modelopt";
    modelopt(root, *quantization);
  }

 private:
  void modelopt(const JsonReader& root, const JsonReader& body) {
    if (const auto producer = root.object("producer")) {
      out_.version = producer->string({"version"}, out_.version);
    }
    kv_cache(body);
    const std::string algorithm = upper_case(body.string({"quant_algo"}, ""));
    const int64_t group_size =
        body.integer({"group_size"}, -1, 1 << 20, group_size_of_groups(body));
    int64_t unusable = 0;
    // config.json says ignore, hf_quant_config.json exclude_modules; either is taken in both.
    std::vector<std::string> excluded = string_list(body, "ignore");
    for (std::string& glob : string_list(body, "exclude_modules")) {
      excluded.push_back(std::move(glob));
    }
    for (const std::string& glob : excluded) {
      // Exporters have written names with a NUL inside; no module has such a name.
      if (glob.find('\0') != std::string::npos) {
        ++unusable;
        continue;
      }
      out_.ignored.add_glob(glob, body.file());
      // A module's name covers what is below it.
      if (glob.find_first_of("*?[") == std::string::npos) {
        out_.ignored.add_glob(glob + ".*", body.file());
      }
    }
    if (unusable > 0) {
      notes_.push_back({.where = body.file(),
                        .message = fmt::format("{} of the excluded names hold a NUL character and "
                                               "exclude nothing; the tensors decide",
                                               unusable)});
    }
    if (const auto layers = body.object("quantized_layers")) {
      for (const auto& [name, value] : layers->json().items()) {
        const JsonReader layer(value, body.file(), layers->path_of(name));
        const std::string algo = layer.string({"quant_algo"}, "");
        if (algo.empty()) {
          layer.fail("quant_algo", "configuration key is missing", "a ModelOpt algorithm",
                     "nothing");
        }
        const int64_t layer_group = layer.integer({"group_size"}, -1, 1 << 20, group_size);
        add_layer(name, from_algorithm(algo, fmt::format("quantized_layers {} {}", name, algo),
                                       layer_group));
      }
    }
    if (!algorithm.empty() && algorithm != "MIXED_PRECISION") {
      set_general(from_algorithm(algorithm, "quant_algo " + algorithm, group_size), body.file());
    } else if (algorithm == "MIXED_PRECISION") {
      out_.general.reset();
    }
    if (const auto groups = body.object("config_groups")) {
      add_groups(*groups, /*globs=*/true);
      believe_weight_only_groups(*groups);
    }
  }

  // The group size that the FP4 groups of config_groups agree on, else 0.
  static int64_t group_size_of_groups(const JsonReader& body) {
    const auto groups = body.object("config_groups");
    int64_t size = 0;
    if (!groups) return size;
    for (const auto& [name, value] : groups->json().items()) {
      const JsonReader group(value, groups->file(), groups->path_of(name));
      const auto weights = group.object("weights");
      if (!weights || weights->integer({"num_bits"}, 1, 64, 8) != 4) continue;
      const int64_t here = weights->integer({"group_size"}, -1, 1 << 20, 0);
      if (size != 0 && here != size) return 0;
      size = here;
    }
    return size;
  }

  // quant_algo NVFP4 is also written for weight-only exports. The groups then say that inputs are
  // null. (That they name inputs proves nothing: weight-only exports have claimed 4-bit ones.)
  void believe_weight_only_groups(const JsonReader& groups) {
    int64_t num_fp4 = 0;
    for (const auto& [name, value] : groups.json().items()) {
      const JsonReader group(value, groups.file(), groups.path_of(name));
      const auto weights = group.object("weights");
      if (!weights || weights->integer({"num_bits"}, 1, 64, 8) != 4) continue;
      const auto inputs = group.json().find("input_activations");
      if (inputs == group.json().end() || !inputs->is_null()) return;
      ++num_fp4;
    }
    if (num_fp4 == 0) return;
    bool changed = false;
    const auto weight_only = [&](DeclaredQuant& quant) {
      if (quant.scheme != kW4A4) return;
      quant.scheme = kW4A16;
      quant.source += " with input_activations null in config_groups";
      changed = true;
    };
    if (out_.general) weight_only(*out_.general);
    if (out_.experts) weight_only(*out_.experts);
    for (auto& [name, quant] : out_.layers) weight_only(quant);
    if (changed) {
      notes_.push_back({.level = CheckpointNote::Level::kInfo,
                        .where = groups.file(),
                        .message = "quant_algo says NVFP4, but no group of config_groups quantises "
                                   "activations; they stay BF16"});
    }
  }

  void compressed_tensors(const JsonReader& body) {
    for (const std::string& target : string_list(body, "ignore")) {
      add_target(target, out_.ignored, out_.ignored_classes, body.file());
    }
    if (const auto groups = body.object("config_groups")) add_groups(*groups, /*globs=*/false);
    kv_cache(body);
  }

  // Lists of transformers: a module's name (which covers what is below it), its last components
  // ("gate", "mlp.gate"), or a glob.
  void add_skipped_modules(const JsonReader& body) {
    for (const char* key : {"modules_to_not_convert", "ignored_layers"}) {
      for (const std::string& name : string_list(body, key)) {
        out_.ignored.add_glob(name, body.file());
        out_.ignored.add_glob(name + ".*", body.file());
        out_.ignored_tails.insert(name);
      }
    }
  }

  void fp8(const JsonReader& body, const std::string& expert_dtype) {
    if (const Json* block = body.array("weight_block_size")) {
      if (block->size() != 2 || !(*block)[0].is_number_unsigned() ||
          !(*block)[1].is_number_unsigned() || (*block)[0] == 0 || (*block)[1] == 0 ||
          (*block)[0] > 65536 || (*block)[1] > 65536) {
        body.fail("weight_block_size", "configuration value is not usable",
                  "two whole numbers from 1 to 65536", block->dump().substr(0, 80));
      }
      out_.block_rows = (*block)[0].get<int64_t>();
      out_.block_columns = (*block)[1].get<int64_t>();
    }
    const bool blocks = body.has("weight_block_size");
    const bool is_static = body.string({"activation_scheme"}, "dynamic") == "static";
    const QuantKey weight{blocks ? QuantFormat::kFp8Block128 : QuantFormat::kFp8Tensor, false};
    out_.general = DeclaredQuant{.scheme = {weight, blocks      ? kFp8BlockDynamic
                                                    : is_static ? kFp8TensorStatic
                                                                : kFp8TokenDynamic},
                                 .source = "quant_method fp8"};
    add_skipped_modules(body);
    if (expert_dtype == "fp4") {
      // DeepSeek-V4 quantises the experts' inputs to FP8 when it runs them.
      out_.experts = DeclaredQuant{
          .scheme = kMxfp4W4A16, .source = "expert_dtype fp4", .remark = kMxfp8InputsRemark};
    } else if (!expert_dtype.empty() && expert_dtype != "fp8") {
      out_.experts = unsupported("experts of type " + printable(expert_dtype, 40),
                                 "expert_dtype " + printable(expert_dtype, 40));
    }
    const std::string algorithm = body.string({"moe_quant_algo"}, "");
    if (!algorithm.empty()) {
      out_.experts = from_algorithm(algorithm, "moe_quant_algo " + algorithm);
    }
  }

  void kv_cache(const JsonReader& body) {
    const std::string algorithm = body.string({"kv_cache_quant_algo"}, "");
    if (!algorithm.empty()) out_.kv_cache = algorithm;
    if (body.has("kv_cache_scheme")) out_.kv_cache = "FP8";
  }

  void add_groups(const JsonReader& groups, bool globs) {
    for (const std::string& name : *group_order_) {
      // The order may list groups of another document part.
      const Json* value = groups.get(name.c_str());
      if (value == nullptr) continue;
      const JsonReader group(*value, groups.file(), groups.path_of(name));
      QuantConfig::Impl::Group entry;
      entry.quant = from_group(group, "config_groups " + name);
      for (const std::string& target : string_list(group, "targets")) {
        if (globs) {
          add_modelopt_target(target, entry);
        } else {
          add_target(target, entry.matcher, entry.classes, group.file());
        }
      }
      out_.groups.push_back(std::move(entry));
    }
  }

  // ModelOpt's groups name modules (or prefixes of them) and classes.
  static void add_modelopt_target(const std::string& target, QuantConfig::Impl::Group& entry) {
    if (target.find('.') == std::string::npos && target != "lm_head") {
      entry.classes.push_back(target);
    }
    entry.matcher.add_exact(target);
    if (target.ends_with(".experts")) entry.matcher.add_glob(target + ".*", "");
  }

  // compressed-tensors: "re:..." from the start of the name, a module's name, or a class.
  static void add_target(const std::string& target, NameMatcher& matcher,
                         std::vector<std::string>& classes, const std::string& file) {
    if (target.starts_with("re:")) {
      matcher.add_regex(target.substr(3), file);
      return;
    }
    if (target.find('.') == std::string::npos) classes.push_back(target);
    matcher.add_exact(target);
  }

  void add_layer(const std::string& name, DeclaredQuant quant) {
    const auto [it, fresh] = out_.layers.try_emplace(name, quant);
    if (fresh) return;
    if (it->second.scheme != quant.scheme || it->second.unsupported != quant.unsupported) {
      notes_.push_back({.where = name,
                        .message = fmt::format("config.json says {}, hf_quant_config.json {}; the "
                                               "latter is taken",
                                               it->second.source, quant.source)});
    }
    it->second = std::move(quant);
  }

  void set_general(DeclaredQuant quant, const std::string& file) {
    if (out_.general && out_.dialect == "modelopt" &&
        (out_.general->scheme != quant.scheme || out_.general->unsupported != quant.unsupported)) {
      notes_.push_back({.where = file,
                        .message = fmt::format("config.json says {}, hf_quant_config.json {}; the "
                                               "latter is taken",
                                               out_.general->source, quant.source)});
    }
    out_.general = std::move(quant);
  }

  QuantConfig::Impl& out_;
  std::vector<CheckpointNote>& notes_;
  const std::vector<std::string>* group_order_ = nullptr;
};

QuantConfig QuantConfig::parse(const QuantDocument& config, const QuantDocument& hf_quant,
                               std::vector<CheckpointNote>& notes) {
  QuantConfig result;
  QuantConfigParser parser(*result.impl_, notes);
  if (config.json != nullptr) parser.config(config);
  if (hf_quant.json != nullptr) parser.hf_quant(hf_quant);
  return result;
}

QuantConfig::QuantConfig() : impl_(std::make_unique<Impl>()) {}
QuantConfig::~QuantConfig() = default;
QuantConfig::QuantConfig(QuantConfig&&) noexcept = default;
QuantConfig& QuantConfig::operator=(QuantConfig&&) noexcept = default;

const std::string& QuantConfig::dialect() const { return impl_->dialect; }
const std::string& QuantConfig::version() const { return impl_->version; }
const std::string& QuantConfig::kv_cache() const { return impl_->kv_cache; }
int64_t QuantConfig::fp8_block_rows() const { return impl_->block_rows; }
int64_t QuantConfig::fp8_block_columns() const { return impl_->block_columns; }

std::optional<DeclaredQuant> QuantConfig::lookup(const std::vector<std::string>& names,
                                                 bool is_expert) const {
  if (const DeclaredQuant* layer = impl_->find_layer(names)) return *layer;
  if (impl_->is_ignored(names)) return std::nullopt;
  if (is_expert && impl_->experts) return impl_->experts;
  if (impl_->general) return impl_->general;
  for (const Impl::Group& group : impl_->groups) {
    // Everything that this is asked about is a linear layer; embeddings are not.
    const bool by_class =
        std::find(group.classes.begin(), group.classes.end(), "Linear") != group.classes.end();
    if (by_class || Impl::matches_any(group.matcher, names)) return group.quant;
  }
  return std::nullopt;
}

bool QuantConfig::is_excluded_and_listed(const std::vector<std::string>& names) const {
  return impl_->find_layer(names) != nullptr && impl_->is_ignored(names);
}

}  // namespace moe4
