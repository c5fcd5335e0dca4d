// Puts configuration, metadata and tensors of a folder together.
#include "checkpoint/checkpoint.h"

#include <fmt/format.h>

#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/error.h"
#include "checkpoint/config_parser.h"
#include "checkpoint/e8m0_linear.h"
#include "checkpoint/gguf_config.h"
#include "checkpoint/gguf_notes.h"
#include "checkpoint/gguf_tensors.h"
#include "checkpoint/hub_cache.h"
#include "checkpoint/module_names.h"
#include "checkpoint/module_tensors.h"
#include "checkpoint/mxfp4_linear.h"
#include "checkpoint/quant_config.h"
#include "checkpoint/stored_linear.h"
#include "checkpoint/tensor_table.h"
#include "checkpoint/transposed_linear.h"
#include "gguf/file.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;

// The quantisation object of config.json: at the top level, or inside text_config, where a leftover
// of the model's earlier life may sit.
const Json* find_quantization_config(const JsonReader& root) {
  const Json* outer = root.get("quantization_config");
  return outer != nullptr ? outer : find_text_config(root).get("quantization_config");
}

// Which of several files of a model to take is the user's to say.
void refuse_folder_of_gguf(const fs::path& folder, const fs::path& config_file) {
  std::error_code error;
  if (fs::exists(fs::symlink_status(config_file, error))) return;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().extension() != ".gguf") continue;
    throw_bad_input({.what = "folder has GGUF files and no config.json",
                     .file = folder.string(),
                     .expected = "config.json, or the GGUF file itself",
                     .hint = "give " + entry.path().string()});
  }
}

std::string scheme_or_unsupported(const DeclaredQuant& declared) {
  return declared.unsupported.empty() ? to_string(declared.scheme) : declared.unsupported;
}

}  // namespace

struct Checkpoint::Impl {
  fs::path source;       // the folder, a safetensors file or the first GGUF file
  fs::path place;        // the folder that it is or lies in; of GGUF the file
  fs::path config_file;  // config.json; of GGUF the file
  CheckpointOptions options;
  Json root;  // config.json
  ModelConfig config;
  std::vector<CheckpointNote> notes;
  TensorTable tensors;
  QuantConfig quant;
  std::string dialect;
  std::string text_prefix;
  std::vector<std::string> linear_modules;
  // Made tensors that tensor() and linear() have handed out.
  mutable std::mutex made_mutex;
  mutable std::map<std::string, std::shared_ptr<const AlignedBuffer>> made;
  mutable MadeTensors made_for_good;

  InterpretOptions interpret_options() const {
    return {.headers_only = options.headers_only,
            .fp8_block_rows = quant.fp8_block_rows(),
            .fp8_block_columns = quant.fp8_block_columns()};
  }

  std::optional<DeclaredQuant> declared(const std::string& module) const {
    return quant.lookup(module_spellings(module, text_prefix), is_routed_expert(module));
  }

  LinearWeights interpret_module(const StoredLinear& stored, bool headers_only) const {
    InterpretOptions how = interpret_options();
    how.headers_only = how.headers_only || headers_only;
    return interpret(stored, declared(stored.module), how);
  }

  /// `made`: null for headers alone.
  LinearWeights linear(const std::string& module, int64_t out_features, int64_t in_features,
                       MadeTensors* made) const;
  void read_configs();
  void open_gguf();
  TensorView made_tensor(const std::string& name) const;
  void list_linear_modules();
  void compare_with_metadata();
  void check_embedding() const;
  /// Where the tensors have a layer's experts, else where the family keeps them.
  std::string experts_module(int64_t layer) const;
  std::string present_experts(const std::string& module) const;
  /// Throws Error(kBadInput) when there are none below the module.
  std::vector<StoredExpert> gather(const std::string& asked, const MoeProblem& problem) const;
  MoeLayerWeights stored_experts(const std::string& module, const MoeProblem& problem,
                                 bool headers_only = false) const;
  MoeLayerWeights declared_moe_layer(int64_t layer) const;
  std::string layer_prefix(int64_t layer) const {
    return fmt::format("{}layers.{}.", text_prefix, layer);
  }
  /// The projection whose metadata speaks for a layer's experts: that of the tensors if there are
  /// any, else the family's.
  std::string expert_module(int64_t layer) const;
};

