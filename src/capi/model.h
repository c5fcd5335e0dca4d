// A whole model behind the C interface, and generations that share its engine.
#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"
#include "engine/engine.h"
#include "engine/generation_defaults.h"
#include "engine/generator.h"
#include "models/model.h"
#include "moe4/moe4.h"
#include "server/structure.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

/// Members are destroyed bottom up: the engine goes before what it refers to.
struct moe4_model {
  std::unique_ptr<moe4::ThreadPool> threads;
  std::unique_ptr<moe4::Checkpoint> checkpoint;
  std::unique_ptr<moe4::Tokenizer> tokenizer;
  std::unique_ptr<moe4::ChatTemplate> chat_template;  // null: the checkpoint has none
  std::unique_ptr<moe4::server::StructureCache> structures;
  std::unique_ptr<moe4::Model> model;
  moe4::GenerationDefaults defaults;
  moe4::EngineLimits limits;
  std::string info;  // JSON
  std::mutex mutex;  // of the engine, and of generations in it
  std::unique_ptr<moe4::Engine> engine;
};

/// Guarded by its model's mutex.
struct moe4_generation {
  struct Answer {
    moe4::GenerateRequest request;
    std::unique_ptr<moe4::Generation> generation;
    moe4::RequestId id = 0;
  };
  struct Piece {
    int64_t answer;
    std::string text;
  };

  moe4_model* model = nullptr;
  std::vector<Answer> answers;
  std::vector<int64_t> answers_of;  // of each request
  std::vector<bool> includes_stop;  // of each answer: the text that ended it is part of it
  std::deque<Piece> pieces;         // not handed out yet
  bool is_taken = false;            // the results are
};

namespace moe4::capi {

/// Throws Error of every kind.
std::unique_ptr<moe4_model> load_model(const std::string& path, const moe4_model_options& options);
/// A copy for moe4_free().
char* copy_text(const std::string& text);

/// Throws Error(kUsage) for a request that is none.
std::unique_ptr<moe4_generation> begin_generation(moe4_model& model, const std::string& requests);
bool is_running(const moe4_generation& generation);
/// One step of the engine unless there is text to be handed out already.
void step(moe4_generation& generation, moe4_on_text on_text, void* user);
/// JSON. Throws what ended an answer.
std::string results(moe4_generation& generation);
void cancel(moe4_generation& generation);

}  // namespace moe4::capi
