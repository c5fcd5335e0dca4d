// Opens a Hugging Face folder or a GGUF file: configuration, quantization dialect and tensors,
// cross-checked against each other.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/tensor_view.h"
#include "checkpoint/json_reader.h"
#include "checkpoint/model_config.h"
#include "moe/weights.h"

namespace moe4 {

/// A disagreement or oddity that does not stop the checkpoint from being used.
struct CheckpointNote {
  enum class Level { kInfo, kWarning };
  Level level = Level::kWarning;
  std::string where;    ///< tensor, module or file
  std::string message;  ///< one sentence
};

struct CheckpointOptions {
  /// Read headers and JSON only (`plan`, `inspect`): shards may be absent or truncated after their
  /// header; views have no data, NaN scales are not looked at, global scales stay 1. A layer whose
  /// shard is absent has the scheme that the metadata declares, and no experts.
  bool headers_only = false;
};

/// Memory of tensors that a file has in another form.
using MadeTensors = std::vector<std::shared_ptr<const AlignedBuffer>>;

/// What can be said about a layer's routed experts without loading them.
struct MoeLayerSummary {
  MoeProblem problem;
  QuantScheme scheme;       ///< meaningless where `unsupported` is not empty
  std::string unsupported;  ///< what the experts are where moe4 cannot decode it: "MXFP8"
  std::string error;        ///< what moe_layer() would throw, "" if it would not
};

/// Tensor data stays in the files' read-only mappings; views are valid while the Checkpoint lives.
/// Thread-safe once open.
class Checkpoint {
 public:
  /// `path`: the folder, a single .safetensors file beside its config.json, or a GGUF file, of a
  /// set any. Throws Error(kBadInput) with one line that names the file and the tensor or key.
  static std::unique_ptr<Checkpoint> open(const std::filesystem::path& path,
                                          const CheckpointOptions& options = {});
  ~Checkpoint();

  /// Where the tokenizer and its kin are: the folder, or the (first) GGUF file.
  const std::filesystem::path& path() const;
  /// Where the configuration is, for messages: config.json, or the GGUF file.
  const std::filesystem::path& config_file() const;
  const ModelConfig& config() const;
  /// config.json as it is (of GGUF what its metadata say, in the same words), for what ModelConfig
  /// has no field for: the whole document, and the object in it that describes the text model (the
  /// document itself unless a wrapper nests one).
  JsonReader root_config() const;
  JsonReader text_config() const;
  /// config.json's quantization_config; nullopt when there is none.
  std::optional<JsonReader> quantization_config() const;
  /// "modelopt", "compressed-tensors", "fp8", "gguf" or "none", and its version where the files
  /// say.
  const std::string& dialect() const;
  /// What metadata and tensors disagree about, collected while opening.
  const std::vector<CheckpointNote>& notes() const;

  /// All tensor names, sorted.
  const std::vector<std::string>& tensor_names() const;
  bool has_tensor(const std::string& name) const;
  /// Throws Error(kBadInput) when absent, listing the nearest name. What the file has in another
  /// form is made once and kept: for small tensors.
  TensorView tensor(const std::string& name) const;
  /// The same without data, whatever the checkpoint was opened for.
  TensorView tensor_header(const std::string& name) const;
  /// The format that linear() leaves a weight in where tensor() decodes it: of ggml's blocks.
  std::optional<QuantFormat> block_format(const std::string& name) const;
  /// The file a tensor lies in, for messages.
  std::filesystem::path file_of(const std::string& tensor) const;
  int64_t total_tensor_bytes() const;
  /// Throws Error(kBadInput) when one of the files is no longer what was opened: what was read from
  /// it since is worth nothing.
  void check_unchanged() const;
  /// Whether shards, or all weights, are absent (headers_only).
  bool is_partial() const;

  /// "model." or "model.language_model." ...: what stands before "layers.N" and "embed_tokens".
  const std::string& text_prefix() const;
  /// Modules with a matrix for a weight, embeddings left out, sorted. Routed experts stored in 3-D
  /// tensors are not among them.
  const std::vector<std::string>& linear_modules() const;
  /// Whether `module` (full name, e.g. "model.layers.0.self_attn.q_proj") has weights.
  bool has_linear(const std::string& module) const;
  /// The linear with its scheme, dtypes and shapes checked: [out_features, in_features] must match
  /// unless -1. What the file has in another form lies in memory that is added to `made`; without
  /// it in the checkpoint's own.
  LinearWeights linear(const std::string& module, int64_t out_features = -1,
                       int64_t in_features = -1, MadeTensors* made = nullptr) const;

  /// The same from headers alone, whatever the checkpoint was opened for: no value is looked at,
  /// global scales are 1.
  LinearWeights linear_header(const std::string& module, int64_t out_features = -1,
                              int64_t in_features = -1) const;

  /// Routed experts below `module` ("model.layers.0.mlp.experts"; if absent: wherever the layer has
  /// them) in canonical form, whatever their projections are called (w1, fused 3-D, ...); scales
  /// are checked for NaN and sign unless headers_only. Throws Error(kBadInput) if not the
  /// problem's.
  MoeLayerWeights experts(const std::string& module, const MoeProblem& problem) const;
  /// The same from headers alone, whatever the checkpoint was opened for: views have no data where
  /// the file has another order, no value is looked at.
  MoeLayerWeights experts_header(const std::string& module, const MoeProblem& problem) const;

  /// Names of the tensors that linear(module) and experts(module, problem) read. They throw as
  /// those do, but look at no value and at no shape but those of fused experts.
  std::vector<std::string> tensors_of_linear(const std::string& module) const;
  std::vector<std::string> tensors_of_experts(const std::string& module,
                                              const MoeProblem& problem) const;

  /// experts() of a layer, found by the names that families use, with the problem that config()
  /// says: for reports, and for architectures that do not run. Throws when the layer has none.
  MoeLayerWeights moe_layer(int64_t layer) const;
  /// The same from headers or metadata, for reports: what cannot be decoded is said, not thrown.
  MoeLayerSummary moe_layer_summary(int64_t layer) const;
  /// A tensor of a layer: text_prefix() + "layers.N." + suffix.
  std::string layer_name(int64_t layer, const std::string& suffix) const;

 private:
  struct Impl;
  explicit Checkpoint(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace moe4
