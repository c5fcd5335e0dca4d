// Names every tensor, and makes what the file has in another form.
#include "checkpoint/gguf_tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <utility>

#include "base/error.h"
#include "checkpoint/gguf_names.h"
#include "numerics/ggml_blocks.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;

// Where a row, or a block of columns, of the folder's tensor is in the file's.
using Order = std::function<int64_t(int64_t)>;

// What part of its blocks a tensor is made of.
enum class Part { kRaw, kFloats, kBlocks, kNvfp4Codes, kNvfp4Scales, kMxfp4Codes, kMxfp4Scales };

int64_t elements_per_output(Part part) {
  switch (part) {
    case Part::kRaw:
    case Part::kFloats:
    case Part::kBlocks:
      return 1;
    case Part::kNvfp4Codes:
    case Part::kMxfp4Codes:
      return 2;
    case Part::kNvfp4Scales:
      return 16;
    case Part::kMxfp4Scales:
      return 32;
  }
  return 1;
}

// Row by row: decode, then the order of columns, then a function of every value.
class RowMaker final : public TensorMaker {
 public:
  std::string file, tensor;  // for messages
  const std::byte* data = nullptr;
  GgmlType type = {};
  Part part = Part::kRaw;
  int64_t row_elements = 1;  // of the file's type
  int64_t row_bytes = 0;     // in the file
  int64_t out_bytes = 1;     // of one element that is made
  Order rows;                // empty: as they are
  Order column_blocks;
  int64_t column_block = 0;  // elements of the file's type
  float (*value)(float) = nullptr;

  void make(int64_t first, int64_t count, std::byte* to) const override {
    const int64_t width = outputs(row_elements);
    const int64_t width_bytes = width * out_bytes;
    MOE4_CHECK(first % width == 0 && count % width == 0);
    std::vector<std::byte> row(column_blocks ? static_cast<size_t>(width_bytes) : 0);
    for (int64_t r = first / width; r < (first + count) / width; ++r, to += width_bytes) {
      const int64_t source = rows ? rows(r) : r;
      const std::byte* from = data + source * row_bytes;
      if (part == Part::kFloats) check_factors(from, source);
      if (column_blocks) {
        make_row(from, row.data());
        order_columns(row, to);
      } else {
        make_row(from, to);
      }
      if (value != nullptr) {
        for (int64_t i = 0; i < width; ++i) {
          float x;
          std::memcpy(&x, to + i * sizeof x, sizeof x);
          x = value(x);
          std::memcpy(to + i * sizeof x, &x, sizeof x);
        }
      }
    }
  }

 private:
  // What so many elements, whole blocks, become.
  int64_t outputs(int64_t elements) const {
    if (part == Part::kBlocks) return elements / type.block_elements * type.block_bytes;
    return elements / elements_per_output(part);
  }

  void check_factors(const std::byte* row, int64_t number) const {
    const int64_t block = find_bad_ggml_factor(type.id, row, row_elements);
    if (block < 0) return;
    throw_bad_input({.what = fmt::format("{} block with a factor that is no number", type.name),
                     .file = file,
                     .tensor = "tensor " + tensor,
                     .expected = "finite factors",
                     .found = fmt::format("NaN or infinity in block {} of row {}", block, number),
                     .hint = "the file was quantised or converted wrongly"});
  }

  void make_row(const std::byte* from, std::byte* to) const {
    auto* bytes = reinterpret_cast<uint8_t*>(to);
    switch (part) {
      case Part::kRaw:
      case Part::kBlocks:
        std::memcpy(to, from, static_cast<size_t>(row_bytes));
        return;
      case Part::kFloats:
        return decode_ggml_floats(type.id, from, row_elements, reinterpret_cast<float*>(to));
      case Part::kNvfp4Codes:
        return unpack_ggml_nvfp4_codes(from, row_elements, bytes);
      case Part::kNvfp4Scales:
        return unpack_ggml_nvfp4_scales(from, row_elements, bytes);
      case Part::kMxfp4Codes:
        return unpack_ggml_mxfp4_codes(from, row_elements, bytes);
      case Part::kMxfp4Scales:
        return unpack_ggml_mxfp4_scales(from, row_elements, bytes);
    }
  }

