// moe4 compare: what backends and activation modes cost on this checkpoint, layer by layer and in
// the end.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/fidelity.h"
#include "cli/memory_words.h"
#include "cli/progress.h"
#include "cli/session.h"
#include "cli/table.h"
#include "cli/tensor_io.h"
#include "engine/evaluator.h"
#include "engine/finite.h"
#include "engine/hidden_states.h"
#include "engine/layer_experts.h"

namespace moe4::cli {
namespace {

// Scored when the user names no text.
constexpr const char* kDefaultText =
    "The President of the United States shall from time to time give to the Congress information "
    "of the state of the Union, and recommend to their consideration such measures as he shall "
    "judge necessary and expedient. In the beginning God created the heaven and the earth. And "
    "the earth was without form, and void; and darkness was upon the face of the deep. Call me "
    "Ishmael. Some years ago, never mind how long precisely, having little or no money in my "
    "purse, and nothing particular to interest me on shore, I thought I would sail about a little "
    "and see the watery part of the world.";

struct CompareFlags {
  std::string model;
  std::vector<std::string> backends;
  TokenSource source{.window = 256, .max_rows = 4};
  bool json = false;
  MachineFlags machine;
};

// Everything measured about one entry of --backends.
struct Subject {
  std::string label;
  std::vector<std::vector<float>> logits;  // a row of tokens each; kept for the first subject only
  std::vector<std::vector<float>> residual;  // [layer]: stream after the layer, first row of tokens
  LogitsComparison total;
  std::vector<double> residual_error;  // [layer], against the first subject
  std::vector<double> experts_error;   // [MoE layer]: same inputs, ids and weights as the first
};

// Inputs that the first subject gives to every MoE layer, and its outputs.
struct ExpertsCase {
  int64_t layer = 0;
  std::vector<float> x, weights, y;
  std::vector<int32_t> ids;
};

// "cpu:fp4" is backend cpu with --activations fp4.
MachineFlags with_backend(MachineFlags flags, const std::string& entry) {
  const size_t colon = entry.find(':');
  flags.backend.moe_backend = entry.substr(0, colon);
  if (colon != std::string::npos) flags.backend.activations = entry.substr(colon + 1);
  return flags;
}

// The residual stream scaled to unit mean square per token: what a layer's norm hands to its
// experts but for the learned weights.
std::vector<float> normalised(std::vector<float> rows, int64_t width) {
  for (size_t begin = 0; begin < rows.size(); begin += width) {
    double sum = 0;
    for (int64_t i = 0; i < width; ++i) sum += double(rows[begin + i]) * double(rows[begin + i]);
    const double scale = 1.0 / std::sqrt(sum / static_cast<double>(width) + 1e-6);
    for (int64_t i = 0; i < width; ++i)
      rows[begin + i] = static_cast<float>(rows[begin + i] * scale);
  }
  return rows;
}

std::string experts_of(const std::string& label, int64_t layer) {
  return fmt::format("{}, experts of layer {},", label, layer);
}

std::vector<ExpertsCase> make_cases(const Model& model, const std::string& label,
                                    const HiddenStates& hidden) {
  std::vector<ExpertsCase> cases;
  for (const MoeLayerPlan& plan : model.moe_plan()) {
    const std::vector<float>& before =
        plan.layer == 0 ? hidden.embed : hidden.layers[plan.layer - 1];
    ExpertsCase one{.layer = plan.layer, .x = normalised(before, model.config().hidden_size)};
    run_layer_experts(model, one.layer, one.x, one.ids, one.weights, one.y);
    require_finite_rows(experts_of(label, one.layer), one.y, model.config().hidden_size);
    cases.push_back(std::move(one));
  }
  return cases;
}

Subject measure(const Model& model, const std::string& label,
                const std::vector<std::vector<int32_t>>& rows, const Subject* base,
                std::vector<ExpertsCase>& cases) {
  Subject subject{.label = label};
  Progress progress(label);
  int64_t done = 0;
  for (const std::vector<int32_t>& row : rows) {
    const bool first = done == 0;
    std::vector<float> logits;
    HiddenStates hidden(model.config().num_layers);
    const auto keep = [&](int64_t, std::span<const float> some) {
      logits.insert(logits.end(), some.begin(), some.end());
    };
    Evaluator(model, static_cast<int64_t>(row.size())).run(row, keep, first ? &hidden : nullptr);
    require_finite_logits(model, row, logits, 0, label + ", row " + std::to_string(done));
    const std::span<const float> reference =
        base != nullptr ? std::span<const float>(base->logits[done]) : std::span<const float>();
    const LogitsComparison part = compare_logits(logits, reference, row, model.config().vocab_size);
    subject.total.log_likelihood += part.log_likelihood;
    subject.total.kl += part.kl;
    subject.total.same_argmax += part.same_argmax;
    subject.total.positions += part.positions;
    if (first) {
      if (base == nullptr) cases = make_cases(model, label, hidden);
      subject.residual = std::move(hidden.layers);
    }
    if (base == nullptr) subject.logits.push_back(std::move(logits));
    progress.update(++done, static_cast<int64_t>(rows.size()));
  }
  if (base == nullptr) return subject;
  for (size_t layer = 0; layer < subject.residual.size(); ++layer)
    subject.residual_error.push_back(
        relative_error(subject.residual[layer], base->residual[layer]));
  for (ExpertsCase& one : cases) {
    std::vector<float> y;
    run_layer_experts(model, one.layer, one.x, one.ids, one.weights, y);
    require_finite_rows(experts_of(label, one.layer), y, model.config().hidden_size);
    subject.experts_error.push_back(relative_error(y, one.y));
  }
  return subject;
}

double perplexity_of(const Subject& subject) {
  return perplexity_from(subject.total.log_likelihood, subject.total.positions);
}

void print_json(const std::vector<Subject>& subjects, const std::vector<ExpertsCase>& cases) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Subject& subject : subjects) {
    const auto positions = static_cast<double>(subject.total.positions);
    nlohmann::ordered_json entry = {{"backend", subject.label},
                                    {"perplexity", perplexity_of(subject)},
                                    {"predictions", subject.total.positions}};
    if (&subject != &subjects.front()) {
      entry["kl"] = subject.total.kl / positions;
      entry["same_argmax"] = static_cast<double>(subject.total.same_argmax) / positions;
      entry["residual_error"] = subject.residual_error;
      entry["experts_error"] = nlohmann::ordered_json::array();
      for (size_t i = 0; i < cases.size(); ++i) {
        entry["experts_error"].push_back(
            {{"layer", cases[i].layer}, {"error", subject.experts_error[i]}});
      }
    }
    list.push_back(std::move(entry));
  }
  fmt::print("{}\n",
             nlohmann::ordered_json{{"base", subjects.front().label}, {"backends", list}}.dump(2));
}

