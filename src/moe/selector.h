// Picks a backend for a layer and keeps every reason.
#pragma once

#include <string>
#include <vector>

#include "moe/experts.h"

namespace moe4 {

struct SelectorOptions {
  Device device;
  ActivationMode activations = ActivationMode::kAuto;
  bool fp8_activations = false;  ///< quantise the inputs of FP8 layers as their activation key says
  std::string backend;  ///< "" or "auto": by priority; else a name or alias (`--moe-backend`)
  Parallel parallel;
  /// Only backends whose batch_behavior() is better than kNone (`--batch-invariant`).
  bool batch_invariant = false;
  /// ExpertsQuery::says_phase; models set it.
  bool says_phase = false;
  /// Also ask runnable(): a backend that this program cannot run here and now is rejected with its
  /// reason. Off for plans of absent devices.
  bool must_run = false;
};

struct Candidate {
  const ExpertsBackend* backend = nullptr;
  Support verdict;  ///< nullopt: could run this layer
  /// What it would do with the layer's inputs; meaningful without a verdict or with kNotSelected.
  ActivationPrecision precision = ActivationPrecision::kBf16;
};

struct Selection {
  const ExpertsBackend* backend = nullptr;
  ActivationPrecision precision = ActivationPrecision::kBf16;
  /// Where the layer runs: the device asked for, or the host for FP8 and BF16 layers that no GPU
  /// backend takes.
  Device device;
  BatchBehavior batch;                ///< what a token's bits depend on there
  std::string reason;                 ///< one sentence: why this backend and this precision
  std::vector<Candidate> candidates;  ///< all registered backends in priority order
};

/// The visible list, in priority order for the device.
std::vector<const ExpertsBackend*> registered_backends();
/// Registers the backends of this program once (experts/registry.cc calls it at start-up).
void set_registered_backends(std::vector<const ExpertsBackend*> backends);

/// Resolves aliases ("flashinfer_b12x" -> b12x, "emulation" -> reference; "" and "auto" -> "").
/// Throws Error(kUsage) naming the known ones.
std::string resolve_backend_name(const std::string& name);

/// "hopper.tiles=16" -> Tuning. Throws Error(kUsage) for a setting without '=' and for a name that
/// no registered backend knows; values are the backends' to check, in prepare().
Tuning parse_tuning(const std::vector<std::string>& settings);

/// What every registered backend says of the layer, in priority order, whoever is asked for.
std::vector<Candidate> judge_backends(const MoeProblem& problem, const QuantScheme& scheme,
                                      const SelectorOptions& options);

/// Pure: the device need not be present. A forced NVFP4 backend applies to NVFP4 layers only; FP8
/// and BF16 layers are chosen on their own. Throws Error(kUnavailable) naming every reason and the
/// alternatives when nothing fits.
Selection select_backend(const MoeProblem& problem, const QuantScheme& scheme,
                         const SelectorOptions& options);

}  // namespace moe4
