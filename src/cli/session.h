// A checkpoint opened and its model loaded, with progress and notes on stderr.
#pragma once

#include <memory>
#include <string>

#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"
#include "cli/options.h"
#include "cli/sampling_flags.h"
#include "models/model.h"
#include "text/tokenizer.h"

namespace moe4::cli {

/// Members are destroyed bottom up: the model goes before what it refers to.
struct Session {
  std::unique_ptr<ThreadPool> threads;
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<Model> model;
  double load_seconds = 0;
  std::string notes;  ///< about the checkpoint; printed once a model is loaded, so that an error
                      ///< stays the first line
};

/// Adds the warnings among `notes` to session.notes unless quiet.
void keep_notes(Session& session, const std::vector<CheckpointNote>& notes,
                const MachineFlags& flags);

enum class WithTokenizer { kNo, kYes };

/// Checks the flags' names, then starts threads and opens the checkpoint and, if wanted, its
/// tokenizer.
void open_checkpoint(Session& session, const std::string& path, const MachineFlags& flags,
                     WithTokenizer tokenizer);
/// Loads the model, in place of the one there was, and says which backend serves which layers
/// unless quiet.
void reload_model(Session& session, const MachineFlags& flags);
/// For commands that generate: checks the sampling flags, opens the checkpoint and its tokenizer,
/// and reads what it says about generation; notes and the stop tokens wait in session.notes.
GenerationDefaults open_for_generation(Session& session, const std::string& path,
                                       const MachineFlags& flags, const SamplingFlags& sampling);
/// Opens and loads.
Session open_session(const std::string& path, const MachineFlags& flags, WithTokenizer tokenizer);

}  // namespace moe4::cli
