// Runs steps of a model: owns what a step needs besides weights.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "device/graph.h"
#include "device/memory.h"
#include "models/model.h"
#include "ops/sample/sample.h"

namespace moe4 {

/// What a runner has room for.
struct RunnerLimits {
  StepLimits step;
  int64_t num_pages = 0;        ///< of kPageTokens tokens, for all sequences together
  int64_t num_state_slots = 0;  ///< recurrent states, of sequences and snapshots together
};

/// The part of one sequence that a step computes.
struct SequencePiece {
  /// On a GPU chosen_in_row(r) is the token chosen in row r of the step before.
  std::span<const int32_t> token_ids;
  int64_t context = 0;             ///< tokens of the sequence before these
  std::span<const int32_t> pages;  ///< at least ceil((context + tokens) / kPageTokens)
  int32_t state_slot = 0;
  bool is_decode = false;  ///< generates; decodes come first and have equally many tokens
  int64_t num_logits = 0;  ///< logits of its last tokens that are wanted
  /// How its next token is chosen from the last of its logits where they are; on a GPU they stay
  /// there. Null: the caller chooses, and they come to the host.
  const SampleRow* sample = nullptr;
  /// With `sample`: bit i says whether token i may be chosen; ceil(vocab_size / 64) words or more.
  /// Empty: all may. At most StepLimits::max_masked pieces have one.
  std::span<const uint64_t> mask;
};

/// What a step gave, in host memory and valid until the step after the next begins. Rows are those
/// of all pieces' logits, in their order.
struct StepResult {
  /// [rows, vocab_size] float32, which may be changed, until the next step; on a GPU only where
  /// some piece has no `sample`.
  Rows logits;
  std::span<const int32_t> ids;          ///< [rows]: chosen on the device; -1: not
  std::span<const SampleStatus> status;  ///< [rows]
};

/// One a device. Owns the caches of all layers, the buffers of batches, the arena and the logits;
/// allocates when it is made and never again. Who has which page and which slot is the caller's
/// business. Not thread-safe.
class Runner {
 public:
  /// Throws Error(kUnavailable) when memory is short. `model` must outlive it.
  Runner(const Model& model, const RunnerLimits& limits);
  /// Waits for steps that were begun.
  ~Runner();
  Runner(const Runner&) = delete;
  Runner& operator=(const Runner&) = delete;

  /// Bytes that it takes of the device beside caches, workspace and graphs.
  static int64_t buffer_bytes(const RunnerLimits& limits, int64_t vocab_size);

  const Model& model() const { return model_; }
  const RunnerLimits& limits() const { return limits_; }

  /// Throws Error(kBadInput) for an id outside the vocabulary, naming its position: `first` is that
  /// of ids[0].
  void check_ids(std::span<const int32_t> ids, int64_t first) const;
  /// Whether a step may be begun before the one in front of it is finished.
  bool runs_ahead() const { return flights_.size() > 1; }

  /// Runs one step within the limits and waits for it. Ids have passed check_ids().
  StepResult run(std::span<const SequencePiece> pieces, Observer* observer = nullptr);

  /// The two halves of run(). On a GPU one step more may be begun before the first is finished, if
  /// every piece of the first that wants logits has a `sample`: it may use the tokens chosen there.
  void begin(std::span<const SequencePiece> pieces, Observer* observer = nullptr);
  /// Of the oldest step that was begun.
  StepResult finish();
  /// [vocab_size] logits that have what made the choice in a row fail: NaN, or nothing above
  /// -infinity. On the CPU the row itself. Valid until the next call.
  std::span<float> row_without_choice(const StepResult& result, int64_t row);

  /// Copies pages of all layers, and the state in a slot, to host memory and back: to any pages and
  /// slot, and with the same bits.
  void save(std::span<const int32_t> pages, int32_t state_slot, std::vector<std::byte>& to) const;
  void restore(std::span<const int32_t> pages, int32_t state_slot, std::span<const std::byte> from);
  /// Copies the state of one slot to another.
  void copy_state(int32_t from, int32_t to);

 private:
  // Where the arrays of a batch lie in the memory below, in int32s.
  struct BatchLayout {
    int64_t token_ids, positions, slots, query_start, context_len, state, logits_rows, blocks, size;
  };
  static BatchLayout layout_of(const RunnerLimits& limits, int64_t max_blocks);
  // Calls visit(begin, bytes) for every piece of memory that belongs to these pages and this slot.
  template <typename Visit>
  void visit_caches(std::span<const int32_t> pages, int32_t state_slot, const Visit& visit) const;
  Batch make_batch(std::span<const SequencePiece> pieces);
  // Whether it is one that a graph can do: a token and its logits of every sequence.
  static bool is_plain_decode(std::span<const SequencePiece> pieces);
  // The smallest recorded step that holds the batch, whose arrays are padded to its size.
  const Graph& graph_for(Batch& batch);
  void pad_to(int64_t num_seqs, Batch& batch);
  void record_graphs();
  void forward(const Batch& batch, Observer* observer);
  // A step that was begun: memory of the host that it reads and writes.
  struct Flight {
    explicit Flight(const Device& device) : done(device) {}
    HostMemory batch, samples, choices, masks;
    int64_t num_logits = 0;
    bool chose = false;  // some row has a choice
    Event done;
  };
  // Where a step leaves them.
  Rows logits(int64_t num_rows) const;
  // The choice of tokens from the first logits of the step; greedily, or as the step's rows say.
  Sample::Args sample_args(int64_t num_rows, bool greedily) const;
  size_t sampling_workspace() const;
  void choose(const Sample::Args& args);
  // Enqueues the choices that pieces want. Whether the host needs no logits.
  bool choose_tokens(std::span<const SequencePiece> pieces, bool chose_greedily, Flight& flight);
  SampleStatus* statuses(const Flight& flight) const;  // [max_logits]
  int32_t* host_batch() const { return reinterpret_cast<int32_t*>(flights_[newest_].batch.data()); }

  const Model& model_;
  RunnerLimits limits_;
  int64_t max_blocks_;               // of a sequence
  std::vector<DeviceMemory> pools_;  // one a CacheSpec of the model
  std::vector<LayerCache> caches_;   // views of the pools
  DeviceMemory workspace_;
  // The arrays of a batch, sized for the limits so that they stay in place: as the host writes them
  // and, where that is another memory, as the device reads them.
  BatchLayout layout_;
  DeviceMemory device_batch_;
  // Likewise of the logits.
  HostMemory host_logits_;
  DeviceMemory device_logits_;
  std::vector<CacheTable> tables_;
  // The choice of tokens, a thread or a block a row: one thread would take longer for many
  // sequences than the model does. In: [max_logits] greedy rows for graphs, then those of the step;
  // out: [max_logits] ids, then states.
  std::unique_ptr<Prepared<Sample>> sampler_;
  DeviceMemory device_samples_, device_choices_;
  DeviceMemory device_masks_;    // [max_masked, ceil(vocab_size / 64)] uint64
  std::vector<Flight> flights_;  // two on a GPU
  size_t newest_ = 0;            // the one whose step was begun last
  int64_t num_begun_ = 0;        // and not finished
  std::vector<float> failed_row_;
  // On a GPU: steps of decode_sizes() sequences times context_sizes().
  std::vector<int64_t> decode_sizes_, context_sizes_;
  std::vector<Graph> graphs_;
};

}  // namespace moe4