  void order_columns(const std::vector<std::byte>& row, std::byte* to) const {
    const int64_t bytes = outputs(column_block) * out_bytes;
    for (int64_t b = 0; b < row_elements / column_block; ++b) {
      std::memcpy(to + b * bytes, row.data() + column_blocks(b) * bytes,
                  static_cast<size_t>(bytes));
    }
  }
};

// kv_b_proj [heads * (nope + value), latent], which the file has apart: keys [heads, latent, nope],
// turned round, and values [heads, value, latent].
class LatentMaker final : public TensorMaker {
 public:
  struct Half {
    const std::byte* data = nullptr;
    GgmlType type = {};
  };
  Half keys, values;
  int64_t latent = 0, nope = 0, value = 0;

  void make(int64_t first, int64_t count, std::byte* to) const override {
    MOE4_CHECK(first % latent == 0 && count % latent == 0);
    std::vector<float> head_keys(static_cast<size_t>(latent * nope));
    std::vector<float> row(static_cast<size_t>(latent));
    int64_t head_there = -1;
    for (int64_t r = first / latent; r < (first + count) / latent; ++r) {
      const int64_t head = r / (nope + value), in_head = r % (nope + value);
      if (in_head < nope) {
        if (head != head_there) decode(keys, head * latent * nope, head_keys);
        head_there = head;
        for (int64_t i = 0; i < latent; ++i) row[i] = head_keys[i * nope + in_head];
      } else {
        decode(values, (head * value + in_head - nope) * latent, row);
      }
      std::memcpy(to, row.data(), row.size() * sizeof(float));
      to += row.size() * sizeof(float);
    }
  }

 private:
  static void decode(const Half& from, int64_t element, std::vector<float>& to) {
    const std::byte* data = from.data + element / from.type.block_elements * from.type.block_bytes;
    decode_ggml_floats(from.type.id, data, static_cast<int64_t>(to.size()), to.data());
  }
};

class OnesMaker final : public TensorMaker {
 public:
  void make(int64_t /*first*/, int64_t count, std::byte* to) const override {
    std::fill_n(reinterpret_cast<float*>(to), count, 1.0f);
  }
};

// The global scale of an NVFP4 tensor that has no other: ggml's blocks are complete by themselves.
constexpr float kOne = 1.0f;

class GgufTensors final : public WeightFile {
 public:
  GgufTensors(std::shared_ptr<const GgufModel> model, const JsonReader& config)
      : model_(std::move(model)),
        architecture_(gguf_architecture(model_->metadata())),
        num_layers_(config.size({"num_hidden_layers"})),
        num_heads_(config.size({"num_attention_heads"})),
        num_kv_heads_(config.size({"num_key_value_heads"}, num_heads_)),
        delta_(config) {
    for (const auto& file : model_->files()) {
      for (const GgufTensor& tensor : file->header().tensors) {
        if (is_latent_half(tensor.name)) {
          add_latent(*file, tensor);
        } else {
          for (const Target& target : targets_of(tensor.name)) add(*file, tensor, target);
        }
      }
    }
    finish();
  }

  const std::vector<TensorInfo>& tensors() const override { return infos_; }
  TensorView view(const TensorInfo& info) const override {
    const Source& source = source_of(info);
    if (!info.dtype) {
      throw_bad_input({.what = "GGUF element type is not supported",
                       .file = source.file->path().string(),
                       .tensor = "tensor " + source.gguf_name,
                       .expected = "F32, F16, BF16, Q8_0, Q4_K, Q6_K, NVFP4 or MXFP4",
                       .found = info.dtype_name,
                       .hint = "use a file with other types"});
    }
    return {.data = source.data, .dtype = *info.dtype, .shape = info.shape};
  }
  const TensorMaker* maker(const TensorInfo& info) const override {
    return source_of(info).maker.get();
  }
  std::optional<BlockRows> block_rows(const TensorInfo& info) const override {
    const Source& source = source_of(info);
    if (!source.blocks) return std::nullopt;
    BlockRows blocks = *source.blocks;
    blocks.maker = source.blocks_maker.get();
    return blocks;
  }
  const fs::path& path_of(const TensorInfo& info) const override {
    return source_of(info).file->path();
  }
  void check_unchanged() const override {
    for (const auto& file : model_->files()) file->check_unchanged();
  }

