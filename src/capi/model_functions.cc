// The C interface of whole models.
#include <cstdlib>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>

#include "capi/guard.h"
#include "capi/model.h"
#include "cli/inspect_document.h"
#include "cli/options.h"
#include "cli/plan_document.h"
#include "cli/program.h"
#include "ops/experts/registry.h"
#include "server/api_error.h"
#include "text/template_context.h"

using namespace moe4;        // NOLINT: this file is the library's outer skin
using namespace moe4::capi;  // NOLINT

namespace {

moe4_model_options options_of(const moe4_model_options* given, const char* what) {
  if (given == nullptr) return {.struct_size = sizeof(moe4_model_options)};
  require_size(given->struct_size, sizeof(moe4_model_options), what);
  return *given;
}

std::string dump(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// What moe4 plan --json prints. A plan without a backend for some layer is an answer, not an error.
std::string plan_of(const std::string& path, const moe4_model_options& options) {
  const SelectorOptions selector =
      cli::selector_options({.device = options.device ? options.device : "cpu",
                             .moe_backend = options.backend ? options.backend : "auto",
                             .activations = options.activations ? options.activations : "auto",
                             .fp8_activations = options.fp8_activations != 0,
                             .batch_invariant = options.batch_invariant != 0},
                            /*must_run=*/false);
  const auto checkpoint = Checkpoint::open(path, {.headers_only = true});
  return dump(cli::plan_document(*checkpoint, selector, cli::make_plan(*checkpoint, selector),
                                 describe(*checkpoint, selector.device)));
}

}  // namespace

moe4_status moe4_model_load(const char* path, const moe4_model_options* options,
                            moe4_model** model) {
  return guarded([&] {
    require(path != nullptr && model != nullptr, "moe4_model_load: NULL argument");
    register_builtin_backends();
    *model = load_model(path, options_of(options, "moe4_model_load")).release();
  });
}

const char* moe4_model_info(const moe4_model* model) {
  return model == nullptr ? "" : model->info.c_str();
}

void moe4_model_destroy(moe4_model* model) { delete model; }

moe4_status moe4_model_encode(const moe4_model* model, const char* text, size_t bytes,
                              int32_t** ids, int64_t* num_ids) {
  return guarded([&] {
    require(
        model != nullptr && (text != nullptr || bytes == 0) && ids != nullptr && num_ids != nullptr,
        "moe4_model_encode: NULL argument");
    const std::vector<int32_t> found = model->tokenizer->encode({text, bytes});
    auto* copy = static_cast<int32_t*>(std::malloc(sizeof(int32_t) * (found.size() + 1)));
    if (copy == nullptr) throw std::bad_alloc();
    std::copy(found.begin(), found.end(), copy);
    *ids = copy;
    *num_ids = static_cast<int64_t>(found.size());
  });
}

moe4_status moe4_model_decode(const moe4_model* model, const int32_t* ids, int64_t num_ids,
                              int skip_special_tokens, char** text) {
  return guarded([&] {
    require(model != nullptr && (ids != nullptr || num_ids == 0) && num_ids >= 0 && text != nullptr,
            "moe4_model_decode: NULL argument, or a negative number of ids");
    *text = copy_text(model->tokenizer->decode({ids, ids + num_ids}, skip_special_tokens != 0));
  });
}

moe4_status moe4_model_chat_prompt(const moe4_model* model, const char* context_json, char** text) {
  return guarded([&] {
    require(model != nullptr && context_json != nullptr && text != nullptr,
            "moe4_model_chat_prompt: NULL argument");
    if (model->chat_template == nullptr) {
      throw_bad_input({.what = "the checkpoint has no chat template",
                       .file = model->checkpoint->path().string(),
                       .expected = "chat_template.jinja, or chat_template in "
                                   "tokenizer_config.json or chat_template.json",
                       .found = "none of them",
                       .hint = "generate() with a prompt needs none"});
    }
    TemplateContext context;
    context.set("add_generation_prompt", "true", "");
    context.add_object(context_json, "the context of the chat");
    *text = copy_text(model->chat_template->render(context));
  });
}

moe4_status moe4_generation_begin(moe4_model* model, const char* requests_json,
                                  moe4_generation** generation) {
  return guarded([&] {
    require(model != nullptr && requests_json != nullptr && generation != nullptr,
            "moe4_generation_begin: NULL argument");
    *generation = begin_generation(*model, requests_json).release();
  });
}

moe4_status moe4_generation_step(moe4_generation* generation, moe4_on_text on_text, void* user,
                                 int* running) {
  return guarded([&] {
    require(generation != nullptr && running != nullptr, "moe4_generation_step: NULL argument");
    step(*generation, on_text, user);
    const std::lock_guard lock(generation->model->mutex);
    *running = is_running(*generation) || !generation->pieces.empty();
  });
}

moe4_status moe4_generation_results(moe4_generation* generation, char** json) {
  return guarded([&] {
    require(generation != nullptr && json != nullptr, "moe4_generation_results: NULL argument");
    *json = copy_text(results(*generation));
  });
}

void moe4_generation_destroy(moe4_generation* generation) {
  if (generation != nullptr) cancel(*generation);
  delete generation;
}

moe4_status moe4_model_evaluate(moe4_model* model, const int32_t* ids, const int64_t* row_lengths,
                                int64_t num_rows, char** json) {
  return guarded([&] {
    require(model != nullptr && ids != nullptr && row_lengths != nullptr && json != nullptr,
            "moe4_model_evaluate: NULL argument");
    std::vector<std::vector<int32_t>> rows;
    for (int64_t r = 0; r < num_rows; ++r) {
      require(row_lengths[r] >= 2, "moe4_model_evaluate: a row needs two tokens, one to predict");
      rows.emplace_back(ids, ids + row_lengths[r]);
      ids += row_lengths[r];
    }
    require(!rows.empty(), "moe4_model_evaluate: there are no rows");
    const std::lock_guard lock(model->mutex);
    const PerplexityResult result = perplexity(*model->model, rows);
    *json = copy_text(dump({{"perplexity", result.perplexity},
                            {"mean_log_likelihood", result.mean_log_likelihood},
                            {"predictions", result.predictions},
                            {"seconds", result.seconds}}));
  });
}

moe4_status moe4_plan(const char* path, const moe4_model_options* options, char** json) {
  return guarded([&] {
    require(path != nullptr && json != nullptr, "moe4_plan: NULL argument");
    register_builtin_backends();
    *json = copy_text(plan_of(path, options_of(options, "moe4_plan")));
  });
}

moe4_status moe4_inspect(const char* path, int lint, char** json) {
  return guarded([&] {
    require(path != nullptr && json != nullptr, "moe4_inspect: NULL argument");
    register_builtin_backends();
    const auto checkpoint = Checkpoint::open(path, {.headers_only = lint == 0});
    *json = copy_text(dump(cli::inspect_document(*checkpoint, lint != 0)));
  });
}

int moe4_main(int argc, char** argv) { return cli::run_program(argc, argv); }

void moe4_free(void* p) { std::free(p); }
