// A random layer as the C interface wants it described.
#pragma once

#include <vector>

#include "moe4/moe4.h"
#include "support/random_moe.h"

namespace moe4::testing {

struct CLayer {
  RandomMoe moe;
  std::vector<moe4_linear> gate, up, down;
  moe4_layer_desc desc{};

  CLayer(RandomMoeOptions options, const char* backend, int device)
      : moe(make_random_moe(std::move(options))) {
    for (const ExpertWeights& expert : moe.weights.experts) {
      if (expert.gate) gate.push_back(c_linear(*expert.gate));
      up.push_back(c_linear(expert.up));
      down.push_back(c_linear(expert.down));
    }
    const MoeProblem& p = moe.weights.problem;
    desc = {.struct_size = sizeof(moe4_layer_desc),
            .hidden_size = p.hidden_size,
            .intermediate_size = p.intermediate_size,
            .num_experts = p.num_experts,
            .num_local_experts = p.num_local_experts,
            .top_k = p.top_k,
            .activation = static_cast<moe4_activation>(p.activation.kind),
            .gate = gate.empty() ? nullptr : gate.data(),
            .up = up.data(),
            .down = down.data(),
            .device = device,
            .backend = backend};
  }

 private:
  static moe4_linear c_linear(const LinearWeights& l) {
    return {.codes = static_cast<const uint8_t*>(l.weight.data),
            .scales = static_cast<const uint8_t*>(l.scale.data),
            .global_scale = l.global_scale.value,
            .input_scale = l.input_scale ? l.input_scale->value : 0.0f,
            .bias = static_cast<const uint16_t*>(l.bias.data)};
  }
};

}  // namespace moe4::testing