 private:
  struct Source {
    const GgufFile* file = nullptr;
    std::string gguf_name;
    const std::byte* data = nullptr;     // as it is
    std::unique_ptr<TensorMaker> maker;  // else
    std::optional<BlockRows> blocks;     // the same, not decoded
    std::unique_ptr<TensorMaker> blocks_maker;
  };
  struct Entry {
    TensorInfo info;
    Source source;
  };
  // Heads of delta nets; 0 where the model has none.
  struct DeltaHeads {
    explicit DeltaHeads(const JsonReader& config) {
      if (!config.has("linear_num_key_heads")) return;
      constexpr int64_t kMost = 1 << 20;  // so that their products fit
      keys = config.integer({"linear_num_key_heads"}, 1, kMost);
      values = config.integer({"linear_num_value_heads"}, 1, kMost);
      key_dim = config.integer({"linear_key_head_dim"}, 1, kMost);
      value_dim = config.integer({"linear_value_head_dim"}, 1, kMost);
    }
    int64_t keys = 0, values = 0, key_dim = 0, value_dim = 0;
    /// Where the file has a value head.
    int64_t tiled(int64_t head) const {
      const int64_t group = values / keys;
      return head % group * keys + head / group;
    }
  };
  // A tensor's place in the folder: module and suffix, or a whole name with an empty suffix.
  struct Target {
    std::string name;
    std::string_view suffix;
    GgufForm form = GgufForm::kSame;
  };

  const Source& source_of(const TensorInfo& info) const { return sources_[&info - infos_.data()]; }

  [[noreturn]] static void fail(const GgufFile& file, const GgufTensor& tensor,
                                const std::string& what, const std::string& expected,
                                const std::string& found) {
    throw_bad_input({.what = what,
                     .file = file.path().string(),
                     .tensor = "tensor " + tensor.name,
                     .expected = expected,
                     .found = found});
  }

  std::vector<Target> targets_of(const std::string& name) const;
  bool is_latent_half(std::string_view name) const;
  void add(const GgufFile& file, const GgufTensor& tensor, const Target& target);
  void add_latent(const GgufFile& file, const GgufTensor& tensor);
  void add_scale(const GgufFile& file, const GgufTensor& tensor, const std::string& module);
  /// Factors of one for the experts of an NVFP4 tensor, whose global scales have them.
  void add_expert_scales(const GgufFile& file, const GgufTensor& weight);
  /// `info` complete but for its bytes; made, unless the file's bytes are the tensor's.
  void add_entry(const GgufFile& file, const GgufTensor& tensor, TensorInfo info, Part part,
                 GgufForm form, int64_t source_bytes);
  /// A maker of everything but the order of rows and columns.
  static RowMaker row_maker(const GgufFile& file, const GgufTensor& tensor, Part part);
  void apply_form(const GgufFile& file, const GgufTensor& tensor, GgufForm form,
                  RowMaker& maker) const;
  /// The blocks of a matrix of so many rows, unless an order of columns would cut some of them.
  void add_blocks(const GgufFile& file, const GgufTensor& tensor, GgufForm form, int64_t rows,
                  Source& source) const;
  /// The forms of delta nets.
  void order_heads(const GgufFile& file, const GgufTensor& tensor, GgufForm form,
                   RowMaker& maker) const;
  void finish();

  std::shared_ptr<const GgufModel> model_;
  const GgufArchitecture& architecture_;
  int64_t num_layers_, num_heads_, num_kv_heads_;
  DeltaHeads delta_;
  std::vector<Entry> entries_;
  std::vector<TensorInfo> infos_;
  std::vector<Source> sources_;
};

