// One pass over all scale tensors, findings per layer.
#include "checkpoint/lint.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <string_view>

#include "base/error.h"
#include "checkpoint/module_names.h"
#include "moe/dequantize.h"
#include "numerics/e4m3.h"

namespace moe4 {
namespace {

using Level = LintFinding::Level;

// Everything added up over the experts of one layer, or one other module.
struct ScaleCounts {
  int64_t blocks = 0;
  int64_t zero = 0;
  int64_t subnormal = 0;
  int64_t nan = 0;
  int64_t negative = 0;
  int64_t folded_to_zero = 0;       // s * global rounds to zero in E4M3
  int64_t folded_to_subnormal = 0;  // ... or to a subnormal
  std::string first_bad;            // tensor with the first NaN or negative scale
};

struct GateUpRatios {
  int64_t experts = 0;
  double worst = 1.0;
  std::string first;
};

// Global scales that allow weights which no trained model has.
struct Reciprocals {
  int64_t count = 0;
  std::string first;
  float value = 0;
  double largest = 0;
};
constexpr double kLargestWeight = 1e4;

struct InputScales {
  int64_t present = 0;
  std::vector<std::string> suspicious;  // modules whose scale is missing, zero or 1
};

// "model.layers.3.mlp.experts" for anything below it, else the module.
std::string place_of(std::string_view module) {
  const size_t at = module.find(".experts.");
  return std::string(at == std::string_view::npos ? module : module.substr(0, at + 8));
}

std::optional<std::string_view> without_suffix(std::string_view name, std::string_view suffix) {
  if (!name.ends_with(suffix)) return std::nullopt;
  name.remove_suffix(suffix.size());
  return name;
}

// Nullopt also for a tensor of a type moe4 does not know.
std::optional<TensorView> tensor_of(const Checkpoint& checkpoint, const std::string& name) {
  if (!checkpoint.has_tensor(name)) return std::nullopt;
  try {
    return checkpoint.tensor(name);
  } catch (const Error&) {
    return std::nullopt;
  }
}

std::optional<float> scalar(const Checkpoint& checkpoint, const std::string& name) {
  const std::optional<TensorView> view = tensor_of(checkpoint, name);
  if (!view || view->data == nullptr || view->num_elements() != 1) return std::nullopt;
  if (view->dtype != DType::kF32 && view->dtype != DType::kBF16) return std::nullopt;
  float value = 0.0f;
  convert_to_float(view->data, view->dtype, 1, &value);
  return value;
}

// "..._scale", "..._scale_2", "..._scale_inv" of weights, not of activations or of the KV cache.
bool is_weight_scale(std::string_view name) {
  name = name.substr(name.rfind('.') + 1);
  return (name.ends_with("weight_scale") || name.ends_with("weight_scale_inv") ||
          name.ends_with("scale_2") || name.ends_with("global_scale")) &&
         !name.ends_with("input_global_scale") && !name.starts_with("input_");
}

// Empty for a tensor without data or of another type than the floats that scales have.
std::vector<float> float_values(const Checkpoint& checkpoint, const std::string& name) {
  const std::optional<TensorView> view = tensor_of(checkpoint, name);
  if (!view || view->data == nullptr) return {};
  if (view->dtype != DType::kF32 && view->dtype != DType::kBF16 && view->dtype != DType::kF16) {
    return {};
  }
  std::vector<float> values(static_cast<size_t>(view->num_elements()));
  convert_to_float(view->data, view->dtype, view->num_elements(), values.data());
  return values;
}

// The decode-direction global scale of a module in either dialect.
std::optional<float> global_scale(const Checkpoint& checkpoint, const std::string& module) {
  if (const auto decode = scalar(checkpoint, module + ".weight_scale_2")) return decode;
  if (const auto encode = scalar(checkpoint, module + ".weight_global_scale"))
    return 1.0f / *encode;
  return std::nullopt;
}

class Linter {
 public:
  explicit Linter(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  std::vector<LintFinding> run() {
    for (const CheckpointNote& note : checkpoint_.notes()) {
      add(note.level == CheckpointNote::Level::kInfo ? Level::kInfo : Level::kWarning, "metadata",
          note.where, note.message);
    }
    for (const std::string& name : checkpoint_.tensor_names()) {
      for (std::string_view suffix : {".weight_scale", "_weight_scale"}) {
        if (const auto module = without_suffix(name, suffix)) {
          count_block_scales(name, std::string(*module));
        }
      }
      if (is_weight_scale(name)) check_float_scales(name);
    }
    for (const std::string& module : checkpoint_.linear_modules()) {
      compare_gate_and_up(module);
      check_calibration(module);
    }
    report_scales();
    report_gate_up();
    report_calibration();
    report_reciprocals();
    check_expected_tensors();
    std::stable_sort(findings_.begin(), findings_.end(),
                     [](const LintFinding& a, const LintFinding& b) { return a.level > b.level; });
    return std::move(findings_);
  }

 private:
  void add(Level level, std::string code, std::string tensor, std::string message) {
    findings_.push_back({level, std::move(code), std::move(tensor), std::move(message)});
  }

  void count_block_scales(const std::string& name, const std::string& module) {
    const std::optional<TensorView> view = tensor_of(checkpoint_, name);
    if (!view || view->dtype != DType::kF8E4M3 || view->data == nullptr) return;
    std::array<int64_t, 256> histogram{};
    const auto* bytes = static_cast<const uint8_t*>(view->data);
    for (int64_t i = 0; i < view->num_elements(); ++i) ++histogram[bytes[i]];
    ScaleCounts& counts = scales_[place_of(module)];
    const std::optional<float> global = global_scale(checkpoint_, module);
    const int64_t bad_before = counts.nan + counts.negative;
    for (int byte = 0; byte < 256; ++byte) {
      const int64_t n = histogram[byte];
      if (n == 0) continue;
      counts.blocks += n;
      const auto code = static_cast<uint8_t>(byte);
      const float value = e4m3_to_float(code);
      if (e4m3_is_nan(code)) {
        counts.nan += n;
      } else if (value < 0) {
        counts.negative += n;
      } else if (value == 0) {
        counts.zero += n;
      } else {
        if (value < kE4m3MinNormal) counts.subnormal += n;
        if (!global) continue;
        const float folded = e4m3_to_float(e4m3_from_float(value * *global));
        if (folded == 0) counts.folded_to_zero += n;
        if (folded > 0 && folded < kE4m3MinNormal) counts.folded_to_subnormal += n;
      }
    }
    if (counts.nan + counts.negative > bad_before && counts.first_bad.empty()) {
      counts.first_bad = name;
    }
  }

  // Global scales in either direction, and the scales of FP8 weights: one value or many.
  void check_float_scales(const std::string& name) {
    const bool is_encode = name.ends_with("global_scale");
    const bool is_global = is_encode || name.ends_with("scale_2");
    for (const float value : float_values(checkpoint_, name)) {
      const float decode = is_encode ? 1.0f / value : value;
      const bool is_zero = value == 0 && !is_encode;
      if (is_zero && !is_global) continue;  // FP8: a row or block of zeros
      if (!(value > 0) || !std::isfinite(value) || !std::isfinite(decode)) {
        add(is_zero ? Level::kWarning : Level::kError, is_global ? "global-scale" : "weight-scale",
            name,
            fmt::format("{} is {}{}", is_global ? "global scale" : "scale", value,
                        is_zero ? ", which is right only for a tensor of zeros" : ""));
        return;
      }
      // The largest weight that the scale allows. Trained weights stay below 100; a reciprocal
      // taken once too often or too seldom is off by the square of the scale, 1e6 or more.
      const double largest = static_cast<double>(decode) * 6 * 448;
      if (!is_global || largest < kLargestWeight) continue;
      Reciprocals& entry = reciprocals_[generic_module(name)];
      if (entry.count++ == 0) entry = {1, name, value, largest};
      return;
    }
  }

  void report_reciprocals() {
    for (const auto& [generic, entry] : reciprocals_) {
      add(Level::kWarning, "global-scale", entry.count == 1 ? entry.first : generic,
          fmt::format("global scale {} allows weights up to {:g}: it looks like the reciprocal of "
                      "what is meant{}",
                      entry.value, entry.largest,
                      entry.count == 1
                          ? ""
                          : fmt::format(" ({} such tensors, first {})", entry.count, entry.first)));
    }
  }

  void compare_gate_and_up(const std::string& module) {
    for (const auto& [gate, up] : {std::pair{".gate_proj", ".up_proj"}, {".w1", ".w3"}}) {
      const auto base = without_suffix(module, gate);
      if (!base) continue;
      const auto a = global_scale(checkpoint_, module);
      const auto b = global_scale(checkpoint_, std::string(*base) + up);
      if (!a || !b || *a == *b || !(*a > 0) || !(*b > 0)) continue;
      GateUpRatios& ratios = ratios_[place_of(module)];
      if (ratios.experts++ == 0) ratios.first = module;
      const double ratio = static_cast<double>(*a) / *b;
      ratios.worst = std::max({ratios.worst, ratio, 1 / ratio});
    }
  }

  void check_calibration(const std::string& module) {
    if (!is_routed_expert(module)) return;
    const size_t dot = module.rfind('.');
    InputScales& entry = inputs_[place_of(module) + ".*" + module.substr(dot)];
    const auto decode = scalar(checkpoint_, module + ".input_scale");
    const auto encode = scalar(checkpoint_, module + ".input_global_scale");
    const auto value = decode ? decode : encode;
    // 1 is what exporters write when they have seen nothing.
    if (value && *value > 0 && *value != 1.0f && std::isfinite(*value)) {
      ++entry.present;
    } else {
      entry.suspicious.push_back(module);
    }
  }

  void report_scales() {
    for (const auto& entry : scales_) {
      const std::string& place = entry.first;
      const ScaleCounts& counts = entry.second;  // clang 14 cannot capture a structured binding
      const auto share = [&](int64_t n) { return 100.0 * n / std::max<int64_t>(counts.blocks, 1); };
      const auto report = [&](Level level, const char* code, int64_t n, const char* what,
                              const std::string& where) {
        if (n == 0) return;
        add(level, code, where,
            fmt::format("{} of {} block scales ({:.3g} %) {}", n, counts.blocks, share(n), what));
      };
      report(Level::kError, "block-scale-nan", counts.nan, "are NaN", counts.first_bad);
      report(Level::kError, "block-scale-negative", counts.negative, "are negative",
             counts.first_bad);
      report(Level::kInfo, "block-scale-zero", counts.zero, "are zero: those weights are zero",
             place);
      report(Level::kInfo, "block-scale-subnormal", counts.subnormal,
             "are subnormal E4M3: kernels that flush them lose those weights", place);
      if (counts.folded_to_zero > 0 || share(counts.folded_to_subnormal) >= 1) {
        add(Level::kInfo, "folded-scales", place,
            fmt::format(
                "{:.3g} % of the block scales would vanish and {:.3g} % become subnormal if "
                "the global scale were folded into them, as some kernels do; moe4 does not",
                share(counts.folded_to_zero), share(counts.folded_to_subnormal)));
      }
    }
  }

  void report_gate_up() {
    for (const auto& [place, ratios] : ratios_) {
      add(Level::kInfo, "gate-up-scales", place,
          fmt::format(
              "{} gate and up projections have different global scales (up to {:.3g} times, "
              "first {}); engines that take one for both compute wrong values, moe4 uses "
              "both",
              ratios.experts, ratios.worst, ratios.first));
    }
  }

  void report_calibration() {
    for (const auto& [place, entry] : inputs_) {
      if (entry.present == 0 || entry.suspicious.empty()) continue;
      add(Level::kWarning, "uncalibrated-expert", place,
          fmt::format("{} of {} experts have no calibrated input scale (first {})",
                      entry.suspicious.size(),
                      entry.present + static_cast<int64_t>(entry.suspicious.size()),
                      entry.suspicious.front()));
    }
  }

  void check_expected_tensors() {
    const ModelConfig& config = checkpoint_.config();
    std::set<std::string> layers_present;
    std::map<std::string, int64_t> extra;  // "model.layers.48" -> tensors
    const std::string prefix = checkpoint_.text_prefix() + "layers.";
    for (const std::string& name : checkpoint_.tensor_names()) {
      if (!name.starts_with(prefix)) continue;
      const std::string layer = name.substr(0, name.find('.', prefix.size()));
      if (!layers_present.insert(layer).second && !extra.contains(layer)) continue;
      const std::string number = layer.substr(prefix.size());
      const bool in_model = number.size() < 10 && !number.empty() &&
                            number.find_first_not_of("0123456789") == std::string::npos &&
                            std::stoll(number) < config.num_layers;
      if (!in_model) ++extra[layer];
    }
    for (const auto& [layer, count] : extra) {
      add(Level::kInfo, "unexpected-tensor", layer,
          fmt::format("{} tensors beyond num_hidden_layers = {}: a multi-token-prediction layer, "
                      "which is not run",
                      count, config.num_layers));
    }
    for (int64_t i = 0; i < config.num_layers; ++i) {
      if (!layers_present.contains(prefix + std::to_string(i))) {
        add(Level::kError, "missing-tensor", prefix + std::to_string(i),
            "the whole layer is missing");
        continue;
      }
      if (!config.is_moe_layer[i]) continue;
      try {
        checkpoint_.moe_layer(i);
      } catch (const Error& error) {
        add(Level::kError, "unusable-layer", prefix + std::to_string(i), error.what());
      }
    }
  }

  const Checkpoint& checkpoint_;
  std::vector<LintFinding> findings_;
  std::map<std::string, ScaleCounts> scales_;
  std::map<std::string, GateUpRatios> ratios_;
  std::map<std::string, InputScales> inputs_;
  std::map<std::string, Reciprocals> reciprocals_;
};

}  // namespace

std::vector<LintFinding> lint(const Checkpoint& checkpoint) { return Linter(checkpoint).run(); }

std::string to_string(LintFinding::Level level) {
  switch (level) {
    case Level::kInfo:
      return "info";
    case Level::kWarning:
      return "warning";
    case Level::kError:
      return "error";
  }
  return "?";
}

}  // namespace moe4
