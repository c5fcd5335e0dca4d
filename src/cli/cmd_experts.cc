// moe4 experts: the routed experts of one layer on inputs from a file.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <memory>

#include "checkpoint/safetensors_writer.h"
#include "cli/commands.h"
#include "cli/number_flags.h"
#include "cli/output_path.h"
#include "cli/session.h"
#include "cli/tensor_io.h"
#include "engine/finite.h"
#include "engine/layer_experts.h"

namespace moe4::cli {
namespace {

struct ExpertsFlags {
  std::string model, in, out;
  int64_t layer = 0;
  MachineFlags machine;
};

void experts(const ExpertsFlags& flags) {
  check_output(flags.out, flags.model, {{"--in", flags.in}});
  const auto input = SafetensorsFile::open(flags.in);
  Session session;
  open_checkpoint(session, flags.model, flags.machine, WithTokenizer::kNo);
  const ModelConfig& config = session.checkpoint->config();
  if (flags.layer >= config.num_layers || !config.is_moe_layer[flags.layer]) {
    throw Error(ErrorCode::kUsage, fmt::format("--layer {} has no routed experts: the model has {} "
                                               "layers, numbered from 0",
                                               flags.layer, config.num_layers));
  }
  const std::vector<float> x = read_floats(*input, "x", -1, config.hidden_size);
  const int64_t tokens = static_cast<int64_t>(x.size()) / config.hidden_size;
  const int64_t top_k = config.moe.top_k;
  std::vector<int32_t> ids;
  std::vector<float> weights, y;
  if (input->find("topk_ids") != nullptr) {
    ids = read_ids(*input, "topk_ids", tokens, top_k);
    weights = read_floats(*input, "topk_weights", tokens, top_k);
  }
  require_finite_rows("x", x, config.hidden_size, flags.in);
  require_finite_rows("topk_weights", weights, top_k, flags.in);
  reload_model(session, flags.machine);
  const bool routed = ids.empty();  // by the layer's own router
  run_layer_experts(*session.model, flags.layer, x, ids, weights, y);
  for (int64_t row = 0; routed && row < tokens; ++row) {
    if (!std::isnan(weights[row * top_k])) continue;
    throw_bad_input({.what = "the router's logits are not finite",
                     .tensor = fmt::format("layer {}, row {} of x", flags.layer, row),
                     .hint = "weights of the checkpoint are broken, or values overflow"});
  }
  require_finite_rows("topk_weights", weights, top_k);
  require_finite_rows("y", y, config.hidden_size);
  session.checkpoint->check_unchanged();
  const NamedTensor results[] = {{"y", {y.data(), DType::kF32, {tokens, config.hidden_size}}},
                                 {"topk_ids", {ids.data(), DType::kI32, {tokens, top_k}}},
                                 {"topk_weights", {weights.data(), DType::kF32, {tokens, top_k}}}};
  write_safetensors(flags.out, results);
}

}  // namespace

void add_experts(CLI::App& app) {
  auto flags = std::make_shared<ExpertsFlags>();
  CLI::App* command =
      app.add_subcommand("experts", "Run the routed experts of one layer on inputs from a file");
  command->add_option("MODEL", flags->model, "Checkpoint folder")->required();
  with_env(command->add_option("--layer", flags->layer, "Layer, from 0")
               ->required()
               ->check(whole_number(0)));
  with_env(command
               ->add_option("--in", flags->in,
                            "Safetensors file: x [T, H]; optional topk_ids [T, k] i32 and "
                            "topk_weights [T, k] f32, else the router decides")
               ->required());
  with_env(command->add_option("--out", flags->out, "Safetensors file: y, topk_ids, topk_weights")
               ->required());
  add_machine_flags(*command, flags->machine);
  command->callback([flags] { experts(*flags); });
}

}  // namespace moe4::cli
