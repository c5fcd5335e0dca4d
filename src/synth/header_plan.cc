// All tensors of the headers, and the files beside them.
#include "synth/header_plan.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "synth/synth_tokenizer.h"
#include "synth/tensor_fill.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;

// What a checkpoint is besides its weights and their index.
bool is_side_file(const fs::path& file) {
  constexpr std::array<const char*, 5> kExtensions = {".json", ".jinja", ".txt", ".model",
                                                      ".tiktoken"};
  if (file.filename().string().ends_with(".safetensors.index.json")) return false;
  return std::find(kExtensions.begin(), kExtensions.end(), file.extension()) != kExtensions.end();
}

bool is_tokenizer(const fs::path& file) {
  return file.filename() == "tokenizer.json" || file.extension() == ".model" ||
         file.extension() == ".tiktoken" || file.filename() == "tekken.json";
}

void check_folder(const fs::path& headers) {
  if (fs::is_directory(headers)) return;
  throw_bad_input({.what = "not a folder of headers",
                   .file = headers.string(),
                   .expected = "config.json and .safetensors files, which may end after their "
                               "headers",
                   .found = fs::exists(headers) ? "a file" : "nothing"});
}

void refuse_absent_tensors(const Checkpoint& checkpoint, const fs::path& headers) {
  if (!checkpoint.is_partial() && !checkpoint.tensor_names().empty()) return;
  throw_bad_input({.what = "headers of shards are absent",
                   .file = headers.string(),
                   .expected = "every .safetensors file that the index names, at least its header",
                   .found = std::to_string(checkpoint.tensor_names().size()) + " tensors"});
}

}  // namespace

SynthPlan plan_of_headers(const fs::path& headers) {
  check_folder(headers);
  const auto checkpoint = Checkpoint::open(headers, {.headers_only = true});
  refuse_absent_tensors(*checkpoint, headers);

  SynthPlan plan;
  const HeaderTensors tensors(*checkpoint);
  for (const std::string& name : checkpoint->tensor_names()) {
    plan.tensors.push_back(tensors.filled(name));
  }
  bool has_tokenizer = false;
  for (const auto& entry : fs::directory_iterator(headers)) {
    if (!entry.is_regular_file() || !is_side_file(entry.path())) continue;
    has_tokenizer = has_tokenizer || is_tokenizer(entry.path());
    plan.copies.push_back(entry.path());
  }
  std::sort(plan.copies.begin(), plan.copies.end());
  const int64_t vocab_size = checkpoint->config().vocab_size;
  if (has_tokenizer || vocab_size < kSynthFewestIds) return plan;
  for (SynthText& text : synth_tokenizer_files(vocab_size)) {
    const bool is_there =
        std::any_of(plan.copies.begin(), plan.copies.end(),
                    [&](const fs::path& file) { return file.filename() == text.name; });
    if (!is_there) plan.texts.push_back(std::move(text));
  }
  return plan;
}

}  // namespace moe4