void Checkpoint::Impl::read_configs() {
  QuantDocument config_document{.file = config_file.string()};
  root = read_json_file(config_file, &config_document.group_order);
  config = parse_model_config(root, config_file.string());

  config_document.json = find_quantization_config(JsonReader(root, config_file.string()));
  config_document.expert_dtype = config.expert_dtype;
  const fs::path hf_quant_file = place / "hf_quant_config.json";
  QuantDocument hf_document{.file = hf_quant_file.string()};
  Json hf_quant;
  if (fs::exists(fs::symlink_status(hf_quant_file))) {
    hf_quant = read_json_file(hf_quant_file, &hf_document.group_order);
    hf_document.json = &hf_quant;
  }
  quant = QuantConfig::parse(config_document, hf_document, notes);
  dialect = quant.dialect();
  if (!quant.version().empty()) dialect += fmt::format(" {}", printable(quant.version(), 40));
  if (!quant.kv_cache().empty()) {
    notes.push_back({.level = CheckpointNote::Level::kInfo,
                     .where = "KV cache",
                     .message = "the metadata asks for " + printable(quant.kv_cache(), 40) +
                                "; moe4 keeps the KV cache in F16 (F32 with --dtype float32)"});
  }
}

// Metadata take the place of config.json; tensors have the names and the order of a folder's.
void Checkpoint::Impl::open_gguf() {
  auto model = std::make_shared<const GgufModel>(GgufModel::open(source, options.headers_only));
  root = gguf_config(*model);
  config = parse_model_config(root, config_file.string());
  dialect = "gguf";
  tensors =
      TensorTable::of(open_gguf_tensors(model, JsonReader(root, config_file.string())), source);
  for (const std::string& note : gguf_notes(tensors)) {
    notes.push_back({.level = CheckpointNote::Level::kInfo,
                     .where = source.filename().string(),
                     .message = note});
  }
}

TensorView Checkpoint::Impl::made_tensor(const std::string& name) const {
  NamedView tensor{name, "", tensors.view(name), tensors.maker(name)};
  if (tensor.maker == nullptr || options.headers_only) return tensor.view;
  const std::lock_guard lock(made_mutex);
  std::shared_ptr<const AlignedBuffer>& kept = made[name];
  if (kept == nullptr) {
    MadeTensors memory;
    make_tensor(tensor, memory);
    kept = memory.front();
  }
  tensor.view.data = kept->data();
  return tensor.view;
}

// Modules that have a two-dimensional weight and are not embeddings, in the order of their names.
void Checkpoint::Impl::list_linear_modules() {
  constexpr std::string_view kPlain = ".weight";
  constexpr std::string_view kPacked = ".weight_packed";
  for (const std::string& name : tensors.names()) {
    std::string_view module = name;
    if (module.ends_with(kPlain)) {
      module.remove_suffix(kPlain.size());
    } else if (module.ends_with(kPacked)) {
      module.remove_suffix(kPacked.size());
    } else {
      continue;
    }
    const size_t dot = module.rfind('.');
    const std::string_view last = dot == std::string_view::npos ? module : module.substr(dot + 1);
    if (tensors.find(name)->shape.size() != 2 || last.find("embed") != std::string_view::npos) {
      continue;
    }
    linear_modules.emplace_back(module);
  }
}

