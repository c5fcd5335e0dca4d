// Puts a format between the repaired text and the deltas.
#include "dialog/dialog_parser.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "dialog/format.h"
#include "text/utf8.h"

namespace moe4 {
namespace {

std::unique_ptr<DialogFormat> make_call_format(const DialogOptions& options) {
  switch (options.tools) {
    case ToolFormat::kHermes:
      return make_hermes_format();
    case ToolFormat::kQwen3Coder:
      return make_qwen3_coder_format(options.tool_list);
    case ToolFormat::kMiniMaxM2:
      return make_minimax_m2_format(options.tool_list);
    case ToolFormat::kMiniMaxM3:
      return make_minimax_m3_format(options.tool_list);
    case ToolFormat::kGlm45:
      return make_glm45_format(options.tool_list);
    case ToolFormat::kDeepSeekV3:
      return make_deepseek_v3_format();
    case ToolFormat::kDeepSeekV31:
      return make_deepseek_v31_format();
    case ToolFormat::kDeepSeekV32:
      return make_deepseek_v32_format(options.tool_list);
    case ToolFormat::kDeepSeekV4:
      return make_deepseek_v4_format(options.tool_list);
    case ToolFormat::kKimiK2:
      return make_kimi_k2_format();
    default:
      return make_plain_format();
  }
}

std::unique_ptr<DialogFormat> make_format(const DialogOptions& options) {
  const bool harmony_calls = options.tools == ToolFormat::kHarmony;
  const bool harmony_reasoning = options.reasoning == ReasoningFormat::kHarmony;
  if (harmony_calls || harmony_reasoning)
    return make_harmony_format(harmony_calls, harmony_reasoning);
  std::unique_ptr<DialogFormat> calls = make_call_format(options);
  if (options.reasoning == ReasoningFormat::kNone) return calls;
  return make_think_format(options.reasoning, options.prompt, std::move(calls));
}

}  // namespace

struct DialogParser::Impl {
  explicit Impl(const DialogOptions& options)
      : output(options.stream_calls, options.make_call_id), format(make_format(options)) {}

  std::vector<Delta> read(std::string_view piece, bool last) {
    MOE4_CHECK(!reader.closed());
    broken += piece;
    std::string text;
    broken.erase(0, append_utf8_lossy(broken, last, &text));
    reader.append(text);
    if (last) reader.close();
    format->read(reader, output);
    return output.take();
  }

  std::string broken;  // the begin of a UTF-8 character
  TextReader reader;
  DialogOutput output;
  std::unique_ptr<DialogFormat> format;
};

DialogParser::DialogParser(const DialogOptions& options) : impl_(std::make_unique<Impl>(options)) {}
DialogParser::~DialogParser() = default;
DialogParser::DialogParser(DialogParser&&) noexcept = default;
DialogParser& DialogParser::operator=(DialogParser&&) noexcept = default;

std::vector<Delta> DialogParser::feed(std::string_view piece) { return impl_->read(piece, false); }
std::vector<Delta> DialogParser::finish() { return impl_->read({}, true); }
int64_t DialogParser::complete_calls() const { return impl_->output.complete_calls(); }

void DialogMessage::add(const std::vector<Delta>& deltas) {
  for (const Delta& delta : deltas) {
    switch (delta.kind) {
      case Delta::Kind::kContent:
        content += delta.text;
        break;
      case Delta::Kind::kReasoning:
        reasoning += delta.text;
        break;
      case Delta::Kind::kToolCall: {
        const auto index = static_cast<size_t>(delta.index);
        if (index >= tool_calls.size()) tool_calls.resize(index + 1);
        ToolCall& call = tool_calls[index];
        call.id += delta.id;
        call.name += delta.name;
        call.arguments += delta.text;
        break;
      }
    }
  }
}

DialogMessage parse_dialog(const DialogOptions& options, std::string_view text) {
  DialogOptions whole = options;
  whole.stream_calls = false;
  DialogParser parser(whole);
  DialogMessage message;
  message.add(parser.feed(text));
  message.add(parser.finish());
  return message;
}

}  // namespace moe4
