// The gated delta net from a checkpoint's modules.
#include "base/error.h"
#include "models/builder.h"
#include "moe/copied_rows.h"

namespace moe4 {
namespace {

// Rows of every part in a projection that is grouped by key head; `widths`: rows that the parts
// have in one group.
std::vector<std::vector<int64_t>> rows_of_parts(int64_t groups,
                                                const std::vector<int64_t>& widths) {
  std::vector<std::vector<int64_t>> parts(widths.size());
  int64_t row = 0;
  for (int64_t group = 0; group < groups; ++group) {
    for (size_t part = 0; part < widths.size(); ++part) {
      for (int64_t i = 0; i < widths[part]; ++i) parts[part].push_back(row++);
    }
  }
  return parts;
}

}  // namespace

std::unique_ptr<Prepared<LinearGroup>> Builder::inputs_by_key_head(
    const std::string& at, const DeltaNet::Problem& problem) {
  // Lists of rows are in memory; published models have 12,288.
  constexpr int64_t kMostRows = 1 << 24;
  const int64_t rows_qkvz = problem.channels() + problem.values();
  if (rows_qkvz > kMostRows) {
    throw_bad_input({.what = "projection is too large",
                     .tensor = at + "in_proj_qkvz",
                     .expected = "at most " + std::to_string(kMostRows) + " rows",
                     .found = std::to_string(rows_qkvz)});
  }
  const int64_t groups = problem.num_key_heads, heads = problem.num_value_heads / groups;
  const auto qkvz = linear({at + "in_proj_qkvz", rows_qkvz}, hidden_size_);
  const auto ba = linear({at + "in_proj_ba", 2 * problem.num_value_heads}, hidden_size_);
  if (!qkvz || !ba) return nullptr;
  const int64_t key = problem.key_dim, values = heads * problem.value_dim;
  auto rows = rows_of_parts(groups, {key, key, values, values});
  for (const size_t part : {1, 2})
    rows[0].insert(rows[0].end(), rows[part].begin(), rows[part].end());
  const auto rows_ba = rows_of_parts(groups, {heads, heads});
  const CopiedRows parts[] = {copy_rows(*qkvz, rows[0]), copy_rows(*qkvz, rows[3]),
                              copy_rows(*ba, rows_ba[0]), copy_rows(*ba, rows_ba[1])};
  LinearGroup::Weights weights;
  for (const CopiedRows& part : parts) weights.members.push_back(part.linear);
  auto inputs = group("in_proj", weights);
  packed(*qkvz);
  packed(*ba);
  return inputs;
}

std::unique_ptr<Mixer> Builder::delta_net(const std::string& module,
                                          const DeltaNet::Problem& problem, DeltaNetInputs inputs) {
  const std::string at = full_name(module) + ".";
  DeltaNetParts parts;
  // GGUF has taken them apart.
  if (inputs == DeltaNetInputs::kByKeyHead && !checkpoint_.has_linear(at + "in_proj_qkv")) {
    parts.in_proj = inputs_by_key_head(at, problem);
  } else {
    parts.in_proj = linears("in_proj",
                            {{at + "in_proj_qkv", problem.channels()},
                             {at + "in_proj_z", problem.values()},
                             {at + "in_proj_b", problem.num_value_heads},
                             {at + "in_proj_a", problem.num_value_heads}},
                            hidden_size_);
  }
  DeltaNet::Problem kept = problem;
  if (!device().is_cpu()) kept.ring = DeltaNet::kMaxRing;
  keeps(kept.state());
  parts.delta_net = prepare<DeltaNet>(
      "delta_net", kept,
      {.conv = tensor(at + "conv1d.weight", problem.channels() * problem.conv_taps),
       .a_log = tensor(at + "A_log", problem.num_value_heads),
       .dt_bias = tensor(at + "dt_bias", problem.num_value_heads),
       .norm = tensor(at + "norm.weight", problem.value_dim)});
  parts.out_proj = linears("out_proj", {{at + "out_proj", hidden_size_}}, problem.values());
  if (is_describing()) return nullptr;
  return std::make_unique<DeltaNetMixer>(std::move(parts));
}

}  // namespace moe4