// Tensors are the truth; what the metadata says otherwise becomes notes, one a kind of module.
void Checkpoint::Impl::compare_with_metadata() {
  struct Disagreement {
    int64_t count = 0;
    std::string first;
    CheckpointNote::Level level = CheckpointNote::Level::kWarning;
  };
  std::map<std::string, Disagreement> found;
  const auto note = [&](const std::string& module, const std::string& message,
                        CheckpointNote::Level level) {
    Disagreement& entry = found[generic_module(module) + "\n" + message];
    if (entry.count++ == 0) entry.first = module;
    entry.level = level;
  };
  const auto compare = [&](const std::string& module, std::optional<DType> dtype,
                           std::optional<DType> scale_dtype, bool has_input_scale) {
    const std::vector<std::string> names = module_spellings(module, text_prefix);
    const bool is_expert = is_routed_expert(module);
    const std::optional<DeclaredQuant> says = quant.lookup(names, is_expert);
    const bool stored_mxfp4 = dtype && scale_dtype && is_mxfp4(*dtype, *scale_dtype);
    const bool stored_nvfp4 = dtype == DType::kU8 && !stored_mxfp4;
    const bool stored_fp8 = dtype == DType::kF8E4M3;
    if (stored_fp8 && !is_expert && scale_dtype && is_e8m0(*scale_dtype) && says &&
        says->unsupported == kMxfp8) {
      note(module, "is MXFP8, which is decoded to BF16; its activations stay BF16",
           CheckpointNote::Level::kInfo);
      return;
    }
    if (quant.is_excluded_and_listed(names)) {
      note(module, "is both excluded from quantisation and listed as quantised; the tensors decide",
           CheckpointNote::Level::kWarning);
    }
    if (!stored_nvfp4 && !stored_mxfp4 && !stored_fp8) {
      // Routers and small projections are often neither excluded nor quantised.
      if (says && is_expert) {
        note(module,
             "is " + scheme_or_unsupported(*says) + " by " + says->source +
                 ", but its tensors are not quantised",
             CheckpointNote::Level::kWarning);
      }
      return;
    }
    const char* stored = stored_nvfp4 ? "NVFP4" : stored_mxfp4 ? "MXFP4" : "FP8";
    if (says && !says->remark.empty()) note(module, says->remark, CheckpointNote::Level::kWarning);
    if (says && stored_fp8 && says->scheme.activation && !says->scheme.activation->dynamic &&
        !has_input_scale) {
      note(module,
           "has no input scale although " + says->source +
               " asks for static FP8 activations; they stay BF16",
           CheckpointNote::Level::kWarning);
    }
    if (!says) {
      note(module,
           fmt::format("is not quantised by the metadata, but its tensors are {}; its "
                       "activations stay BF16",
                       stored),
           CheckpointNote::Level::kWarning);
    } else if (!says->unsupported.empty() || !(stored_nvfp4   ? says->scheme.is_nvfp4()
                                               : stored_mxfp4 ? says->scheme.is_mxfp4()
                                                              : says->scheme.is_fp8())) {
      note(module,
           fmt::format("is {} by {}, but its tensors are {}; its activations stay BF16",
                       scheme_or_unsupported(*says), says->source, stored),
           CheckpointNote::Level::kWarning);
    }
  };
  const auto has = [&](const std::string& name) { return tensors.find(name) != nullptr; };
  for (const std::string& module : linear_modules) {
    const std::string packed = module + ".weight_packed";
    const TensorInfo& weight = *tensors.find(has(packed) ? packed : module + ".weight");
    const TensorInfo* scale = tensors.find(module + ".weight_scale");
    if (scale == nullptr) scale = tensors.find(module + ".scale");
    compare(module, weight.dtype, scale != nullptr ? scale->dtype : std::nullopt,
            has(module + ".input_scale") || has(module + ".input_global_scale"));
  }
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const auto experts =
        find_experts_module(tensors, fmt::format("{}layers.{}.", text_prefix, layer));
    if (!experts) continue;
    for (const FusedProjection& projection : fused_projections(tensors, *experts)) {
      compare(projection.module, projection.weight_dtype, projection.scale_dtype,
              projection.has_input_scale);
    }
  }
  for (const auto& [key, entry] : found) {
    const size_t cut = key.find('\n');
    std::string message = key.substr(cut + 1);
    if (entry.count > 1) message += fmt::format(" ({} such modules)", entry.count);
    notes.push_back({.level = entry.level,
                     .where = entry.count == 1 ? entry.first : key.substr(0, cut),
                     .message = std::move(message)});
  }
}

void Checkpoint::Impl::check_embedding() const {
  const std::string name = text_prefix + "embed_tokens.weight";
  const TensorInfo* info = tensors.find(name);
  if (info == nullptr) return;
  const std::vector<int64_t> expected = {config.vocab_size, config.hidden_size};
  if (info->dtype != DType::kU8 && info->shape != expected) {
    throw_bad_input({.what = "embedding does not fit the configuration",
                     .file = tensors.file_of(name).string(),
                     .tensor = "tensor " + name,
                     .expected = shape_to_string(expected) + " (vocab_size, hidden_size)",
                     .found = shape_to_string(info->shape)});
  }
}

std::string Checkpoint::Impl::experts_module(int64_t layer) const {
  const auto found = find_experts_module(tensors, layer_prefix(layer));
  return found ? *found : layer_prefix(layer) + config.experts_module;
}

