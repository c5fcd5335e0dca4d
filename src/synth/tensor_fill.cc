// Names as checkpoint/module_tensors.cc reads them; formats by the dtypes of weight and scale.
#include "synth/tensor_fill.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "checkpoint/family.h"
#include "synth/synth_fill.h"

namespace moe4 {
namespace {

// Of FP4 and FP8 values: calibration on activations of about unit variance finds a largest one of
// 6; the range of FP4 with E4M3 scales is 6 * 448.
constexpr float kLargestInput = 6.0f, kFp4Range = 2688.0f, kFp8Range = 448.0f;

constexpr float kBiasDeviation = 0.02f, kSinkDeviation = 0.5f;

// Behind a module and a dot, or behind a tensor of all experts and an underscore.
constexpr std::array<const char*, 4> kWeights = {"weight", "weight_packed", "packed", "blocks"};
constexpr std::array<const char*, 5> kBlockScales = {"weight_scale", "weight_scale_inv", "scale",
                                                     "scale_inv", "scales"};

bool is_float(DType dtype) {
  return dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF32;
}

std::string_view last_component(std::string_view name) {
  return name.substr(name.rfind('.') + 1);  // npos + 1 is 0
}

// "model.norm.weight": "model.norm".
std::string_view module_of(std::string_view name) {
  return name.substr(0, name.size() - last_component(name).size());
}

float unit(int64_t in_features) { return 1.0f / std::sqrt(static_cast<float>(in_features)); }

int64_t from_end(const TensorView& view, size_t back) {
  return view.shape.size() < back ? 0 : view.shape[view.shape.size() - back];
}

void set(SynthTensor& tensor, Fill fill, float param = 0, float param2 = 0) {
  tensor.fill = fill;
  tensor.param = param;
  tensor.param2 = param2;
}

}  // namespace

HeaderTensors::HeaderTensors(const Checkpoint& checkpoint)
    : checkpoint_(checkpoint),
      scales_embeddings_(family_of(checkpoint.config().model_type).is_gemma4),
      has_one_plus_norms_(family_of(checkpoint.config().model_type).one_plus_norms) {
  const auto& names = checkpoint.tensor_names();
  const bool has_head = std::any_of(names.begin(), names.end(), [](std::string_view name) {
    return name.find("lm_head.") != std::string_view::npos || name.starts_with("head.");
  });
  is_tied_ = !has_head || checkpoint.text_config().boolean({"tie_word_embeddings"}, false);
}

void HeaderTensors::refuse(const std::string& name, const std::string& why) const {
  const TensorView view = checkpoint_.tensor_header(name);
  throw_bad_input(
      {.what = "nothing says what random values a tensor may have",
       .file = checkpoint_.file_of(name).string(),
       .tensor = "tensor " + name,
       .expected = why,
       .found = std::string(to_string(view.dtype)) + " " + shape_to_string(view.shape)});
}

// The weight of which `base` is the module, or the name that all tensors of fused experts share.
std::optional<std::string> HeaderTensors::weight_at(const std::string& base, char joint) const {
  for (const char* suffix : kWeights) {
    std::string name = base + joint + suffix;
    if (checkpoint_.has_tensor(name)) return name;
  }
  // gate_up_proj and gate_up_proj_weight_scale.
  if (joint == '_' && checkpoint_.has_tensor(base)) return base;
  return std::nullopt;
}

std::optional<HeaderTensors::Scale> HeaderTensors::scale_of_weight(const std::string& name) const {
  // Longer words first: they may end as shorter ones do.
  constexpr std::array<std::pair<std::string_view, ScaleKind>, 12> kSuffixes = {{
      {"weight_global_scale", ScaleKind::kInverseGlobal},
      {"input_global_scale", ScaleKind::kInverseInput},
      {"weight_scale_inv", ScaleKind::kBlock},
      {"weight_scale_2", ScaleKind::kGlobal},
      {"weight_scale", ScaleKind::kBlock},
      {"global_scale", ScaleKind::kInverseGlobal},
      {"input_scale", ScaleKind::kInput},
      {"scale_inv", ScaleKind::kBlock},
      {"scale_2", ScaleKind::kGlobal},
      {"weight_scales", ScaleKind::kBlock},
      {"scales", ScaleKind::kBlock},
      {"scale", ScaleKind::kBlock},
  }};
  for (const auto& [suffix, kind] : kSuffixes) {
    if (name.size() < suffix.size() + 2 || !name.ends_with(suffix)) continue;
    const char joint = name[name.size() - suffix.size() - 1];
    if (joint != '.' && joint != '_') continue;
    const auto weight = weight_at(name.substr(0, name.size() - suffix.size() - 1), joint);
    if (weight) return Scale{kind, *weight};
  }
  return std::nullopt;
}

std::optional<std::string> HeaderTensors::block_scale_of(const std::string& weight) const {
  const auto find = [&](const std::string& prefix) -> std::optional<std::string> {
    for (const char* suffix : kBlockScales) {
      if (checkpoint_.has_tensor(prefix + suffix)) return prefix + suffix;
    }
    return std::nullopt;
  };
  for (const std::string_view suffix : kWeights) {
    if (weight.size() < suffix.size() + 2 || !weight.ends_with(suffix)) continue;
    const char joint = weight[weight.size() - suffix.size() - 1];
    if (joint != '.' && joint != '_') continue;
    if (auto found = find(weight.substr(0, weight.size() - suffix.size()))) return found;
  }
  return find(weight + "_");
}

HeaderTensors::Quantised HeaderTensors::quantised(const std::string& name) const {
  const auto scale_name = block_scale_of(name);
  if (!scale_name) refuse(name, "scales beside it (weight_scale, scale, scales)");
  const TensorView weight = checkpoint_.tensor_header(name);
  const TensorView scale = checkpoint_.tensor_header(*scale_name);
  const bool has_powers = scale.dtype == DType::kF8E8M0 || scale.dtype == DType::kU8;
  if (weight.dtype == DType::kF8E4M3) {
    if (has_powers) return {Format::kFp8PowersOfTwo, from_end(weight, 1)};
    if (is_float(scale.dtype)) return {Format::kFp8, from_end(weight, 1)};
    refuse(*scale_name, "scales of a weight in FP8: F32, BF16, F16, F8_E8M0 or U8");
  }
  if (weight.dtype != DType::kU8 && weight.dtype != DType::kI8) {
    refuse(*scale_name, "the scales of a weight in U8, I8 or F8_E4M3");
  }
  if (!has_powers && scale.dtype != DType::kF8E4M3) {
    refuse(*scale_name, "scales of a weight in FP4: F8_E4M3, F8_E8M0 or U8");
  }
  const Format format = has_powers ? Format::kMxfp4 : Format::kNvfp4;
  const int64_t group = has_powers ? 32 : 16;
  const auto fits = [&](size_t back) {
    return from_end(weight, back) > 0 && from_end(weight, back) % (group / 2) == 0 &&
           from_end(weight, back) / (group / 2) == from_end(scale, back);
  };
  if (fits(1)) return {format, from_end(scale, 1) * group};
  if (fits(2)) return {format, from_end(scale, 2) * group};  // inputs are rows
  const bool has_blocks = weight.shape.size() == scale.shape.size() + 1 &&
                          from_end(weight, 1) == group / 2 &&
                          from_end(weight, 2) == from_end(scale, 1);
  if (has_blocks) return {format, from_end(scale, 1) * group};
  refuse(*scale_name, "one for " + std::to_string(group) + " inputs of " + name + " " +
                          shape_to_string(weight.shape));
}

void HeaderTensors::fill_scale(const Scale& scale, SynthTensor& tensor) const {
  const Quantised weight = quantised(scale.weight);
  const bool is_fp4 = weight.format == Format::kNvfp4 || weight.format == Format::kMxfp4;
  const float deviation = unit(weight.in_features);
  const float input = kLargestInput / (is_fp4 ? kFp4Range : kFp8Range);
  if (scale.kind == ScaleKind::kBlock) {
    switch (weight.format) {
      case Format::kNvfp4:
        return set(tensor, Fill::kBlockScales);
      case Format::kMxfp4:
        return set(tensor, Fill::kPowersOfTwo, deviation / kCodeDeviation);
      case Format::kFp8PowersOfTwo:
        return set(tensor, Fill::kPowersOfTwo, deviation / kFp8Deviation);
      case Format::kFp8:
        return set(tensor, Fill::kConstant, deviation / kFp8Deviation);
    }
  }
  if (!is_float(tensor.dtype)) refuse(tensor.name, "a scale in F32, BF16 or F16");
  const float global = deviation / kCodeTimesScale;
  switch (scale.kind) {
    case ScaleKind::kGlobal:
      return set(tensor, Fill::kConstant, global);
    case ScaleKind::kInverseGlobal:
      return set(tensor, Fill::kConstant, 1 / global);
    case ScaleKind::kInput:
      return set(tensor, Fill::kConstant, input);
    default:
      return set(tensor, Fill::kConstant, 1 / input);
  }
}

void HeaderTensors::fill_packed(SynthTensor& tensor) const {
  const Format format = quantised(tensor.name).format;
  const bool is_fp4 = format == Format::kNvfp4 || format == Format::kMxfp4;
  set(tensor, is_fp4 ? Fill::kCodes : Fill::kFp8Normal);
}

void HeaderTensors::fill_plain(SynthTensor& tensor) const {
  const std::string_view name = tensor.name, last = last_component(name), module = module_of(name);
  const ModelConfig& config = checkpoint_.config();
  const bool is_embedding =
      tensor.shape == std::vector<int64_t>{config.vocab_size, config.hidden_size} &&
      module.find("embed") != std::string_view::npos;
  if (last == "A_log") {
    set(tensor, Fill::kUniform, 0.0f, 2.7f);  // A in [1, 15]
  } else if (last == "dt_bias") {
    set(tensor, Fill::kUniform, -5.0f, -1.0f);
  } else if (last == "sinks" || last == "attn_sink" || last == "attention_sink_bias") {
    set(tensor, Fill::kNormal, kSinkDeviation);
  } else if (last.ends_with("bias")) {
    set(tensor, Fill::kNormal, kBiasDeviation);
  } else if (tensor.shape.size() <= 1) {
    const bool is_norm = last == "weight" && module.find("norm") != std::string_view::npos;
    const bool is_plain_norm = module.ends_with("linear_attn.norm.");  // in every family
    set(tensor, Fill::kConstant, has_one_plus_norms_ && is_norm && !is_plain_norm ? 0.0f : 1.0f);
  } else if (is_embedding) {
    const float scale = scales_embeddings_ ? unit(config.hidden_size) : 1.0f;
    set(tensor, Fill::kNormal, scale * (is_tied_ ? unit(config.hidden_size) : 1.0f));
  } else {
    set(tensor, Fill::kNormal, unit(std::max<int64_t>(tensor.shape.back(), 1)));
  }
}

SynthTensor HeaderTensors::filled(const std::string& name) const {
  const TensorView view = checkpoint_.tensor_header(name);
  SynthTensor tensor{.name = name, .dtype = view.dtype, .shape = view.shape};
  if (const auto scale = scale_of_weight(name)) {
    fill_scale(*scale, tensor);
  } else if (is_float(view.dtype)) {
    fill_plain(tensor);
  } else if (view.dtype == DType::kU8 || view.dtype == DType::kI8 || view.dtype == DType::kF8E4M3) {
    fill_packed(tensor);
  } else if ((view.dtype == DType::kI64 || view.dtype == DType::kI32) &&
             last_component(name) == "tid2eid" && checkpoint_.config().moe.num_experts > 0) {
    set(tensor, Fill::kExpertIds, static_cast<float>(checkpoint_.config().moe.num_experts));
  } else {
    refuse(name, "BF16, F16, F32, or a quantised weight with its scales");
  }
  return tensor;
}

}  // namespace moe4