void print_tables(const std::vector<Subject>& subjects, const std::vector<ExpertsCase>& cases) {
  const Subject& base = subjects.front();
  Table summary({"backend", "perplexity", "KL from " + base.label, "same first choice"});
  for (const Subject& subject : subjects) {
    const auto positions = static_cast<double>(subject.total.positions);
    const bool first = &subject == &base;
    summary.add(
        {subject.label, fmt::format("{:.4f}", perplexity_of(subject)),
         first ? "-" : fmt::format("{:.3e}", subject.total.kl / positions),
         first ? "-" : fmt::format("{:.2f}%", 100.0 * subject.total.same_argmax / positions)});
  }
  std::vector<std::string> header = {"layer"};
  for (size_t s = 1; s < subjects.size(); ++s) {
    header.push_back(subjects[s].label + " experts");
    header.push_back(subjects[s].label + " residual");
  }
  Table layers(header);
  for (size_t layer = 0; layer < base.residual.size(); ++layer) {
    std::vector<std::string> row = {std::to_string(layer)};
    for (size_t s = 1; s < subjects.size(); ++s) {
      std::string error = "-";
      for (size_t i = 0; i < cases.size(); ++i) {
        if (cases[i].layer == static_cast<int64_t>(layer))
          error = fmt::format("{:.3e}", subjects[s].experts_error[i]);
      }
      row.push_back(error);
      row.push_back(fmt::format("{:.3e}", subjects[s].residual_error[layer]));
    }
    layers.add(row);
  }
  fmt::print(
      "{}\nRelative errors against {} per layer: `experts` on the same inputs, `residual` as it "
      "accumulates.\n\n{}",
      summary.to_string(), base.label, layers.to_string());
}

void compare(const CompareFlags& flags) {
  if (flags.backends.size() < 2)
    throw Error(ErrorCode::kUsage, "--backends needs at least two, e.g. reference,cpu:fp4");
  // All names are checked before the first model is loaded.
  for (const std::string& entry : flags.backends)
    selector_options(with_backend(flags.machine, entry).backend, /*must_run=*/true);
  check_token_source(flags.source);
  const bool from_file = !flags.source.tokens.empty();
  Session session;
  open_checkpoint(session, flags.model, with_backend(flags.machine, flags.backends.front()),
                  from_file ? WithTokenizer::kNo : WithTokenizer::kYes);
  const bool any = from_file || !flags.source.text.empty();
  const auto rows =
      any ? read_token_rows(flags.source, session.tokenizer.get(),
                            session.checkpoint->config().vocab_size)
          : std::vector<std::vector<int32_t>>{session.tokenizer->encode(kDefaultText)};
  std::vector<Subject> subjects;
  std::vector<ExpertsCase> cases;
  MemoryUse use{.advice = "compare fewer --rows"};
  for (const auto& row : rows) {
    const auto tokens = static_cast<int64_t>(row.size());
    use.tokens = std::max(use.tokens, tokens);
    use.result_bytes += tokens * session.checkpoint->config().vocab_size * int64_t{sizeof(float)};
  }
  for (const std::string& entry : flags.backends) {
    reload_model(session, with_backend(flags.machine, entry),
                 {.engines = {evaluator_limits(session.checkpoint->config(), use.tokens)},
                  .advice = "compare shorter rows"});
    subjects.push_back(with_memory_words(session, use, [&] {
      return measure(*session.model, entry, rows, subjects.empty() ? nullptr : &subjects.front(),
                     cases);
    }));
  }
  session.checkpoint->check_unchanged();
  if (flags.json) {
    print_json(subjects, cases);
  } else {
    print_tables(subjects, cases);
  }
}

}  // namespace

void add_compare(CLI::App& app) {
  auto flags = std::make_shared<CompareFlags>();
  CLI::App* command = app.add_subcommand(
      "compare", "Error per layer, KL divergence and perplexity of several backends");
  command->add_option("MODEL", flags->model, "Checkpoint folder")->required();
  with_env(command
               ->add_option("--backends", flags->backends,
                            "Two or more of NAME or NAME:ACTIVATIONS, e.g. "
                            "reference,cpu,cpu:fp4; the first is the base")
               ->required()
               ->delimiter(',')
               ->allow_extra_args(false));
  add_token_source(*command, flags->source);
  add_machine_flags(*command, flags->machine);
  with_env(command->add_flag("--json", flags->json, "One JSON object on stdout"));
  command->callback([flags] { compare(*flags); });
}

}  // namespace moe4::cli
