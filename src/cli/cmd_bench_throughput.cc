// moe4 bench-throughput: the load of bench-serve on the engine alone, without a server.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <list>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/memory_words.h"
#include "cli/number_flags.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/random_load.h"
#include "cli/serving_limits.h"
#include "engine/generator.h"

namespace moe4::cli {
namespace {

struct BenchThroughputFlags {
  std::string model;
  MachineFlags machine;
  EngineFlags engine;
  std::optional<int64_t> prompt_wait_steps;
  RandomLoadFlags load;
  int64_t max_concurrency = 0;
  bool json = false;
};

struct Throughput {
  int64_t requests = 0, prompt_tokens = 0, output_tokens = 0, steps = 0;
  double seconds = 0;
};

struct Running {
  GenerateRequest request;
  std::unique_ptr<Generation> generation;
};

// Greedy, to their full lengths; `concurrency` of them in the engine at once.
Throughput run_load(Engine& engine, const std::vector<std::vector<int32_t>>& prompts,
                    const std::vector<int64_t>& output_tokens, size_t concurrency,
                    Progress* progress) {
  std::list<Running> running;
  Throughput result;
  size_t next = 0;
  const auto start = std::chrono::steady_clock::now();
  while (next < prompts.size() || !running.empty()) {
    for (; next < prompts.size() && running.size() < concurrency; ++next) {
      Running& one = running.emplace_back();
      one.request.prompt = prompts[next];
      one.request.max_new_tokens = output_tokens[next];
      one.request.context = engine.limits().max_context;
      one.request.ignore_eos = true;
      one.generation = std::make_unique<Generation>(engine.model(), nullptr, one.request);
      engine.submit(one.generation->engine_request());
    }
    engine.step();
    ++result.steps;
    for (auto one = running.begin(); one != running.end();) {
      if (!one->generation->is_done()) {
        ++one;
        continue;
      }
      const GenerateResult done = one->generation->take_result();
      result.requests += 1;
      result.prompt_tokens += static_cast<int64_t>(one->request.prompt.size());
      result.output_tokens += static_cast<int64_t>(done.tokens.size());
      if (progress != nullptr)
        progress->update(result.requests, static_cast<int64_t>(prompts.size()));
      one = running.erase(one);
    }
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

void bench_throughput(const BenchThroughputFlags& flags) {
  Session session;
  open_checkpoint(session, flags.model, flags.machine, WithTokenizer::kYes);
  std::mt19937_64 random(flags.load.seed);
  const std::vector<int64_t> inputs = random_lengths(flags.load, flags.load.input_tokens, random);
  const std::vector<int64_t> outputs = random_lengths(flags.load, flags.load.output_tokens, random);
  const std::vector<int32_t> ids = text_ids(*session.tokenizer);
  if (ids.empty()) {
    throw_bad_input({.what = "the tokenizer has no tokens but special ones", .file = session.path});
  }
  const auto prompts = random_prompts(inputs, ids, random);
  reload_model(session, flags.machine, {.flags = flags.engine});
  std::vector<std::string> notes;
  const EngineLimits limits =
      serving_limits(session, flags.machine, flags.engine, flags.prompt_wait_steps, notes);
  if (!flags.machine.quiet) {
    for (const std::string& note : notes) fmt::print(stderr, "note: {}\n", note);
  }
  const size_t concurrency = flags.max_concurrency > 0 ? static_cast<size_t>(flags.max_concurrency)
                                                       : static_cast<size_t>(limits.max_seqs);
  const MemoryUse use{.tokens = limits.cache_tokens,
                      .sequences = limits.max_seqs,
                      .advice = "lower --kv-cache-memory-bytes"};
  Throughput result;
  with_memory_words(session, use, [&] {
    Engine engine(*session.model, limits);
    run_load(engine, {prompts.front()}, {std::min<int64_t>(outputs.front(), 8)}, 1, nullptr);
    Progress progress("requests");
    result = run_load(engine, prompts, outputs, concurrency, &progress);
  });
  const auto rate = [&](int64_t count) { return static_cast<double>(count) / result.seconds; };
  if (flags.json) {
    const nlohmann::ordered_json json = {
        {"model", flags.model},
        {"num_requests", result.requests},
        {"max_concurrency", concurrency},
        {"random_input_len", flags.load.input_tokens},
        {"random_output_len", flags.load.output_tokens},
        {"random_range_ratio", flags.load.range_ratio},
        {"seed", flags.load.seed},
        {"elapsed_time", result.seconds},
        {"steps", result.steps},
        {"total_input_tokens", result.prompt_tokens},
        {"total_output_tokens", result.output_tokens},
        {"requests_per_second", rate(result.requests)},
        {"tokens_per_second", rate(result.prompt_tokens + result.output_tokens)},
        {"output_tokens_per_second", rate(result.output_tokens)}};
    fmt::print("{}\n", json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
    return;
  }
  fmt::print(
      "Throughput: {:.2f} requests/s, {:.2f} total tokens/s, {:.2f} output tokens/s\n"
      "Total num prompt tokens:  {}\nTotal num output tokens:  {}\n",
      rate(result.requests), rate(result.prompt_tokens + result.output_tokens),
      rate(result.output_tokens), result.prompt_tokens, result.output_tokens);
}

}  // namespace

void add_bench_throughput(CLI::App& app) {
  auto flags = std::make_shared<BenchThroughputFlags>();
  CLI::App* command = app.add_subcommand(
      "bench-throughput",
      "The engine of serve without a server, as vLLM's bench throughput; also: bench throughput");
  command->add_option("MODEL", flags->model, "Checkpoint folder")->required();
  add_random_load_flags(*command, flags->load);
  command
      ->add_option("--max-concurrency", flags->max_concurrency,
                   "Requests in the engine at once; 0: as many as run at once")
      ->check(whole_number(0, 1'000'000));
  add_engine_flags(*command, flags->engine);
  add_prompt_wait_flag(*command, flags->prompt_wait_steps);
  add_machine_flags(*command, flags->machine);
  with_env(command->add_flag("--json", flags->json, "One JSON object on stdout"));
  command->callback([flags] { bench_throughput(*flags); });
}

}  // namespace moe4::cli
