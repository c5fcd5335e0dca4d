// Packing of weights, and what becomes of the file's pages.
#include "models/loader.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "base/error.h"
#include "moe/selector.h"
#include "ops/experts/offload/cpu_experts_of_gpu.h"

namespace moe4 {
namespace {

// Pages lying wholly inside the view go back to the system; they would be read from the file again.
void release_pages(const TensorView& view) {
  if (view.empty() || view.row_stride != 0) return;
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(view.data);
  const uintptr_t first = (begin + page - 1) / page * page;
  const uintptr_t last = (begin + static_cast<uintptr_t>(view.num_bytes())) / page * page;
  if (first >= last) return;
  auto* bytes = static_cast<std::byte*>(const_cast<void*>(view.data));
  madvise(bytes + (first - begin), last - first, MADV_DONTNEED);
}

void release_expert(const ExpertWeights& expert) {
  for (const LinearWeights* linear :
       {expert.gate ? &*expert.gate : &expert.up, &expert.up, &expert.down}) {
    release_pages(linear->weight);
    release_pages(linear->scale);
  }
}

}  // namespace

Loader::Loader(const Checkpoint& checkpoint, const ModelOptions& options)
    : Builder(checkpoint, {.ops = {.device = options.moe.device, .threads = options.threads},
                           .linears = {.fp8_activations = options.moe.fp8_activations,
                                       .activations = options.moe.activations,
                                       .exact_inputs = options.compute_dtype == DType::kF32},
                           .cache_dtype = cache_dtype(options)}),
      options_(options) {}

DecoderParts Loader::take() {
  bytes_done_ = checkpoint().total_tensor_bytes();
  report();
  return std::move(parts());
}

void Loader::report() const {
  if (!options_.progress) return;
  const int64_t total = checkpoint().total_tensor_bytes();
  options_.progress(std::min(bytes_done_, total), total);
}

void Loader::consumed(const TensorView& view) {
  if (view.empty() || view.row_stride != 0) return;
  // What was made is in no file that it could be read from again.
  const bool is_made = std::any_of(made_.begin(), made_.end(), [&](const auto& buffer) {
    const auto* data = static_cast<const std::byte*>(view.data);
    return data >= buffer->data() && data < buffer->data() + buffer->size();
  });
  if (!is_made) release_pages(view);
  bytes_done_ += view.num_bytes();
}

void Loader::consumed(const LinearWeights& weights) {
  if (weights.memory != nullptr) return;  // gone with its last copy
  consumed(weights.weight);
  consumed(weights.scale);
  consumed(weights.bias);
}

void Loader::packed(const LinearWeights& weights) {
  consumed(weights);
  report();
}

TensorRef Loader::tensor(const std::string& name, int64_t) {
  return {name, checkpoint().tensor(name)};
}

std::optional<LinearWeights> Loader::linear(const LinearSpec& spec, int64_t in_features) {
  return checkpoint().linear(spec.module, spec.out_features, in_features, &made_);
}

void Loader::complete(Whole) { made_.clear(); }

void Loader::chose(OpChoice choice) {
  if (choice.implementation.empty()) {
    internal::nobody_can(choice.op, device(), choice.verdicts);
  }
}

Selection Loader::select_experts(const MoeProblem& problem, const QuantScheme& scheme) const {
  SelectorOptions asked = options_.moe;
  asked.says_phase = true;  // MoeBlock::forward() does
  const auto moe_layers = static_cast<int64_t>(parts().moe_plan.size());
  if (moe_layers < options_.cpu_moe) asked.device = Device::cpu();
  return select_backend(problem, scheme, asked);
}

std::optional<Builder::ExpertsKind> Loader::experts_kind(const std::string& module,
                                                         const MoeProblem& problem,
                                                         int64_t num_shared) {
  const QuantScheme scheme = checkpoint().experts_header(module, problem).scheme;
  try {
    const Selection selection = select_experts(with_shared_experts(problem, num_shared), scheme);
    return ExpertsKind{scheme, selection.device, selection.precision};
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUnavailable) throw;
    return std::nullopt;
  }
}

std::unique_ptr<RoutedExperts> Loader::experts(const std::string& module, const MoeProblem& problem,
                                               std::span<const ExpertWeights> shared) {
  MoeLayerWeights weights = checkpoint().experts(module, problem);
  weights.problem = with_shared_experts(problem, static_cast<int64_t>(shared.size()));
  weights.experts.insert(weights.experts.end(), shared.begin(), shared.end());
  Selection selection = select_experts(weights.problem, weights.scheme);
  if (const Support absent = selection.backend->runnable(selection.device)) {
    throw Error(ErrorCode::kUnavailable, "layer " + std::to_string(layer_number()) + ": backend '" +
                                             std::string(selection.backend->name()) +
                                             "' cannot run here since " + absent->message);
  }
  const bool is_in_file = weights.memory.empty();
  PrepareOptions prepare{.precision = selection.precision,
                         .device = selection.device,
                         .threads = options_.threads,
                         .tuning = options_.tuning};
  if (is_in_file) prepare.copied = release_expert;
  auto prepared = selection.backend->prepare(weights, prepare);
  auto experts = selection.device.is_cpu() && !device().is_cpu()
                     ? cpu_experts_of_gpu(std::move(prepared), weights.problem, device())
                     : routed_experts(std::move(prepared));
  if (options_.compute_dtype == DType::kF32 && !experts->accepts_float32()) {
    throw Error(ErrorCode::kUsage, "--dtype float32: backend '" +
                                       std::string(selection.backend->name()) +
                                       "' takes BF16 hidden states; use --moe-backend reference");
  }
  // Shared experts are views of the file either way.
  for (const ExpertWeights& expert : is_in_file ? std::span(weights.experts) : shared) {
    if (expert.gate) consumed(*expert.gate);
    consumed(expert.up);
    consumed(expert.down);
  }
  report();
  parts().moe_plan.push_back({.layer = layer_number(),
                              .scheme = weights.scheme,
                              .problem = problem,
                              .selection = std::move(selection)});
  return experts;
}

}  // namespace moe4
