// Tensor names of modules and experts.
#include "checkpoint/module_tensors.h"

#include <fmt/format.h>

#include <array>
#include <initializer_list>

#include "base/error.h"
#include "checkpoint/mxfp4_linear.h"

namespace moe4 {
namespace {

constexpr std::array<const char*, 6> kTextPrefixes = {
    "model.language_model.", "language_model.model.", "model.", "backbone.", "language_model.", ""};

constexpr std::array<const char*, 9> kExpertModules = {
    "mlp.experts.experts", "mlp.experts", "block_sparse_moe.experts",
    "mixer.experts",       "ffn.experts", "feed_forward.experts",
    "moe.experts",         "experts",     "moe"};

// gate, up, down.
struct ProjectionNames {
  const char* gate;
  const char* up;
  const char* down;
};
constexpr std::array<ProjectionNames, 3> kProjections = {
    {{"gate_proj", "up_proj", "down_proj"}, {"w1", "w3", "w2"}, {"gate", "up", "down"}}};

// Projections of all experts in one tensor: the rows of gate and then those of up, and down.
constexpr std::initializer_list<const char*> kFusedGateUp = {".gate_up_proj", ".w13"};
constexpr std::initializer_list<const char*> kFusedDown = {".down_proj", ".w2"};

constexpr const char* kMlxScales = ".scales";

// Tensors beside a weight that change its meaning in ways that are not implemented; ignoring them
// would give wrong numbers.
constexpr std::array<std::pair<const char*, const char*>, 10> kForeignTensors = {{
    {".pre_quant_scale", "AWQ pre-quantisation scales (NVFP4_AWQ)"},
    {".weight_quantizer._pre_quant_scale", "AWQ pre-quantisation scales (NVFP4_AWQ)"},
    {".svdquant_lora_a", "SVDQuant low-rank parts (NVFP4_SVD)"},
    {".weight_zero_point", "zero points"},
    {".weight_shape", "packed integers (pack-quantized)"},
    {".qweight", "packed integers (GPTQ or AWQ)"},
    {".weight_g_idx", "activation reordering"},
    {".weight_blocks", "MXFP4 blocks of the original layout"},
    {".weight.absmax", "bitsandbytes blocks"},
    {kMlxScales, "MLX layout (U32 weights with scales)"},
}};

std::optional<NamedView> optional_tensor(const TensorTable& table, const std::string& name) {
  if (table.find(name) == nullptr) return std::nullopt;
  return NamedView{name, table.file_of(name).string(), table.view(name), table.maker(name)};
}

NamedView required_tensor(const TensorTable& table, const std::string& name) {
  const TensorView view = table.view(name);  // throws with the nearest name
  return {name, table.file_of(name).string(), view, table.maker(name)};
}

[[noreturn]] void fail_shape(const NamedView& tensor, const std::string& expected) {
  throw_bad_input({.what = "tensor has the wrong shape",
                   .file = tensor.file,
                   .tensor = "tensor " + tensor.name,
                   .expected = expected,
                   .found = fmt::format("{} {}", to_string(tensor.view.dtype),
                                        shape_to_string(tensor.view.shape))});
}

void refuse_foreign_tensor(const TensorTable& table, const std::string& name, const char* meaning) {
  if (table.find(name) == nullptr) return;
  throw_bad_input({.what = std::string(meaning) + " are not supported",
                   .file = table.file_of(name).string(),
                   .tensor = "tensor " + name,
                   .hint = "use a ModelOpt or compressed-tensors quantisation of this model"});
}

void refuse_foreign_tensors(const TensorTable& table, const std::string& module) {
  for (const auto& [suffix, meaning] : kForeignTensors) {
    refuse_foreign_tensor(table, module + suffix, meaning);
  }
}

// The same beside a tensor of all experts, whose tensors may also be joined by an underscore.
void refuse_foreign_fused(const TensorTable& table, const std::string& base) {
  refuse_foreign_tensors(table, base);
  for (const auto& [suffix, meaning] : kForeignTensors) {
    if (suffix == kMlxScales) continue;  // gpt-oss has "_scales"
    refuse_foreign_tensor(table, base + "_" + (suffix + 1), meaning);
  }
}

// A 3-D tensor of all experts: rows [first, first + count) of expert `expert` as a matrix.
NamedView slice(const NamedView& tensor, int64_t expert, int64_t first, int64_t count) {
  const int64_t rows = tensor.view.shape[1], columns = tensor.view.shape[2];
  return tensor.part((expert * rows + first) * columns, {count, columns});
}

// A 3-D tensor of all experts: `count` columns of expert `expert`, from `first` on, as a matrix;
// whether they are neighbours is said elsewhere (StoredLinear::column_step).
NamedView column_slice(const NamedView& tensor, int64_t expert, int64_t first, int64_t count) {
  const int64_t rows = tensor.view.shape[1], columns = tensor.view.shape[2];
  if (tensor.maker != nullptr) {
    throw_bad_input({.what = "transposed expert tensors are not supported in this format",
                     .file = tensor.file,
                     .tensor = "tensor " + tensor.name,
                     .found = shape_to_string(tensor.view.shape)});
  }
  NamedView out = tensor.part(expert * rows * columns + first, {rows, count});
  out.view.row_stride = columns;
  return out;
}

// Element of a scale vector: one for all, [E], or [E, halves] (gate and up apart).
NamedView scalar_of(const NamedView& tensor, int64_t expert, int64_t half, int64_t num_experts) {
  const int64_t n = tensor.view.num_elements();
  int64_t at = 0;
  if (n == num_experts) {
    at = expert;
  } else if (n == 2 * num_experts) {
    at = 2 * expert + half;
  } else if (n != 1) {
    fail_shape(tensor, fmt::format("1, {} or {} values", num_experts, 2 * num_experts));
  }
  return tensor.part(at, {});
}

// `count` rows of one expert's bias, every `step`-th from `first` on, out of a bias [E, rows] of
// all experts.
NamedView bias_slice(const NamedView& bias, int64_t expert, int64_t first, int64_t count,
                     int64_t step) {
  NamedView out = bias.part(expert * bias.view.shape[1] + first, {count});
  if (step != 1) out.view.row_stride = step;
  return out;
}

// The 3-D tensors of one fused projection, looked up once for all experts.
struct FusedTensors {
  NamedView weight;
  bool is_packed_name = false;
  std::optional<NamedView> scale, second_scale, global_scale, input_scale, input_global_scale;
  std::optional<NamedView> bias;  // [E, rows]
  bool is_transposed = false;     // [E, K, rows]
  int64_t step = 1;               // is_transposed: columns of one half from one to the next

