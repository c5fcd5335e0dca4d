// Streams a synthetic checkpoint to disk: shards with their headers, then an atomic rename of the
// folder.
#include "synth/synth.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "base/aligned_buffer.h"
#include "base/error.h"
#include "base/unfinished_path.h"
#include "checkpoint/safetensors_writer.h"
#include "synth/synth_fill.h"
#include "synth/synth_plan.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kShardBytes = int64_t{4} << 30;
constexpr int64_t kPieceBytes = int64_t{4} << 20;

[[noreturn]] void write_failed(const fs::path& file) {
  throw Error(ErrorCode::kUnavailable,
              "cannot write " + file.string() + ": the disk is full or not writable");
}

// Removes the unfinished folder unless the checkpoint was completed.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(fs::path path) : path_(std::move(path)) {
    std::error_code error;
    fs::remove_all(path_, error);
    if (!fs::create_directories(path_, error)) write_failed(path_);
    unfinished_.push_back(std::make_unique<UnfinishedPath>(path_));
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }
  /// A file in it that a signal removes with it.
  fs::path add(const std::string& name) {
    unfinished_.push_back(std::make_unique<UnfinishedPath>(path_ / name));
    return path_ / name;
  }
  void become(const fs::path& name) {
    std::error_code error;
    fs::rename(path_, name, error);
    if (error) write_failed(name);
    path_.clear();
    unfinished_.clear();
  }

 private:
  fs::path path_;
  std::vector<std::unique_ptr<UnfinishedPath>> unfinished_;
};

void write_text(const fs::path& file, const std::string& text) {
  std::ofstream out(file, std::ios::binary);
  out << text << '\n';
  out.close();
  if (!out) write_failed(file);
}

}  // namespace

SynthFormat parse_synth_format(const std::string& name) {
  if (name == "modelopt-mixed") return SynthFormat::kModelOptMixed;
  if (name == "modelopt") return SynthFormat::kModelOptNvfp4;
  if (name == "compressed-tensors") return SynthFormat::kCompressedTensors;
  throw Error(ErrorCode::kUsage, "unknown format '" + printable(name) +
                                     "': expected modelopt-mixed, modelopt or compressed-tensors");
}

SynthResult write_synthetic_checkpoint(const fs::path& out, const SynthOptions& options) {
  const SynthPlan plan = make_synth_plan(options);
  if (fs::exists(out))
    throw Error(ErrorCode::kUsage, out.string() + " exists already: name a new folder");
  SynthResult result{.tensors = static_cast<int64_t>(plan.tensors.size())};
  for (const SynthTensor& tensor : plan.tensors) result.bytes += tensor.num_bytes();
  const fs::path target = fs::absolute(out);
  std::error_code error;
  fs::create_directories(target.parent_path(), error);
  const auto space = fs::space(target.parent_path(), error);
  if (!error && static_cast<int64_t>(space.available) < result.bytes + (64 << 20)) {
    throw Error(ErrorCode::kUnavailable,
                "not enough disk space in " + target.parent_path().string() + ": needs " +
                    std::to_string(result.bytes >> 20) + " MiB, has " +
                    std::to_string(space.available >> 20) + " MiB; write fewer layers");
  }
  TemporaryFolder folder(target.string() + ".partial");

  // Cut the list into shards of whole tensors.
  std::vector<std::span<const SynthTensor>> shards;
  for (size_t begin = 0; begin < plan.tensors.size();) {
    size_t end = begin;
    for (int64_t bytes = 0; end < plan.tensors.size(); ++end) {
      bytes += plan.tensors[end].num_bytes();
      if (bytes > kShardBytes && end > begin) break;
    }
    shards.push_back(std::span(plan.tensors).subspan(begin, end - begin));
    begin = end;
  }
  result.shards = static_cast<int64_t>(shards.size());

  AlignedBuffer piece(kPieceBytes);
  std::map<std::string, std::string> weight_map;
  int64_t done = 0;
  for (size_t s = 0; s < shards.size(); ++s) {
    char name[64] = "model.safetensors";
    if (shards.size() > 1) {
      std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", s + 1, shards.size());
    }
    std::vector<TensorSpec> specs;
    for (const SynthTensor& tensor : shards[s])
      specs.push_back({tensor.name, tensor.dtype, tensor.shape});
    SafetensorsWriter writer(folder.add(name), std::move(specs), {{"format", "pt"}});
    for (const SynthTensor& tensor : shards[s]) {
      weight_map[tensor.name] = name;
      TensorFiller filler(tensor, options.seed);
      for (int64_t left = tensor.num_bytes(); left > 0;) {
        const int64_t bytes = std::min<int64_t>(left, kPieceBytes);
        filler.fill({piece.data(), static_cast<size_t>(bytes)});
        writer.write(tensor.name, piece.data(), bytes);
        left -= bytes;
        done += bytes;
        if (options.progress) options.progress(done, result.bytes);
      }
    }
    writer.finish();
  }
  if (shards.size() > 1) {
    const nlohmann::ordered_json index = {{"metadata", {{"total_size", result.bytes}}},
                                          {"weight_map", weight_map}};
    write_text(folder.add("model.safetensors.index.json"), index.dump(1));
  }
  write_text(folder.add("config.json"), plan.config_json);
  if (!plan.hf_quant_config_json.empty()) {
    write_text(folder.add("hf_quant_config.json"), plan.hf_quant_config_json);
  }
  write_text(folder.add("generation_config.json"), plan.generation_config_json);
  write_text(folder.add("tokenizer.json"), plan.tokenizer_json);
  write_text(folder.add("tokenizer_config.json"), plan.tokenizer_config_json);
  folder.become(target);
  return result;
}

}  // namespace moe4
