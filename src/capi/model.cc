// Loads a model as moe4 serve does, and says what it is.
#include "capi/model.h"

#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>

#include "cli/memory_flags.h"
#include "cli/options.h"
#include "cli/plan_report.h"
#include "engine/memory_plan.h"

namespace moe4::capi {
namespace {

std::string info_of(const moe4_model& model, const std::vector<std::string>& notes) {
  const ModelConfig& config = model.checkpoint->config();
  const nlohmann::ordered_json json = {
      {"model", model.checkpoint->path().string()},
      {"architecture", config.architecture},
      {"model_type", config.model_type},
      {"vocab_size", config.vocab_size},
      {"max_model_len", model.limits.max_context},
      {"max_num_seqs", model.limits.max_seqs},
      {"cache_tokens", model.limits.cache_tokens},
      {"device", to_string(model.model->stream().device)},
      {"has_chat_template", model.chat_template != nullptr},
      {"stop_token_ids", model.defaults.stop_token_ids()},
      {"notes", notes},
      {"plan",
       nlohmann::ordered_json::parse(cli::plan_json(cli::group_plan(model.model->moe_plan())))}};
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void add_notes(const std::vector<CheckpointNote>& from, std::vector<std::string>& notes) {
  for (const CheckpointNote& note : from) {
    if (note.level == CheckpointNote::Level::kWarning) {
      notes.push_back(note.where + ": " + note.message);
    }
  }
}

void require_not_negative(const char* field, int64_t value) {
  if (value >= 0) return;
  throw Error(ErrorCode::kUsage, std::string("moe4_model_options: ") + field + " is " +
                                     std::to_string(value) + ", expected at least 0");
}

}  // namespace

std::unique_ptr<moe4_model> load_model(const std::string& path, const moe4_model_options& options) {
  require_not_negative("num_threads", options.num_threads);
  require_not_negative("cpu_moe", options.cpu_moe);
  require_not_negative("max_model_len", options.max_model_len);
  require_not_negative("max_num_seqs", options.max_num_seqs);
  require_not_negative("max_num_batched_tokens", options.max_num_batched_tokens);
  require_not_negative("kv_cache_memory_bytes", options.kv_cache_memory_bytes);
  if (!(options.memory_utilization >= 0 && options.memory_utilization <= 1)) {
    throw Error(ErrorCode::kUsage, "moe4_model_options: memory_utilization is " +
                                       std::to_string(options.memory_utilization) +
                                       ", expected 0 to 1");
  }
  const cli::MachineFlags flags = {
      .backend = {.device = options.device ? options.device : "cpu",
                  .moe_backend = options.backend ? options.backend : "auto",
                  .activations = options.activations ? options.activations : "auto",
                  .fp8_activations = options.fp8_activations != 0,
                  .batch_invariant = options.batch_invariant != 0},
      .dtype = options.dtype ? options.dtype : "bfloat16",
      .threads = options.num_threads,
      .memory = {.utilization = options.memory_utilization,
                 .cpu_moe = std::to_string(options.cpu_moe)}};
  ModelOptions load{.compute_dtype = cli::compute_dtype(flags),
                    .moe = cli::selector_options(flags.backend, /*must_run=*/true)};
  load.cpu_moe = cli::cpu_moe_layers(flags.memory, load.moe.device).value_or(0);
  auto made = std::make_unique<moe4_model>();
  std::vector<std::string> notes;
  made->checkpoint = Checkpoint::open(path);
  add_notes(made->checkpoint->notes(), notes);
  made->tokenizer = Tokenizer::load(made->checkpoint->path());
  made->chat_template = ChatTemplate::load(made->checkpoint->path());
  made->structures = std::make_unique<server::StructureCache>(*made->tokenizer);
  made->defaults = read_generation_defaults(made->checkpoint->path(), *made->tokenizer,
                                            made->checkpoint->config().vocab_size);
  add_notes(made->defaults.notes, notes);
  made->threads = std::make_unique<ThreadPool>(options.num_threads);
  load.threads = made->threads.get();
  if (options.progress != nullptr) {
    load.progress = [&](int64_t done, int64_t total) {
      options.progress(options.user, done, total);
    };
  }
  made->model = Model::load(*made->checkpoint, load);
  const EngineFlags engine{.max_model_len = options.max_model_len,
                           .max_num_seqs = options.max_num_seqs,
                           .max_num_batched_tokens = options.max_num_batched_tokens,
                           .kv_cache_memory_bytes = options.kv_cache_memory_bytes,
                           .prefix_caching = options.no_prefix_caching == 0};
  made->limits = fit_engine(needs_of(*made->model), engine,
                            cli::room_now(flags.memory, load.moe.device), notes);
  made->engine = std::make_unique<Engine>(*made->model, made->limits);
  made->info = info_of(*made, notes);
  return made;
}

char* copy_text(const std::string& text) {
  auto* copy = static_cast<char*>(std::malloc(text.size() + 1));
  if (copy == nullptr) throw std::bad_alloc();
  std::memcpy(copy, text.c_str(), text.size() + 1);
  return copy;
}

}  // namespace moe4::capi
