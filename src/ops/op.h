// The contract of every operation: what it is asked, who can do it, and how it runs.
//
// An op is a struct with no members but these types, declared in ops/<op>/<op>.h together with its
// formula, shapes, dtypes and aliasing:
//
//   struct AddNorm {
//     static constexpr std::string_view kName = "add_norm";
//     struct Problem { ... };  // sizes and settings, known before any weight is read
//     struct Weights { ... };  // views of a checkpoint's tensors; may go away after prepare()
//     struct Args { ... };     // pointers and sizes of one call
//     static void check(const Problem&, const Args&);  // MOE4_CHECKs: shapes and strides agree
//   };
//
// ops/<op>/implementations.cc has the constant list of who implements it, in order of priority. The
// last one is `reference`: float64 inside, the judge of the others in tests/ops, and never
// selected.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/cpu_isa.h"
#include "base/error.h"
#include "moe/batch_invariance.h"
#include "moe/quant.h"
#include "moe/rejection.h"
#include "ops/execution.h"

namespace moe4 {

/// Settings of preparation that are not the problem's.
struct OpOptions {
  Device device;
  /// Threads for packing. Null: the caller's alone.
  ThreadPool* threads = nullptr;
  CpuIsa isa = cpu_isa();  ///< of CPU kernels; one that this machine has
};

/// An op ready to run: immutable, holds its weights in its own layout.
template <class Op>
class Prepared {
 public:
  explicit Prepared(typename Op::Problem problem) : problem_(std::move(problem)) {}
  virtual ~Prepared() = default;
  Prepared(const Prepared&) = delete;
  Prepared& operator=(const Prepared&) = delete;

  const typename Op::Problem& problem() const { return problem_; }

  /// Bytes that run() needs for `bound` and for every call none of whose sizes is larger. Reads
  /// sizes only, no pointer.
  virtual size_t workspace_size(const typename Op::Args& bound) const = 0;
  /// Enqueues the work (a CPU has done it on return). Allocates nothing, waits for nothing, can be
  /// captured in a graph. `workspace` is 256-byte aligned and holds workspace_size() bytes.
  virtual void run(const typename Op::Args& args, std::span<std::byte> workspace,
                   const Stream& stream) const = 0;
  /// Whether a row's bits depend on what shares its call, for any number of threads.
  virtual BatchInvariance batch_invariant() const = 0;
  /// Weight bytes that one row reads.
  virtual int64_t weight_bytes() const = 0;

 private:
  typename Op::Problem problem_;
};

/// One way to do an op. Stateless; lives for ever.
template <class Op>
class Implementation {
 public:
  virtual ~Implementation() = default;
  virtual std::string_view name() const = 0;
  /// Pure and cheap: the device need not be present.
  virtual Support supports(const typename Op::Problem& problem, const Device& device) const = 0;
  /// May allocate and repack; nothing of `weights` is kept. Throws Error(kBadInput) naming the
  /// tensor for weights that are no numbers or have the wrong shape.
  virtual std::unique_ptr<Prepared<Op>> prepare(const typename Op::Problem& problem,
                                                const typename Op::Weights& weights,
                                                const OpOptions& options) const = 0;
};

/// In order of priority. Specialised in ops/<op>/implementations.cc.
template <class Op>
std::span<const Implementation<Op>* const> implementations();

/// What an implementation said of a problem.
struct OpVerdict {
  std::string_view implementation;
  Support verdict;  ///< nullopt: could do it

  bool operator==(const OpVerdict&) const = default;
};

template <class Op>
struct OpSelection {
  const Implementation<Op>* implementation = nullptr;
  std::vector<OpVerdict> verdicts;  ///< of all that were asked, in order
};

namespace internal {
/// Throws Error(kUnavailable): the op, the device and every reason.
[[noreturn]] void nobody_can(std::string_view op, const Device& device,
                             std::span<const OpVerdict> verdicts);
}  // namespace internal

/// The first implementation that can, or null and everybody's reasons. Pure.
template <class Op>
OpSelection<Op> ask(const typename Op::Problem& problem, const Device& device) {
  OpSelection<Op> selection;
  for (const Implementation<Op>* candidate : implementations<Op>()) {
    selection.verdicts.push_back({candidate->name(), candidate->supports(problem, device)});
    if (selection.verdicts.back().verdict) continue;
    selection.implementation = candidate;
    break;
  }
  return selection;
}

/// The first implementation that can. Pure. Throws Error(kUnavailable) with all reasons.
template <class Op>
OpSelection<Op> select(const typename Op::Problem& problem, const Device& device) {
  OpSelection<Op> selection = ask<Op>(problem, device);
  if (selection.implementation == nullptr) {
    internal::nobody_can(Op::kName, device, selection.verdicts);
  }
  return selection;
}

/// select() and prepare() in one.
template <class Op>
std::unique_ptr<Prepared<Op>> prepare(const typename Op::Problem& problem,
                                      const typename Op::Weights& weights,
                                      const OpOptions& options) {
  return select<Op>(problem, options.device).implementation->prepare(problem, weights, options);
}

/// How ops are called: checks the arguments, gives the op its workspace from the arena, and runs
/// it; only counts when the arena measures.
template <class Op>
void run(const Prepared<Op>& op, const typename Op::Args& args, Execution& execution) {
  Op::check(op.problem(), args);
  Arena::Frame frame(execution.arena);
  const size_t size = op.workspace_size(args);
  const std::span<std::byte> workspace{execution.arena.bytes(size), size};
  if (!execution.is_measuring()) op.run(args, workspace, execution.stream);
}

}  // namespace moe4
