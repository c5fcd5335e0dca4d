// Opens the file's header anew for each: they are read once a model.
#include "gguf/documents.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string_view>

#include "gguf/file.h"

namespace moe4 {
namespace {

using nlohmann::json;

constexpr std::string_view kTokenizer = "tokenizer.ggml.";

std::unique_ptr<GgufFile> open_header(const std::filesystem::path& path) {
  return GgufFile::open(first_gguf_file(path), /*headers_only=*/true);
}

}  // namespace

json gguf_tokenizer_config(const std::filesystem::path& path) {
  const auto file = open_header(path);
  const GgufMetadata metadata = file->metadata();
  json config = json::object();
  constexpr std::array<std::pair<const char*, const char*>, 4> kTokens = {{
      {"bos_token_id", "bos_token"},
      {"eos_token_id", "eos_token"},
      {"unknown_token_id", "unk_token"},
      {"padding_token_id", "pad_token"},
  }};
  const auto tokens = metadata.strings(fmt::format("{}tokens", kTokenizer));
  for (const auto& [key, name] : kTokens) {
    const std::string full = fmt::format("{}{}", kTokenizer, key);
    const auto id = metadata.integer(full);
    if (!id || !tokens) continue;
    if (*id < 0 || *id >= static_cast<int64_t>(tokens->size())) {
      metadata.fail(full, "GGUF token is outside the vocabulary",
                    fmt::format("0 to {}", static_cast<int64_t>(tokens->size()) - 1),
                    std::to_string(*id));
    }
    const std::string_view text = (*tokens)[static_cast<size_t>(*id)];
    if (is_valid_utf8(text)) config[name] = std::string(text);
  }
  const auto whole = metadata.string("tokenizer.chat_template");
  json list = json::array();
  if (whole) list.push_back({{"name", "default"}, {"template", *whole}});
  if (const auto names = metadata.strings("tokenizer.chat_templates")) {
    for (const std::string_view name : *names) {
      const auto source = metadata.string(fmt::format("tokenizer.chat_template.{}", name));
      if (source && is_valid_utf8(name)) {
        list.push_back({{"name", std::string(name)}, {"template", *source}});
      }
    }
  }
  if (list.size() > 1) {
    config["chat_template"] = std::move(list);
  } else if (!list.empty()) {
    config["chat_template"] = list.front()["template"];
  }
  return config;
}

std::string gguf_architecture_name(const std::filesystem::path& path) {
  return open_header(path)->metadata().string("general.architecture").value_or("");
}

json gguf_generation_config(const std::filesystem::path& path) {
  const auto file = open_header(path);
  const GgufMetadata metadata = file->metadata();
  constexpr std::array<std::pair<const char*, const char*>, 5> kNumbers = {{
      {"temp", "temperature"},
      {"top_k", "top_k"},
      {"top_p", "top_p"},
      {"min_p", "min_p"},
      {"penalty_repeat", "repetition_penalty"},
  }};
  json config = json::object();
  for (const auto& [key, name] : kNumbers) {
    const std::string full = fmt::format("general.sampling.{}", key);
    const auto value = metadata.number(full);
    if (!value) continue;
    if (std::string_view(key) == "top_k") {
      config[name] = *metadata.integer(full);
    } else {
      config[name] = *value;
    }
  }
  // The converter writes these for models that sample.
  if (!config.empty()) config["do_sample"] = true;
  return config;
}

std::vector<std::pair<int64_t, std::string>> gguf_end_tokens(const std::filesystem::path& path) {
  const auto file = open_header(path);
  const GgufMetadata metadata = file->metadata();
  std::vector<std::pair<int64_t, std::string>> tokens;
  for (const char* key : {"eos_token_id", "eot_token_id", "eom_token_id"}) {
    std::string full = fmt::format("{}{}", kTokenizer, key);
    if (const auto id = metadata.integer(full)) tokens.emplace_back(*id, std::move(full));
  }
  if (metadata.string(fmt::format("{}model", kTokenizer)) != "gemma4") return tokens;
  // Of these its files name one; its published generation_config.json has all.
  const std::string key = fmt::format("{}tokens", kTokenizer);
  const auto texts = metadata.strings(key).value_or(std::vector<std::string_view>());
  for (const std::string_view end : {"<eos>", "<turn|>", "<|tool_response>"}) {
    const auto found = std::find(texts.begin(), texts.end(), end);
    if (found != texts.end()) tokens.emplace_back(found - texts.begin(), key);
  }
  return tokens;
}

}  // namespace moe4
