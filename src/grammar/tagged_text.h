// Free text in which tags begin something else, as calls of tools do, or which a tag ends.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "grammar/automaton.h"

namespace moe4::grammar {

struct Tag {
  std::string begin;
  RuleId body;
  std::string end;
};

struct TaggedTextOptions {
  std::string trigger;    ///< ends free text, and begins every tag; empty: no free text
  std::string before;     ///< all tags, without free text
  std::string separator;  ///< between tags without free text
  std::string after;      ///< all tags, without free text
  bool needs_tag = false;
  bool allows_more = true;  ///< than one tag
};

/// From `from` on any bytes but 0xFF, which begins special tokens (special_token_text()), up to the
/// first time that they have `trigger`, which is not empty; returns where. `may_end`: the rule may
/// end before the trigger begins or within it.
StateId add_free_text(AutomatonBuilder& builder, std::string_view trigger, StateId from,
                      bool may_end);

/// Throws Error(kUsage) for tags that do not begin with the trigger, or none at all.
RuleId add_tagged_text(AutomatonBuilder& builder, const std::vector<Tag>& tags,
                       const TaggedTextOptions& options);

}  // namespace moe4::grammar
