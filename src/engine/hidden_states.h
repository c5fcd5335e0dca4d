// What a model computes on its way, kept for `moe4 forward --hidden`, compare and tests.
#pragma once

#include <vector>

#include "ops/execution.h"

namespace moe4 {

/// Hidden states of some tokens, [T, hidden_size] float32 each; later steps are appended.
class HiddenStates final : public Observer {
 public:
  std::vector<float> embed;
  std::vector<std::vector<float>> layers;  ///< residual stream after each layer
  std::vector<float> final_norm;
  std::vector<std::vector<float>> router_logits;  ///< [T, num_experts] a layer; empty if dense

  explicit HiddenStates(int64_t num_layers = 0) { resize(num_layers); }
  void clear(int64_t num_layers) { *this = HiddenStates(num_layers); }
  void see(Point point, int64_t layer, const Rows& rows) override;

 private:
  void resize(int64_t num_layers) {
    layers.resize(num_layers);
    router_logits.resize(num_layers);
  }
};

}  // namespace moe4
