// Follows PreTrainedTokenizerBase._from_pretrained of transformers in what overrides what.
#include "text/template_files.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "gguf/documents.h"
#include "gguf/file.h"
#include "text/builtin_templates.h"
#include "text/read_text_file.h"

namespace moe4 {
namespace {

using nlohmann::json;

constexpr int64_t kMaxTemplateBytes = int64_t{4} << 20;
constexpr int64_t kMaxConfigBytes = int64_t{64} << 20;
constexpr size_t kMaxTemplates = 256;

constexpr std::array<const char*, 7> kSpecialTokens = {
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};

json read_object(const std::filesystem::path& path) {
  const auto text = read_text_file(path, kMaxConfigBytes);
  if (!text) return json::object();
  json config;
  try {
    config = json::parse(*text);
  } catch (const json::exception& error) {
    throw_bad_input({.what = "not valid JSON", .file = path.string(), .found = error.what()});
  }
  if (!config.is_object()) throw_bad_input({.what = "not a JSON object", .file = path.string()});
  return config;
}

// moe4's own for a model whose publisher ships none.
std::vector<NamedTemplate> builtin_templates(const std::string& model_type) {
  std::string source = builtin_template(model_type);
  if (source.empty()) return {};
  return {{"default", std::move(source), "moe4's template of " + model_type}};
}

// The model_type of GGUF architectures that have a template of moe4's; the others are themselves.
std::string model_type_of(const std::string& architecture) {
  if (architecture == "deepseek32") return "deepseek_v32";
  if (architecture == "deepseek4") return "deepseek_v4";
  return architecture;
}

// `config` is what `file` says.
std::vector<NamedTemplate> templates_in(const json& config, const std::string& file) {
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) return {};
  if (found->is_string()) return {{"default", found->get<std::string>(), file}};
  std::vector<NamedTemplate> templates;
  const auto add = [&](const json& name, const json& source) {
    if (!name.is_string() || !source.is_string() || templates.size() >= kMaxTemplates) return false;
    templates.push_back({name.get<std::string>(), source.get<std::string>(), file});
    return true;
  };
  bool understood = (found->is_array() || found->is_object()) && !found->empty();
  for (const auto& item : found->items()) {
    const json& value = item.value();
    if (found->is_array()) {
      understood = understood && value.is_object() &&
                   add(value.value("name", json()), value.value("template", json()));
    } else {
      understood = understood && add(item.key(), value);
    }
  }
  if (!understood) {
    throw_bad_input({.what = "chat_template is not understood",
                     .file = file,
                     .tensor = "chat_template",
                     .expected = "a string, or templates by name (a list of {name, template})"});
  }
  return templates;
}

std::vector<NamedTemplate> templates_in_folder(const std::filesystem::path& directory) {
  std::vector<NamedTemplate> templates;
  const auto add = [&](const std::filesystem::path& path, const std::string& name) {
    auto source = read_text_file(path, kMaxTemplateBytes);
    if (source) templates.push_back({name, std::move(*source), path.string()});
  };
  add(directory / "chat_template.jinja", "default");
  std::error_code failure;
  std::vector<std::filesystem::path> more;
  for (const auto& entry :
       std::filesystem::directory_iterator(directory / "additional_chat_templates", failure)) {
    if (entry.path().extension() == ".jinja" && more.size() < kMaxTemplates) {
      more.push_back(entry.path());
    }
  }
  std::sort(more.begin(), more.end());
  for (const std::filesystem::path& path : more) add(path, path.stem().string());
  return templates;
}

std::string token_text(const json& token) {
  if (token.is_string()) return token.get<std::string>();
  if (token.is_object() && token.value("content", json()).is_string()) {
    return token["content"].get<std::string>();
  }
  return "";
}

}  // namespace

std::vector<NamedTemplate> find_templates(const std::filesystem::path& directory) {
  if (is_gguf_file(directory)) {
    auto templates = templates_in(gguf_tokenizer_config(directory), directory.string());
    if (!templates.empty()) return templates;
    return builtin_templates(model_type_of(gguf_architecture_name(directory)));
  }
  auto templates = templates_in_folder(directory);
  for (const char* name : {"tokenizer_config.json", "chat_template.json"}) {
    if (!templates.empty()) break;
    const std::filesystem::path path = directory / name;
    templates = templates_in(read_object(path), path.string());
  }
  if (!templates.empty()) return templates;
  const json model_type = read_object(directory / "config.json").value("model_type", json());
  if (!model_type.is_string()) return {};
  return builtin_templates(model_type.get<std::string>());
}

std::vector<std::pair<std::string, std::string>> find_special_tokens(
    const std::filesystem::path& directory) {
  const bool is_gguf = is_gguf_file(directory);
  json config =
      is_gguf ? gguf_tokenizer_config(directory) : read_object(directory / "tokenizer_config.json");
  if (!is_gguf && !config.contains("added_tokens_decoder")) {
    const json map = read_object(directory / "special_tokens_map.json");
    for (const auto& item : map.items()) {
      config[item.key()] = item.value();
    }
  }
  std::vector<std::pair<std::string, std::string>> tokens;
  const auto add = [&](const std::string& name, const json& value) {
    const std::string text = token_text(value);
    if (!text.empty()) tokens.emplace_back(name, json(text).dump());
  };
  for (const char* name : kSpecialTokens) {
    if (const auto found = config.find(name); found != config.end()) add(name, *found);
  }
  // image_token and its kin.
  const auto extra = config.find("extra_special_tokens");
  if (extra != config.end() && extra->is_object()) {
    for (const auto& item : extra->items()) add(item.key(), item.value());
  }
  const auto additional = config.find("additional_special_tokens");
  if (additional != config.end() && additional->is_array() && !additional->empty()) {
    json list = json::array();
    for (const json& token : *additional) list.push_back(token_text(token));
    tokens.emplace_back("additional_special_tokens", list.dump());
  }
  return tokens;
}

}  // namespace moe4