std::vector<GgufTensors::Target> GgufTensors::targets_of(const std::string& name) const {
  constexpr std::string_view kBlock = "blk.";
  std::string_view rest = name;
  std::string key;     // the rule's: without the number of the layer
  std::string prefix;  // of the folder
  if (rest.starts_with(kBlock)) {
    const size_t dot = rest.find('.', kBlock.size());
    const std::string_view digits = rest.substr(kBlock.size(), dot - kBlock.size());
    const bool is_number = dot != std::string_view::npos && !digits.empty() && digits.size() < 7 &&
                           digits.find_first_not_of("0123456789") == std::string_view::npos;
    if (!is_number) return {{name, ""}};
    rest.remove_prefix(dot + 1);
    prefix = fmt::format("model.layers.{}.", digits);
    // Draft layers are nobody's.
    if (std::stoll(std::string(digits)) >= num_layers_) return {{prefix + std::string(rest), ""}};
    key = std::string(kBlock);
  }
  key += rest;
  std::vector<Target> targets;
  const auto find = [&](std::string_view wanted, std::string_view suffix) {
    for (const GgufRule& rule : architecture_.rules) {
      if (wanted != rule.gguf) continue;
      targets.push_back({prefix + std::string(rule.hf), suffix, rule.form});
    }
  };
  find(key, "");
  for (const std::string_view suffix : {".weight", ".bias", ".scale", ".input_scale"}) {
    if (!targets.empty() || !key.ends_with(suffix)) continue;
    find(std::string_view(key).substr(0, key.size() - suffix.size()), suffix);
  }
  if (targets.empty()) targets.push_back({name, ""});
  return targets;
}

bool GgufTensors::is_latent_half(std::string_view name) const {
  const auto is_whole = [](const GgufRule& rule) { return rule.gguf == "blk.attn_kv_b"; };
  if (std::none_of(architecture_.rules.begin(), architecture_.rules.end(), is_whole)) return false;
  return name.ends_with(".attn_k_b.weight") || name.ends_with(".attn_v_b.weight");
}

// The keys make the whole; the values are looked up.
void GgufTensors::add_latent(const GgufFile& file, const GgufTensor& tensor) {
  constexpr std::string_view kKeys = ".attn_k_b.weight", kValues = ".attn_v_b.weight";
  const std::string layer = tensor.name.substr(0, tensor.name.size() - kKeys.size());
  const std::string other = layer + std::string(tensor.name.ends_with(kKeys) ? kValues : kKeys);
  const GgufTensor* values = model_->find(other);
  if (values != nullptr && tensor.name.ends_with(kValues)) return;
  if (values == nullptr || tensor.shape.size() != 3 || values->shape.size() != 3 ||
      tensor.shape[0] != values->shape[0] || tensor.shape[1] != values->shape[2]) {
    fail(file, tensor, "halves of a latent projection do not fit each other",
         "[heads, latent, nope] beside [heads, value, latent]",
         shape_to_string(tensor.shape) + " beside " +
             (values == nullptr ? "nothing" : shape_to_string(values->shape)));
  }
  const auto is_float = [](const GgufTensor& half) {
    return half.type != nullptr && half.type->is_decoded && half.type->id != GgmlTypeId::kNVFP4 &&
           half.type->id != GgmlTypeId::kMXFP4 && half.type->id != GgmlTypeId::kI32;
  };
  if (!is_float(tensor) || !is_float(*values)) {
    fail(file, tensor, "latent projection of this type is not supported",
         "F32, F16, BF16, Q8_0, Q4_K or Q6_K", "another type");
  }
  auto maker = std::make_unique<LatentMaker>();
  const std::byte* values_data = model_->file_of(*values).data(*values);
  maker->keys = {file.data(tensor), *tensor.type};
  maker->values = {values_data, *values->type};
  maker->latent = tensor.shape[1];
  maker->nope = tensor.shape[2];
  maker->value = values->shape[1];
  // Sums and products fit: the elements are in the file.
  TensorInfo info{.name = targets_of(layer + ".attn_kv_b.weight").front().name + ".weight",
                  .dtype_name = std::string(tensor.type->name),
                  .dtype = DType::kF32,
                  .shape = {tensor.shape[0] * (maker->nope + maker->value), maker->latent},
                  .end = tensor.bytes + values->bytes};
  Source source{.file = &file, .gguf_name = tensor.name};
  if (maker->keys.data != nullptr && values_data != nullptr) source.maker = std::move(maker);
  entries_.push_back({std::move(info), std::move(source)});
}

