// moe4 forward: logits (and hidden states) of a list of token ids, for comparisons with other
// implementations.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "checkpoint/safetensors_writer.h"
#include "cli/commands.h"
#include "cli/memory_words.h"
#include "cli/output_path.h"
#include "cli/session.h"
#include "cli/tensor_io.h"
#include "engine/evaluator.h"
#include "engine/finite.h"
#include "engine/hidden_states.h"

namespace moe4::cli {
namespace {

struct ForwardFlags {
  std::string model, ids, out;
  bool hidden = false;
  MachineFlags machine;
};

TensorView matrix(const std::vector<float>& values, int64_t columns) {
  return {.data = values.data(),
          .dtype = DType::kF32,
          .shape = {static_cast<int64_t>(values.size()) / columns, columns}};
}

void forward(const ForwardFlags& flags) {
  check_output(flags.out, flags.model, {{"--ids", flags.ids}});
  Session session;
  open_checkpoint(session, flags.model, flags.machine, WithTokenizer::kNo);
  const ModelConfig& config = session.checkpoint->config();
  const std::vector<int32_t> ids = read_id_list(flags.ids, config.vocab_size);
  const auto tokens = static_cast<int64_t>(ids.size());
  reload_model(session, flags.machine,
               {.engines = {evaluator_limits(config, tokens)}, .advice = "give fewer --ids"});
  std::vector<float> logits;
  HiddenStates hidden(config.num_layers);
  const MemoryUse use{.tokens = tokens,
                      .result_bytes = tokens * config.vocab_size * int64_t{sizeof(float)},
                      .advice = "give fewer --ids"};
  with_memory_words(session, use, [&] {
    logits.reserve(static_cast<size_t>(tokens * config.vocab_size));
    const auto keep = [&](int64_t, std::span<const float> rows) {
      logits.insert(logits.end(), rows.begin(), rows.end());
    };
    Evaluator(*session.model, tokens).run(ids, keep, flags.hidden ? &hidden : nullptr);
  });
  require_finite_logits(*session.model, ids, logits, 0);
  session.checkpoint->check_unchanged();
  std::vector<NamedTensor> tensors = {{"logits", matrix(logits, config.vocab_size)}};
  if (flags.hidden) {
    tensors.push_back({"hidden.embed", matrix(hidden.embed, config.hidden_size)});
    for (size_t layer = 0; layer < hidden.layers.size(); ++layer) {
      tensors.push_back(
          {fmt::format("hidden.layer{}", layer), matrix(hidden.layers[layer], config.hidden_size)});
    }
    tensors.push_back({"hidden.final_norm", matrix(hidden.final_norm, config.hidden_size)});
    for (size_t layer = 0; layer < hidden.router_logits.size(); ++layer) {
      const std::vector<float>& of_layer = hidden.router_logits[layer];
      if (of_layer.empty()) continue;
      const int64_t experts = static_cast<int64_t>(of_layer.size() / ids.size());
      tensors.push_back({fmt::format("router.layer{}.logits", layer), matrix(of_layer, experts)});
    }
  }
  for (const auto& [name, view] : tensors) {
    require_finite_rows(name, {static_cast<const float*>(view.data), size_t(view.num_elements())},
                        view.dim(1));
  }
  write_safetensors(flags.out, tensors);
}

}  // namespace

void add_forward(CLI::App& app) {
  auto flags = std::make_shared<ForwardFlags>();
  CLI::App* command =
      app.add_subcommand("forward", "Write the logits of a list of token ids to a file");
  command->add_option("MODEL", flags->model, "Checkpoint folder")->required();
  with_env(command->add_option("--ids", flags->ids, "File of whitespace-separated token ids")
               ->required());
  with_env(
      command->add_option("--out", flags->out, "Safetensors file: logits [T, V] f32")->required());
  with_env(command->add_flag(
      "--hidden", flags->hidden,
      "Also hidden.embed, hidden.layerN, hidden.final_norm, router.layerN.logits"));
  add_machine_flags(*command, flags->machine);
  command->callback([flags] { forward(*flags); });
}

}  // namespace moe4::cli
