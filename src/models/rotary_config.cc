// Both spellings become one object, every key of which must be one that the type has.
#include "models/rotary_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace moe4 {
namespace {

constexpr double kMaxTheta = 1e15, kMaxFactor = 1e6;

// Keys that leave text alone: one position stands for all axes of mrope.
constexpr std::string_view kAlwaysKnown[] = {"rope_type",     "type",
                                             "rope_theta",    "partial_rotary_factor",
                                             "mrope_section", "mrope_interleaved"};

struct Type {
  std::string_view name;
  RotaryScaling scaling;
  std::vector<std::string_view> keys;
};

const std::vector<Type>& types() {
  static const std::vector<Type> list = {
      {"default", RotaryScaling::kNone, {}},
      {"linear", RotaryScaling::kLinear, {"factor"}},
      {"yarn",
       RotaryScaling::kYarn,
       {"factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow",
        "mscale", "mscale_all_dim", "truncate"}},
      {"llama3",
       RotaryScaling::kLlama3,
       {"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"}},
      {"proportional", RotaryScaling::kProportional, {"factor"}},
  };
  return list;
}

bool contains(std::span<const std::string_view> words, std::string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

// The object under `key`, or its entry of the layer type where it has one a layer type.
std::optional<JsonReader> object_of(const JsonReader& text, const char* key,
                                    std::string_view layer_type) {
  const std::optional<JsonReader> rope = text.object(key);
  if (!rope) return std::nullopt;
  const Json& json = rope->json();
  const bool is_nested =
      std::any_of(json.begin(), json.end(), [](const Json& value) { return value.is_object(); });
  if (!is_nested) return rope;
  const std::string entry(layer_type);
  if (!rope->has(entry.c_str())) {
    rope->fail(entry, "configuration key is missing", "a rotary embedding for these layers",
               "nothing");
  }
  return rope->object(entry.c_str());
}

// rope_scaling with what rope_parameters has beyond it, in `storage` where both are there.
JsonReader merged(const JsonReader& text, std::string_view layer_type, Json& storage) {
  const auto scaling = object_of(text, "rope_scaling", layer_type);
  const auto parameters = object_of(text, "rope_parameters", layer_type);
  storage = Json::object();
  if (!scaling) return parameters ? *parameters : JsonReader(storage, text.file());
  if (!parameters) return *scaling;
  storage = parameters->json();
  for (const auto& [key, value] : scaling->json().items()) {
    if (const auto it = storage.find(key); it != storage.end() && *it != value) {
      scaling->fail(key, "rope_scaling and rope_parameters disagree", describe(*it),
                    describe(value));
    }
    storage[key] = value;
  }
  return JsonReader(storage, text.file(), text.path_of("rope_scaling"));
}

const Type& type_of(const JsonReader& rope) {
  const auto word = [&](const char* key, const std::string& fallback) {
    const std::string said = rope.string({key}, fallback);
    return said == "mrope" ? std::string("default") : said;
  };
  const std::string name = word("rope_type", word("type", "default"));
  if (const std::string other = word("type", name); other != name) {
    rope.fail("type", "configuration disagrees with its other spelling rope_type", name, other);
  }
  for (const Type& type : types()) {
    if (type.name == name) return type;
  }
  rope.fail(rope.has("rope_type") ? "rope_type" : "type", "unsupported rope_type",
            "default, linear, yarn, llama3 or proportional", name);
}

void check_keys(const JsonReader& rope, const Type& type, const RotaryDefaults& defaults) {
  for (const auto& [key, value] : rope.json().items()) {
    if (value.is_null() || contains(kAlwaysKnown, key) || contains(type.keys, key) ||
        contains(defaults.other_keys, key)) {
      continue;
    }
    if (key == "factor" && value == 1) continue;
    rope.fail(key, fmt::format("unsupported key of a rotary embedding of type {}", type.name),
              key == "factor" ? "1, or a rope_type" : "nothing", describe(value));
  }
}

double required(const JsonReader& rope, const char* key, double minimum, double maximum) {
  if (!rope.has(key)) rope.fail(key, "configuration key is missing", "a number", "nothing");
  return rope.number({key}, 0, minimum, maximum);
}

double original_context(const JsonReader& text, const JsonReader& rope) {
  const char* key = "original_max_position_embeddings";
  if (!rope.has(key)) {  // as transformers does
    return static_cast<double>(text.size({key}, text.size({"max_position_embeddings"})));
  }
  const int64_t inside = rope.size({key});
  if (const int64_t beside = text.size({key}, inside); beside != inside) {
    rope.fail(key, "configuration disagrees with " + text.path_of(key), std::to_string(beside),
              std::to_string(inside));
  }
  return static_cast<double>(inside);
}

void read_yarn(const JsonReader& text, const JsonReader& rope, RotarySpec& spec) {
  spec.original_context = original_context(text, rope);
  if (!rope.has("factor")) {
    spec.factor =
        static_cast<double>(text.size({"max_position_embeddings"})) / spec.original_context;
  }
  // 0 counts as absent, as in transformers.
  const auto or_default = [&](const char* key, double fallback) {
    const double value = rope.number({key}, fallback, 0, kMaxFactor);
    return value == 0 ? fallback : value;
  };
  spec.beta_fast = or_default("beta_fast", 32);
  spec.beta_slow = or_default("beta_slow", 1);
  spec.truncate = rope.boolean({"truncate"}, true);
  if (spec.beta_fast < spec.beta_slow) {
    rope.fail("beta_fast", "configuration value is not usable",
              fmt::format("at least beta_slow = {}", spec.beta_slow),
              std::to_string(spec.beta_fast));
  }
  if (spec.theta <= 1) {
    rope.fail("rope_theta", "configuration value is not usable", "more than 1 in yarn",
              std::to_string(spec.theta));
  }
  const double mscale = rope.number({"mscale"}, 0, 0, kMaxFactor);
  spec.mscale_all_dim = rope.number({"mscale_all_dim"}, 0, 0, kMaxFactor);
  spec.amplitude =
      mscale != 0 && spec.mscale_all_dim != 0
          ? yarn_mscale(spec.factor, mscale) / yarn_mscale(spec.factor, spec.mscale_all_dim)
          : yarn_mscale(spec.factor, 1);
  spec.amplitude = rope.number({"attention_factor"}, spec.amplitude, 0, kMaxFactor);
}

}  // namespace

bool is_known_rope_type(std::string_view name) {
  return std::any_of(types().begin(), types().end(),
                     [&](const Type& type) { return type.name == name; });
}

RotarySpec read_rotary_spec(const JsonReader& text, const RotaryDefaults& defaults) {
  Json storage;
  const JsonReader rope = merged(text, defaults.layer_type, storage);
  const Type& type = type_of(rope);
  check_keys(rope, type, defaults);

  RotarySpec spec{.scaling = type.scaling};
  spec.theta =
      rope.number({"rope_theta"}, text.number({"rope_theta"}, defaults.theta, 1e-3, kMaxTheta),
                  1e-3, kMaxTheta);
  const double part = rope.number(
      {"partial_rotary_factor"},
      text.number({"partial_rotary_factor"}, defaults.partial_rotary_factor, 1e-6, 1.0), 1e-6, 1.0);
  spec.dim = static_cast<int64_t>(static_cast<double>(defaults.head_dim) * part);
  if (type.scaling == RotaryScaling::kProportional) {
    spec.num_rotated = spec.dim / 2 * 2;
    spec.dim = defaults.head_dim;
  }
  if (spec.dim < 2 || spec.dim % 2 != 0) {
    text.fail("partial_rotary_factor", "configuration value is not usable",
              fmt::format("an even number of the {} elements of a head", defaults.head_dim),
              std::to_string(spec.dim));
  }
  if (type.scaling == RotaryScaling::kNone) return spec;

  const bool needs_factor =
      type.scaling != RotaryScaling::kYarn && type.scaling != RotaryScaling::kProportional;
  spec.factor =
      !needs_factor && !rope.has("factor") ? 1.0 : required(rope, "factor", 1e-3, kMaxFactor);
  if (type.scaling == RotaryScaling::kYarn) read_yarn(text, rope, spec);
  if (type.scaling == RotaryScaling::kLlama3) {
    spec.original_context = original_context(text, rope);
    spec.low_frequency_factor = required(rope, "low_freq_factor", 1e-3, kMaxFactor);
    spec.high_frequency_factor = required(rope, "high_freq_factor", 1e-3, kMaxFactor);
    if (spec.high_frequency_factor < spec.low_frequency_factor) {
      rope.fail("high_freq_factor", "configuration value is not usable",
                fmt::format("at least low_freq_factor = {}", spec.low_frequency_factor),
                std::to_string(spec.high_frequency_factor));
    }
  }
  return spec;
}

}  // namespace moe4
