// Feeds an answer to a parser in pieces, for tests that cuts change nothing.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "dialog/dialog_parser.h"

namespace moe4 {

inline DialogOptions with_counted_ids(DialogOptions options) {
  options.make_call_id = [] { return std::string("call_id"); };
  return options;
}

/// In pieces of so many bytes.
inline DialogMessage fed_in_pieces(const DialogOptions& options, std::string_view text,
                                   size_t bytes) {
  DialogParser parser(with_counted_ids(options));
  DialogMessage message;
  for (size_t at = 0; at < text.size(); at += bytes)
    message.add(parser.feed(text.substr(at, bytes)));
  message.add(parser.finish());
  return message;
}

inline DialogMessage fed_in_two(const DialogOptions& options, std::string_view text, size_t cut) {
  DialogParser parser(with_counted_ids(options));
  DialogMessage message;
  message.add(parser.feed(text.substr(0, cut)));
  message.add(parser.feed(text.substr(cut)));
  message.add(parser.finish());
  return message;
}

/// One line that tells everything apart.
inline std::string told(const DialogMessage& message) {
  std::string text = "content[" + message.content + "] reasoning[" + message.reasoning + "]";
  for (const ToolCall& call : message.tool_calls)
    text += " call[" + call.id + "|" + call.name + "|" + call.arguments + "]";
  return text;
}

/// Wherever the text is cut, the same comes out.
inline void expect_cuts_change_nothing(DialogOptions options, std::string_view text) {
  for (const bool stream : {true, false}) {
    options.stream_calls = stream;
    const std::string whole = told(fed_in_two(options, text, text.size()));
    ASSERT_EQ(told(fed_in_pieces(options, text, 1)), whole) << text;
    ASSERT_EQ(told(fed_in_pieces(options, text, 7)), whole) << text;
    for (size_t cut = 0; cut < text.size(); ++cut)
      ASSERT_EQ(told(fed_in_two(options, text, cut)), whole) << text << "\ncut at " << cut;
  }
}

}  // namespace moe4
