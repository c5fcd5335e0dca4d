// A Builder that reads no weight: which tensors a model is made of, what is wrong with them, and
// which implementation of every op would serve it.
#pragma once

#include <string>
#include <unordered_set>
#include <vector>

#include "models/builder.h"
#include "models/refusals.h"

namespace moe4 {

class Describer final : public Builder {
 public:
  /// Ops are asked on this device for default options. `checkpoint` outlives it; headers suffice.
  /// `cache_dtype`: of keys and values.
  Describer(const Checkpoint& checkpoint, const Device& device, DType cache_dtype = DType::kF16);

  /// Full names of all tensors that the architecture asks for, there or not.
  const std::unordered_set<std::string>& tensors() const { return tensors_; }
  /// After the architecture file: its ops, and what is wrong with settings (biases), or if nothing
  /// is, with tensors (missing, unusable), problems that no implementation takes, tensors that
  /// nobody reads.
  Description description() const;

 private:
  bool is_describing() const override { return true; }
  TensorRef tensor(const std::string& name, int64_t num_elements) override;
  std::optional<LinearWeights> linear(const LinearSpec& spec, int64_t in_features) override;
  void packed(const LinearWeights&) override {}
  std::unique_ptr<RoutedExperts> experts(const std::string& module, const MoeProblem& problem,
                                         std::span<const ExpertWeights> shared) override;
  std::optional<ExpertsKind> experts_kind(const std::string& module, const MoeProblem& problem,
                                          int64_t num_shared) override;
  void chose(OpChoice choice) override;
  void keeps(const CacheSpec& spec) override { sizes_.caches.push_back(spec); }
  void complete(Whole whole) override;

  void ask_all_below(const std::string& prefix);
  void refuse(const std::string& where, const Error& error);
  void check_bias(const LinearSpec& spec);
  std::vector<Refusal> unread() const;

  std::unordered_set<std::string> tensors_;
  std::vector<Refusal> settings_, wrong_tensors_, impossible_;
  std::unordered_set<std::string> disagreeing_keys_, reasons_;
  std::vector<std::vector<OpChoice>> layers_;
  std::vector<OpChoice> outside_, pending_;
  ModelSizes sizes_;
  int64_t op_bytes_ = 0;      // of weights for the op that comes next
  int64_t layer_values_ = 0;  // of the linears of the layer that is being made
};

}  // namespace moe4
