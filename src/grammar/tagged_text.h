// Free text in which tags begin something else, as calls of tools do.
#pragma once

#include <string>
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
  std::string separator;  ///< between tags without free text
  bool needs_tag = false;
  bool allows_more = true;  ///< than one tag
};

/// Throws Error(kUsage) for tags that do not begin with the trigger, or none at all. Free text is
/// any bytes.
RuleId add_tagged_text(AutomatonBuilder& builder, const std::vector<Tag>& tags,
                       const TaggedTextOptions& options);

}  // namespace moe4::grammar
