// The Experts interface: a backend says what it supports, prepares a layer once, and applies it
// step by step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>

#include "base/device.h"
#include "base/dtype.h"
#include "base/thread_pool.h"
#include "moe/batch_invariance.h"
#include "moe/problem.h"
#include "moe/quant.h"
#include "moe/rejection.h"
#include "moe/tuning.h"
#include "moe/weights.h"

namespace moe4 {

/// What supports() is asked about. Pure data: the device need not be present.
struct ExpertsQuery {
  MoeProblem problem;
  QuantScheme scheme;
  ActivationPrecision precision = ActivationPrecision::kBf16;
  Device device;
  Parallel parallel;
  /// Calls will say which tokens were generated (ExpertsArgs::num_decode_tokens), as steps of
  /// models do.
  bool says_phase = false;
};

struct PrepareOptions {
  ActivationPrecision precision = ActivationPrecision::kBf16;
  Device device;
  /// Threads for repacking (and for apply() of CPU backends). Never null; outlives the prepared
  /// layer.
  ThreadPool* threads = nullptr;
  /// A backend that can, says here which expert of the weights it has copied and will read again
  /// only to report an error; from any of its threads. May be empty.
  std::function<void(const ExpertWeights&)> copied;
  /// Options of other backends are ignored; parse_tuning() has checked their names.
  Tuning tuning;
};

/// One call of a layer. All pointers live on the backend's device.
struct ExpertsArgs {
  int64_t num_tokens = 0;               ///< T; 0 is fine
  const void* hidden_states = nullptr;  ///< [T, H], dense
  DType hidden_dtype = DType::kBF16;    ///< kBF16, or kF32 where accepts_float32()
  const int32_t* topk_ids = nullptr;    ///< [T, k]; -1 and ids of other ranks are skipped
  const float* topk_weights = nullptr;  ///< [T, k]
  void* output = nullptr;             ///< [T, H], overwritten; rows without any expert become zero
  DType output_dtype = DType::kBF16;  ///< kBF16 or kF32
  /// The phase of each token: the first so many were generated (or are drafts being verified), the
  /// others belong to prompts. Each kind has its own order of summation, whatever shares the call.
  /// -1: unknown; a backend may then choose the order by the number of tokens.
  int64_t num_decode_tokens = -1;
  std::span<std::byte> workspace;  ///< at least workspace_size(T) bytes, 256-byte aligned
  void* stream = nullptr;          ///< cudaStream_t of CUDA backends; unused on the CPU
};

/// A layer ready to run. apply() allocates nothing, synchronises nothing and may be captured in a
/// CUDA graph. The same call gives the same bits every time and for any number of threads; whether
/// a token's bits also stay the same in other batches is batch_invariant()'s to say. CPU backends:
/// one apply() at a time per thread pool.
class PreparedExperts {
 public:
  virtual ~PreparedExperts() = default;
  /// Bytes apply() needs for up to `max_tokens` tokens. Pure.
  virtual size_t workspace_size(int64_t max_tokens) const = 0;
  /// Throws Error(kUsage) for a workspace that is too small or a dtype it does not take, before
  /// touching `output`.
  virtual void apply(const ExpertsArgs& args) const = 0;
  /// Whether hidden_dtype and output_dtype may be kF32.
  virtual bool accepts_float32() const { return false; }
  /// What holds for this layer, its tuning included. Every claim above kNone is tested.
  virtual BatchInvariance batch_invariant() const = 0;
  /// Bytes of packed weights held by this layer.
  virtual int64_t weight_bytes() const = 0;
};

/// A family of expert kernels.
class ExpertsBackend {
 public:
  virtual ~ExpertsBackend() = default;
  virtual std::string_view name() const = 0;
  /// Pure and cheap: no device needed.
  virtual Support supports(const ExpertsQuery& query) const = 0;
  /// What batch_invariant() of a layer prepared without tuning will say at least, and why; more
  /// where query.says_phase and a backend has an order of sums for each phase. Pure like
  /// supports(), and only asked about what that takes.
  virtual BatchBehavior batch_behavior(const ExpertsQuery& query) const = 0;
  /// What PrepareOptions::tuning may hold for this backend.
  virtual std::span<const TuningOption> tuning_options() const { return {}; }
  /// Whether this program can run it here and now (built in, device present); supports() does not
  /// ask that.
  virtual Support runnable(const Device& device) const = 0;
  /// May allocate. The weights' memory may go away afterwards: nothing of it is kept.
  /// Throws Error(kUnavailable) when memory is short, Error(kBadInput) for a NaN scale, naming the
  /// tensor.
  virtual std::unique_ptr<PreparedExperts> prepare(const MoeLayerWeights& weights,
                                                   const PrepareOptions& options) const = 0;
};

}  // namespace moe4
