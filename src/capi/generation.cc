// Requests in JSON to answers in the model's engine, and their results.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "capi/model.h"
#include "server/api_error.h"
#include "server/completion_request.h"
#include "server/json_body.h"
#include "server/prompt_text.h"
#include "server/serving.h"

namespace moe4::capi {
namespace {

using Json = nlohmann::ordered_json;
using server::ApiError;
using server::refuse_field;

constexpr int64_t kDefaultTokens = 16;  // as the completions API

// Fields of servers, which would change nothing here.
void refuse_server_fields(const Json& request) {
  for (const char* name : {"model", "stream", "stream_options", "user", "request_id", "echo",
                           "logprobs", "return_tokens_as_token_ids"}) {
    if (request.contains(name)) refuse_field(name, "only a server has it");
  }
}

// Adds the answers that one request asks for.
void add_answers(moe4_generation& generation, const Json& body) {
  if (body.is_object()) refuse_server_fields(body);
  std::vector<std::string> unknown;
  const server::CompletionRequest request = server::parse_completion_request(body, unknown);
  if (!unknown.empty()) refuse_field(unknown.front(), "there is no such field");
  if (request.prompts.size() != 1) refuse_field("prompt", "one a request is expected");
  const moe4_model& model = *generation.model;
  const int64_t vocab_size = model.checkpoint->config().vocab_size;
  const std::vector<int32_t> ids =
      server::prompt_ids(*model.tokenizer, vocab_size, request.prompts.front(), "prompt");
  const int64_t most =
      server::tokens_to_generate(model.limits.max_context, static_cast<int64_t>(ids.size()),
                                 request.max_tokens, kDefaultTokens, "prompt");
  const auto masks = model.structures->masks(request.structure);
  const uint64_t seed = server::random_seed();
  for (int64_t i = 0; i < request.n; ++i) {
    moe4_generation::Answer answer;
    answer.request = server::to_generate_request(request, model.defaults, vocab_size, most, seed);
    answer.request.prompt = ids;
    answer.request.grammar = masks;
    answer.request.context = model.limits.max_context;
    answer.request.sampling.seed += static_cast<uint64_t>(i);
    generation.answers.push_back(std::move(answer));
    generation.includes_stop.push_back(request.include_stop_str_in_output);
  }
  generation.answers_of.push_back(request.n);
}

// Submits what has been parsed; requests are where they stay.
void submit(moe4_generation& generation) {
  moe4_model& model = *generation.model;
  for (size_t i = 0; i < generation.answers.size(); ++i) {
    moe4_generation::Answer& answer = generation.answers[i];
    const auto on_text = [&generation, i](const std::string& piece) {
      if (!piece.empty()) generation.pieces.push_back({static_cast<int64_t>(i), piece});
      return true;
    };
    answer.generation =
        std::make_unique<Generation>(*model.model, model.tokenizer.get(), answer.request, on_text);
    if (!answer.generation->is_done()) {
      answer.id = model.engine->submit(answer.generation->engine_request());
    }
  }
}

void cancel(moe4_generation& generation, moe4_generation::Answer& answer) {
  if (answer.generation == nullptr || answer.generation->is_done()) return;
  generation.model->engine->cancel(answer.id);
  answer.generation->cancel();
}

Json result_of(const GenerateResult& result, bool includes_stop) {
  const bool stopped = result.reason == StopReason::kStopToken ||
                       result.reason == StopReason::kStopString ||
                       result.reason == StopReason::kGrammarEnd;
  Json stop_reason;  // null, the token or the text
  if (result.stop_token) stop_reason = *result.stop_token;
  if (result.reason == StopReason::kStopString) stop_reason = result.stop_string;
  const bool cancelled = result.reason == StopReason::kCancelled;
  return {{"text", includes_stop ? result.text + result.stop_string : result.text},
          {"token_ids", result.tokens},
          {"finish_reason", cancelled ? "cancelled"
                            : stopped ? "stop"
                                      : "length"},
          {"stop_reason", stop_reason},
          {"cached_tokens", result.cached_tokens},
          {"prefill_seconds", result.prefill_seconds},
          {"decode_seconds", result.decode_seconds}};
}

// Words of a server's refusal as an error of an argument.
template <typename F>
void with_api_errors(F&& f) {
  try {
    f();
  } catch (const ApiError& error) {
    throw Error(ErrorCode::kUsage, error.what());
  }
}

}  // namespace

std::unique_ptr<moe4_generation> begin_generation(moe4_model& model, const std::string& requests) {
  auto made = std::make_unique<moe4_generation>();
  made->model = &model;
  const std::lock_guard lock(model.mutex);
  with_api_errors([&] {
    const Json body = server::parse_body(requests);
    if (!body.is_array()) {
      throw Error(ErrorCode::kUsage, std::string("the requests are ") + server::type_words(body) +
                                         ", expected an array of objects");
    }
    for (size_t i = 0; i < body.size(); ++i) {
      try {
        add_answers(*made, body[i]);
      } catch (const ApiError& error) {
        if (body.size() == 1) throw;
        throw Error(ErrorCode::kUsage, "request " + std::to_string(i) + ": " + error.what());
      }
    }
  });
  try {
    submit(*made);
  } catch (...) {
    for (moe4_generation::Answer& answer : made->answers) cancel(*made, answer);
    throw;
  }
  return made;
}

bool is_running(const moe4_generation& generation) {
  return std::any_of(generation.answers.begin(), generation.answers.end(),
                     [](const auto& answer) { return !answer.generation->is_done(); });
}

void step(moe4_generation& generation, moe4_on_text on_text, void* user) {
  std::deque<moe4_generation::Piece> pieces;
  {
    const std::lock_guard lock(generation.model->mutex);
    if (generation.pieces.empty() && is_running(generation)) generation.model->engine->step();
    pieces.swap(generation.pieces);
  }
  if (on_text == nullptr) return;
  std::vector<bool> ended(generation.answers.size());
  for (const auto& piece : pieces) {
    if (ended[piece.answer]) continue;
    ended[piece.answer] = on_text(user, piece.answer, piece.text.c_str(), piece.text.size()) == 0;
  }
  const std::lock_guard lock(generation.model->mutex);
  for (size_t i = 0; i < ended.size(); ++i) {
    if (ended[i]) cancel(generation, generation.answers[i]);
  }
}

std::string results(moe4_generation& generation) {
  const std::lock_guard lock(generation.model->mutex);
  if (is_running(generation)) {
    throw Error(ErrorCode::kUsage, "moe4_generation_results: there are steps left to do");
  }
  if (generation.is_taken) {
    throw Error(ErrorCode::kUsage, "moe4_generation_results: they were taken before");
  }
  generation.is_taken = true;
  Json all = Json::array();
  size_t next = 0;
  for (const int64_t count : generation.answers_of) {
    Json outputs = Json::array();
    const std::vector<int32_t>& prompt = generation.answers[next].request.prompt;
    for (int64_t i = 0; i < count; ++i, ++next) {
      outputs.push_back(result_of(generation.answers[next].generation->take_result(),
                                  generation.includes_stop[next]));
    }
    all.push_back({{"prompt_token_ids", prompt}, {"outputs", std::move(outputs)}});
  }
  return all.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void cancel(moe4_generation& generation) {
  const std::lock_guard lock(generation.model->mutex);
  for (moe4_generation::Answer& answer : generation.answers) cancel(generation, answer);
}

}  // namespace moe4::capi
