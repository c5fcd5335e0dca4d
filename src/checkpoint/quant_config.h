// What a checkpoint's quantisation metadata says about each module, in one vocabulary for all
// dialects: ModelOpt, compressed-tensors, DeepSeek-style fp8.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/json_reader.h"
#include "moe/quant.h"

namespace moe4 {

/// DeclaredQuant::unsupported of MXFP8: routed experts in it are not decoded, other linears are, to
/// BF16 (e8m0_linear.h).
inline constexpr std::string_view kMxfp8 = "MXFP8";

/// What the metadata declares for one module.
struct DeclaredQuant {
  QuantScheme scheme;
  /// Not empty: a kind of quantisation that moe4 does not decode ("MXFP8", "INT4 ..."); scheme is
  /// meaningless then.
  std::string unsupported;
  std::string source;  ///< "quant_algo NVFP4", for messages
  /// Not empty: something the metadata asks for that is left out without harm to the weights.
  std::string remark;
};

/// One metadata document. `json` may be null: the checkpoint has no such document.
struct QuantDocument {
  const Json* json = nullptr;
  std::string file;
  std::vector<std::string> group_order;  ///< keys of config_groups as the file lists them
  /// ModelConfig::expert_dtype: "fp4" beside quant_method fp8 makes the routed experts MXFP4.
  std::string expert_dtype = {};
};

/// The rules of `quantization_config` in config.json and of hf_quant_config.json together. Rules of
/// precedence are in docs/checkpoints.md. Lookups cost time linear in the length of the name.
class QuantConfig {
 public:
  /// `config`: quantization_config of config.json; `hf_quant`: hf_quant_config.json. `notes`
  /// receives what the two disagree about.
  static QuantConfig parse(const QuantDocument& config, const QuantDocument& hf_quant,
                           std::vector<CheckpointNote>& notes);
  QuantConfig();
  ~QuantConfig();
  QuantConfig(QuantConfig&&) noexcept;
  QuantConfig& operator=(QuantConfig&&) noexcept;

  /// "modelopt", "compressed-tensors", "fp8", "mxfp4", "none", or the unknown quant_method as it
  /// is.
  const std::string& dialect() const;
  /// The producer's version, "" when the files do not say.
  const std::string& version() const;
  /// "FP8" where the metadata quantises the KV cache, else "".
  const std::string& kv_cache() const;
  /// Weight block of DeepSeek-style fp8, rows and columns; 128 x 128 unless said otherwise.
  int64_t fp8_block_rows() const;
  int64_t fp8_block_columns() const;

  /// nullopt: the module is excluded or not mentioned, so it should be unquantised. `names`: the
  /// module's name and its other spellings (see module_names.h), the file's own first. `is_expert`:
  /// part of routed experts. Throws Error(kBadInput) when rules for a fused module disagree.
  std::optional<DeclaredQuant> lookup(const std::vector<std::string>& names, bool is_expert) const;
  /// True when both an exclusion and a listing by name cover the module.
  bool is_excluded_and_listed(const std::vector<std::string>& names) const;

 private:
  friend class QuantConfigParser;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moe4
