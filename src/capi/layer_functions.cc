// The C interface of one layer over the selector and PreparedExperts.
#include <mutex>
#include <string>
#include <vector>

#include "capi/gpu.h"
#include "capi/guard.h"
#include "capi/layer.h"
#include "capi/layer_desc.h"
#include "capi/threads.h"

using namespace moe4;        // NOLINT: this file is the library's outer skin
using namespace moe4::capi;  // NOLINT

struct moe4_selection {
  std::string backend, reason;
  std::vector<std::string> texts;  // what the candidates point to
  std::vector<moe4_candidate> candidates;
};

namespace {

// Strings of all candidates, two each, then pointers to them.
void keep(const std::vector<Candidate>& from, moe4_selection& selection) {
  for (const Candidate& candidate : from) {
    selection.texts.emplace_back(candidate.backend->name());
    selection.texts.emplace_back(candidate.verdict ? to_string(candidate.verdict->kind) : "");
    selection.texts.emplace_back(candidate.verdict ? candidate.verdict->message : "");
  }
  for (size_t i = 0; i < from.size(); ++i) {
    const auto text = [&](size_t at) { return selection.texts[3 * i + at].c_str(); };
    const bool rejected = from[i].verdict.has_value();
    selection.candidates.push_back({.backend = text(0),
                                    .kind = rejected ? text(1) : nullptr,
                                    .reason = rejected ? text(2) : nullptr});
  }
}

}  // namespace

const char* moe4_version(void) { return MOE4_VERSION; }

int moe4_abi(void) { return MOE4_ABI; }

const char* moe4_gpu_architectures(void) {
  static const std::string& architectures = *new std::string(gpu_architectures());  // NOLINT
  return architectures.c_str();
}

moe4_status moe4_set_num_threads(int num_threads) {
  return guarded([&] { set_num_threads(num_threads); });
}

moe4_status moe4_layer_query(const moe4_layer_desc* desc, moe4_selection** selection) {
  return guarded([&] {
    require(desc != nullptr && selection != nullptr, "moe4_layer_query: NULL argument");
    require_size(desc->struct_size, sizeof(moe4_layer_desc), "moe4_layer_query");
    check_desc(*desc, Weights::kIgnore);
    const SelectorOptions options = selector_options(*desc);
    auto made = std::make_unique<moe4_selection>();
    keep(judge_backends(problem_of(*desc), scheme_of(*desc), options), *made);
    try {
      const Selection chosen = select_backend(problem_of(*desc), scheme_of(*desc), options);
      made->backend = chosen.backend->name();
      made->reason = chosen.reason;
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kUnavailable) throw;
      made->reason = error.what();
    }
    *selection = made.release();
  });
}

const char* moe4_selection_backend(const moe4_selection* selection) {
  return selection == nullptr ? "" : selection->backend.c_str();
}

const char* moe4_selection_reason(const moe4_selection* selection) {
  return selection == nullptr ? "" : selection->reason.c_str();
}

const moe4_candidate* moe4_selection_candidate(const moe4_selection* selection, int index) {
  if (selection == nullptr || index < 0) return nullptr;
  const auto at = static_cast<size_t>(index);
  return at < selection->candidates.size() ? &selection->candidates[at] : nullptr;
}

void moe4_selection_destroy(moe4_selection* selection) { delete selection; }

moe4_status moe4_layer_create(const moe4_layer_desc* desc, moe4_layer** layer) {
  return guarded([&] {
    require(desc != nullptr && layer != nullptr, "moe4_layer_create: NULL argument");
    require_size(desc->struct_size, sizeof(moe4_layer_desc), "moe4_layer_create");
    check_desc(*desc, Weights::kLookAt);
    const SelectorOptions options = selector_options(*desc);
    const Canonical canonical = canonical_of(*desc);
    const MoeLayerWeights& weights = canonical.weights;
    const Selection selection = select_backend(weights.problem, weights.scheme, options);
    auto made = std::make_unique<moe4_layer>();
    made->threads = &shared_threads();
    made->device = options.device;
    made->backend = selection.backend->name();
    made->hidden_size = desc->hidden_size;
    made->intermediate_size = weights.problem.intermediate_size;
    made->top_k = desc->top_k;
    made->num_experts = desc->num_experts;
    made->num_local_experts = desc->num_local_experts;
    made->map_per_call = desc->expert_map_per_call != 0;
    const std::lock_guard lock(shared_threads_mutex());
    made->prepared = selection.backend->prepare(
        weights,
        {.precision = selection.precision, .device = options.device, .threads = made->threads});
    *layer = made.release();
  });
}

size_t moe4_layer_workspace_size(const moe4_layer* layer, int64_t max_tokens,
                                 moe4_dtype hidden_dtype) {
  size_t size = 0;
  guarded([&] {
    require(layer != nullptr, "moe4_layer_workspace_size: NULL argument");
    size = workspace_size(*layer, max_tokens, dtype_of(hidden_dtype, "moe4_layer_workspace_size"));
  });
  return size;
}

moe4_status moe4_layer_apply(const moe4_layer* layer, const moe4_apply_args* args) {
  return guarded([&] {
    require(layer != nullptr && args != nullptr, "moe4_layer_apply: NULL argument");
    require_size(args->struct_size, sizeof(moe4_apply_args), "moe4_layer_apply");
    apply(*layer, *args);
  });
}

const char* moe4_layer_backend(const moe4_layer* layer) {
  return layer == nullptr ? "" : layer->backend.c_str();
}

moe4_batch_invariance moe4_layer_batch_invariance(const moe4_layer* layer) {
  if (layer == nullptr) return MOE4_BATCH_DEPENDENT;
  switch (layer->prepared->batch_invariant()) {
    case BatchInvariance::kFull:
      return MOE4_BATCH_INVARIANT;
    case BatchInvariance::kByPhase:
      return MOE4_BATCH_INVARIANT_BY_PHASE;
    case BatchInvariance::kNone:
      break;
  }
  return MOE4_BATCH_DEPENDENT;
}

int64_t moe4_layer_weight_bytes(const moe4_layer* layer) {
  return layer == nullptr ? 0 : layer->prepared->weight_bytes();
}

int64_t moe4_layer_intermediate_size(const moe4_layer* layer) {
  return layer == nullptr ? 0 : layer->intermediate_size;
}

void moe4_layer_destroy(moe4_layer* layer) { delete layer; }

const char* moe4_last_error(void) { return last_error().c_str(); }