  int64_t rows() const { return weight.view.shape[is_transposed ? 2 : 1]; }
};

// How a fused projection is spelled: "experts.gate_up_proj", "experts.gate_up_proj.weight",
// "experts.gate_up_proj_weight" or "experts.gate_up_proj_packed", its other tensors in the same
// style ("..._weight_scale" or "..._scale").
struct FusedName {
  std::string weight;
  bool is_packed;
  std::string prefix;
};
std::optional<FusedName> find_fused_name(const TensorTable& table, const std::string& base) {
  for (const char* joint : {".", "_"}) {
    const std::string prefix = base + joint;
    for (const char* suffix : {"weight_packed", "packed", "weight"}) {
      const bool is_packed = std::string_view(suffix) != "weight";
      if (table.find(prefix + suffix) != nullptr)
        return FusedName{prefix + suffix, is_packed, prefix};
    }
  }
  if (table.find(base) != nullptr) return FusedName{base, false, base + "_"};
  return std::nullopt;
}

std::optional<FusedTensors> find_fused(const TensorTable& table, const std::string& base) {
  refuse_foreign_fused(table, base);
  const std::optional<FusedName> name = find_fused_name(table, base);
  if (!name) return std::nullopt;
  const auto get = [&](std::initializer_list<const char*> suffixes) {
    for (const char* suffix : suffixes) {
      if (auto found = optional_tensor(table, name->prefix + suffix)) return found;
    }
    return std::optional<NamedView>();
  };
  FusedTensors fused;
  fused.weight = required_tensor(table, name->weight);
  fused.is_packed_name = name->is_packed;
  fused.scale = get({"weight_scale", "weight_scale_inv", "scale", "scale_inv"});
  fused.second_scale = get({"weight_scale_2", "scale_2"});
  fused.global_scale = get({"weight_global_scale", "global_scale"});
  fused.input_scale = get({"input_scale"});
  fused.input_global_scale = get({"input_global_scale"});
  fused.bias = get({"bias"});
  return fused;
}

// The part of a fused projection that is `half` (0: gate or the whole, 1: up) of an expert.
StoredLinear cut(const FusedTensors& fused, const std::string& module, int64_t expert, int64_t half,
                 int64_t rows, int64_t num_experts) {
  const int64_t first = fused.step == 1 ? half * rows : half;
  const auto scale_slice = [&](const NamedView& scale) {
    const std::vector<int64_t>& shape = scale.view.shape;
    const int64_t all_rows = fused.rows();
    if (fused.is_transposed) {
      if (shape.size() != 3) return scalar_of(scale, expert, half, num_experts);
      if (shape[0] != num_experts || shape[2] != all_rows) {
        fail_shape(scale,
                   fmt::format("[{}, groups, {}] as {}", num_experts, all_rows, fused.weight.name));
      }
      return column_slice(scale, expert, first, rows);
    }
    if (shape.size() == 3 && shape[0] == num_experts && shape[1] == all_rows) {
      return slice(scale, expert, half * rows, rows);
    }
    // 128 x 128 blocks: a half must begin on a block.
    if (shape.size() == 3 && shape[0] == num_experts && shape[1] == (all_rows + 127) / 128 &&
        (rows == all_rows || rows % 128 == 0)) {
      return slice(scale, expert, half * rows / 128, (rows + 127) / 128);
    }
    return scalar_of(scale, expert, half, num_experts);
  };
  const auto scalar = [&](const std::optional<NamedView>& tensor) -> std::optional<NamedView> {
    if (!tensor) return std::nullopt;
    return scalar_of(*tensor, expert, half, num_experts);
  };
  StoredLinear stored;
  stored.module = module;
  stored.weight = fused.is_transposed ? column_slice(fused.weight, expert, first, rows)
                                      : slice(fused.weight, expert, first, rows);
  stored.is_transposed = fused.is_transposed;
  stored.column_step = fused.step;
  stored.is_packed_name = fused.is_packed_name;
  if (fused.scale) stored.scale = scale_slice(*fused.scale);
  stored.second_scale = scalar(fused.second_scale);
  stored.global_scale = scalar(fused.global_scale);
  stored.input_scale = scalar(fused.input_scale);
  stored.input_global_scale = scalar(fused.input_global_scale);
  if (fused.bias) stored.bias = bias_slice(*fused.bias, expert, first, rows, fused.step);
  return stored;
}

// Columns of a matrix as it is stored: two inputs a byte where it is packed.
int64_t stored_width(const FusedTensors& fused, int64_t columns) {
  const DType dtype = fused.weight.view.dtype;
  return dtype == DType::kU8 || dtype == DType::kI8 ? columns / 2 : columns;
}

bool is_transposed(const FusedTensors& fused, int64_t num_experts, int64_t rows, int64_t columns) {
  const std::vector<int64_t>& shape = fused.weight.view.shape;
  const int64_t width = stored_width(fused, columns);
  return shape == std::vector<int64_t>{num_experts, width, rows} && width != rows;
}

void check_fused_shape(const FusedTensors& fused, int64_t num_experts, int64_t rows,
                       int64_t columns) {
  const std::vector<int64_t>& shape = fused.weight.view.shape;
  const int64_t stored_columns = stored_width(fused, columns);
  if (fused.bias && fused.bias->view.shape != std::vector<int64_t>{num_experts, rows}) {
    fail_shape(*fused.bias, shape_to_string({num_experts, rows}));
  }
  if (fused.is_transposed) {
    if (shape == std::vector<int64_t>{num_experts, stored_columns, rows}) return;
    fail_shape(fused.weight, shape_to_string({num_experts, stored_columns, rows}));
  }
  if (shape == std::vector<int64_t>{num_experts, rows, stored_columns}) return;
  if (shape.size() == 3 && (shape[1] == columns || shape[1] == stored_columns) &&
      shape[2] == rows) {
    throw_bad_input({.what = "transposed expert tensors are not supported",
                     .file = fused.weight.file,
                     .tensor = "tensor " + fused.weight.name,
                     .expected = shape_to_string({num_experts, rows, stored_columns}),
                     .found = shape_to_string(shape)});
  }
  fail_shape(fused.weight, shape_to_string({num_experts, rows, stored_columns}));
}

bool has_numbered_child(const TensorTable& table, const std::string& module) {
  for (char digit = '0'; digit <= '9'; ++digit) {
    if (table.has_prefix(module + "." + digit)) return true;
  }
  return false;
}

// The two orders of names of experts stored one by one.
enum class NameOrder { kExpertFirst, kProjectionFirst };  // experts.3.up_proj, experts.up_proj.3

std::optional<NameOrder> one_by_one_order(const TensorTable& table,
                                          const std::string& experts_module) {
  if (has_numbered_child(table, experts_module)) return NameOrder::kExpertFirst;
  for (const ProjectionNames& names : kProjections) {
    if (has_numbered_child(table, experts_module + "." + names.up)) {
      return NameOrder::kProjectionFirst;
    }
  }
  return std::nullopt;
}

std::vector<StoredExpert> gather_fused(const TensorTable& table, const std::string& base,
                                       const ExpertShape& shape) {
  const auto find = [&](std::initializer_list<const char*> names) {
    for (const char* name : names) {
      if (auto fused = find_fused(table, base + name)) return fused;
    }
    return std::optional<FusedTensors>();
  };
  std::optional<FusedTensors> both = find(kFusedGateUp), down = find(kFusedDown);
  std::optional<FusedTensors> gate, up;
  if (!both) {
    gate = find({".gate_proj"});
    up = find({".up_proj"});
  }
  const int64_t e = shape.num_experts;
  const int64_t h = shape.hidden_size;
  const int64_t i = shape.intermediate_size;
  if (!down) (void)required_tensor(table, base + ".down_proj.weight");
  if (both ? !shape.is_gated : !up || (shape.is_gated && !gate)) {
    (void)required_tensor(table, base + (shape.is_gated ? ".gate_up_proj" : ".up_proj"));
  }
  // Gate and up decide for down too, which may be as long as it is wide.
  const bool alternate = shape.stacked == StackedExperts::kAlternatingColumns;
  if (both && (alternate || (shape.stacked == StackedExperts::kRowsOrColumns &&
                             is_transposed(*both, e, 2 * i, h)))) {
    both->is_transposed = down->is_transposed = true;
  }
  if (both && alternate) both->step = 2;
  if (both) check_fused_shape(*both, e, 2 * i, h);
  if (up) check_fused_shape(*up, e, i, h);
  if (gate && shape.is_gated) check_fused_shape(*gate, e, i, h);
  check_fused_shape(*down, e, h, i);

  std::vector<StoredExpert> experts(e);
  for (int64_t n = 0; n < e; ++n) {
    const std::string module = fmt::format("{}.{}", base, n);
    if (shape.is_gated) {
      experts[n].gate = cut(both ? *both : *gate, module + ".gate_proj", n, 0, i, e);
    }
    experts[n].up = cut(both ? *both : *up, module + ".up_proj", n, both ? 1 : 0, i, e);
    experts[n].down = cut(*down, module + ".down_proj", n, 0, h, e);
  }
  return experts;
}

}  // namespace

std::string find_text_prefix(const TensorTable& table) {
  for (const char* prefix : kTextPrefixes) {
    if (table.has_prefix(std::string(prefix) + "layers.")) return prefix;
  }
  if (table.is_partial()) return "model.";
  throw_bad_input({.what = "no layers among the tensors",
                   .file = table.main_file().string(),
                   .expected = "names beginning model.layers. or model.language_model.layers.",
                   .found = table.names().empty() ? "no tensors" : table.names().front()});
}

bool has_module(const TensorTable& table, const std::string& module) {
  return table.find(module + ".weight") != nullptr ||
         table.find(module + ".weight_packed") != nullptr;
}

StoredLinear gather_linear(const TensorTable& table, const std::string& module) {
  refuse_foreign_tensors(table, module);
  StoredLinear stored;
  stored.module = module;
  const auto get = [&](const char* suffix) { return optional_tensor(table, module + suffix); };
  if (auto packed = get(".weight_packed")) {
    stored.weight = *packed;
    stored.is_packed_name = true;
    if (get(".weight")) {
      throw_bad_input({.what = "module has both a packed and a plain weight",
                       .file = packed->file,
                       .tensor = "tensor " + packed->name});
    }
  } else {
    stored.weight = required_tensor(table, module + ".weight");
    if (const std::optional<BlockRows> blocks = table.block_rows(stored.weight.name)) {
      stored.block_format = blocks->format;
      stored.weight.view = blocks->view;
      stored.weight.maker = blocks->maker;
    }
  }
  stored.scale = get(".weight_scale");
  if (!stored.scale) stored.scale = get(".weight_scale_inv");
  if (!stored.scale) stored.scale = get(".scale");  // DeepSeek-V4
  stored.second_scale = get(".weight_scale_2");
  stored.global_scale = get(".weight_global_scale");
  stored.input_scale = get(".input_scale");
  stored.input_global_scale = get(".input_global_scale");
  stored.bias = get(".bias");
  return stored;
}

std::optional<std::string> find_experts_module(const TensorTable& table,
                                               const std::string& layer_prefix) {
  for (const char* module : kExpertModules) {
    const std::string base = layer_prefix + module;
    if (table.has_prefix(base + ".")) return base;
  }
  return std::nullopt;
}

void refuse_mlx_experts(const TensorTable& table, const std::string& experts_module) {
  constexpr std::string_view kExperts = "experts";
  if (!experts_module.ends_with(kExperts)) return;
  const std::string module =
      experts_module.substr(0, experts_module.size() - kExperts.size()) + "switch_mlp.";
  if (!table.has_prefix(module)) return;
  throw_bad_input({.what = "MLX layout (switch_mlp, U32 weights with scales) is not supported",
                   .file = table.main_file().string(),
                   .tensor = "module " + module + "*",
                   .hint = "use a ModelOpt or compressed-tensors file of this model"});
}

std::vector<FusedProjection> fused_projections(const TensorTable& table,
                                               const std::string& experts_module) {
  std::vector<FusedProjection> projections;
  if (one_by_one_order(table, experts_module)) return projections;
  if (has_block_experts(table, experts_module)) {
    for (const char* projection : {"gate_proj", "up_proj", "down_proj"}) {
      projections.push_back({experts_module + ".0." + projection, DType::kU8, DType::kU8, false});
    }
    return projections;
  }
  const auto add = [&](std::initializer_list<const char*> names,
                       std::initializer_list<const char*> projections_of_it) {
    for (const char* name : names) {
      const std::optional<FusedName> found = find_fused_name(table, experts_module + name);
      if (!found) continue;
      const auto has = [&](const char* suffix) {
        return table.find(found->prefix + suffix) != nullptr;
      };
      const TensorInfo* scale = table.find(found->prefix + "weight_scale");
      if (scale == nullptr) scale = table.find(found->prefix + "scale");
      for (const char* projection : projections_of_it) {
        projections.push_back({experts_module + ".0." + projection,
                               table.find(found->weight)->dtype,
                               scale != nullptr ? scale->dtype : std::nullopt,
                               has("input_scale") || has("input_global_scale")});
      }
      return;
    }
  };
  add(kFusedGateUp, {"gate_proj", "up_proj"});
  add({".gate_proj"}, {"gate_proj"});
  add({".up_proj"}, {"up_proj"});
  add(kFusedDown, {"down_proj"});
  return projections;
}

namespace {

std::vector<StoredExpert> gather_any(const TensorTable& table, const std::string& experts_module,
                                     const ExpertShape& shape) {
  const std::optional<NameOrder> order = one_by_one_order(table, experts_module);
  if (!order && has_block_experts(table, experts_module)) {
    return gather_block_experts(table, experts_module, shape);
  }
  if (!order) return gather_fused(table, experts_module, shape);

  const auto module = [&](int64_t expert, const char* projection) {
    return *order == NameOrder::kExpertFirst
               ? fmt::format("{}.{}.{}", experts_module, expert, projection)
               : fmt::format("{}.{}.{}", experts_module, projection, expert);
  };
  const ProjectionNames* names = &kProjections[0];
  for (const ProjectionNames& candidate : kProjections) {
    if (table.has_prefix(module(0, candidate.up) + ".")) names = &candidate;
  }
  std::vector<StoredExpert> experts(shape.num_experts);
  for (int64_t n = 0; n < shape.num_experts; ++n) {
    if (shape.is_gated) experts[n].gate = gather_linear(table, module(n, names->gate));
    experts[n].up = gather_linear(table, module(n, names->up));
    experts[n].down = gather_linear(table, module(n, names->down));
  }
  const std::string one_more = *order == NameOrder::kExpertFirst
                                   ? fmt::format("{}.{}.", experts_module, shape.num_experts)
                                   : module(shape.num_experts, names->up) + ".";
  if (table.has_prefix(one_more)) {
    throw_bad_input({.what = "more experts than the configuration says",
                     .file = table.main_file().string(),
                     .tensor = "module " + one_more + "*",
                     .expected = fmt::format("{} experts", shape.num_experts)});
  }
  return experts;
}

}  // namespace

std::vector<StoredExpert> gather_experts(const TensorTable& table,
                                         const std::string& experts_module,
                                         const ExpertShape& shape) {
  std::vector<StoredExpert> experts = gather_any(table, experts_module, shape);
  if (!shape.needs_biases) return experts;
  for (const StoredExpert& expert : experts) {
    for (const StoredLinear* linear :
         {expert.gate ? &*expert.gate : nullptr, &expert.up, &expert.down}) {
      if (linear == nullptr || linear->bias) continue;
      throw_bad_input({.what = "expert has no bias, which the experts of this family have",
                       .file = linear->weight.file,
                       .tensor = "tensor " + linear->weight.name,
                       .expected = "a bias beside it"});
    }
  }
  return experts;
}

}  // namespace moe4