void GgufTensors::add_scale(const GgufFile& file, const GgufTensor& tensor,
                            const std::string& module) {
  const bool is_input = tensor.name.ends_with(".input_scale");
  const std::string base = tensor.name.substr(0, tensor.name.rfind('.'));
  if (tensor.type_id != static_cast<uint32_t>(GgmlTypeId::kF32)) {
    fail(file, tensor, "scale of a GGUF tensor has the wrong type", "F32",
         tensor.type == nullptr ? std::to_string(tensor.type_id) : std::string(tensor.type->name));
  }
  const GgufTensor* weight = model_->find(base + ".weight");
  if (weight != nullptr && weight->type_id != static_cast<uint32_t>(GgmlTypeId::kNVFP4)) {
    fail(file, tensor, "scale beside a tensor that is not NVFP4", "an NVFP4 tensor " + weight->name,
         weight->type == nullptr ? "another type" : std::string(weight->type->name));
  }
  add_entry(file, tensor,
            {.name = module + (is_input ? ".input_scale" : ".weight_scale_2"),
             .dtype_name = "F32",
             .dtype = DType::kF32,
             .shape = tensor.shape},
            Part::kRaw, GgufForm::kSame, tensor.bytes);
}

void GgufTensors::add_expert_scales(const GgufFile& file, const GgufTensor& weight) {
  constexpr std::string_view kWeight = ".weight";
  const std::string base = weight.name.substr(0, weight.name.size() - kWeight.size());
  const Target scales = targets_of(base + ".scale").front();
  if (scales.form != GgufForm::kExpertScale) return;
  TensorInfo info{.name = scales.name,
                  .dtype_name = "F32",
                  .dtype = DType::kF32,
                  .shape = {weight.shape.front()}};
  Source source{.file = &file, .gguf_name = weight.name};
  if (file.data(weight) != nullptr) source.maker = std::make_unique<OnesMaker>();
  entries_.push_back({std::move(info), std::move(source)});
}

void GgufTensors::add(const GgufFile& file, const GgufTensor& tensor, const Target& target) {
  if (target.form == GgufForm::kExpertScale) {
    const std::string weight = tensor.name.substr(0, tensor.name.rfind('.')) + ".weight";
    const GgufTensor* experts = model_->find(weight);
    if (experts != nullptr && experts->type_id == static_cast<uint32_t>(GgmlTypeId::kNVFP4)) {
      return add_scale(file, tensor, targets_of(weight).front().name);
    }
  }
  if (target.suffix == ".scale" || target.suffix == ".input_scale") {
    return add_scale(file, tensor, target.name);
  }
  TensorInfo info{.name = target.name + std::string(target.suffix), .shape = tensor.shape};
  if (target.form == GgufForm::kOneRow && info.shape.size() == 1) {
    info.shape.insert(info.shape.begin(), 1);
  }
  if (tensor.type == nullptr || !tensor.type->is_decoded) {
    info.dtype_name = tensor.type == nullptr ? fmt::format("type {}", tensor.type_id)
                                             : std::string(tensor.type->name);
    info.end = tensor.bytes;
    entries_.push_back({std::move(info), {.file = &file, .gguf_name = tensor.name}});
    return;
  }
  info.dtype_name = std::string(tensor.type->name);
  const auto plain = [&](DType dtype, Part part) {
    info.dtype = dtype;
    add_entry(file, tensor, std::move(info), part, target.form, tensor.bytes);
  };
  // Codes and scales apart.
  const auto packed = [&](Part codes, Part scales, DType scale_dtype) {
    if (target.suffix != ".weight" || tensor.shape.empty()) {
      fail(file, tensor, "4-bit tensor is no weight of a linear layer",
           "a weight of a known module", info.dtype_name);
    }
    TensorInfo scale{.name = target.name + ".weight_scale",
                     .dtype_name = std::string(to_string(scale_dtype)),
                     .dtype = scale_dtype,
                     .shape = info.shape};
    const int64_t scale_bytes = tensor.bytes / tensor.type->block_bytes *
                                (tensor.type->block_elements / elements_per_output(scales));
    scale.shape.back() /= elements_per_output(scales);
    info.shape.back() /= 2;
    info.dtype = DType::kU8;
    add_entry(file, tensor, std::move(info), codes, target.form, tensor.bytes - scale_bytes);
    add_entry(file, tensor, std::move(scale), scales, target.form, scale_bytes);
  };
  switch (tensor.type->id) {
    case GgmlTypeId::kF32:
      return plain(DType::kF32, Part::kRaw);
    case GgmlTypeId::kF16:
      return plain(DType::kF16, Part::kRaw);
    case GgmlTypeId::kI32:
      return plain(DType::kI32, Part::kRaw);
    case GgmlTypeId::kBF16:
      return plain(DType::kBF16, Part::kRaw);
    case GgmlTypeId::kQ8_0:
    case GgmlTypeId::kQ4_K:
    case GgmlTypeId::kQ6_K:
      return plain(DType::kF32, Part::kFloats);
    case GgmlTypeId::kMXFP4:
      return packed(Part::kMxfp4Codes, Part::kMxfp4Scales, DType::kU8);
    case GgmlTypeId::kNVFP4:
      packed(Part::kNvfp4Codes, Part::kNvfp4Scales, DType::kF8E4M3);
      const std::string base = tensor.name.substr(0, tensor.name.size() - target.suffix.size());
      if (model_->find(base + ".scale") == nullptr) {
        entries_.push_back({{.name = target.name + ".weight_scale_2",
                             .dtype_name = "F32",
                             .dtype = DType::kF32,
                             .shape = {}},
                            {.file = &file,
                             .gguf_name = tensor.name,
                             .data = reinterpret_cast<const std::byte*>(&kOne)}});
      }
      add_expert_scales(file, tensor);
      return;
  }
}

