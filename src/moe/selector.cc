// The registry's storage, activation modes resolved to precisions, and selection by priority.
#include "moe/selector.h"

#include <fmt/format.h>

#include <utility>

#include "base/error.h"

namespace moe4 {
namespace {

std::vector<const ExpertsBackend*>& registry() {
  static std::vector<const ExpertsBackend*> backends;
  return backends;
}

// Names that users of other engines know.
constexpr std::pair<std::string_view, std::string_view> kAliases[] = {
    {"flashinfer_b12x", "b12x"},
    {"emulation", "reference"},
};

// Able to run the layer, chosen automatically or only by name.
bool can_run(const Candidate& candidate) {
  return !candidate.verdict || candidate.verdict->kind == Rejection::Kind::kNotSelected;
}

bool asks_for_fp4(const QuantScheme& scheme) {
  return scheme.activation && scheme.activation->format == QuantFormat::kNvfp4;
}

// "W4A16" of "W4A16 (nvfp4 static, none)".
std::string short_name(const QuantScheme& scheme) {
  const std::string name = to_string(scheme);
  return name.substr(0, name.find(' '));
}

// The precisions that would do, the preferred one first.
std::vector<ActivationPrecision> wanted_precisions(const QuantScheme& scheme,
                                                   const SelectorOptions& options) {
  using enum ActivationPrecision;
  if (scheme.is_fp8()) {
    const bool fp8 = options.fp8_activations && scheme.activation;
    return {fp8 ? kFp8 : kBf16};
  }
  if (!scheme.is_nvfp4()) return {kBf16};
  switch (options.activations) {
    case ActivationMode::kBf16:
      return {kBf16};
    case ActivationMode::kFp4:
      return {kFp4};
    case ActivationMode::kFp4Static:
      return {kFp4Static};
    case ActivationMode::kAuto:
      break;
  }
  if (asks_for_fp4(scheme) && options.device.has_fp4_tensor_cores()) return {kFp4, kBf16};
  return {kBf16};
}

Candidate judge(const ExpertsBackend* backend, ExpertsQuery query,
                const std::vector<ActivationPrecision>& wanted, bool must_run) {
  Candidate first;
  for (ActivationPrecision precision : wanted) {
    query.precision = precision;
    Candidate candidate{backend, backend->supports(query), precision};
    if (can_run(candidate)) {
      if (must_run) {
        if (Support here = backend->runnable(query.device)) candidate.verdict = std::move(here);
      }
      return candidate;
    }
    if (first.backend == nullptr) first = std::move(candidate);
  }
  return first;
}

std::string precision_clause(const QuantScheme& scheme, const SelectorOptions& options,
                             const Candidate& chosen) {
  const std::string name(chosen.backend->name());
  if (scheme.is_fp8()) {
    if (chosen.precision == ActivationPrecision::kFp8)
      return "activations are quantised to FP8 as the checkpoint says (--fp8-activations)";
    if (options.fp8_activations)
      return "activations stay BF16 since the checkpoint asks for no activation quantisation here";
    return "activations stay BF16";
  }
  if (!scheme.is_nvfp4()) return "activations stay BF16";
  switch (chosen.precision) {
    case ActivationPrecision::kFp4Static:
      return "activations are quantised to FP4 with the checkpoint's calibrated scales, as asked";
    case ActivationPrecision::kFp4:
      if (options.activations == ActivationMode::kAuto)
        return fmt::format(
            "activations are quantised to FP4 in the kernel since the checkpoint asks for W4A4 and "
            "{} has FP4 tensor cores",
            to_string(options.device));
      if (!asks_for_fp4(scheme))
        return fmt::format(
            "activations are quantised to FP4 in the kernel, as asked, although the checkpoint is "
            "{}: expect a loss of accuracy",
            short_name(scheme));
      return "activations are quantised to FP4 in the kernel, as asked";
    default:
      break;
  }
  if (options.activations == ActivationMode::kBf16) return "activations stay BF16, as asked";
  if (!asks_for_fp4(scheme))
    return fmt::format("activations stay BF16 since the checkpoint is {}", short_name(scheme));
  if (!options.device.has_fp4_tensor_cores())
    return fmt::format(
        "activations stay BF16 since {} has no FP4 tensor cores, although the checkpoint asks for "
        "W4A4",
        to_string(options.device));
  return fmt::format(
      "activations stay BF16 since {} does not quantise them, although the checkpoint asks for "
      "W4A4",
      name);
}

// "marlin since ...; hopper since ...".
std::string all_reasons(const std::vector<Candidate>& candidates) {
  std::string text;
  for (const Candidate& candidate : candidates) {
    if (!candidate.verdict) continue;
    if (!text.empty()) text += "; ";
    text += fmt::format("{} since {}", candidate.backend->name(), candidate.verdict->message);
  }
  return text;
}

// What the user could ask for instead; never empty.
std::string alternatives(const std::vector<Candidate>& candidates, const ExpertsQuery& query,
                         const SelectorOptions& options) {
  std::string names;
  for (const Candidate& candidate : candidates) {
    if (!can_run(candidate)) continue;
    if (!names.empty()) names += ", ";
    names += candidate.backend->name();
    if (candidate.verdict) names += " (only by name)";
  }
  if (!names.empty()) return "backends that can: " + names;
  // Nothing fits as asked: look for what would with BF16 activations, then on the host.
  const auto fitting = [&](const Device& device, ActivationPrecision precision) {
    std::string found;
    for (const Candidate& candidate : candidates) {
      ExpertsQuery other = query;
      other.device = device;
      other.precision = precision;
      const Support verdict = candidate.backend->supports(other);
      const bool here = !options.must_run || !candidate.backend->runnable(device);
      if (verdict || !here) continue;
      if (!found.empty()) found += ", ";
      found += candidate.backend->name();
    }
    return found;
  };
  const bool asked = options.activations == ActivationMode::kFp4 ||
                     options.activations == ActivationMode::kFp4Static;
  std::vector<std::string> ways;
  if (asked) {
    const std::string found = fitting(options.device, ActivationPrecision::kBf16);
    if (!found.empty()) ways.push_back("--activations bf16 (" + found + ")");
  }
  if (!options.device.is_cpu()) {
    const std::string found = fitting(Device::cpu(), query.precision);
    if (!found.empty()) ways.push_back("--device cpu (" + found + ")");
  }
  return ways.empty() ? "no backend of this program can"
                      : fmt::format("what can: {}", fmt::join(ways, " or "));
}

}  // namespace

std::vector<const ExpertsBackend*> registered_backends() { return registry(); }

void set_registered_backends(std::vector<const ExpertsBackend*> backends) {
  registry() = std::move(backends);
}

std::string resolve_backend_name(const std::string& name) {
  if (name.empty() || name == "auto") return "";
  for (const auto& [alias, target] : kAliases) {
    if (name == alias) return std::string(target);
  }
  std::string known = "auto";
  for (const ExpertsBackend* backend : registry()) {
    if (name == backend->name()) return name;
    known += fmt::format(", {}", backend->name());
  }
  for (const auto& [alias, target] : kAliases) known += fmt::format(", {} (= {})", alias, target);
  throw Error(ErrorCode::kUsage,
              fmt::format("unknown MoE backend '{}': expected one of {}", printable(name), known));
}

Selection select_backend(const MoeProblem& problem, const QuantScheme& scheme,
                         const SelectorOptions& options) {
  const std::string forced = resolve_backend_name(options.backend);
  const std::vector<ActivationPrecision> wanted = wanted_precisions(scheme, options);
  ExpertsQuery query{.problem = problem,
                     .scheme = scheme,
                     .precision = wanted.front(),
                     .device = options.device,
                     .parallel = options.parallel};
  Selection selection{.device = options.device};
  for (const ExpertsBackend* backend : registry()) {
    selection.candidates.push_back(judge(backend, query, wanted, options.must_run));
  }
  if (wanted.front() == ActivationPrecision::kFp4Static && !asks_for_fp4(scheme)) {
    for (Candidate& candidate : selection.candidates) {
      candidate.verdict = Rejection{
          Rejection::Kind::kPrecision,
          fmt::format("fp4-static needs calibrated input scales, which a {} checkpoint lacks",
                      short_name(scheme))};
    }
  }

  const auto choose = [&](const Candidate& chosen, const std::string& why) {
    selection.backend = chosen.backend;
    selection.precision = chosen.precision;
    selection.reason = why + "; " + precision_clause(scheme, options, chosen);
    return selection;
  };
  const auto described = [&] {
    return fmt::format("{} experts on {} with {} activations", short_name(scheme),
                       to_string(options.device), to_string(wanted.front()));
  };

  std::string aside;  // why a forced backend does not serve this layer
  if (!forced.empty()) {
    for (const Candidate& candidate : selection.candidates) {
      if (candidate.backend->name() != forced) continue;
      if (!candidate.verdict) return choose(candidate, forced + " was asked for");
      if (can_run(candidate)) {
        return choose(candidate, fmt::format("{} was asked for by name, which it needs since {}",
                                             forced, candidate.verdict->message));
      }
      if (scheme.is_nvfp4()) {
        throw Error(ErrorCode::kUnavailable,
                    fmt::format("MoE backend '{}' cannot run {} since {}; {}", forced, described(),
                                candidate.verdict->message,
                                alternatives(selection.candidates, query, options)));
      }
      aside = fmt::format("{} was asked for but does not reach this layer since {}, so ", forced,
                          candidate.verdict->message);
    }
  }
  for (const Candidate& candidate : selection.candidates) {
    if (candidate.verdict) continue;
    return choose(
        candidate,
        fmt::format("{}{} is the first in priority on {} that takes {} experts", aside,
                    candidate.backend->name(), to_string(options.device), short_name(scheme)));
  }
  if (!scheme.is_nvfp4() && !options.device.is_cpu()) {
    query.device = Device::cpu();
    for (Candidate& candidate : selection.candidates) {
      Candidate on_host = judge(candidate.backend, query, wanted, options.must_run);
      if (on_host.verdict) continue;
      candidate = on_host;
      selection.device = Device::cpu();
      return choose(on_host, fmt::format("{}{} runs it on the host since no GPU backend takes {} "
                                         "experts",
                                         aside, candidate.backend->name(), short_name(scheme)));
    }
    query.device = options.device;
  }
  throw Error(ErrorCode::kUnavailable,
              fmt::format("no MoE backend can run {}: {}; {}", described(),
                          all_reasons(selection.candidates),
                          alternatives(selection.candidates, query, options)));
}

}  // namespace moe4
