// Views into 4-D blocks, and the checks of MXFP4 linears.
#include "checkpoint/mxfp4_linear.h"

#include <fmt/format.h>

#include "base/checked_math.h"
#include "base/error.h"
#include "numerics/mxfp4.h"

namespace moe4 {
namespace {

std::string type_and_shape(const TensorView& view) {
  return fmt::format("{} {}", to_string(view.dtype), shape_to_string(view.shape));
}

[[noreturn]] void fail(const NamedView& tensor, const std::string& what,
                       const std::string& expected, const std::string& found,
                       const std::string& hint = "") {
  throw_bad_input({.what = what,
                   .file = tensor.file,
                   .tensor = "tensor " + tensor.name,
                   .expected = expected,
                   .found = found,
                   .hint = hint});
}

void check_scales(const StoredLinear& stored) {
  const NamedView& scale = *stored.scale;
  const int64_t blocks = scale.view.shape[1];
  for (int64_t r = 0; r < scale.view.shape[0]; ++r) {
    const auto* row = reinterpret_cast<const uint8_t*>(scale.view.row(r));
    bool nan = false;
    for (int64_t b = 0; b < blocks; ++b) nan |= e8m0_is_nan(row[b]);
    if (!nan) continue;
    int64_t at = 0;
    while (!e8m0_is_nan(row[at])) ++at;
    fail(scale, "block scale is NaN", "E8M0 values from 0 to 254",
         fmt::format("byte 0xff at [{}, {}] of {}", r, at, stored.module),
         "the checkpoint was quantised wrongly");
  }
}

NamedView required(const TensorTable& table, const std::string& name, DType dtype,
                   const std::vector<int64_t>& shape) {
  NamedView tensor{name, "", table.view(name)};  // throws with the nearest name
  tensor.file = table.file_of(name).string();
  const bool fits =
      tensor.view.dtype == dtype || (dtype == DType::kU8 && tensor.view.dtype == DType::kF8E8M0);
  if (!fits || tensor.view.shape != shape) {
    fail(tensor, "tensor has the wrong type or shape",
         fmt::format("{} {}", to_string(dtype), shape_to_string(shape)),
         type_and_shape(tensor.view));
  }
  return tensor;
}

// A projection of all experts: [E, rows, ...] tensors.
struct Blocks {
  NamedView codes, scales;
  NamedView bias;
  int64_t rows = 0, columns = 0;
};

Blocks find_blocks(const TensorTable& table, const std::string& base, int64_t num_experts,
                   int64_t rows, int64_t columns) {
  const int64_t blocks = columns / kMxfp4Block;
  Blocks found{.rows = rows, .columns = columns};
  found.codes =
      required(table, base + "_blocks", DType::kU8, {num_experts, rows, blocks, kMxfp4Block / 2});
  found.scales = required(table, base + "_scales", DType::kU8, {num_experts, rows, blocks});
  const TensorInfo* bias = table.find(base + "_bias");
  found.bias = required(table, base + "_bias",
                        bias != nullptr ? bias->dtype.value_or(DType::kBF16) : DType::kBF16,
                        {num_experts, rows});
  return found;
}

// Every `step`-th row of an expert, from `first` on; one dimension for a bias.
NamedView rows_of(const NamedView& tensor, int64_t row_elements, int64_t expert, int64_t all_rows,
                  int64_t first, int64_t step) {
  NamedView out = tensor;
  out.view.shape = {all_rows / step};
  if (tensor.view.shape.size() > 2) out.view.shape.push_back(row_elements);
  out.view.row_stride = step == 1 ? 0 : step * row_elements;
  if (tensor.view.data != nullptr) {
    out.view.data = static_cast<const std::byte*>(tensor.view.data) +
                    (expert * all_rows + first) * row_elements * size_of(tensor.view.dtype);
  }
  return out;
}

StoredLinear cut(const Blocks& from, const std::string& module, int64_t expert, int64_t first,
                 int64_t step) {
  StoredLinear stored;
  stored.module = module;
  const auto rows = [&](const NamedView& tensor, int64_t row_elements) {
    return rows_of(tensor, row_elements, expert, from.rows, first, step);
  };
  stored.weight = rows(from.codes, from.columns / 2);
  stored.scale = rows(from.scales, from.columns / kMxfp4Block);
  stored.bias = rows(from.bias, 1);
  return stored;
}

}  // namespace

bool is_e8m0(DType scale_dtype) {
  return scale_dtype == DType::kU8 || scale_dtype == DType::kF8E8M0;
}

bool is_mxfp4(DType weight_dtype, DType scale_dtype) {
  return weight_dtype == DType::kU8   ? is_e8m0(scale_dtype)
         : weight_dtype == DType::kI8 ? scale_dtype == DType::kF8E8M0
                                      : false;
}

LinearWeights interpret_mxfp4(const StoredLinear& stored,
                              const std::optional<DeclaredQuant>& declared, bool headers_only) {
  LinearWeights linear;
  linear.out_features = stored.weight.view.shape[0];
  const auto in_features = checked_mul(stored.weight.view.shape[1], 2);
  if (!in_features || *in_features % kMxfp4Block != 0) {
    fail(stored.weight, "packed MXFP4 rows are not whole blocks of 32",
         "a multiple of 16 bytes a row", type_and_shape(stored.weight.view));
  }
  linear.in_features = *in_features;
  const std::vector<int64_t> expected = {linear.out_features, linear.in_features / kMxfp4Block};
  if (stored.scale->view.shape != expected) {
    fail(*stored.scale, "block scales do not fit the weight",
         "U8 or F8_E8M0 " + shape_to_string(expected), type_and_shape(stored.scale->view));
  }
  for (const std::optional<NamedView>* further : {&stored.second_scale, &stored.global_scale}) {
    if (!*further) continue;
    fail(**further, "MXFP4 weight has a global scale", "block scales alone",
         type_and_shape((*further)->view), "the quantisation of this checkpoint is not known");
  }
  linear.scheme = kMxfp4W4A16;
  if (declared && declared->unsupported.empty() && declared->scheme.is_mxfp4()) {
    linear.scheme.activation = declared->scheme.activation;
  }
  if (!headers_only) check_scales(stored);
  linear.scale = stored.scale->view;
  return linear;
}

bool has_block_experts(const TensorTable& table, const std::string& experts_module) {
  return table.find(experts_module + ".gate_up_proj_blocks") != nullptr ||
         table.find(experts_module + ".down_proj_blocks") != nullptr;
}

std::vector<StoredExpert> gather_block_experts(const TensorTable& table,
                                               const std::string& experts_module,
                                               const ExpertShape& shape) {
  const std::string gate_up_name = experts_module + ".gate_up_proj";
  if (!shape.is_gated || shape.hidden_size % kMxfp4Block != 0 ||
      shape.intermediate_size % kMxfp4Block != 0) {
    throw_bad_input({.what = "experts in MXFP4 blocks do not fit the configuration",
                     .file = table.main_file().string(),
                     .tensor = "tensor " + gate_up_name + "_blocks",
                     .expected = "a gated activation and sizes that are multiples of 32",
                     .found = fmt::format("{}, hidden size {}, intermediate size {}",
                                          shape.is_gated ? "gated" : "no gate", shape.hidden_size,
                                          shape.intermediate_size)});
  }
  const Blocks gate_up = find_blocks(table, gate_up_name, shape.num_experts,
                                     2 * shape.intermediate_size, shape.hidden_size);
  const Blocks down = find_blocks(table, experts_module + ".down_proj", shape.num_experts,
                                  shape.hidden_size, shape.intermediate_size);
  std::vector<StoredExpert> experts(shape.num_experts);
  for (int64_t n = 0; n < shape.num_experts; ++n) {
    const std::string module = fmt::format("{}.{}", experts_module, n);
    experts[n].gate = cut(gate_up, module + ".gate_proj", n, 0, 2);
    experts[n].up = cut(gate_up, module + ".up_proj", n, 1, 2);
    experts[n].down = cut(down, module + ".down_proj", n, 0, 1);
  }
  return experts;
}

}  // namespace moe4
