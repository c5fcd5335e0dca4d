// Load on a server: what is sent, what is counted, and what becomes of servers that misbehave.
#include "bench/serve_load.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "support/fake_openai_server.h"

namespace moe4 {
namespace {

using nlohmann::json;
using testing::FakeOpenAiServer;
using ::testing::HasSubstr;

void stream_tokens(const FakeOpenAiServer::Connection& out, int tokens, bool usage) {
  out.begin_stream();
  for (int i = 0; i < tokens; ++i) out.event(R"({"choices": [{"index": 0, "text": "x"}]})");
  if (usage) out.event(R"({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 9}})");
  out.event("[DONE]");
  out.end_stream();
}

ServeLoad load_on(const FakeOpenAiServer& server, size_t requests) {
  return {.base = parse_base_url(server.url()),
          .model = "m",
          .prompts = std::vector<std::vector<int32_t>>(requests, {5, 6, 7, 8}),
          .output_tokens = std::vector<int64_t>(std::max<size_t>(requests, 1), 4),
          .timeout_seconds = 30};
}

TEST(ServeLoad, SendsWhatWasAskedForAndCountsWhatComes) {
  FakeOpenAiServer server([](const auto&, const auto& out) { stream_tokens(out, 4, true); });
  ServeLoad load = load_on(server, 3);
  load.api_key = "secret";
  load.ignore_eos = true;
  int64_t done = 0;
  const ServedLoad result = run_load(load, [&done](int64_t count) { done = count; });
  EXPECT_EQ(done, 3);
  ASSERT_EQ(result.requests.size(), 3U);
  for (const ServedRequest& request : result.requests) {
    EXPECT_EQ(request.error, "");
    EXPECT_EQ(request.output_tokens, 9);  // the server knows better than the chunks
    EXPECT_EQ(request.prompt_tokens, 3);
    EXPECT_EQ(request.gaps.size(), 3U);
    EXPECT_GT(request.first_token, 0);
    EXPECT_GE(request.last_token, request.first_token);
    EXPECT_GE(result.seconds, request.last_token);
  }
  for (const auto& request : server.requests()) {
    EXPECT_THAT(request.head, HasSubstr("POST /v1/completions HTTP/1.1"));
    EXPECT_THAT(request.head, HasSubstr("Authorization: Bearer secret"));
    const json body = json::parse(request.body);
    EXPECT_EQ(body["prompt"], json({5, 6, 7, 8}));
    EXPECT_EQ(body["max_tokens"], 4);
    EXPECT_EQ(body["model"], "m");
    EXPECT_EQ(body["ignore_eos"], true);
    EXPECT_EQ(body["stream_options"]["include_usage"], true);
  }
}

TEST(ServeLoad, WithoutUsageChunksAreTokens) {
  FakeOpenAiServer server([](const auto&, const auto& out) { stream_tokens(out, 4, false); });
  const ServedLoad result = run_load(load_on(server, 1));
  EXPECT_EQ(result.requests[0].output_tokens, 4);
  EXPECT_EQ(result.requests[0].prompt_tokens, 4);
}

TEST(ServeLoad, ChatsAreMessagesBelowThePathOfTheUrl) {
  FakeOpenAiServer server([](const auto&, const auto& out) {
    out.begin_stream();
    out.event(R"({"choices": [{"delta": {"role": "assistant"}}]})");
    out.event(R"({"choices": [{"delta": {"reasoning_content": "a"}}]})");
    out.event(R"({"choices": [{"delta": {"content": "b"}}]})");
    out.event("[DONE]");
    out.end_stream();
  });
  ServeLoad load = load_on(server, 0);
  load.base = parse_base_url(server.url() + "/llm/");
  load.chat = true;
  load.chat_prompts = {"hello"};
  const ServedLoad result = run_load(load);
  EXPECT_EQ(result.requests[0].error, "");
  EXPECT_EQ(result.requests[0].output_tokens, 2);
  EXPECT_THAT(server.requests()[0].head, HasSubstr("POST /llm/v1/chat/completions"));
  EXPECT_EQ(json::parse(server.requests()[0].body)["messages"][0]["content"], "hello");
}

TEST(ServeLoad, NoMoreThanAskedForAreOnTheirWay) {
  FakeOpenAiServer server([](const auto&, const auto& out) { stream_tokens(out, 2, false); });
  ServeLoad load = load_on(server, 12);
  load.max_concurrency = 2;
  const ServedLoad result = run_load(load);
  for (const ServedRequest& request : result.requests) EXPECT_EQ(request.error, "");
  EXPECT_EQ(server.requests().size(), 12U);
  EXPECT_LE(server.peak(), 2);
}

TEST(ServeLoad, AllAreOnTheirWayAtOnceWithoutABound) {
  // Nobody is answered before all have asked.
  std::mutex mutex;
  std::condition_variable all_here;
  int here = 0;
  FakeOpenAiServer server([&](const auto&, const auto& out) {
    std::unique_lock lock(mutex);
    ++here;
    all_here.notify_all();
    all_here.wait(lock, [&here] { return here >= 40; });
    lock.unlock();
    stream_tokens(out, 1, false);
  });
  const ServedLoad result = run_load(load_on(server, 40));
  for (const ServedRequest& request : result.requests) EXPECT_EQ(request.error, "");
  EXPECT_EQ(server.peak(), 40);
}

TEST(ServeLoad, ARateSpreadsRequestsOverItsTime) {
  FakeOpenAiServer server([](const auto&, const auto& out) { stream_tokens(out, 1, false); });
  ServeLoad load = load_on(server, 20);
  load.request_rate = 100;
  EXPECT_GE(run_load(load).seconds, 0.2);  // the last one is due at 20 / 100
}

TEST(ServeLoad, FailuresAreSaid) {
  const auto error_of = [](FakeOpenAiServer::Answer answer) {
    FakeOpenAiServer server(std::move(answer));
    ServeLoad load = load_on(server, 1);
    load.timeout_seconds = 0.3;
    return run_load(load).requests[0].error;
  };
  EXPECT_EQ(error_of([](const auto&, const auto& out) {
              out.reply(503, R"({"error": {"message": "the queue\nis full"}})");
            }),
            "HTTP 503: the queue\\x0ais full");
  EXPECT_EQ(error_of([](const auto&, const auto& out) { out.reply(404, "nothing"); }),
            "HTTP 404: nothing");
  EXPECT_THAT(error_of([](const auto&, const auto& out) { out.reply(200, "{}"); }),
              HasSubstr("before [DONE]"));
  EXPECT_EQ(error_of([](const auto&, const auto& out) {
              out.begin_stream();
              out.event(R"({"error": {"message": "not finite"}})");
            }),
            "the server says: not finite");
  EXPECT_THAT(error_of([](const auto&, const auto& out) {
                out.begin_stream();
                out.event("[1, 2");
              }),
              HasSubstr("no JSON object: [1, 2"));
  EXPECT_NE(error_of([](const auto&, const auto& out) {
              out.begin_stream();
              out.event(R"({"choices": [{"text": "x"}]})");
            }),
            "");
  EXPECT_THAT(error_of([](const auto&, const auto& out) {
                out.begin_stream();
                out.event("[DONE]");
                out.end_stream();
              }),
              HasSubstr("no text"));
  EXPECT_NE(error_of([](const auto&, const auto& out) { out.write("SSH-2.0-x\r\n"); }), "");
}

TEST(ServeLoad, ASilentServerIsGivenUp) {
  std::mutex mutex;
  std::condition_variable over;
  bool is_over = false;
  FakeOpenAiServer server([&](const auto&, const auto& out) {
    out.begin_stream();
    std::unique_lock lock(mutex);
    over.wait(lock, [&is_over] { return is_over; });
  });
  ServeLoad load = load_on(server, 1);
  load.timeout_seconds = 0.2;
  EXPECT_EQ(run_load(load).requests[0].error, "the server sends nothing");
  const std::lock_guard lock(mutex);
  is_over = true;
  over.notify_all();
}

TEST(ServeLoad, NobodyThereIsAnError) {
  std::string url;
  {
    const FakeOpenAiServer server([](const auto&, const auto&) {});
    url = server.url();
  }
  ServeLoad load{.base = parse_base_url(url), .prompts = {{1}}, .output_tokens = {1}};
  EXPECT_THAT(run_load(load).requests[0].error, HasSubstr("refused"));
  try {
    first_model(load.base, "");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
    EXPECT_THAT(error.what(), HasSubstr("no answer from " + url + "/v1/models"));
  }
}

TEST(ServeLoad, AServerThatSpeaksNoTlsIsAnErrorOfHttps) {
  FakeOpenAiServer server([](const auto&, const auto& out) { stream_tokens(out, 1, false); });
  ServeLoad load = load_on(server, 1);
  load.base.is_tls = true;
  load.timeout_seconds = 0.5;
  EXPECT_NE(run_load(load).requests[0].error, "");
  EXPECT_TRUE(server.requests().empty());
}

TEST(ServeLoad, TheFirstModelIsTheServers) {
  FakeOpenAiServer server([](const auto& request, const auto& out) {
    if (request.head.find("Bearer k") == std::string::npos)
      return out.reply(401, R"({"error": "no key"})");
    out.reply(200, R"({"data": [{"id": "first"}, {"id": "second"}]})");
  });
  EXPECT_EQ(first_model(parse_base_url(server.url()), "k"), "first");
  try {
    first_model(parse_base_url(server.url()), "");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("HTTP 401: no key"));
  }
}

TEST(BaseUrl, HostPortAndPath) {
  const BaseUrl url = parse_base_url("http://example.org:8000/a/b/");
  EXPECT_EQ(url.host + "|" + url.port + "|" + url.path, "example.org|8000|/a/b");
  EXPECT_EQ(parse_base_url("http://localhost").port, "80");
  EXPECT_EQ(parse_base_url("http://[::1]:81").host, "::1");
  EXPECT_EQ(parse_base_url("http://[::1]:81").port, "81");
  for (const char* bad : {"", "localhost:8000", "http://", "http://a:0", "http://a:65536",
                          "http://a:x", "http://[::1", "http://a b", "http://u@a", "http://a/\n"})
    EXPECT_THROW(parse_base_url(bad), Error) << bad;
  EXPECT_FALSE(url.is_tls);
  EXPECT_TRUE(parse_base_url("https://a").is_tls);
  EXPECT_EQ(parse_base_url("https://a").port, "443");
}

}  // namespace
}  // namespace moe4
