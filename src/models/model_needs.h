// What a model takes of memory: estimated from headers before it is loaded, exactly afterwards.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "models/description.h"
#include "models/model.h"

namespace moe4 {

/// Bytes, where nothing else is said.
struct ModelNeeds {
  /// The routed experts of a layer.
  struct Experts {
    int64_t bytes = 0;
    bool only_cpu = false;  ///< no backend of the layers' device takes them
  };

  Device device;                 ///< of the layers
  int64_t other_weights = 0;     ///< all but routed experts
  std::vector<Experts> experts;  ///< of the layers that have any
  int64_t cpu_moe = 0;           ///< of those, from the first: how many are left to the CPU
  int64_t page_bytes = 0;        ///< of kPageTokens tokens in all paged layers
  int64_t state_bytes = 0;       ///< of a sequence in all recurrent layers
  int64_t vocab_size = 0;
  int64_t max_context = 0;  ///< tokens that the model was made for
  int64_t num_layers = 0;
  /// What forward() takes for a step.
  std::function<int64_t(const StepLimits&)> workspace;

  /// On the layers' device, and beside it in the host's memory.
  int64_t device_weights() const;
  int64_t host_weights() const;
};

/// Of a checkpoint's description. Weights count as they are stored, which is what implementations
/// pack them to but for padding; the workspace is an estimate from above. `only_cpu`: layers whose
/// experts no backend of the device takes.
ModelNeeds needs_of(const Description& description, const ModelConfig& config, const Device& device,
                    std::span<const int64_t> only_cpu, int64_t cpu_moe);
/// Of what a loaded model still needs: no weights, the rest exactly.
ModelNeeds needs_of(const Model& model);

}  // namespace moe4
