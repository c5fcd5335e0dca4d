#!/usr/bin/env python3
"""Writes tests/data/dialog/goldens.json: answers as published chat templates write them, and what they say.

Needs jinja2 and a folder of chat templates by the names below (those of llama.cpp's models/templates, and trl's).
Run from the repository root: python3 scripts/make_dialog_goldens.py FOLDER [NAME..], which leaves other templates' cases alone.
An answer is what a template makes of an assistant's message, after what it makes of the prompt and without end token.
"""

import json
import pathlib
import sys

import jinja2
from make_chat_goldens import environment

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/data/dialog/goldens.json"

# template: tools, reasoning, end of the answer
TEMPLATES = {
    "Qwen-Qwen2.5-7B-Instruct": ("hermes", "none", "<|im_end|>\n"),
    "Qwen-Qwen3-0.6B": ("hermes", "qwen3", "<|im_end|>\n"),
    "qwen3_instruct_2507": ("hermes", "none", "<|im_end|>\n"),
    "Qwen3-Coder": ("qwen3_coder", "none", "<|im_end|>\n"),
    "Qwen3.5-4B": ("qwen3_coder", "qwen3", "<|im_end|>\n"),
    "qwen3_6": ("qwen3_coder", "qwen3", "<|im_end|>\n"),
    "nemotron_3_nano": ("qwen3_coder", "nemotron_v3", "<|im_end|>\n"),
    "MiniMax-M2": ("minimax_m2", "minimax_m2", "[e~[\n"),
    "MiniMax-M3": ("minimax_m3", "minimax_m3", "[e~[\n"),
    "GLM-4.6": ("glm45", "glm45", ""),
    "GLM-4.7-Flash": ("glm45", "glm45", ""),
    "deepseekv3": ("deepseek_v3", "none", "<｜end▁of▁sentence｜>"),
    "deepseek-ai-DeepSeek-V3.1": ("deepseek_v31", "deepseek_v3", "<｜end▁of▁sentence｜>"),
    "deepseek-ai-DeepSeek-V3.2": ("deepseek_v32", "deepseek_v3", "<｜end▁of▁sentence｜>"),
    "deepseek-ai-DeepSeek-V4": ("deepseek_v4", "deepseek_v4", "<｜end▁of▁sentence｜>"),
    "moonshotai-Kimi-K2-Thinking": ("kimi_k2", "kimi_k2", "<|im_end|>"),
    "openai-gpt-oss-120b": ("harmony", "openai_gptoss", None),
}
# Their templates print the arguments as they are.
STRING_ARGUMENTS = {"deepseekv3"}
# Their templates leave reasoning out else.
MUST_THINK = {"deepseek-ai-DeepSeek-V3.2", "deepseek-ai-DeepSeek-V4"}

TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "Weather of a place.", "parameters": {
        "type": "object", "required": ["place"], "properties": {
            "place": {"type": "string"}, "days": {"type": "integer"}, "exact": {"type": "boolean"},
            "box": {"type": "array", "items": {"type": "number"}}, "where": {"$ref": "#/$defs/Point"},
            "scale": {"type": "number"}, "note": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
        "$defs": {"Point": {"type": "object", "properties": {"lat": {"type": "number"}}}}}}},
    {"type": "function", "function": {"name": "write_file", "description": "Writes.", "parameters": {
        "type": "object", "properties": {"path": {"type": "string"}, "text": {"type": "string"}}}}},
    {"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {
        "type": "object", "properties": {}}}}]
CODE = "#include <map>\n\nint main() {\n\treturn a<b && c>d ? \"}\" : '{';  // </tag> \\n </think>\n}"
CALLS = [
    ("weather", {"place": "K\u00f6ln", "days": 2}),
    ("weather", {"place": "5", "exact": True, "box": [1, 2.5, -3e2], "where": {"lat": 50.9, "deep": [{"x": [None]}]},
                 "scale": -0.25, "note": None}),
    ("weather", {"place": "true", "note": "say \"null\" \u2713 \U0001f600", "exact": False}),
    ("write_file", {"path": "a.cc", "text": CODE}),
    ("write_file", {"path": "empty", "text": ""}),
    ("now", {}),
]
CONTENTS = ["", "Let me look.", "Two\n\nparagraphs, 1 < 2 & <b>bold</b> \u4f60\u597d"]
REASONINGS = ["", "The user wants weather.\nI call a tool: <tool> {\"a\": 1}"]


