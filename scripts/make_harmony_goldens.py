#!/usr/bin/env python3
"""Writes tests/data/text/harmony_goldens.json: tests/data/text/harmony.jinja as jinja2 renders it, and o200k's ids.

Needs jinja2 and tokenizers. Run from the repository root: python3 scripts/make_harmony_goldens.py
The date is left as <date>: the test puts its own day there.
"""

import json

import jinja2
import tokenizers
from make_chat_goldens import OUT, environment
from make_text_goldens import ROOT, TEXTS, cases, decode_cases, random_texts

TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "Weather of a place.", "parameters": {
        "type": "object", "required": ["place"], "properties": {
            "place": {"type": "string", "description": "City, \"K\u00f6ln\""},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
            "days": {"type": "integer", "default": 3}, "tags": {"type": "array", "items": {"type": "string"}},
            "points": {"type": "array", "nullable": True, "items": {"type": "number"}},
            "boxes": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "number"}}}},
            "both": {"type": ["string", "null"]}, "one": {"type": ["boolean"]}, "loose": {"type": "array"},
            "either": {"oneOf": [{"type": "string", "description": "words"}, {"type": "number", "default": 1.5}], "default": "x"},
            "place_of": {"type": "object", "required": ["lat"], "properties": {"lat": {"type": "number"}, "at": {"type": "object"}}},
            "sure": {"type": "boolean"}, "maybe": {"type": "string", "nullable": True}, "who": {}}}}},
    {"type": "function", "function": {"name": "now", "description": "The time."}}]
CALL = {"role": "assistant", "thinking": "I must look.", "tool_calls": [
    {"type": "function", "function": {"name": "weather", "arguments": {"place": "K\u00f6ln", "days": 2, "box": [{"x": 1.0}], "no": None}}}]}
USER = {"role": "user", "content": "Hi & <hello>"}
ANSWER = {"role": "assistant", "content": "Hello"}
CONVERSATIONS = [
    {"messages": [USER], "add_generation_prompt": True}, {"messages": [USER]},
    {"messages": [{"role": "system", "content": "Be brief."}, USER], "add_generation_prompt": True, "reasoning_effort": "high"},
    {"messages": [{"role": "developer", "content": "Be brief."}, USER, ANSWER, USER], "add_generation_prompt": True},
    {"messages": [USER, ANSWER]}, {"messages": [USER, ANSWER | {"thinking": "Easy."}]},
    {"messages": [USER, ANSWER | {"thinking": "Easy."}], "add_generation_prompt": True},
    {"messages": [USER], "tools": TOOLS, "add_generation_prompt": True, "builtin_tools": ["python"]},
    {"messages": [USER, CALL, {"role": "tool", "content": "rain \"all\" day"}], "tools": TOOLS, "add_generation_prompt": True},
    {"messages": [USER, CALL, {"role": "tool", "content": {"t": 3.5}}, ANSWER, USER], "tools": TOOLS, "add_generation_prompt": True},
    {"messages": [USER, {**CALL, "thinking": "", "content": "Look."}, {"role": "tool", "content": "x"}], "tools": []},
    {"messages": [USER, {**CALL, "content": "Look."}]}, {"messages": [USER, {"role": "tool", "content": "x"}]},
    {"messages": [{"role": "assistant", "content": "<|channel|>final<|message|>x"}]},
    {"messages": [USER], "model_identity": "You are a river."}, {"messages": []},
]
CONTROL = ["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>"]


def render(source, context):
    env = environment()
    env.globals["strftime_now"] = lambda form: "<date>" if form == "%Y-%m-%d" else form
    context = {"tools": None, "documents": None, "add_generation_prompt": False, **context}
    try:
        return env.from_string(source).render(**context)
    except jinja2.exceptions.TemplateError:
        return None


def main():
    source = (OUT / "harmony.jinja").read_text()
    tokenizer = tokenizers.Tokenizer.from_file(str(ROOT / "tests/data/checkpoints/gpt_oss-mxfp4/tokenizer.json"))
    rendered = [{"context": c, "expected": render(source, c)} for c in CONVERSATIONS]
    texts = TEXTS + random_texts(150, 200, CONTROL) + [r["expected"] for r in rendered if r["expected"]][:4]
    (OUT / "harmony_goldens.json").write_text(json.dumps({
        "made_with": f"jinja2 {jinja2.__version__}, tokenizers {tokenizers.__version__}", "templates": rendered,
        "encode": cases(tokenizer, texts), "decode": decode_cases(tokenizer, texts[-20:], 5)},
        ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
