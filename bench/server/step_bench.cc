// What a step costs the host beside the model: a model that answers at once, and many requests that
// stream. step_bench [REQUESTS [STEPS]]; us of CPU time of the engine's thread a step, by part.
// Requests end as those of a GPU do: the token is chosen elsewhere, the host only takes it.
#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/thread_pool.h"
#include "dialog/formats.h"
#include "engine/generator.h"
#include "engine/runner.h"
#include "engine/scheduler.h"
#include "server/endpoints.h"
#include "server/engine_loop.h"
#include "server/json_body.h"
#include "server/metrics.h"
#include "server/serving.h"
#include "synth/synth_tokenizer.h"

namespace moe4 {
namespace {

constexpr int64_t kVocab = 512;  // small: choosing on the host is not what is measured
constexpr int64_t kPrompt = 220, kMaxContext = 8192;
constexpr float kLogit = 10;
constexpr int32_t kWord = 300;  // " ap", which the model says all the time

class InstantModel final : public Model {
 public:
  InstantModel() {
    config_.vocab_size = kVocab;
    config_.hidden_size = 1;
    config_.max_position_embeddings = kMaxContext;
  }
  const ModelConfig& config() const override { return config_; }
  const std::vector<MoeLayerPlan>& moe_plan() const override { return plan_; }
  const Stream& stream() const override { return stream_; }
  const std::vector<CacheSpec>& caches() const override { return caches_; }
  size_t workspace_size(const StepLimits&) const override { return 0; }
  void forward(const Batch& batch, std::span<const LayerCache>, const Rows& logits,
               Execution&) const override {
    // Nobody changes them, so that each runner's are written once.
    for (int64_t row = 0; row < batch.num_logits; ++row) {
      if (logits.row(row)[kWord] == kLogit) continue;
      std::fill_n(logits.row(row), kVocab, 0.0f);
      logits.row(row)[kWord] = kLogit;
    }
  }
  const MoeBlock* moe_block(int64_t) const override { return nullptr; }
  int64_t bytes_per_token() const override { return 0; }

 private:
  ModelConfig config_;
  std::vector<MoeLayerPlan> plan_;
  ThreadPool threads_{1};
  Stream stream_ = Stream::cpu(threads_);
  std::vector<CacheSpec> caches_;
};

double thread_us() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) * 1e-3;
}

// The median: steps that others of the machine disturb count for little.
double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

double median_us(int64_t steps, const std::function<void()>& step) {
  std::vector<double> times;
  for (int64_t i = 0; i < steps; ++i) {
    const double begin = thread_us();
    step();
    times.push_back(thread_us() - begin);
  }
  return median(std::move(times));
}

struct Load {
  int64_t requests = 256, steps = 400;

  EngineLimits limits() const {
    return {.max_tokens = std::max<int64_t>(8192, requests + kPageTokens),
            .max_seqs = requests,
            .max_context = kMaxContext,
            .cache_tokens = requests * 2048};
  }
  std::vector<int32_t> prompt(int64_t request) const {
    std::vector<int32_t> ids(kPrompt, kWord);
    ids[0] = static_cast<int32_t>(request % 256);
    return ids;
  }
  int64_t new_tokens() const { return steps + 100; }
};

double scheduler_us(const Load& load) {
  Scheduler scheduler({.max_tokens = load.limits().max_tokens, .max_seqs = load.requests},
                      load.limits().cache_tokens / kPageTokens);
  for (int64_t i = 0; i < load.requests; ++i) scheduler.add(kPrompt, kPrompt + load.new_tokens());
  const auto step = [&] {
    const Step next = scheduler.next();
    for (const ScheduledPiece& piece : next.pieces) {
      if (piece.wants_logits) scheduler.add_token(piece.id);
    }
  };
  while (scheduler.num_waiting() > 0) step();
  return median_us(load.steps, step);
}

double batch_us(const Load& load, const Model& model) {
  Runner runner(model, runner_limits(load.limits(), 0));
  const int32_t token = kWord;
  std::vector<int32_t> pages(16);
  for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<int32_t>(i);
  const std::vector<SequencePiece> pieces(static_cast<size_t>(load.requests),
                                          {.token_ids = {&token, 1},
                                           .context = kPrompt + 100,
                                           .pages = pages,
                                           .is_decode = true,
                                           .num_logits = 1});
  return median_us(load.steps, [&] { runner.run(pieces); });
}

// Steps of an engine whose requests all generate.
double engine_us(const Load& load, const Model& model,
                 const std::function<EngineRequest(int64_t)>& request) {
  Engine engine(model, load.limits());
  for (int64_t i = 0; i < load.requests; ++i) engine.submit(request(i));
  while (engine.stats().waiting > 0) engine.step();
  engine.step();
  return median_us(load.steps, [&] { engine.step(); });
}

// What a GPU's engine does with a token that was chosen there.
EngineRequest as_on_a_device(EngineRequest request) {
  request.next_token = [take = request.take_token, asks = request.device_choice](std::span<float>) {
    DeviceChoice choice;
    MOE4_CHECK(asks(choice));
    return take(kWord);
  };
  return request;
}

