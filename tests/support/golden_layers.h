// Every layer of every checkpoint at hand whose routed experts have golden outputs.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "support/golden.h"
#include "support/shared_models.h"

namespace moe4::testing {

struct GoldenFile {
  std::filesystem::path model;
  std::filesystem::path golden;
  std::string mode;  ///< "w4a16", "w4a4-static", "w4a4-unit", "w4a16-fp8act", "bf16"
};

namespace internal {

// "<format>.<mode>.safetensors" or "<mode>.safetensors".
inline std::string mode_of(const std::filesystem::path& golden) {
  const std::string stem = golden.stem().string();
  const size_t dot = stem.rfind('.');
  return dot == std::string::npos ? stem : stem.substr(dot + 1);
}

inline void add_model_folder(const std::filesystem::path& folder, std::vector<GoldenFile>& files) {
  if (!std::filesystem::exists(folder / "golden")) return;
  for (const auto& entry : std::filesystem::directory_iterator(folder / "golden")) {
    if (entry.path().extension() != ".safetensors") continue;
    const std::string stem = entry.path().stem().string();
    const std::filesystem::path model = folder / stem.substr(0, stem.rfind('.'));
    if (std::filesystem::exists(model)) {
      files.push_back({model, entry.path(), mode_of(entry.path())});
    }
  }
}

}  // namespace internal

/// Those of tests/data and models/, and of shared_models() where it exists.
inline std::vector<GoldenFile> golden_files() {
  std::vector<GoldenFile> files;
  const std::filesystem::path data = test_data();
  for (const auto& entry : std::filesystem::directory_iterator(data / "checkpoints")) {
    if (!std::filesystem::exists(entry.path() / "golden")) continue;
    for (const auto& golden : std::filesystem::directory_iterator(entry.path() / "golden")) {
      files.push_back({entry.path(), golden.path(), internal::mode_of(golden.path())});
    }
  }
  for (const char* mode : {"w4a16", "w4a4-static", "w4a4-unit"}) {
    files.push_back({embedded_models() / "tiny-qwen3_5-moe-nvfp4",
                     data / "golden/tiny-qwen3_5-moe" /
                         ("modelopt-nvfp4." + std::string(mode) + ".safetensors"),
                     mode});
  }
  if (!shared_models().empty()) {
    internal::add_model_folder(shared_models() / "tiny-qwen3-moe", files);
    internal::add_model_folder(shared_models() / "tiny-qwen3_5-moe", files);
  }
  return files;
}

/// What a golden file's mode means for a layer of this scheme.
inline ActivationPrecision precision_of(const std::string& mode, const QuantScheme& scheme) {
  if (mode == "w4a4-static" && scheme.is_nvfp4()) return ActivationPrecision::kFp4Static;
  if (mode == "w4a4-unit" && scheme.is_nvfp4()) return ActivationPrecision::kFp4;
  if (mode == "w4a16-fp8act" && scheme.is_fp8()) return ActivationPrecision::kFp8;
  return ActivationPrecision::kBf16;
}

/// Calls fn(file, golden, key, weights) for every layer and batch; tensors are key + "input",
/// "topk_ids", "topk_weights", "experts_output".
template <typename Fn>
void for_each_golden_layer(const Fn& fn) {
  for (const GoldenFile& file : golden_files()) {
    const Golden golden(file.golden);
    const auto checkpoint = Checkpoint::open(file.model);
    for (int64_t l = 0; l < checkpoint->config().num_layers; ++l) {
      for (const char* count : {"", "n1.", "n7.", "n64."}) {
        const std::string key = "moe.layer" + std::to_string(l) + "." + count;
        if (!golden.has(key + "input")) continue;
        const MoeLayerWeights weights = checkpoint->moe_layer(l);
        // Experts on a latent have other linears around them: tests/checkpoint, tests/models.
        if (weights.problem.hidden_size != checkpoint->config().hidden_size) continue;
        // So have those that read the residual under a norm of their own (Gemma-4).
        const std::string own_norm = "pre_feedforward_layernorm_2.weight";
        if (checkpoint->has_tensor(checkpoint->layer_name(l, own_norm))) continue;
        fn(file, golden, key, weights);
      }
    }
  }
}

}  // namespace moe4::testing
