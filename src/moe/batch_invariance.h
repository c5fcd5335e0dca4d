// Whether a token's bits depend on what shares its call.
#pragma once

#include <string>
#include <string_view>

namespace moe4 {

/// Whether a token's output bits depend on its own inputs alone, for one layer (experts or another
/// op) whose weights, device and tuning stay the same.
enum class BatchInvariance {
  kNone,  ///< no: how many tokens share the call decides the order of a sum
  /// One order for tokens that are being generated and one for tokens of a prompt, whatever shares
  /// the call and whether or not it says which are which (ExpertsArgs::num_decode_tokens); the two
  /// may differ.
  kByPhase,
  kFull,  ///< the same bits in any call
};

/// "no", "by phase", "yes".
std::string_view to_string(BatchInvariance invariance);

/// What a backend would do with a layer's batches, for plans.
struct BatchBehavior {
  BatchInvariance invariance = BatchInvariance::kFull;
  std::string why;  ///< below kFull: what decides the order; reads well after "since"
  /// The measured price of invariance, "" if unknown: kByPhase what is paid, kNone what asking for
  /// it would take.
  std::string cost;
};

}  // namespace moe4
