// Feeds foreign text to the parsers of reasoning and tool calls: the first byte says which, the
// second where the text is cut. Cuts change nothing, and arguments that are handed out whole are
// JSON.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "dialog/dialog_parser.h"

namespace {

using moe4::DialogMessage;
using moe4::DialogOptions;
using moe4::DialogParser;

std::string told(const DialogMessage& message) {
  std::string text = message.content + '\0' + message.reasoning;
  for (const moe4::ToolCall& call : message.tool_calls)
    text += '\0' + call.name + '\0' + call.arguments;
  return text;
}

std::string fed(const DialogOptions& options, std::string_view text, size_t step) {
  DialogParser parser(options);
  DialogMessage message;
  for (size_t at = 0; at < text.size(); at += step) message.add(parser.feed(text.substr(at, step)));
  message.add(parser.finish());
  return told(message);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  DialogOptions options;
  options.tools = static_cast<moe4::ToolFormat>(data[0] % 12);
  options.reasoning = static_cast<moe4::ReasoningFormat>(data[0] / 12 % 5);
  options.make_call_id = [] { return std::string("id"); };
  const size_t step = 1 + data[1] % 16;
  for (const bool stream : {true, false}) {
    options.stream_calls = stream;
    if (fed(options, text, step) != fed(options, text, size)) __builtin_trap();
  }
  for (const moe4::ToolCall& call : parse_dialog(options, text).tool_calls) {
    if (!nlohmann::json::accept(call.arguments)) __builtin_trap();
  }
  return 0;
}
