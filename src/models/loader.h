// A Builder that packs weights.
#pragma once

#include "models/builder.h"
#include "models/model.h"

namespace moe4 {

/// Reads one checkpoint, once. Pages of a tensor are given back to the system once it is packed, so
/// that a model is in memory once.
class Loader final : public Builder {
 public:
  /// Both outlive it.
  Loader(const Checkpoint& checkpoint, const ModelOptions& options);

  /// What the architecture file built; reports that everything is loaded.
  DecoderParts take();

 private:
  bool is_describing() const override { return false; }
  TensorRef tensor(const std::string& name, int64_t num_elements) override;
  std::optional<LinearWeights> linear(const LinearSpec& spec, int64_t in_features) override;
  void packed(const LinearWeights& weights) override;
  std::unique_ptr<RoutedExperts> experts(const std::string& module, const MoeProblem& problem,
                                         std::span<const ExpertWeights> shared) override;
  std::optional<ExpertsKind> experts_kind(const std::string& module, const MoeProblem& problem,
                                          int64_t num_shared) override;
  void chose(OpChoice choice) override;
  void complete(Whole whole) override;

  /// For experts of the layer whose parts are being made.
  Selection select_experts(const MoeProblem& problem, const QuantScheme& scheme) const;
  void consumed(const TensorView& view);
  void consumed(const LinearWeights& weights);
  void report() const;

  const ModelOptions& options_;
  int64_t bytes_done_ = 0;
  MadeTensors made_;  // of the layer whose parts are being made
};

}  // namespace moe4