// Quantisers rename what stands between a layer and its experts ("moe.experts"): where the family's
// own name is absent, the layer's other one is taken.
std::string Checkpoint::Impl::present_experts(const std::string& module) const {
  constexpr std::string_view kLayers = "layers.";
  const size_t layers = module.find(kLayers);
  // llm-compressor keeps the experts that it made one by one in a module of the same name.
  if (tensors.has_prefix(module + ".experts.")) return module + ".experts";
  if (tensors.has_prefix(module + ".") || layers == std::string::npos) return module;
  const size_t end = module.find('.', layers + kLayers.size());
  if (end == std::string::npos) return module;
  return find_experts_module(tensors, module.substr(0, end + 1)).value_or(module);
}

std::vector<StoredExpert> Checkpoint::Impl::gather(const std::string& asked,
                                                   const MoeProblem& problem) const {
  const std::string module = present_experts(asked);
  if (!tensors.has_prefix(module + ".")) {
    refuse_mlx_experts(tensors, module);
    throw MissingTensor(
        to_string({.what = "experts are missing",
                   .file = tensors.main_file().string(),
                   .tensor = fmt::format("tensor {}.0.{}.weight", module, config.up_projection),
                   .expected = fmt::format("{} experts", problem.num_experts)}));
  }
  return gather_experts(tensors, module,
                        {.num_experts = problem.num_experts,
                         .hidden_size = problem.hidden_size,
                         .intermediate_size = problem.intermediate_size,
                         .is_gated = problem.activation.is_gated(),
                         .stacked = config.stacked_experts,
                         .needs_biases = config.experts_have_biases});
}

std::string Checkpoint::Impl::expert_module(int64_t layer) const {
  return fmt::format("{}.0.{}", experts_module(layer), config.up_projection);
}

MoeLayerWeights Checkpoint::Impl::stored_experts(const std::string& module,
                                                 const MoeProblem& problem,
                                                 bool headers_only) const {
  MoeLayerWeights weights;
  weights.problem = problem;
  const int64_t hidden = problem.hidden_size;
  const int64_t intermediate = problem.intermediate_size;
  const std::vector<StoredExpert> stored = gather(module, problem);
  std::optional<std::string> first;  // the module whose scheme all others must have
  const auto add = [&](StoredLinear from, int64_t rows, int64_t columns) {
    if (!headers_only && !options.headers_only) make_tensors(from, weights.memory);
    if (from.is_transposed) {
      if (headers_only) from.weight.view.data = nullptr;
      if (headers_only && from.scale) from.scale->view.data = nullptr;
      from = untransposed(from, weights.memory);
    }
    LinearWeights linear = interpret_module(from, headers_only);
    if (linear.out_features != rows || linear.in_features != columns) {
      throw_bad_input({.what = "expert does not fit the configuration",
                       .file = from.weight.file,
                       .tensor = "tensor " + from.weight.name,
                       .expected = shape_to_string({rows, columns}) + " (out, in)",
                       .found = shape_to_string({linear.out_features, linear.in_features})});
    }
    if (!first) {
      first = from.module;
      weights.scheme = linear.scheme;
    } else if (linear.scheme != weights.scheme) {
      throw_bad_input({.what = "experts of one layer are quantised differently",
                       .file = from.weight.file,
                       .tensor = "tensor " + from.weight.name,
                       .expected = to_string(weights.scheme) + " as " + *first,
                       .found = to_string(linear.scheme)});
    }
    return linear;
  };
  weights.experts.reserve(stored.size());
  for (const StoredExpert& expert : stored) {
    ExpertWeights& out = weights.experts.emplace_back();
    if (expert.gate) out.gate = add(*expert.gate, intermediate, hidden);
    out.up = add(expert.up, intermediate, hidden);
    out.down = add(expert.down, hidden, intermediate);
  }
  return weights;
}

MoeLayerWeights Checkpoint::Impl::declared_moe_layer(int64_t layer) const {
  MoeLayerWeights weights;
  weights.problem = config.moe_problem(layer);
  const std::string module = expert_module(layer);
  const std::optional<DeclaredQuant> says = declared(module);
  if (says && !says->unsupported.empty()) {
    throw_bad_input({.what = "quantisation is not supported",
                     .file = config_file.string(),
                     .tensor = "module " + module,
                     .expected = "NVFP4, MXFP4, FP8 or BF16",
                     .found = says->unsupported});
  }
  if (says) weights.scheme = says->scheme;
  return weights;
}