void GgufTensors::apply_form(const GgufFile& file, const GgufTensor& tensor, GgufForm form,
                             RowMaker& maker) const {
  const int64_t rows = tensor.bytes / maker.row_bytes;
  // Rows of a head (first half, then second half) are pairs (2i of the first, 2i + 1 of the second)
  // in the file.
  const auto pairs = [&](int64_t heads) {
    const int64_t dim = rows / heads;
    if (rows % heads != 0 || dim % 2 != 0) {
      fail(file, tensor, "rows of a GGUF tensor are not whole heads",
           fmt::format("a multiple of {}", 2 * heads), std::to_string(rows));
    }
    maker.rows = [dim](int64_t row) {
      const int64_t in_head = row % dim;
      return row - in_head + in_head % (dim / 2) * 2 + in_head / (dim / 2);
    };
  };
  switch (form) {
    case GgufForm::kSame:
    case GgufForm::kExpertScale:
      return;
    case GgufForm::kQueryPairs:
      return pairs(num_heads_);
    case GgufForm::kKeyPairs:
      return pairs(num_kv_heads_);
    case GgufForm::kPlusOne:
      maker.value = [](float x) { return x - 1.0f; };
      break;
    case GgufForm::kTiledDecay:
    case GgufForm::kMinusExp:
      maker.value = [](float x) { return static_cast<float>(std::log(-static_cast<double>(x))); };
      break;
    default:
      break;
  }
  order_heads(file, tensor, form, maker);
  if (maker.value == nullptr) return;
  if (tensor.type->id != GgmlTypeId::kF32) {
    fail(file, tensor, "GGUF tensor has the wrong type", "F32", std::string(tensor.type->name));
  }
}

void GgufTensors::order_heads(const GgufFile& file, const GgufTensor& tensor, GgufForm form,
                              RowMaker& maker) const {
  const DeltaHeads heads = delta_;
  if (heads.keys == 0) return;
  const auto check = [&](int64_t found, int64_t expected, const char* what) {
    if (found == expected) return;
    fail(file, tensor, fmt::format("{} of a GGUF tensor do not fit the heads", what),
         std::to_string(expected), std::to_string(found));
  };
  const int64_t rows = tensor.bytes / maker.row_bytes;
  const int64_t dim = heads.value_dim, group = heads.values / heads.keys;
  const auto tiled_rows = [&](int64_t first, int64_t head_rows) {
    check(rows, first + heads.values * head_rows, "rows");
    maker.rows = [heads, first, head_rows](int64_t row) {
      if (row < first) return row;
      const int64_t head = (row - first) / head_rows;
      return first + heads.tiled(head) * head_rows + (row - first) % head_rows;
    };
  };
  switch (form) {
    case GgufForm::kTiledValues:
      return tiled_rows(0, dim);
    case GgufForm::kTiledMixed:
      return tiled_rows(2 * heads.keys * heads.key_dim, dim);
    case GgufForm::kTiledHeads:
    case GgufForm::kTiledDecay:
      return tiled_rows(0, 1);
    case GgufForm::kTiledInputs:
      check(maker.row_elements, heads.values * dim, "columns");
      // Blocks of 4-bit codes with one scale must not be cut.
      if (elements_per_output(maker.part) > 1 && dim % 32 != 0) {
        fail(file, tensor, "4-bit columns of heads that are no whole blocks are not supported",
             "a head width that is a multiple of 32", std::to_string(dim));
      }
      maker.column_block = dim;
      maker.column_blocks = [heads](int64_t head) { return heads.tiled(head); };
      return;
    case GgufForm::kBetaOfGroups:
    case GgufForm::kAlphaOfGroups: {
      check(rows, 2 * heads.values, "rows");
      const int64_t first = form == GgufForm::kAlphaOfGroups ? group : 0;
      maker.rows = [group, first](int64_t row) {
        return row / group * 2 * group + first + row % group;
      };
      return;
    }
    default:
      return;
  }
}

