// Load on an OpenAI endpoint over HTTP or HTTPS: many streamed requests at once, and when their
// tokens came.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace moe4 {

/// http[s]://HOST[:PORT][/PATH]
struct BaseUrl {
  std::string host, port, path;
  bool is_tls = false;
};

/// Throws Error(kUsage) for what is no such URL.
BaseUrl parse_base_url(std::string_view url);

struct ServeLoad {
  BaseUrl base;
  std::string model;
  std::string api_key;  ///< sent as Bearer; may be empty
  bool chat =
      false;  ///< /v1/chat/completions, prompts are text; else /v1/completions with token ids
  /// One request each.
  std::vector<std::vector<int32_t>> prompts;
  std::vector<std::string> chat_prompts;
  std::vector<int64_t> output_tokens;  ///< asked for, of each
  bool ignore_eos = false;
  double temperature = 0;
  /// Requests a second, in Poisson intervals; infinite: all at once.
  double request_rate = std::numeric_limits<double>::infinity();
  int64_t max_concurrency = 0;   ///< requests on their way at once; 0: any number
  uint64_t seed = 0;             ///< of the intervals
  double timeout_seconds = 600;  ///< without a byte from the server
};

/// What became of one request. Times in seconds from the moment when it was sent.
struct ServedRequest {
  std::string error;  ///< empty when the answer came whole
  int64_t prompt_tokens = 0, output_tokens = 0;
  double first_token = 0, last_token = 0;
  std::vector<double> gaps;  ///< between chunks of the answer that follow each other
};

struct ServedLoad {
  std::vector<ServedRequest> requests;  ///< in the order of the prompts
  double seconds = 0;                   ///< from the first request's begin to the last one's end
};

/// Runs on the calling thread; `on_done` is called after every request with how many are done.
/// Requests that fail say so in their `error`.
ServedLoad run_load(const ServeLoad& load, const std::function<void(int64_t)>& on_done = {});

/// The first model of /v1/models. Throws Error(kUnavailable) when the server says none.
std::string first_model(const BaseUrl& base, const std::string& api_key);

}  // namespace moe4
