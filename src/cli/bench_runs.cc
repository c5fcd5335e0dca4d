// Requests whose tokens are given, so that speed is all that is measured.
#include "cli/bench_runs.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <random>
#include <vector>

#include "engine/engine.h"

namespace moe4::cli {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Rate rate_of(const std::vector<double>& seconds, int64_t tokens) {
  const auto count = static_cast<double>(seconds.size());
  Rate rate;
  for (double s : seconds) rate.mean += static_cast<double>(tokens) / s / count;
  for (double s : seconds)
    rate.deviation += std::pow(static_cast<double>(tokens) / s - rate.mean, 2);
  if (seconds.size() > 1) rate.deviation = std::sqrt(rate.deviation / (count - 1));
  return rate;
}

std::vector<int32_t> random_tokens(int64_t n, int64_t vocab_size, uint32_t seed = 1) {
  std::mt19937 rng(seed);
  std::vector<int32_t> ids(n);
  for (int32_t& id : ids) id = static_cast<int32_t>(rng() % vocab_size);
  return ids;
}

// Tokens after the first `prompt` are fed one by one; which ones does not matter to the speed.
// `started` counts requests whose prompt is done.
EngineRequest feeding(std::vector<int32_t> ids, int64_t prompt,
                      const std::shared_ptr<int64_t>& started, std::exception_ptr& error) {
  EngineRequest request{.prompt = {ids.begin(), ids.begin() + prompt},
                        .max_new_tokens = static_cast<int64_t>(ids.size()) - prompt + 1};
  const auto at = std::make_shared<size_t>(static_cast<size_t>(prompt));
  const auto next = [ids = std::move(ids), prompt, at, started]() -> std::optional<int32_t> {
    if (*at == static_cast<size_t>(prompt)) ++*started;
    if (*at == ids.size()) return std::nullopt;
    return ids[(*at)++];
  };
  request.next_token = [next](std::span<float>) { return next(); };
  request.device_choice = [](DeviceChoice&) { return true; };
  request.take_token = [next](int32_t) { return next(); };
  request.on_end = [&error](const RequestEnd& end) {
    if (end.error) error = end.error;
  };
  return request;
}

// A prompt up to the logits of its last token; `done` is set then.
EngineRequest prompt_only(std::vector<int32_t> ids, std::exception_ptr& error, bool& done) {
  return {.prompt = std::move(ids),
          .max_new_tokens = 1,
          .next_token = [](std::span<float>) { return std::optional<int32_t>(); },
          .on_end =
              [&](const RequestEnd& end) {
                done = true;
                if (end.error) error = end.error;
              }};
}

double time_steps(Engine& engine, const std::exception_ptr& error) {
  const auto start = Clock::now();
  while (engine.step()) {
  }
  if (error) std::rethrow_exception(error);
  return seconds_since(start);
}

double time_prompt(Engine& engine, int64_t tokens) {
  std::exception_ptr error;
  bool done = false;
  engine.submit(
      prompt_only(random_tokens(tokens, engine.model().config().vocab_size), error, done));
  return time_steps(engine, error);
}

// Requests that generate until they are cancelled, in steps that hold all of them.
std::vector<RequestId> start_feeding(Engine& engine, const RunLengths& lengths, int64_t requests,
                                     std::exception_ptr& error) {
  const int64_t vocab = engine.model().config().vocab_size;
  const int64_t prompt = std::max<int64_t>(lengths.depth, 1);
  const auto started = std::make_shared<int64_t>(0);  // outlives this call in the requests
  std::vector<RequestId> ids;
  for (int64_t r = 0; r < requests; ++r) {
    auto tokens =
        random_tokens(engine.limits().max_context - 1, vocab, 1 + static_cast<uint32_t>(r));
    ids.push_back(engine.submit(feeding(std::move(tokens), prompt, started, error)));
  }
  while (*started < requests && !error) engine.step();
  return ids;
}

double time_generation(Engine& engine, const RunLengths& lengths, int64_t requests,
                       int64_t tokens) {
  std::exception_ptr error;
  const std::vector<RequestId> ids = start_feeding(engine, lengths, requests, error);
  const auto start = Clock::now();
  for (int64_t i = 0; i < tokens && !error; ++i) engine.step();
  const double seconds = seconds_since(start);
  for (const RequestId id : ids) engine.cancel(id);
  if (error) std::rethrow_exception(error);
  return seconds;
}

struct Interruption {
  double longest_step = 0, seconds = 0;
};

// `requests` generate, and a prompt comes in: every step has a token of each of them.
Interruption time_interruption(Engine& engine, const RunLengths& lengths, int64_t requests) {
  const int64_t vocab = engine.model().config().vocab_size;
  std::exception_ptr error;
  const std::vector<RequestId> running = start_feeding(engine, {}, requests, error);
  engine.step();
  bool done = false;
  engine.submit(prompt_only(random_tokens(lengths.prompt, vocab), error, done));
  Interruption result;
  for (bool running = true; running; running = !done) {
    const auto start = Clock::now();
    engine.step();
    const double seconds = seconds_since(start);
    result.seconds += seconds;
    result.longest_step = std::max(result.longest_step, seconds);
  }
  for (const RequestId id : running) engine.cancel(id);
  if (error) std::rethrow_exception(error);
  return result;
}

template <typename Run>
Rate repeat(const RunLengths& lengths, int64_t tokens, const std::function<void()>& on_run,
            const Run& run) {
  std::vector<double> seconds;
  for (int i = 0; i < lengths.repetitions; ++i) {
    seconds.push_back(run());
    on_run();
  }
  return rate_of(seconds, tokens);
}

// Tokens that warm caches and threads.
int64_t few(int64_t tokens) { return std::min<int64_t>(tokens, 16); }

}  // namespace

