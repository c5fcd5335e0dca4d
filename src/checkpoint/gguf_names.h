// What tensors of GGUF files are called in Hugging Face's folders, and in which form they differ.
#pragma once

#include <span>
#include <string_view>

#include "gguf/metadata.h"

namespace moe4 {

/// What llama.cpp's converter does to a tensor that has to be undone.
enum class GgufForm {
  kSame,
  kOneRow,      ///< a matrix of one row: llama-quantize drops a last dimension of 1
  kPlusOne,     ///< norms whose model computes 1 + w: the file has 1 + w
  kMinusExp,    ///< A_log: the file has -exp(A_log)
  kQueryPairs,  ///< rows of each query head in pairs that rotate together
  kKeyPairs,    ///< the same of key heads
  // Of delta nets with more value heads than key heads: a folder groups value heads by key head,
  // the file has the first of every group, then the second, ...
  kTiledValues,    ///< rows of value heads, head_dim each
  kTiledMixed,     ///< the same behind rows of queries and keys
  kTiledInputs,    ///< columns of value heads
  kTiledHeads,     ///< a row a value head
  kTiledDecay,     ///< the same and kMinusExp
  kBetaOfGroups,   ///< of every key head's rows [b | a] those of b, as the folder has them
  kAlphaOfGroups,  ///< those of a
  kExpertScale,    ///< factors of experts; beside NVFP4 they are within its global scales
};

/// Where one tensor of the file becomes several of the folder there are several rules. A name below
/// "blk.N." or, where the file has it at the top, from there, and where the tensor belongs below
/// "model.layers.N." or in the whole. Without a suffix (".weight", ".bias") it is a module, with
/// all of its tensors.
struct GgufRule {
  std::string_view gguf;
  std::string_view hf;
  GgufForm form = GgufForm::kSame;
};

struct GgufArchitecture {
  std::string_view name;        ///< general.architecture
  std::string_view model_type;  ///< of config.json
  std::span<const GgufRule> rules;
};

/// Throws Error(kBadInput) for an architecture that is not among those that moe4 reads.
const GgufArchitecture& gguf_architecture(const GgufMetadata& metadata);

}  // namespace moe4
