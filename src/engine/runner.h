// Runs steps of a model: owns what a step needs besides weights.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "models/model.h"

namespace moe4 {

/// What a runner has room for.
struct RunnerLimits {
  StepLimits step;
  int64_t num_pages = 0;        ///< of kPageTokens tokens, for all sequences together
  int64_t num_state_slots = 0;  ///< recurrent states, of sequences and snapshots together
};

/// The part of one sequence that a step computes.
struct SequencePiece {
  std::span<const int32_t> token_ids;
  int64_t context = 0;             ///< tokens of the sequence before these
  std::span<const int32_t> pages;  ///< at least ceil((context + tokens) / kPageTokens)
  int32_t state_slot = 0;
  bool is_decode = false;  ///< generates; decodes come first and have equally many tokens
  int64_t num_logits = 0;  ///< logits of its last tokens that are wanted
};

/// One a device. Owns the caches of all layers, the buffers of batches and the arena; allocates
/// when it is made and never again. Who has which page and which slot is the caller's business.
/// Not thread-safe.
class Runner {
 public:
  /// Throws Error(kUnavailable) when memory is short. `model` must outlive it.
  Runner(const Model& model, const RunnerLimits& limits);

  const Model& model() const { return model_; }
  const RunnerLimits& limits() const { return limits_; }

  /// Throws Error(kBadInput) for an id outside the vocabulary, naming its position: `first` is that
  /// of ids[0].
  void check_ids(std::span<const int32_t> ids, int64_t first) const;
  /// Runs one step within the limits. logits [sum of num_logits, vocab_size] float32, in the order
  /// of the pieces. Ids have passed check_ids().
  void run(std::span<const SequencePiece> pieces, const Rows& logits, Observer* observer = nullptr);

  /// Copies pages of all layers, and the state in a slot, to host memory and back: to any pages and
  /// slot, and with the same bits.
  void save(std::span<const int32_t> pages, int32_t state_slot, std::vector<std::byte>& to) const;
  void restore(std::span<const int32_t> pages, int32_t state_slot, std::span<const std::byte> from);
  /// Copies the state of one slot to another.
  void copy_state(int32_t from, int32_t to);

 private:
  // Calls visit(begin, bytes) for every piece of memory that belongs to these pages and this slot.
  template <typename Visit>
  void visit_caches(std::span<const int32_t> pages, int32_t state_slot, const Visit& visit) const;
  Batch make_batch(std::span<const SequencePiece> pieces);

  const Model& model_;
  RunnerLimits limits_;
  int64_t max_blocks_;                // of a sequence
  std::vector<AlignedBuffer> pools_;  // one a CacheSpec of the model
  std::vector<LayerCache> caches_;    // views of the pools
  AlignedBuffer workspace_;
  // Of the step's batch; sized for the limits, so that they stay in place.
  std::vector<int32_t> token_ids_, positions_, query_start_, context_len_, logits_rows_;
  std::vector<int32_t> blocks_, slots_, state_;
  std::vector<CacheTable> tables_;
};

}  // namespace moe4