RowMaker GgufTensors::row_maker(const GgufFile& file, const GgufTensor& tensor, Part part) {
  RowMaker maker;
  maker.file = file.path().string();
  maker.tensor = tensor.name;
  maker.data = file.data(tensor);
  maker.type = *tensor.type;
  maker.part = part;
  // A vector has a row an element.
  const bool is_vector = tensor.shape.size() < 2 && tensor.type->block_elements == 1;
  maker.row_elements = is_vector || tensor.shape.empty() ? 1 : tensor.shape.back();
  maker.row_bytes = maker.row_elements / tensor.type->block_elements * tensor.type->block_bytes;
  return maker;
}

void GgufTensors::add_blocks(const GgufFile& file, const GgufTensor& tensor, GgufForm form,
                             int64_t rows, Source& source) const {
  const std::optional<QuantFormat> format = ggml_format(tensor.type->id);
  if (!format) return;
  auto maker = std::make_unique<RowMaker>(row_maker(file, tensor, Part::kBlocks));
  apply_form(file, tensor, form, *maker);
  if (maker->column_blocks && maker->column_block % tensor.type->block_elements != 0) return;
  source.blocks = {.format = *format,
                   .view = {.dtype = DType::kU8, .shape = {rows, maker->row_bytes}}};
  if (maker->rows || maker->column_blocks) {
    if (maker->data != nullptr) source.blocks_maker = std::move(maker);
  } else {
    source.blocks->view.data = maker->data;
  }
}

void GgufTensors::add_entry(const GgufFile& file, const GgufTensor& tensor, TensorInfo info,
                            Part part, GgufForm form, int64_t source_bytes) {
  info.end = source_bytes;
  if (form == GgufForm::kBetaOfGroups || form == GgufForm::kAlphaOfGroups) {
    if (info.shape.empty() || info.shape[0] % 2 != 0) {
      fail(file, tensor, "rows of a GGUF tensor do not fit the heads", "an even number",
           shape_to_string(info.shape));
    }
    info.shape[0] /= 2;
    info.end /= 2;
  }
  Source source{.file = &file, .gguf_name = tensor.name};
  const std::byte* data = file.data(tensor);
  const bool is_in_order =
      form == GgufForm::kSame || form == GgufForm::kOneRow || form == GgufForm::kExpertScale;
  if (part == Part::kRaw && is_in_order) {
    source.data = data;
  } else {
    auto maker = std::make_unique<RowMaker>(row_maker(file, tensor, part));
    maker->out_bytes = size_of(*info.dtype);
    apply_form(file, tensor, form, *maker);
    if (data != nullptr) source.maker = std::move(maker);
    if (info.shape.size() == 2 && info.name.ends_with(".weight")) {
      add_blocks(file, tensor, form, info.shape[0], source);
    }
  }
  entries_.push_back({std::move(info), std::move(source)});
}

void GgufTensors::finish() {
  std::sort(entries_.begin(), entries_.end(),
            [](const Entry& a, const Entry& b) { return a.info.name < b.info.name; });
  for (Entry& entry : entries_) {
    if (!infos_.empty() && infos_.back().name == entry.info.name) {
      throw_bad_input({.what = "two GGUF tensors are the same one of the model",
                       .file = entry.source.file->path().string(),
                       .tensor = "tensor " + entry.source.gguf_name,
                       .found = "also " + sources_.back().gguf_name});
    }
    infos_.push_back(std::move(entry.info));
    sources_.push_back(std::move(entry.source));
  }
  entries_.clear();
}

}  // namespace

std::unique_ptr<WeightFile> open_gguf_tensors(std::shared_ptr<const GgufModel> model,
                                              const JsonReader& config) {
  return std::make_unique<GgufTensors>(std::move(model), config);
}

}  // namespace moe4
