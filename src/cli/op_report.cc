// Grouping and wording of ops.
#include "cli/op_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/plan_report.h"

namespace moe4::cli {
namespace {

using nlohmann::ordered_json;

struct Group {
  std::vector<int64_t> layers;  // empty: outside of layers
  const std::vector<OpChoice>* ops;
};

// Equal layers are one group wherever they are.
std::vector<Group> grouped(const Description& description) {
  std::vector<Group> groups;
  for (size_t i = 0; i < description.layers.size(); ++i) {
    const std::vector<OpChoice>& ops = description.layers[i];
    const auto same = std::find_if(groups.begin(), groups.end(),
                                   [&](const Group& group) { return *group.ops == ops; });
    if (same == groups.end()) {
      groups.push_back({{static_cast<int64_t>(i)}, &ops});
    } else {
      same->layers.push_back(static_cast<int64_t>(i));
    }
  }
  if (!description.outside.empty()) groups.push_back({{}, &description.outside});
  return groups;
}

// "embedding (not cpu since the table is tied to lm_head)".
std::string with_reasons(const OpChoice& choice) {
  std::string reasons;
  for (const OpVerdict& verdict : choice.verdicts) {
    // That CPU ops are not for a GPU, and the other way round, goes without saying.
    if (!verdict.verdict || verdict.verdict->kind == Rejection::Kind::kDevice) continue;
    reasons += fmt::format("{}not {} since {}", reasons.empty() ? "" : ", ", verdict.implementation,
                           verdict.verdict->message);
  }
  return reasons.empty() ? choice.role : fmt::format("{} ({})", choice.role, reasons);
}

// "cpu: norm, qkv_proj, attention; cpu-tied: embedding (not cpu since ...)".
std::string by_implementation(const std::vector<OpChoice>& ops) {
  std::vector<std::pair<std::string_view, std::vector<std::string>>> lists;
  for (const OpChoice& choice : ops) {
    const auto at = std::find_if(lists.begin(), lists.end(), [&](const auto& list) {
      return list.first == choice.implementation;
    });
    auto& roles =
        at != lists.end()
            ? at->second
            : lists.emplace_back(choice.implementation, std::vector<std::string>()).second;
    const std::string role = with_reasons(choice);
    if (std::find(roles.begin(), roles.end(), role) == roles.end()) roles.push_back(role);
  }
  std::string text;
  for (const auto& [implementation, roles] : lists) {
    text += fmt::format("{}{}: {}", text.empty() ? "" : "; ",
                        implementation.empty() ? "nobody" : implementation, fmt::join(roles, ", "));
  }
  return text;
}

}  // namespace

std::string ops_text(const Description& description) {
  std::string text;
  for (const Group& group : grouped(description)) {
    const std::string where =
        group.layers.empty()
            ? "other ops"
            : fmt::format("ops of {} {}", group.layers.size() == 1 ? "layer" : "layers",
                          layer_ranges(group.layers));
    text += fmt::format("{}: {}\n", where, by_implementation(*group.ops));
  }
  return text;
}

ordered_json ops_json(const Description& description) {
  ordered_json json = ordered_json::array();
  for (const Group& group : grouped(description)) {
    ordered_json entry = ordered_json::object();
    if (!group.layers.empty()) entry["layers"] = group.layers;
    entry["ops"] = ordered_json::array();
    for (const OpChoice& choice : *group.ops) {
      ordered_json op = {
          {"role", choice.role}, {"op", choice.op}, {"weight_bytes", choice.weight_bytes}};
      op["implementation"] = choice.implementation.empty() ? ordered_json(nullptr)
                                                           : ordered_json(choice.implementation);
      op["candidates"] = ordered_json::array();
      for (const OpVerdict& verdict : choice.verdicts) {
        ordered_json candidate = {{"implementation", verdict.implementation},
                                  {"status", verdict.verdict ? "rejected" : "selected"}};
        if (verdict.verdict) {
          candidate["kind"] = to_string(verdict.verdict->kind);
          candidate["reason"] = verdict.verdict->message;
        }
        op["candidates"].push_back(std::move(candidate));
      }
      entry["ops"].push_back(std::move(op));
    }
    json.push_back(std::move(entry));
  }
  return json;
}

}  // namespace moe4::cli
