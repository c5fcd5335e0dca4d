// The prompts of models whose publisher ships a Python encoder instead of a chat template, written
// as chat templates.
#include "text/builtin_templates.h"

#include <array>
#include <utility>

namespace moe4 {
namespace {

// What both generations have: words of messages, and calls whose values are raw text where they are
// strings, else JSON.
constexpr std::string_view kCommon = R"jinja(
{%- macro text_of(content) -%}
  {%- if content is string -%}
    {{- content -}}
  {%- elif content -%}
    {{- content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join('\n\n') -}}
  {%- endif -%}
{%- endmacro -%}
{#- Whoever keeps whole answers has the reasoning in their text. -#}
{%- macro reasoning_of(message) -%}
  {%- set parts = text_of(message.content).split('</think>') -%}
  {{- message.reasoning_content or message.reasoning or (parts[0].split('<think>')[-1] if parts | length > 1 else '') -}}
{%- endmacro -%}
{%- macro answer_of(message) -%}
  {{- text_of(message.content).split('</think>')[-1] -}}
{%- endmacro -%}
{%- macro schemas_of(list) -%}
  {%- for tool in list -%}
    {{- (tool.function if tool.function is defined else tool) | tojson -}}
    {{- '' if loop.last else '\n' -}}
  {%- endfor -%}
{%- endmacro -%}
{%- macro calls_of(message, frame) -%}
  {%- if message.tool_calls -%}
    {{- '\n\n<｜DSML｜' ~ frame ~ '>' -}}
    {%- for call in message.tool_calls -%}
      {{- '\n<｜DSML｜invoke name="' ~ call.function.name ~ '">\n' -}}
      {%- for key, value in (call.function.arguments or {}).items() -%}
        {{- '<｜DSML｜parameter name="' ~ key ~ '" string="' -}}
        {{- 'true">' ~ value if value is string else 'false">' ~ (value | tojson) -}}
        {{- '</｜DSML｜parameter>' ~ ('' if loop.last else '\n') -}}
      {%- endfor -%}
      {{- '\n</｜DSML｜invoke>' -}}
    {%- endfor -%}
    {{- '\n</｜DSML｜' ~ frame ~ '>' -}}
  {%- endif -%}
{%- endmacro -%}
{%- set given = namespace(system=-1, has_tools=tools is defined and tools) -%}
{%- for message in messages -%}
  {%- if message.role == 'system' and given.system < 0 -%}
    {%- set given.system = loop.index0 -%}
  {%- endif -%}
  {%- if message.tools -%}
    {%- set given.has_tools = true -%}
  {%- endif -%}
{%- endfor -%}
{{- '<｜begin▁of▁sentence｜>' -}}
)jinja";

// After encode_messages() of encoding/encoding_dsv4.py in deepseek-ai/DeepSeek-V4-Flash-0731 (MIT
// licence), whose words to the model these are; what models before that release call the effort max
// is high here. Users' messages and results of tools that follow each other are one turn. Left out:
// `task`, `wo_eos` and `response_format` of messages.
constexpr std::string_view kDeepSeekV4 = R"jinja(
{%- macro words_of_tools(list) -%}
## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by writing a "<｜DSML｜tool_calls>" block like the following:

<｜DSML｜tool_calls>
<｜DSML｜invoke name="$TOOL_NAME">
<｜DSML｜parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</｜DSML｜parameter>
...
</｜DSML｜invoke>
<｜DSML｜invoke name="$TOOL_NAME2">
...
</｜DSML｜invoke>
</｜DSML｜tool_calls>

String parameters should be specified as is and set `string="true"`. For all other types (numbers, booleans, arrays, objects), pass the value in JSON format and set `string="false"`.

If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside <think>...</think> BEFORE any tool calls or final response.

Otherwise, output directly after </think> with tool calls or final response.

### Available Tool Schemas

{{ schemas_of(list) }}

You MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.
{% endmacro -%}
{%- set high -%}
Reasoning Effort: Absolute maximum with no shortcuts permitted.
You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the root cause, rigorously stress-testing your logic against all potential paths, edge cases, and adversarial scenarios.
Explicitly write out your entire deliberation process, documenting every intermediate step, considered alternative, and rejected hypothesis to ensure absolutely no assumption is left unchecked.

{% endset -%}
{%- set max -%}
Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.
You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: exhaustively decompose the problem into its most fundamental components, trace every causal chain to its root, and resolve the underlying cause rather than any surface symptom.
Do not stop reasoning until you have independently verified the solution from multiple angles and are certain that no assumption remains unchecked and no error remains undiscovered.

{% endset -%}
{%- set think = namespace(on=true, begins=false) -%}
{%- if thinking is defined or enable_thinking is defined -%}
  {%- set think.on = (thinking or enable_thinking) | default(false, true) -%}
{%- endif -%}
{%- set effort = reasoning_effort if reasoning_effort is string else 'low' -%}
{%- if effort == 'none' -%}
  {%- set think.on = false -%}
{%- endif -%}
{%- set keeps_all = given.has_tools or (drop_thinking is defined and not drop_thinking) -%}
{#- Turns; a result of a tool knows which call it answers. -#}
{%- set ns = namespace(turns=[], parts=[], calls=[], call=0) -%}
{%- for message in messages -%}
  {%- if message.role in ['user', 'tool'] -%}
    {%- set ns.call = 0 -%}
    {%- for call in ns.calls -%}
      {%- if call.id and call.id == message.tool_call_id -%}
        {%- set ns.call = loop.index0 -%}
      {%- endif -%}
    {%- endfor -%}
    {%- set ns.parts = ns.parts + [{'is_result': message.role == 'tool', 'call': ns.call, 'text': text_of(message.content)}] -%}
  {%- else -%}
    {%- if ns.parts -%}
      {%- set ns.turns = ns.turns + [{'role': 'user', 'parts': ns.parts}] -%}
      {%- set ns.parts = [] -%}
    {%- endif -%}
    {%- set ns.turns = ns.turns + [{'role': message.role, 'message': message, 'is_first_system': loop.index0 == given.system}] -%}
    {%- if message.role == 'assistant' and message.tool_calls -%}
      {%- set ns.calls = message.tool_calls -%}
    {%- endif -%}
  {%- endif -%}
{%- endfor -%}
{%- if ns.parts -%}
  {%- set ns.turns = ns.turns + [{'role': 'user', 'parts': ns.parts}] -%}
{%- endif -%}
{%- set last = namespace(user=-1) -%}
{%- for turn in ns.turns -%}
  {%- if turn.role in ['user', 'developer'] -%}
    {%- set last.user = loop.index0 -%}
  {%- endif -%}
{%- endfor -%}
{#- Without the reasoning of past turns developers' messages of the past go too. -#}
{%- if think.on and not keeps_all -%}
  {%- set kept = namespace(turns=[], user=-1) -%}
  {%- for turn in ns.turns -%}
    {%- if turn.role != 'developer' or loop.index0 >= last.user -%}
      {%- if loop.index0 == last.user -%}
        {%- set kept.user = kept.turns | length -%}
      {%- endif -%}
      {%- set kept.turns = kept.turns + [turn] -%}
    {%- endif -%}
  {%- endfor -%}
  {%- set ns.turns = kept.turns -%}
  {%- set last.user = kept.user -%}
{%- endif -%}
{%- if think.on and (ns.turns or tools) -%}
  {{- max if effort == 'max' else ('' if effort in ['low', 'minimal', 'medium'] else high) -}}
{%- endif -%}
{%- if tools and given.system < 0 -%}
  {{- '\n\n' ~ words_of_tools(tools) -}}
{%- endif -%}
{%- for turn in ns.turns -%}
  {%- set message = turn.message -%}
  {%- set keeps = think.on and (keeps_all or loop.index0 > last.user) -%}
  {%- if turn.role == 'user' -%}
    {%- set results = turn.parts | selectattr('is_result') | sort(attribute='call') | list -%}
    {%- set next = namespace(result=0) -%}
    {{- '<｜User｜>' -}}
    {%- for part in turn.parts -%}
      {{- '' if loop.first else '\n\n' -}}
      {%- if part.is_result -%}
        {{- '<tool_result>' ~ results[next.result].text ~ '</tool_result>' -}}
        {%- set next.result = next.result + 1 -%}
      {%- else -%}
        {{- part.text -}}
      {%- endif -%}
    {%- endfor -%}
  {%- elif turn.role in ['system', 'developer'] -%}
    {%- set own = tools if tools and turn.is_first_system else message.tools -%}
    {{- '<｜User｜>' if turn.role == 'developer' else '' -}}
    {{- text_of(message.content) ~ ('\n\n' ~ words_of_tools(own) if own else '') -}}
  {%- elif turn.role == 'latest_reminder' -%}
    {{- '<｜latest_reminder｜>' ~ text_of(message.content) -}}
  {%- elif turn.role == 'assistant' -%}
    {{- reasoning_of(message) ~ '</think>' if keeps else '' -}}
    {{- answer_of(message) -}}
    {{- calls_of(message, 'tool_calls') -}}
    {{- '<｜end▁of▁sentence｜>' -}}
  {%- else -%}
    {{- raise_exception('DeepSeek-V4 has no messages of role ' ~ turn.role) -}}
  {%- endif -%}
  {%- set follower = (loop.nextitem.role if not loop.last else ('assistant' if add_generation_prompt else '')) -%}
  {%- if (turn.role in ['user', 'developer'] and follower in ['assistant', 'latest_reminder']) or (turn.role == 'system' and follower == 'assistant') -%}
    {{- '<｜Assistant｜>' ~ ('<think>' if think.on and (keeps_all or loop.index0 >= last.user) else '</think>') -}}
  {%- endif -%}
{%- endfor -%}
)jinja";

// After encode_messages() of encoding/encoding_dsv32.py in deepseek-ai/DeepSeek-V3.2 (MIT licence),
// whose words to the model these are; vLLM and SGLang leave some of their blank lines out. Left
// out: `response_format` of messages.
constexpr std::string_view kDeepSeekV32 = R"jinja(
{%- macro words_of_tools(list) -%}
## Tools

You have access to a set of tools you can use to answer the user's question.
You can invoke functions by writing a "<｜DSML｜function_calls>" block like the following as part of your reply to the user:
<｜DSML｜function_calls>
<｜DSML｜invoke name="$FUNCTION_NAME">
<｜DSML｜parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</｜DSML｜parameter>
...
</｜DSML｜invoke>
<｜DSML｜invoke name="$FUNCTION_NAME2">
...
</｜DSML｜invoke>
</｜DSML｜function_calls>

String and scalar parameters should be specified as is without any escaping or quotes, while lists and objects should use JSON format. The "string" attribute should be set to "true" for string type parameters and "false" for other types (numbers, booleans, arrays, objects).

If the thinking_mode is enabled, then after function results you should strongly consider outputting a thinking block. Here is an example:

<｜DSML｜function_calls>
...
</｜DSML｜function_calls>

<function_results>
...
</function_results>

<think>...thinking about results</think>

Here are the functions available in JSONSchema format:
<functions>
{{ schemas_of(list) }}
</functions>
{% endmacro -%}
{%- set think = (thinking or enable_thinking) | default(false, true) -%}
{%- set ns = namespace(user=-1, results=0, calls=0) -%}
{%- for message in messages -%}
  {%- if message.role in ['user', 'developer'] -%}
    {%- set ns.user = loop.index0 -%}
  {%- endif -%}
{%- endfor -%}
{%- if tools and given.system < 0 -%}
  {{- '\n\n' ~ words_of_tools(tools) -}}
{%- endif -%}
{%- for message in messages -%}
  {%- set is_asked = not loop.last or add_generation_prompt -%}
  {%- set own = tools if tools and loop.index0 == given.system else message.tools -%}
  {%- set block = '\n\n' ~ words_of_tools(own) if own else '' -%}
  {%- if message.role == 'system' -%}
    {{- text_of(message.content) ~ block -}}
  {%- elif message.role == 'user' or message.role == 'developer' -%}
    {{- '<｜User｜>' -}}
    {{- block ~ '\n\n# The user\'s message is: ' if message.role == 'developer' else '' -}}
    {{- text_of(message.content) -}}
    {%- if is_asked -%}
      {{- '<｜Assistant｜>' ~ ('<think>' if think and loop.index0 == ns.user else '</think>') -}}
    {%- endif -%}
  {%- elif message.role == 'tool' -%}
    {%- if ns.results >= ns.calls -%}
      {{- raise_exception('a result of a tool that was not called') -}}
    {%- endif -%}
    {{- '\n\n<function_results>' if ns.results == 0 else '' -}}
    {{- '\n<result>' ~ text_of(message.content) ~ '</result>' -}}
    {%- set ns.results = ns.results + 1 -%}
    {%- if ns.results == ns.calls -%}
      {{- '\n</function_results>' -}}
      {%- if is_asked -%}
        {{- '\n\n' ~ ('<think>' if think and loop.index0 >= ns.user else '</think>') -}}
      {%- endif -%}
    {%- endif -%}
  {%- elif message.role == 'assistant' -%}
    {%- set ns.results = 0 -%}
    {%- set ns.calls = (message.tool_calls or []) | length -%}
    {{- reasoning_of(message) ~ '</think>' if think and loop.index0 > ns.user else '' -}}
    {{- answer_of(message) -}}
    {{- calls_of(message, 'function_calls') -}}
    {{- '<｜end▁of▁sentence｜>' -}}
  {%- else -%}
    {{- raise_exception('DeepSeek-V3.2 has no messages of role ' ~ message.role) -}}
  {%- endif -%}
{%- endfor -%}
)jinja";

constexpr std::array<std::pair<std::string_view, std::string_view>, 2> kTemplates = {
    {{"deepseek_v32", kDeepSeekV32}, {"deepseek_v4", kDeepSeekV4}}};

}  // namespace

std::string builtin_template(std::string_view model_type) {
  for (const auto& [type, source] : kTemplates) {
    if (type == model_type) return std::string(kCommon) + std::string(source);
  }
  return "";
}

}  // namespace moe4
