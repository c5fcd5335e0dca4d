// What a TemplateContext holds, for the source files of chat templates only.
#pragma once

#include "text/jinja/value.h"
#include "text/template_context.h"

namespace moe4 {

struct TemplateContext::Impl {
  jinja::Dict variables;
};

}  // namespace moe4