// Nothing is computed for later.
EngineLimits bench_limits(const RunLengths& lengths, int64_t requests) {
  const int64_t chunk =
      std::min(lengths.chunk, std::max<int64_t>({lengths.prompt, lengths.depth, 1}));
  // Two tokens before a prompt comes in, one a step while it does; the first requests generate
  // while the prompts of others are computed.
  const int64_t before = lengths.depth + requests * ceil_div(lengths.depth, chunk);
  const int64_t context = std::max(lengths.prompt, before + lengths.generate) + 3;
  const int64_t pages = ceil_div(context, kPageTokens);
  return {.max_tokens = std::max(chunk, kPageTokens) + requests,
          .max_seqs = requests,
          .prompt_chunk = chunk,
          .max_context = context,
          .cache_tokens = requests * pages * kPageTokens,
          .prefix_cache = false};
}

AloneResult measure_alone(const Model& model, const RunLengths& lengths,
                          const std::function<void()>& on_run) {
  Engine engine(model, bench_limits(lengths, 1));
  AloneResult result;
  if (lengths.prompt > 0) {
    time_prompt(engine, few(lengths.prompt));
    result.prompt = repeat(lengths, lengths.prompt, on_run,
                           [&] { return time_prompt(engine, lengths.prompt); });
  }
  if (lengths.generate > 0) {
    time_generation(engine, lengths, 1, few(lengths.generate));
    result.generation = repeat(lengths, lengths.generate, on_run, [&] {
      return time_generation(engine, lengths, 1, lengths.generate);
    });
  }
  return result;
}

TogetherResult measure_together(const Model& model, const RunLengths& lengths, int64_t requests,
                                const std::function<void()>& on_run) {
  Engine engine(model, bench_limits(lengths, requests + 1));
  TogetherResult result{.requests = requests};
  time_generation(engine, lengths, requests, few(lengths.generate));
  result.generation = repeat(lengths, requests * lengths.generate, on_run, [&] {
    return time_generation(engine, lengths, requests, lengths.generate);
  });
  if (lengths.prompt == 0) return result;
  double seconds = 0;
  for (int i = 0; i < lengths.repetitions; ++i) {
    const Interruption one = time_interruption(engine, lengths, requests);
    result.longest_pause_ms = std::max(result.longest_pause_ms, 1e3 * one.longest_step);
    seconds += one.seconds;
  }
  result.prompt_tokens_per_second =
      static_cast<double>(lengths.prompt * lengths.repetitions) / seconds;
  return result;
}

}  // namespace moe4::cli