double generation_us(const Load& load, const Model& model, const Tokenizer& tokenizer,
                     bool chooses_on_device) {
  std::vector<std::unique_ptr<GenerateRequest>> requests;
  std::vector<std::unique_ptr<Generation>> generations;
  return engine_us(load, model, [&](int64_t i) {
    requests.push_back(std::make_unique<GenerateRequest>(
        GenerateRequest{.prompt = load.prompt(i), .max_new_tokens = load.new_tokens()}));
    generations.push_back(std::make_unique<Generation>(model, &tokenizer, *requests.back(),
                                                       [](const std::string&) { return true; }));
    EngineRequest request = generations.back()->engine_request();
    return chooses_on_device ? as_on_a_device(std::move(request)) : std::move(request);
  });
}

// Counts events.
class NoExchange final : public server::HttpExchange {
 public:
  explicit NoExchange(std::atomic<int64_t>& events) : events_(events) {}
  void respond(server::HttpResponse response) override { fmt::print("{}\n", response.body); }
  void begin_stream(server::HttpResponse) override {}
  void write(std::string) override { ++events_; }
  void finish() override {}
  void on_gone(std::function<void()>) override {}

 private:
  std::atomic<int64_t>& events_;
};

// The same through an endpoint, up to the connections.
double endpoint_us(const Load& load, const Model& model, const Tokenizer& tokenizer, bool chat) {
  server::Metrics metrics("m", kMaxContext);
  server::StructureCache structures(tokenizer);
  std::vector<double> times;
  std::atomic<int64_t> events = 0;
  bool is_full = false;
  double before = 0;
  server::ReplyQueue replies;
  const auto on_step = [&](int64_t tokens) {
    metrics.step(tokens);
    is_full = tokens == load.requests;
  };
  // A model would take some ms from here, time enough for the other thread.
  const auto on_turn = [&] {
    replies.flush();
    const double now = thread_us();
    if (is_full && before > 0) times.push_back(now - before);
    while (is_full && events < load.requests && thread_us() < now + 1e4) std::this_thread::yield();
    events = 0;
    before = is_full ? thread_us() : 0;
  };
  server::EngineLoop engine(model, load.limits(), 1000, {.step = on_step, .turn = on_turn});
  server::Serving serving{
      .model = model,
      .tokenizer = tokenizer,
      .chat_template = ChatTemplate::parse("{{ messages[0].content }}<think>", "a template"),
      .formats = {.tools = ToolFormat::kHermes, .reasoning = ReasoningFormat::kThink},
      .names = {"m"},
      .max_model_len = kMaxContext,
      .structures = structures,
      .engine = engine,
      .replies = replies,
      .metrics = metrics};
  for (int64_t i = 0; i < load.requests; ++i) {
    server::JsonValue body = {
        {"max_tokens", load.new_tokens()}, {"stream", true}, {"temperature", 0}};
    if (chat) {
      std::string text;
      for (int n = 0; n < kPrompt; ++n) text += " ap";
      body["messages"] = {{{"role", "user"}, {"content", text}}};
    } else {
      body["prompt"] = load.prompt(i);
    }
    const server::Call call{.request = {.method = "POST", .body = server::dump(body)},
                            .exchange = std::make_shared<NoExchange>(events),
                            .id = "0"};
    chat ? server::complete_chat(serving, call) : server::complete(serving, call);
  }
  while (engine.num_active() > 0) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  engine.stop();
  replies.stop();
  MOE4_CHECK(times.size() > 100);
  return median(std::move(times));
}

void measure(const Load& load) {
  const InstantModel model;
  const auto tokenizer = Tokenizer::parse(synth_tokenizer_json(kVocab), "tokenizer.json");
  const double scheduler = scheduler_us(load);
  const double batch = batch_us(load, model);
  const double engine = engine_us(load, model, [&](int64_t i) {
    return EngineRequest{.prompt = load.prompt(i),
                         .max_new_tokens = load.new_tokens(),
                         .next_token = [](std::span<float>) { return std::optional(kWord); }};
  });
  const double generation = generation_us(load, model, *tokenizer, /*chooses_on_device=*/true);
  // Endpoints have tokens chosen here, which is not what is asked for.
  const double choices =
      generation_us(load, model, *tokenizer, /*chooses_on_device=*/false) - generation;
  const double completions = endpoint_us(load, model, *tokenizer, /*chat=*/false) - choices;
  const double chat = endpoint_us(load, model, *tokenizer, /*chat=*/true) - choices;
  fmt::print("{} requests, us a step\n", load.requests);
  const auto row = [](const char* part, double us) { fmt::print("  {:<44} {:8.1f}\n", part, us); };
  row("scheduler", scheduler);
  row("batch", batch);
  row("rest of the engine", engine - scheduler - batch);
  row("text and ends of answers", generation - engine);
  row("hand-over to the replies' thread, metrics", completions - generation);
  row("all, /v1/completions", completions);
  row("all, /v1/chat/completions, reasoning", chat);
}

}  // namespace
}  // namespace moe4

int main(int argc, char** argv) try {
  moe4::Load load;
  if (argc > 1) load.requests = std::stoll(argv[1]);
  if (argc > 2) load.steps = std::stoll(argv[2]);
  moe4::measure(load);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
