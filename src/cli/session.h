// A checkpoint opened and its model loaded, with progress and notes on stderr.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"
#include "cli/memory_flags.h"
#include "cli/options.h"
#include "cli/sampling_flags.h"
#include "models/model.h"
#include "text/tokenizer.h"

namespace moe4::cli {

/// Members are destroyed bottom up: the model goes before what it refers to.
struct Session {
  std::string path;  ///< of the checkpoint, as given
  Device device;     ///< of the layers
  std::unique_ptr<ThreadPool> threads;
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<Model> model;
  double load_seconds = 0;
  // Of a model on a GPU, exactly; its weights are among the needs.
  std::optional<ModelNeeds> needs;
  int64_t room = 0;         ///< bytes that MemoryPlan::total may have
  int64_t used_before = 0;  ///< bytes of the GPU that were taken before it was loaded
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

/// What a command will ask of its engines: so much is planned for before weights are loaded.
struct EngineUse {
  std::vector<EngineLimits> engines;  ///< one after the other
  std::optional<EngineFlags> flags;   ///< else: of which the command makes its limits
  std::string advice;                 ///< "lower -n or --ctx"
};
/// Loads the model, in place of the one there was, and says which backend serves which layers and
/// how much memory it takes, unless quiet. Throws Error(kUnavailable) before anything is read when
/// a GPU has no room for it and its engines.
void reload_model(Session& session, const MachineFlags& flags, const EngineUse& use = {});
/// Prompt tokens of a step for commands with a request at a time.
int64_t prompt_chunk(const Device& device);
/// Bytes of the GPU that the model, and what runs it, have now; 0 on the CPU.
int64_t device_bytes(const Session& session);
/// For commands that generate: checks the sampling flags, opens the checkpoint and its tokenizer,
/// and reads what it says about generation; notes and the stop tokens wait in session.notes.
GenerationDefaults open_for_generation(Session& session, const std::string& path,
                                       const MachineFlags& flags, const SamplingFlags& sampling);
/// Opens and loads.
Session open_session(const std::string& path, const MachineFlags& flags, WithTokenizer tokenizer);

}  // namespace moe4::cli