std::unique_ptr<Checkpoint> Checkpoint::open(const fs::path& path,
                                             const CheckpointOptions& options) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) {
    throw_bad_input({.what = "no such checkpoint",
                     .file = path.string(),
                     .found = error ? error.message() : "",
                     .hint = "give a folder with config.json and .safetensors files, or a GGUF "
                             "file"});
  }
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  impl->source = fs::is_directory(status) ? resolve_hub_cache(path, impl->notes) : path;
  if (!fs::is_directory(status) && is_gguf_file(path)) {
    impl->source = impl->place = impl->config_file = first_gguf_file(path);
    impl->open_gguf();
  } else {
    impl->place = fs::is_directory(impl->source) ? impl->source : impl->source.parent_path();
    impl->config_file = impl->place / "config.json";
    refuse_folder_of_gguf(impl->place, impl->config_file);
    impl->read_configs();
    impl->tensors = TensorTable::open(
        impl->source, {.headers_only = options.headers_only, .num_layers = impl->config.num_layers},
        impl->notes);
  }
  impl->text_prefix = find_text_prefix(impl->tensors);
  impl->check_embedding();
  impl->list_linear_modules();
  if (impl->dialect != "gguf") impl->compare_with_metadata();
  return std::unique_ptr<Checkpoint>(new Checkpoint(std::move(impl)));
}

Checkpoint::Checkpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Checkpoint::~Checkpoint() = default;

const fs::path& Checkpoint::path() const { return impl_->place; }
const fs::path& Checkpoint::config_file() const { return impl_->config_file; }
const ModelConfig& Checkpoint::config() const { return impl_->config; }
JsonReader Checkpoint::root_config() const {
  return JsonReader(impl_->root, impl_->config_file.string());
}
JsonReader Checkpoint::text_config() const { return find_text_config(root_config()); }
std::optional<JsonReader> Checkpoint::quantization_config() const {
  const Json* found = find_quantization_config(root_config());
  if (found == nullptr) return std::nullopt;
  return JsonReader(*found, impl_->config_file.string(), "quantization_config");
}
const std::string& Checkpoint::dialect() const { return impl_->dialect; }
const std::vector<CheckpointNote>& Checkpoint::notes() const { return impl_->notes; }
const std::vector<std::string>& Checkpoint::tensor_names() const { return impl_->tensors.names(); }
const std::vector<std::string>& Checkpoint::linear_modules() const { return impl_->linear_modules; }
bool Checkpoint::has_tensor(const std::string& name) const {
  return impl_->tensors.find(name) != nullptr;
}
TensorView Checkpoint::tensor(const std::string& name) const { return impl_->made_tensor(name); }
TensorView Checkpoint::tensor_header(const std::string& name) const {
  TensorView view = impl_->tensors.view(name);
  view.data = nullptr;
  return view;
}
std::optional<QuantFormat> Checkpoint::block_format(const std::string& name) const {
  const std::optional<BlockRows> blocks = impl_->tensors.block_rows(name);
  return blocks ? std::optional(blocks->format) : std::nullopt;
}
fs::path Checkpoint::file_of(const std::string& tensor) const {
  return impl_->tensors.file_of(tensor);
}
int64_t Checkpoint::total_tensor_bytes() const { return impl_->tensors.total_bytes(); }
void Checkpoint::check_unchanged() const { impl_->tensors.check_unchanged(); }
bool Checkpoint::is_partial() const { return impl_->tensors.is_partial(); }
const std::string& Checkpoint::text_prefix() const { return impl_->text_prefix; }
std::string Checkpoint::layer_name(int64_t layer, const std::string& suffix) const {
  return fmt::format("{}layers.{}.{}", impl_->text_prefix, layer, suffix);
}

bool Checkpoint::has_linear(const std::string& module) const {
  return has_module(impl_->tensors, module);
}

LinearWeights Checkpoint::linear(const std::string& module, int64_t out_features,
                                 int64_t in_features, MadeTensors* made) const {
  if (impl_->options.headers_only) return linear_header(module, out_features, in_features);
  MadeTensors own;
  LinearWeights linear = impl_->linear(module, out_features, in_features, made ? made : &own);
  const std::lock_guard lock(impl_->made_mutex);
  for (auto& buffer : own) impl_->made_for_good.push_back(std::move(buffer));
  return linear;
}

