#!/usr/bin/env python3
"""Writes tests/data/text/deepseek_prompts.json: prompts as the encoders of DeepSeek-V3.2 and V4 make them.

Needs both encoders: encoding_dsv32.py of deepseek-ai/DeepSeek-V3.2 (vLLM's and SGLang's copies have lost blank lines) and
encoding_dsv4.py of deepseek-ai/DeepSeek-V4-Flash-0731, or vLLM's copy of it (vllm/tokenizers/deepseek_v4_encoding.py).
Run from the repository root: python3 scripts/make_deepseek_prompts.py V32_ENCODER V4_ENCODER
"""

import copy
import importlib.util
import json
import pathlib
import sys

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/data/text/deepseek_prompts.json"

TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "Weather of a \u4f4d\u7f6e <now>.", "parameters": {
        "type": "object", "required": ["place"], "properties": {
            "place": {"type": "string"}, "days": {"type": "integer"}, "near": {"type": "array", "items": {"type": "string"}}}}}},
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}]


def system(text="Be kind."):
    return {"role": "system", "content": text}


def user(text):
    return {"role": "user", "content": text}


def answer(text, reasoning=None, calls=()):
    message = {"role": "assistant", "content": text}
    if reasoning is not None:
        message |= {"reasoning": reasoning, "reasoning_content": reasoning}
    if calls:
        message["tool_calls"] = [{"id": i, "type": "function", "function": {"name": name, "arguments": arguments}}
                                 for i, name, arguments in calls]
    return message


def result(i, text):
    return {"role": "tool", "tool_call_id": i, "content": text}


CALLS = [("a", "weather", {"place": "K\u00f6ln \"am\" <Rhein>", "days": 2, "near": ["x", "\u4f60"],
                           "deep": {"n": None, "t": True, "f": 0.5}}),
         ("b", "now", {})]
TURN = [user("Weather?"), answer("I look.", "Two calls.", CALLS)]
RESULTS = [result("a", "{\"t\": 20}"), result("b", "noon")]
CONVERSATIONS = {
    "one": [user("Hello")],
    "system": [system(), user("Hello")],
    "turns": [system(), user("Hi\nthere "), answer("Hello.", "A greeting."), user("1 < 2?"), answer("Yes", "True."), user("Why?")],
    "no_reasoning": [user("Hi"), answer("Hello."), user("Why?")],
    "results": [system(), *TURN, *RESULTS],
    "after_results": [*TURN, *RESULTS, answer("Sunny.", "Clear."), user("And now?")],
    "calls_twice": [system(""), *TURN, *RESULTS, answer("", "Once more.", [("c", "now", {})]), result("c", "1 pm")],
    "calls_without_text": [user("Now?"), answer(None, "I ask.", [("c", "now", {})]), result("c", "1 pm")],
}
# Both encoders do without developers' messages of the past, but only V4's can.
DEVELOPERS = {
    "developer": [{"role": "developer", "content": "Short answers."}],
    "developer_with_tools": [system(), {"role": "developer", "content": "Short answers.", "tools": TOOLS}],
}
V4_ONLY = {
    "results_in_another_order": [*TURN, *RESULTS[::-1]],
    "result_and_user": [*TURN, *RESULTS, user("Well?")],
    "users": [user("a"), user("b")],
    "reminder": [system(), {"role": "latest_reminder", "content": "2026-01-01"}, user("Hi")],
    "developer_of_the_past": [{"role": "developer", "content": "Short."}, user("Hi"), answer("Hello.", "Hm."), user("Why?")],
    "late_system": [system(), user("Hi"), system("Be brief.")],
    "ended": [user("Hi"), answer("Hello.", "Hm.")],
}


SETTINGS = [  # of V4
    ({}, "thinking", None), ({"thinking": False}, "chat", None), ({"enable_thinking": False}, "chat", None),
    ({"enable_thinking": True, "reasoning_effort": "max"}, "thinking", "max"),
    ({"reasoning_effort": "high"}, "thinking", "high"), ({"reasoning_effort": "low"}, "thinking", "low"),
    ({"reasoning_effort": "none"}, "chat", None)]


def load(path):
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def encoded(encoder, messages, tools, **settings):
    """As the encoders want it: tools in the first system message, arguments as text."""
    messages = copy.deepcopy(messages)
    if tools:
        place = next((m for m in messages if m["role"] == "system"), None)
        if place is None:
            place = {"role": "system"}
            messages.insert(0, place)
        place["tools"] = tools
    for message in messages:
        for call in message.get("tool_calls", []):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return encoder.encode_messages(messages, **settings)


def cases(v32, v4):
    for name, messages in (CONVERSATIONS | DEVELOPERS).items():
        for tools in (None, TOOLS):
            for variables, mode in ({}, "chat"), ({"thinking": True}, "thinking"):
                if name == "no_reasoning" and mode == "thinking":
                    continue  # it asks for reasoning
                yield "deepseek_v32", name, messages, tools, variables, encoded(v32, messages, tools, thinking_mode=mode)
    for name, messages in (CONVERSATIONS | DEVELOPERS | V4_ONLY).items():
        for tools in (None, TOOLS):
            for variables, mode, effort in SETTINGS if name == "one" else SETTINGS[:2]:
                yield "deepseek_v4", name, messages, tools, variables, encoded(
                    v4, messages, tools, thinking_mode=mode, reasoning_effort=effort)


def main():
    found = []
    for family, name, messages, tools, variables, prompt in cases(load(sys.argv[1]), load(sys.argv[2])):
        context = {"messages": messages, "add_generation_prompt": True} | ({"tools": tools} if tools else {}) | variables
        found.append({"model_type": family, "name": name, "context": context, "prompt": prompt})
    OUT.write_text(json.dumps(found, ensure_ascii=True, separators=(",", ":")) + "\n")
    print(len(found), "prompts")


if __name__ == "__main__":
    main()
