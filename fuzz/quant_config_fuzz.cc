// Any bytes as quantisation metadata, as a glob and as a regular expression.
#include <fnmatch.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "checkpoint/module_names.h"
#include "checkpoint/name_matcher.h"
#include "checkpoint/quant_config.h"

namespace {

constexpr const char* kModules[] = {
    "lm_head", "model.layers.1.mlp.experts.17.gate_proj", "model.layers.10.self_attn.q_proj",
    "model.layers.0.mlp.shared_expert.down_proj", "model.embed_tokens"};

template <typename F>
void only_bad_input(F&& f) {
  try {
    f();
  } catch (const moe4::Error& error) {
    if (error.code() != moe4::ErrorCode::kBadInput) std::abort();
  }
}

void as_metadata(const std::string& text) {
  moe4::QuantDocument document{.file = "fuzz"};
  const moe4::Json json = moe4::parse_json(text, "fuzz", &document.group_order);
  document.json = &json;
  const moe4::QuantDocument none;
  for (bool hf : {false, true}) {
    only_bad_input([&] {
      std::vector<moe4::CheckpointNote> notes;
      const auto config =
          moe4::QuantConfig::parse(hf ? none : document, hf ? document : none, notes);
      for (const char* module : kModules) {
        const auto names = moe4::module_spellings(module, "model.");
        config.lookup(names, moe4::is_routed_expert(module));
        config.is_excluded_and_listed(names);
      }
    });
  }
}

void as_patterns(const std::string& pattern) {
  for (const char* module : kModules) {
    only_bad_input([&] {
      moe4::NameMatcher matcher;
      matcher.add_glob(pattern, "fuzz");
      // The matcher's shortcut through literal beginnings must not change the answer.
      const bool literal = pattern.find_first_of("*?[") == std::string::npos;
      const bool direct = literal ? pattern == module : moe4::glob_matches(pattern, module);
      if (matcher.matches(module) != direct) std::abort();
      // The C library agrees where the two dialects are the same.
      const bool common = pattern.find_first_of("[\\") == std::string::npos &&
                          pattern.find('\0') == std::string::npos &&
                          std::all_of(pattern.begin(), pattern.end(),
                                      [](char c) { return static_cast<signed char>(c) >= 0; });
      if (common && direct != (fnmatch(pattern.c_str(), module, 0) == 0)) std::abort();
    });
    only_bad_input([&] {
      moe4::NameMatcher matcher;
      matcher.add_regex(pattern, "fuzz");
      // As a branch of an alternation it has no literal beginning, and must answer the same.
      moe4::NameMatcher branch;
      branch.add_regex("(?:" + pattern + ")|(?!)", "fuzz");
      if (matcher.matches(module) != branch.matches(module)) std::abort();
    });
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  only_bad_input([&] { as_metadata(text); });
  if (size <= 64) as_patterns(text);
  return 0;
}
