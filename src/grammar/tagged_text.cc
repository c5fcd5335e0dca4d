// The search for a trigger as states, and what follows it.
#include "grammar/tagged_text.h"

#include "base/error.h"

namespace moe4::grammar {
namespace {

constexpr uint8_t kSpecial = 0xff;

}  // namespace

// Knuth, Morris and Pratt's automaton: a state for every prefix of the trigger.
StateId add_free_text(AutomatonBuilder& builder, std::string_view trigger, StateId from,
                      bool may_end) {
  MOE4_CHECK(!trigger.empty());
  if (static_cast<uint8_t>(trigger.front()) == kSpecial) {
    // A token of its own, so nothing but all of it can follow its first byte.
    if (may_end) builder.accept(from);
    builder.add_bytes(from, 0, kSpecial - 1, from);
    return builder.add_text(from, trigger);
  }
  std::vector<StateId> states = {from};
  while (states.size() <= trigger.size()) states.push_back(builder.add_state());
  for (size_t i = 0; i < trigger.size(); ++i) {
    if (may_end) builder.accept(states[i]);
    std::vector<size_t> next(kSpecial);
    for (size_t b = 0; b < kSpecial; ++b) {
      size_t length = i;
      while (true) {
        if (static_cast<uint8_t>(trigger[length]) == b) {
          next[b] = length + 1;
          break;
        }
        if (length == 0) break;
        // The longest border of the prefix of this length.
        size_t shorter = length - 1;
        while (shorter > 0 &&
               trigger.substr(0, shorter) != trigger.substr(length - shorter, shorter)) {
          --shorter;
        }
        length = shorter;
      }
    }
    for (size_t b = 0; b < kSpecial;) {
      size_t end = b + 1;
      while (end < kSpecial && next[end] == next[b]) ++end;
      builder.add_bytes(states[i], static_cast<uint8_t>(b), static_cast<uint8_t>(end - 1),
                        states[next[b]]);
      b = end;
    }
  }
  return states.back();
}

RuleId add_tagged_text(AutomatonBuilder& builder, const std::vector<Tag>& tags,
                       const TaggedTextOptions& options) {
  constexpr size_t kMaxTrigger = 256;
  const auto refuse = [](const std::string& what) { throw Error(ErrorCode::kUsage, what); };
  if (tags.empty()) refuse("a tagged answer needs at least one tag");
  if (options.trigger.size() > kMaxTrigger) {
    refuse("a trigger has more than " + std::to_string(kMaxTrigger) + " bytes");
  }
  for (const Tag& tag : tags) {
    if (tag.begin.empty() || !tag.begin.starts_with(options.trigger)) {
      refuse("tag '" + printable(tag.begin) + "' does not begin with the trigger '" +
             printable(options.trigger) + "'");
    }
  }
  const bool has_text = !options.trigger.empty();
  if (has_text && !(options.before + options.after).empty()) {
    refuse("what is before and after all tags cannot be told from free text");
  }
  const RuleId rule = builder.add_rule();
  const StateId start = builder.start(rule);
  const StateId done = builder.add_state();  // after a tag
  builder.accept(builder.add_text(done, options.after));
  // From a place behind the trigger, one of the tags.
  const auto add_tags = [&](StateId from) {
    for (const Tag& tag : tags) {
      const StateId body =
          builder.add_text(from, std::string_view(tag.begin).substr(options.trigger.size()));
      const StateId end = builder.add_state();
      builder.add_call(body, tag.body, end);
      builder.add_empty(builder.add_text(end, tag.end), done);
    }
  };
  if (!options.needs_tag) builder.accept(start);
  add_tags(has_text ? add_free_text(builder, options.trigger, start, !options.needs_tag)
                    : builder.add_text(start, options.before));
  if (!options.allows_more) return rule;
  if (has_text) {
    const StateId text = builder.add_state();
    builder.add_empty(done, text);
    add_tags(add_free_text(builder, options.trigger, text, true));
  } else {
    const StateId next = builder.add_state();
    builder.add_empty(builder.add_text(done, options.separator), next);
    add_tags(next);
  }
  return rule;
}

}  // namespace moe4::grammar
