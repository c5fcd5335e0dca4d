// Mamba-2 from a checkpoint's modules.
#include "models/builder.h"

namespace moe4 {

std::unique_ptr<Mixer> Builder::mamba2(const std::string& module, const Mamba2Spec& spec) {
  const std::string at = full_name(module) + ".";
  const Ssm::Problem& problem = spec.ssm;
  Mamba2Parts parts;
  parts.in_proj =
      linears("in_proj", {{at + "in_proj", problem.projected(), spec.bias}}, hidden_size_);
  Ssm::Weights weights{.conv = tensor(at + "conv1d.weight", problem.channels() * problem.conv_taps),
                       .a_log = tensor(at + "A_log", problem.num_heads),
                       .d = tensor(at + "D", problem.num_heads),
                       .dt_bias = tensor(at + "dt_bias", problem.num_heads),
                       .norm = tensor(at + "norm.weight", problem.inner())};
  if (spec.conv_bias) weights.conv_bias = tensor(at + "conv1d.bias", problem.channels());
  keeps(problem.state());
  parts.ssm = prepare<Ssm>("ssm", problem, weights);
  parts.out_proj =
      linears("out_proj", {{at + "out_proj", hidden_size_, spec.bias}}, problem.inner());
  if (is_describing()) return nullptr;
  return std::make_unique<Mamba2>(std::move(parts));
}

}  // namespace moe4