LinearWeights Checkpoint::linear_header(const std::string& module, int64_t out_features,
                                        int64_t in_features) const {
  return impl_->linear(module, out_features, in_features, /*made=*/nullptr);
}

LinearWeights Checkpoint::Impl::linear(const std::string& module, int64_t out_features,
                                       int64_t in_features, MadeTensors* made) const {
  InterpretOptions how = interpret_options();
  how.headers_only = made == nullptr;
  StoredLinear stored = gather_linear(tensors, module);
  if (made != nullptr) make_tensors(stored, *made);
  std::shared_ptr<const AlignedBuffer> memory;
  LinearWeights linear =
      interpret(without_e8m0(stored, how.headers_only, memory), declared(module), how);
  linear.memory = std::move(memory);
  const auto fits = [](int64_t want, int64_t have) { return want == -1 || want == have; };
  if (!fits(out_features, linear.out_features) || !fits(in_features, linear.in_features)) {
    throw_bad_input({.what = "linear layer does not fit the configuration",
                     .file = tensors
                                 .file_of(tensors.find(module + ".weight") != nullptr
                                              ? module + ".weight"
                                              : module + ".weight_packed")
                                 .string(),
                     .tensor = "module " + module,
                     .expected = shape_to_string({out_features, in_features}) + " (out, in)",
                     .found = shape_to_string({linear.out_features, linear.in_features})});
  }
  return linear;
}

std::vector<std::string> Checkpoint::tensors_of_linear(const std::string& module) const {
  std::vector<std::string> names;
  append_tensor_names(gather_linear(impl_->tensors, module), names);
  return names;
}

std::vector<std::string> Checkpoint::tensors_of_experts(const std::string& module,
                                                        const MoeProblem& problem) const {
  std::vector<std::string> names;
  for (const StoredExpert& expert : impl_->gather(module, problem)) {
    if (expert.gate) append_tensor_names(*expert.gate, names);
    append_tensor_names(expert.up, names);
    append_tensor_names(expert.down, names);
  }
  return names;
}

MoeLayerWeights Checkpoint::experts(const std::string& module, const MoeProblem& problem) const {
  return impl_->stored_experts(module, problem);
}

MoeLayerWeights Checkpoint::experts_header(const std::string& module,
                                           const MoeProblem& problem) const {
  return impl_->stored_experts(module, problem, /*headers_only=*/true);
}

MoeLayerWeights Checkpoint::moe_layer(int64_t layer) const {
  const ModelConfig& config = impl_->config;
  if (impl_->tensors.is_partial() && layer >= 0 && layer < config.num_layers &&
      config.is_moe_layer[layer]) {
    // Shards are absent, so the metadata is all there is for some layers.
    try {
      return impl_->stored_experts(impl_->experts_module(layer), config.moe_problem(layer));
    } catch (const Error&) {
      return impl_->declared_moe_layer(layer);
    }
  }
  if (layer < 0 || layer >= config.num_layers || !config.is_moe_layer[layer]) {
    throw_bad_input({.what = "layer has no routed experts",
                     .file = config_file().string(),
                     .tensor = fmt::format("layer {}", layer)});
  }
  return impl_->stored_experts(impl_->experts_module(layer), config.moe_problem(layer));
}

MoeLayerSummary Checkpoint::moe_layer_summary(int64_t layer) const {
  MoeLayerSummary summary{.problem = impl_->config.moe_problem(layer), .scheme = kUnquantized};
  try {
    const MoeLayerWeights weights = moe_layer(layer);
    summary.problem = weights.problem;
    summary.scheme = weights.scheme;
    return summary;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kBadInput) throw;
    summary.error = error.what();
  }
  // The tensors cannot be decoded: the metadata says what they were meant to be.
  const std::optional<DeclaredQuant> says = impl_->declared(impl_->expert_module(layer));
  if (says && says->unsupported.empty()) {
    summary.scheme = says->scheme;
    return summary;
  }
  summary.unsupported = says ? says->unsupported : "unknown";
  if (says && summary.error.find(says->unsupported) == std::string::npos) {
    try {
      (void)impl_->declared_moe_layer(layer);
    } catch (const Error& error) {  // names the kind, which the first odd tensor did not show
      summary.error = error.what();
    }
  }
  return summary;
}

}  // namespace moe4
