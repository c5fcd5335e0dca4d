// Each step sees one piece at a time, so look-ahead stops at piece borders as it does upstream.
#include "text/pre_tokenizer.h"

#include <algorithm>
#include <deque>

namespace moe4 {
namespace {

struct Piece {
  std::string_view text;
  bool at_start = false;
};

struct Segment {
  Span span;
  bool is_match;
};

std::vector<Segment> segments_of(const SplitStep& step, std::string_view text) {
  std::vector<Span> matches;
  step.regex.find_all(text, &matches);
  std::vector<Segment> segments;
  size_t done = 0;
  for (const Span& match : matches) {
    // Upstream finds no empty match where the last match ended.
    if (match.begin == match.end && match.end == done && !segments.empty()) continue;
    if (done < match.begin) segments.push_back({{done, match.begin}, step.invert});
    segments.push_back({match, !step.invert});
    done = match.end;
  }
  if (done < text.size()) segments.push_back({{done, text.size()}, step.invert});
  return segments;
}

// Joins neighbours as `behavior` says; the first or last of joined segments may be empty.
std::vector<Span> join(const std::vector<Segment>& segments, SplitBehavior behavior) {
  std::vector<Span> spans;
  bool previous_match = false;
  for (const Segment& segment : segments) {
    const bool joins = behavior == SplitBehavior::kContiguous ? segment.is_match == previous_match
                                                              : segment.is_match && !previous_match;
    if (joins && !spans.empty()) {
      spans.back().end = segment.span.end;
    } else {
      spans.push_back(segment.span);
    }
    previous_match = segment.is_match;
  }
  return spans;
}

std::vector<Span> join_with_next(const std::vector<Segment>& segments) {
  std::vector<Span> spans;  // from the last to the first
  bool next_match = false;
  for (auto segment = segments.rbegin(); segment != segments.rend(); ++segment) {
    if (segment->is_match && !next_match && !spans.empty()) {
      spans.back().begin = segment->span.begin;
    } else {
      spans.push_back(segment->span);
    }
    next_match = segment->is_match;
  }
  std::reverse(spans.begin(), spans.end());
  return spans;
}

std::vector<Span> spans_of(const SplitStep& step, std::string_view text) {
  const std::vector<Segment> segments = segments_of(step, text);
  if (step.behavior == SplitBehavior::kMergedWithNext) return join_with_next(segments);
  if (step.behavior == SplitBehavior::kMergedWithPrevious ||
      step.behavior == SplitBehavior::kContiguous) {
    return join(segments, step.behavior);
  }
  std::vector<Span> spans;
  for (const Segment& segment : segments) {
    if (step.behavior == SplitBehavior::kRemoved && segment.is_match) continue;
    spans.push_back(segment.span);
  }
  return spans;
}

void split_piece(const SplitStep& step, const Piece& piece, std::vector<Piece>* pieces) {
  for (const Span& span : spans_of(step, piece.text)) {
    if (span.begin == span.end) continue;
    pieces->push_back(
        {piece.text.substr(span.begin, span.end - span.begin), piece.at_start && span.begin == 0});
  }
}

std::string with_metaspaces(const MetaspaceStep& step, const Piece& piece) {
  std::string text;
  for (const char c : piece.text) {
    if (c == ' ') {
      text += step.replacement;
    } else {
      text += c;
    }
  }
  const bool prepends = step.prepend == MetaspaceStep::Prepend::kAlways ||
                        (step.prepend == MetaspaceStep::Prepend::kFirst && piece.at_start);
  if (prepends && !text.starts_with(step.replacement)) text.insert(0, step.replacement);
  return text;
}

}  // namespace

void PreTokenizer::split(std::string_view text, bool at_start,
                         FunctionRef<void(std::string_view)> sink) const {
  if (text.empty()) return;
  std::vector<Piece> pieces = {{text, at_start}};
  std::vector<Piece> next;
  std::deque<std::string> rewritten;  // texts of pieces that are no part of `text` any more
  for (const auto& step : steps) {
    next.clear();
    for (const Piece& piece : pieces) {
      if (const auto* split_step = std::get_if<SplitStep>(&step)) {
        split_piece(*split_step, piece, &next);
        continue;
      }
      const auto& metaspace = std::get<MetaspaceStep>(step);
      rewritten.push_back(with_metaspaces(metaspace, piece));
      const Piece whole = {rewritten.back(), piece.at_start};
      if (metaspace.split.empty()) {
        next.push_back(whole);
      } else {
        split_piece(metaspace.split.front(), whole, &next);
      }
    }
    pieces.swap(next);
  }
  std::string with_space;
  for (Piece& piece : pieces) {
    if (add_prefix_space && piece.text.front() != ' ') {
      with_space.assign(1, ' ').append(piece.text);
      piece.text = with_space;
    }
    if (byte_level_split.empty()) {
      sink(piece.text);
      continue;
    }
    next.clear();
    split_piece(byte_level_split.front(), piece, &next);
    for (const Piece& word : next) sink(word.text);
  }
}

}  // namespace moe4
