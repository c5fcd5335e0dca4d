// moe4 bench-serve: load on a server of OpenAI's API, with the flags and the table of vLLM's bench
// serve.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "bench/serve_load.h"
#include "bench/serve_report.h"
#include "cli/commands.h"
#include "cli/number_flags.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/random_load.h"
#include "text/tokenizer.h"

namespace moe4::cli {
namespace {

struct BenchServeFlags {
  std::string base_url = "http://127.0.0.1:8000";
  std::string backend = "openai";
  std::string tokenizer;
  std::string dataset = "random";
  std::string request_rate = "inf";
  RandomLoadFlags random;
  bool json = false;
  ServeLoad load;
};

// Ids that every byte-level vocabulary of a large model has and that are no control tokens.
constexpr int32_t kFirstPlainId = 256, kLastPlainId = 20000;

std::vector<int32_t> plain_ids(const std::string& folder) {
  std::vector<int32_t> ids;
  if (folder.empty()) {
    for (int32_t id = kFirstPlainId; id <= kLastPlainId; ++id) ids.push_back(id);
    return ids;
  }
  ids = text_ids(*Tokenizer::load(folder));
  if (ids.empty()) {
    throw_bad_input({.what = "the tokenizer has no tokens but special ones", .file = folder});
  }
  return ids;
}

// Those of chats are words: their number of tokens is what the server says.
void make_prompts(const BenchServeFlags& flags, ServeLoad* load) {
  std::mt19937_64 random(load->seed);
  const std::vector<int64_t> inputs =
      random_lengths(flags.random, flags.random.input_tokens, random);
  load->output_tokens = random_lengths(flags.random, flags.random.output_tokens, random);
  if (load->chat) {
    static constexpr std::string_view kWords[] = {
        "river", "stone", "light", "seven", "under", "green", "music", "paper",
        "cloud", "early", "north", "glass", "quiet", "table", "water", "seldom"};
    for (const int64_t input : inputs) {
      std::string text;
      for (int64_t word = 0; word < input; ++word)
        text += std::string(word == 0 ? "" : " ") + std::string(kWords[random() % 16]);
      load->chat_prompts.push_back(std::move(text));
    }
    return;
  }
  load->prompts = random_prompts(inputs, plain_ids(flags.tokenizer), random);
}

double parse_rate(const std::string& text) {
  if (text == "inf") return std::numeric_limits<double>::infinity();
  double rate = 0;
  if (!CLI::detail::lexical_cast(text, rate) || !(rate > 0 && rate <= 1e6)) {
    throw Error(ErrorCode::kUsage, "--request-rate " + printable(text) +
                                       " must be inf or requests a second, above 0 to 1000000");
  }
  return rate;
}

// One request before the others: what is wrong with all of them shows here.
void try_one(const ServeLoad& load) {
  ServeLoad one = load;
  one.prompts.resize(std::min<size_t>(1, one.prompts.size()));
  one.chat_prompts.resize(std::min<size_t>(1, one.chat_prompts.size()));
  one.request_rate = std::numeric_limits<double>::infinity();
  const ServedLoad result = run_load(one);
  const std::string& error = result.requests.front().error;
  if (error.empty()) return;
  const bool refused = error.starts_with("HTTP 400");
  throw Error(ErrorCode::kUnavailable,
              "the first request failed: " + error +
                  (refused && !load.chat ? "; --tokenizer FOLDER makes prompts of the model's own "
                                           "tokens, --backend openai-chat of words"
                                         : ""));
}

void print_json(const BenchServeFlags& flags, const ServeLoad& load, const ServeReport& report) {
  nlohmann::ordered_json json = {{"backend", flags.backend},
                                 {"model_id", load.model},
                                 {"num_prompts", flags.random.num_prompts},
                                 {"request_rate", flags.request_rate},
                                 {"max_concurrency", nullptr},
                                 {"random_input_len", flags.random.input_tokens},
                                 {"random_output_len", flags.random.output_tokens},
                                 {"random_range_ratio", flags.random.range_ratio},
                                 {"seed", load.seed}};
  if (load.max_concurrency > 0) json["max_concurrency"] = load.max_concurrency;
  json.update(nlohmann::ordered_json::parse(report_json(report)));
  fmt::print("{}\n", json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
}

void bench_serve(const BenchServeFlags& flags) {
  ServeLoad load = flags.load;
  load.seed = flags.random.seed;
  load.base = parse_base_url(flags.base_url);
  load.chat = flags.backend == "openai-chat";
  load.request_rate = parse_rate(flags.request_rate);
  if (load.model.empty()) load.model = first_model(load.base, load.api_key);
  make_prompts(flags, &load);
  try_one(load);
  ServedLoad result;
  {
    Progress progress("requests");
    result = run_load(load, [&](int64_t done) { progress.update(done, flags.random.num_prompts); });
  }
  const ServeReport report = summarise(result);
  for (const ServedRequest& request : result.requests) {
    if (request.error.empty()) continue;
    fmt::print(stderr, "warning: {} of {} requests failed, the first one: {}\n", report.failed,
               result.requests.size(), request.error);
    break;
  }
  if (report.completed == 0) throw Error(ErrorCode::kUnavailable, "no request succeeded");
  if (flags.json) {
    print_json(flags, load, report);
  } else {
    fmt::print("{}", report_text(report, load.request_rate, load.max_concurrency));
  }
}

}  // namespace

void add_bench_serve(CLI::App& app) {
  auto flags = std::make_shared<BenchServeFlags>();
  CLI::App* command = app.add_subcommand(
      "bench-serve", "Load on a server of OpenAI's API, as vLLM's bench serve; also: bench serve");
  command->add_option("--base-url", flags->base_url, "http://HOST:PORT of the server");
  command
      ->add_option("--backend", flags->backend,
                   "openai: /v1/completions with token ids; openai-chat: /v1/chat/completions")
      ->check(CLI::IsMember({"openai", "openai-chat"}));
  command->add_option("--model", flags->load.model, "Default: the first one that the server names");
  command->add_option("--tokenizer", flags->tokenizer,
                      "Checkpoint folder whose tokens prompts are made of");
  command->add_option("--dataset-name", flags->dataset, "random")->check(CLI::IsMember({"random"}));
  add_random_load_flags(*command, flags->random);
  command->add_option("--request-rate", flags->request_rate,
                      "Requests a second, at random intervals; inf: all at once");
  command
      ->add_option("--max-concurrency", flags->load.max_concurrency,
                   "Requests on their way at once; 0: any number")
      ->check(whole_number(0, 1'000'000));
  command->add_flag("--ignore-eos", flags->load.ignore_eos, "Answers go on past their end");
  command->add_option("--temperature", flags->load.temperature, "Of the sampling")
      ->check(number_between(0, 2));
  command
      ->add_option("--timeout", flags->load.timeout_seconds,
                   "Seconds without a byte after which a request has failed")
      ->check(number_between(0.001, 1e6));
  with_env(command->add_option("--api-key", flags->load.api_key, "Sent as Bearer"));
  with_env(command->add_flag("--json", flags->json, "One JSON object on stdout"));
  command->callback([flags] { bench_serve(*flags); });
}

}  // namespace moe4::cli
