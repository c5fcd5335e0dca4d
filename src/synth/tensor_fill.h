// What a tensor is filled with, from its name, dtype, shape and the tensors beside it.
#pragma once

#include <optional>
#include <string>

#include "checkpoint/checkpoint.h"
#include "synth/synth_plan.h"

namespace moe4 {

/// The tensors of a checkpoint's headers by what they are for. Linears keep the variance of
/// activations: weights have a standard deviation of 1/sqrt(K), where they are quantised codes
/// times scales do. Embeddings have 1; tied to the head 1/sqrt(hidden_size), and that once more
/// where the model multiplies them by sqrt(hidden_size): else the token that is read would always
/// be the one that is chosen. Norms multiply by 1, biases, correction biases and sinks are small,
/// decays of recurrences as models begin training.
class HeaderTensors {
 public:
  /// `checkpoint` outlives it; headers suffice.
  explicit HeaderTensors(const Checkpoint& checkpoint);

  /// Throws Error(kBadInput) naming the tensor when nothing says what its bytes mean.
  SynthTensor filled(const std::string& name) const;

 private:
  // A tensor that scales the weight or the input of a linear, or of all experts' linears.
  enum class ScaleKind { kBlock, kGlobal, kInverseGlobal, kInput, kInverseInput };
  struct Scale {
    ScaleKind kind;
    std::string weight;  // name
  };
  enum class Format { kNvfp4, kMxfp4, kFp8, kFp8PowersOfTwo };
  // Of a weight that has a scale.
  struct Quantised {
    Format format;
    int64_t in_features;
  };

  std::optional<Scale> scale_of_weight(const std::string& name) const;
  std::optional<std::string> weight_at(const std::string& base, char joint) const;
  std::optional<std::string> block_scale_of(const std::string& weight) const;
  Quantised quantised(const std::string& weight) const;
  void fill_scale(const Scale& scale, SynthTensor& tensor) const;
  void fill_packed(SynthTensor& tensor) const;
  void fill_plain(SynthTensor& tensor) const;
  [[noreturn]] void refuse(const std::string& name, const std::string& why) const;

  const Checkpoint& checkpoint_;
  bool is_tied_ = false;             // the head has no tensor of its own
  bool scales_embeddings_ = false;   // multiplies them by sqrt(hidden_size)
  bool has_one_plus_norms_ = false;  // they store w and multiply by 1 + w
};

}  // namespace moe4
