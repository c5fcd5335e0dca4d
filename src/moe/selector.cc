// The registry's storage, activation modes resolved to precisions, and selection by priority.
#include "moe/selector.h"

#include <fmt/format.h>

#include <algorithm>
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
  if (!scheme.is_fp4()) return {kBf16};
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

// The answer to --batch-invariant, which no backend has to remember to give.
Support require_batch_invariance(const ExpertsBackend& backend, const ExpertsQuery& query) {
  const BatchBehavior batch = backend.batch_behavior(query);
  if (batch.invariance != BatchInvariance::kNone) return std::nullopt;
  return Rejection{Rejection::Kind::kBatch,
                   fmt::format("a token's bits depend on its batch: {}", batch.why)};
}

Candidate judge(const ExpertsBackend* backend, ExpertsQuery query,
                const std::vector<ActivationPrecision>& wanted, const SelectorOptions& options) {
  Candidate first;
  for (ActivationPrecision precision : wanted) {
    query.precision = precision;
    Candidate candidate{backend, backend->supports(query), precision};
    if (can_run(candidate)) {
      if (options.must_run) {
        if (Support here = backend->runnable(query.device)) candidate.verdict = std::move(here);
      }
      if (options.batch_invariant && can_run(candidate)) {
        if (Support no = require_batch_invariance(*backend, query))
          candidate.verdict = std::move(no);
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
  if (scheme.is_mxfp4() && scheme.activation) {
    return fmt::format("activations stay BF16 since {} does not quantise them to MXFP4", name);
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

// Collects the verdicts on one layer and picks from them.
class LayerSelector {
 public:
  LayerSelector(const MoeProblem& problem, const QuantScheme& scheme,
                const SelectorOptions& options)
      : options_(options),
        wanted_(wanted_precisions(scheme, options)),
        query_{.problem = problem,
               .scheme = scheme,
               .precision = wanted_.front(),
               .device = options.device,
               .parallel = options.parallel,
               .says_phase = options.says_phase} {
    for (const ExpertsBackend* backend : registry()) candidates_.push_back(judge_here(backend));
  }

  const std::vector<Candidate>& candidates() const { return candidates_; }

  Selection select() {
    const std::string forced = resolve_backend_name(options_.backend);
    if (!forced.empty()) {
      if (std::optional<Selection> chosen = take_forced(forced)) return *chosen;
    }
    for (const Candidate& candidate : candidates_) {
      if (candidate.verdict) continue;
      return choose(candidate, options_.device,
                    fmt::format("{} is the first in priority on {} that takes {} experts",
                                candidate.backend->name(), to_string(options_.device),
                                short_name(query_.scheme)));
    }
    if (std::optional<Selection> chosen = take_host()) return *chosen;
    throw Error(ErrorCode::kUnavailable,
                fmt::format("no MoE backend can run {}: {}; {}", described(),
                            all_reasons(candidates_), alternatives()));
  }

 private:
  Candidate judge_here(const ExpertsBackend* backend) const {
    if (wanted_.front() == ActivationPrecision::kFp4Static && !asks_for_fp4(query_.scheme)) {
      return {backend,
              Rejection{Rejection::Kind::kPrecision,
                        fmt::format("fp4-static needs calibrated input scales, which a {} "
                                    "checkpoint lacks",
                                    short_name(query_.scheme))},
              wanted_.front()};
    }
    return judge(backend, query_, wanted_, options_);
  }

  Selection choose(const Candidate& chosen, const Device& device, const std::string& why) const {
    ExpertsQuery query = query_;
    query.precision = chosen.precision;
    query.device = device;
    return {.backend = chosen.backend,
            .precision = chosen.precision,
            .device = device,
            .batch = chosen.backend->batch_behavior(query),
            .reason = aside_ + why + "; " + precision_clause(query_.scheme, options_, chosen),
            .candidates = candidates_};
  }

  // The backend asked for. nullopt: it has nothing to do with this layer's format, and the reason
  // says so from then on.
  std::optional<Selection> take_forced(const std::string& forced) {
    const auto candidate =
        std::find_if(candidates_.begin(), candidates_.end(),
                     [&](const Candidate& c) { return c.backend->name() == forced; });
    MOE4_CHECK(candidate != candidates_.end());
    if (!candidate->verdict) return choose(*candidate, options_.device, forced + " was asked for");
    const std::string& message = candidate->verdict->message;
    if (can_run(*candidate)) {
      return choose(
          *candidate, options_.device,
          fmt::format("{} was asked for by name, which it needs since {}", forced, message));
    }
    if (query_.scheme.is_fp4()) {
      throw Error(ErrorCode::kUnavailable,
                  fmt::format("MoE backend '{}' cannot run {} since {}; {}", forced, described(),
                              message, alternatives()));
    }
    aside_ = fmt::format("{} was asked for but does not reach this layer since {}, so ", forced,
                         message);
    return std::nullopt;
  }

  // FP8 and BF16 experts that no GPU backend takes run on the host.
  std::optional<Selection> take_host() {
    if (query_.scheme.is_fp4() || options_.device.is_cpu()) return std::nullopt;
    ExpertsQuery query = query_;
    query.device = Device::cpu();
    for (Candidate& candidate : candidates_) {
      const Candidate on_host = judge(candidate.backend, query, wanted_, options_);
      if (on_host.verdict) continue;
      candidate = on_host;
      return choose(on_host, Device::cpu(),
                    fmt::format("{} runs it on the host since no GPU backend takes {} experts",
                                candidate.backend->name(), short_name(query_.scheme)));
    }
    return std::nullopt;
  }

  std::string described() const {
    return fmt::format("{} experts on {} with {} activations", short_name(query_.scheme),
                       to_string(options_.device), to_string(wanted_.front()));
  }

  // "cpu, reference": who would take the layer on `device` with activations in `precision`.
  std::string fitting(const Device& device, ActivationPrecision precision) const {
    ExpertsQuery query = query_;
    query.device = device;
    query.precision = precision;
    std::string names;
    for (const Candidate& candidate : candidates_) {
      if (candidate.backend->supports(query)) continue;
      if (options_.must_run && candidate.backend->runnable(device)) continue;
      names += names.empty() ? "" : ", ";
      names += candidate.backend->name();
    }
    return names;
  }

  // What the user could ask for instead; never empty.
  std::string alternatives() const {
    std::string names;
    for (const Candidate& candidate : candidates_) {
      if (!can_run(candidate)) continue;
      names += names.empty() ? "" : ", ";
      names += candidate.backend->name();
      if (candidate.verdict) names += " (only by name)";
    }
    if (!names.empty()) return "backends that can: " + names;
    std::vector<std::string> ways;
    if (options_.activations == ActivationMode::kFp4 ||
        options_.activations == ActivationMode::kFp4Static) {
      const std::string found = fitting(options_.device, ActivationPrecision::kBf16);
      if (!found.empty()) ways.push_back("--activations bf16 (" + found + ")");
    }
    if (!options_.device.is_cpu()) {
      const std::string found = fitting(Device::cpu(), query_.precision);
      if (!found.empty()) ways.push_back("--device cpu (" + found + ")");
    }
    return ways.empty() ? "no backend of this program can"
                        : fmt::format("what can: {}", fmt::join(ways, " or "));
  }

  const SelectorOptions& options_;
  std::vector<ActivationPrecision> wanted_;
  ExpertsQuery query_;
  std::vector<Candidate> candidates_;
  std::string aside_;  // why a forced backend does not serve this layer
};

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

Tuning parse_tuning(const std::vector<std::string>& settings) {
  Tuning tuning;
  for (const std::string& setting : settings) {
    const size_t equals = setting.find('=');
    const std::string name = setting.substr(0, equals);
    std::string known;
    bool found = false;
    for (const ExpertsBackend* backend : registry()) {
      for (const TuningOption& option : backend->tuning_options()) {
        found = found || name == option.name;
        known += fmt::format("{}{} ({})", known.empty() ? "" : ", ", option.name, option.values);
      }
    }
    if (equals == std::string::npos || !found) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("unknown tuning '{}': expected NAME=VALUE with one of {}",
                              printable(setting), known));
    }
    tuning.set(name, setting.substr(equals + 1));
  }
  return tuning;
}

std::vector<Candidate> judge_backends(const MoeProblem& problem, const QuantScheme& scheme,
                                      const SelectorOptions& options) {
  return LayerSelector(problem, scheme, options).candidates();
}

Selection select_backend(const MoeProblem& problem, const QuantScheme& scheme,
                         const SelectorOptions& options) {
  return LayerSelector(problem, scheme, options).select();
}

}  // namespace moe4
