// Each step sees one piece at a time, so look-ahead stops at piece borders as it does upstream.
#include "text/pre_tokenizer.h"

namespace moe4 {
namespace {

// Pieces of `text` after one split step, appended to `pieces`.
void split_piece(const SplitStep& step, std::string_view text, std::vector<Span>* matches,
                 std::vector<std::string_view>* pieces) {
  matches->clear();
  step.regex.find_all(text, matches);
  const auto put = [&](size_t begin, size_t end, bool dropped) {
    if (begin < end && !dropped) pieces->push_back(text.substr(begin, end - begin));
  };
  size_t done = 0;
  for (const Span& match : *matches) {
    put(done, match.begin, step.remove_gaps);
    put(match.begin, match.end, step.remove_matches);
    done = match.end;
  }
  put(done, text.size(), step.remove_gaps);
}

}  // namespace

void PreTokenizer::split(std::string_view text, FunctionRef<void(std::string_view)> sink) const {
  if (text.empty()) return;
  std::vector<std::string_view> pieces = {text};
  std::vector<std::string_view> next;
  std::vector<Span> matches;
  for (const SplitStep& step : splits) {
    next.clear();
    for (const std::string_view piece : pieces) split_piece(step, piece, &matches, &next);
    pieces.swap(next);
  }
  std::string with_space;
  for (std::string_view piece : pieces) {
    if (add_prefix_space && piece.front() != ' ') {
      with_space.assign(1, ' ').append(piece);
      piece = with_space;
    }
    if (byte_level_split.empty()) {
      sink(piece);
      continue;
    }
    next.clear();
    split_piece(byte_level_split.front(), piece, &matches, &next);
    for (const std::string_view word : next) sink(word);
  }
}

}  // namespace moe4
