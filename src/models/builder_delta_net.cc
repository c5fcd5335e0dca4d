// The gated delta net from a checkpoint's modules.
#include "models/builder.h"

namespace moe4 {

std::unique_ptr<Mixer> Builder::delta_net(const std::string& module,
                                          const DeltaNet::Problem& problem) {
  const std::string at = full_name(module) + ".";
  DeltaNetParts parts;
  parts.in_proj = linears("in_proj",
                          {{at + "in_proj_qkv", problem.channels()},
                           {at + "in_proj_z", problem.values()},
                           {at + "in_proj_b", problem.num_value_heads},
                           {at + "in_proj_a", problem.num_value_heads}},
                          hidden_size_);
  parts.delta_net = prepare<DeltaNet>(
      "delta_net", problem,
      {.conv = tensor(at + "conv1d.weight", problem.channels() * problem.conv_taps),
       .a_log = tensor(at + "A_log", problem.num_value_heads),
       .dt_bias = tensor(at + "dt_bias", problem.num_value_heads),
       .norm = tensor(at + "norm.weight", problem.value_dim)});
  parts.out_proj = linears("out_proj", {{at + "out_proj", hidden_size_}}, problem.values());
  if (is_describing()) return nullptr;
  return std::make_unique<DeltaNetMixer>(std::move(parts));
}

}  // namespace moe4