def messages():
    """(content, reasoning, calls) in all combinations that a message can have."""
    for content in CONTENTS:
        for reasoning in REASONINGS:
            for calls in [[]] + [[c] for c in CALLS] + [CALLS[:1] + CALLS[5:], CALLS[:3]]:
                if content or calls:
                    yield content, reasoning, calls


def assistant(name, content, reasoning, calls):
    strings = name in STRING_ARGUMENTS
    message = {"role": "assistant", "content": content}
    if reasoning:
        message["thinking" if name.startswith("openai") else "reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = [
            {"id": f"functions.{tool}:{i}", "type": "function", "function": {
                "name": tool, "arguments": json.dumps(a, ensure_ascii=False) if strings else a}}
            for i, (tool, a) in enumerate(calls)]
    return message


def as_written(name, value):
    """What can be read back of an argument: MiniMax-M3 has no null."""
    if name != "MiniMax-M3":
        return value
    if isinstance(value, dict):
        return {key: as_written(name, one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [as_written(name, one) for one in value]
    return "" if value is None else value


def cases(folder, name):
    tools, reasoning_format, end = TEMPLATES[name]
    env = environment()
    env.globals["strftime_now"] = lambda form: "2026-01-01"
    template = env.from_string((folder / (name + ".jinja")).read_text())
    common = {"tools": TOOLS, "bos_token": "", "eos_token": ""}
    modes = [{"enable_thinking": True}] if name in MUST_THINK else [{"enable_thinking": True}, {"enable_thinking": False}]
    if name in MUST_THINK:
        common |= modes[0]
    user = {"role": "user", "content": "Hi"}
    for content, reasoning, calls in messages():
        if reasoning and reasoning_format == "none":
            continue
        if name.startswith("openai") and (len(calls) > 1 or (calls and content) or not (calls or content)):
            continue  # the template knows one call, and thinking beside it
        try:
            message = assistant(name, content, reasoning, calls)
            prompts = [template.render(messages=[user], add_generation_prompt=True, **(common | mode)) for mode in modes]
            whole = template.render(messages=[user, message], add_generation_prompt=False, **common)
        except jinja2.exceptions.TemplateError as error:  # a message that it cannot write
            print(f"{name}: {error}", file=sys.stderr)
            continue
        # Where the prompt opens <think>, a message of the past can come without it.
        prompts += [prompt.removesuffix("<think>\n") for prompt in prompts]
        prompt = next((prompt for prompt in prompts if whole.startswith(prompt)), None)
        if prompt is None:
            print(f"{name}: an answer that does not follow its prompt", file=sys.stderr)
            continue
        text = whole[len(prompt):]
        ends = ["<|return|>", "<|call|>"] if end is None else [end]
        for one in ends:
            text = text.removesuffix(one) if one else text
        yield {"template": name, "tools": tools, "reasoning": reasoning_format, "prompt": prompt[-24:], "text": text,
               "expected": {"content": content, "reasoning": reasoning if reasoning in text else "",
                            "calls": [{"name": tool, "arguments": as_written(name, a)} for tool, a in calls]}}


def main():
    folder = pathlib.Path(sys.argv[1])
    chosen = sys.argv[2:] or TEMPLATES
    known = json.loads(OUT.read_text())["cases"] if OUT.exists() else []
    found = [case for name in TEMPLATES
             for case in (cases(folder, name) if name in chosen else [c for c in known if c["template"] == name])]
    for name in TEMPLATES:
        print(name, sum(c["template"] == name for c in found), file=sys.stderr)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"tool_list": TOOLS, "cases": found}, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
