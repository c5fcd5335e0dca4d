#!/usr/bin/env python3
"""Compares `moe4 template` with jinja2, set up as transformers does, on a folder of chat templates.

    scripts/compare_templates.py FOLDER [--program build/release/bin/moe4] [--jobs N] [--verbose]

FOLDER holds *.jinja files, tokenizer_config.json files (or anything else that ends in .json and has a
`chat_template`), at any depth. Each template is rendered over several conversations by both. Needs the
`jinja2` package. Exits with 1 when a rendering differs.

    equal      the same text, or both raise
    refused    moe4 raises where jinja2 renders: listed by message
    different  another text, or moe4 renders where jinja2 raises: listed with the place
"""

import argparse
import collections
import concurrent.futures
import datetime
import functools
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}

TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "Weather of a city.\nIn words.", "parameters": {
            "type": "object", "required": ["city"], "properties": {
                "city": {"type": "string", "description": "Name, such as \"Köln\""},
                "days": {"type": "integer", "default": 3, "minimum": 1},
                "unit": {"type": "string", "enum": ["C", "F"]},
                "at": {"type": "array", "items": {"type": "object", "properties": {"lat": {"type": "number"}}}},
                "any": {"anyOf": [{"type": "string"}, {"type": "null"}], "nullable": True}}},
        "return": {"type": "string"}}},
    {"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {
        "type": "object", "properties": {}}}},
]


def call(name, arguments, number):
    return {"id": f"call{number:05d}", "type": "function", "function": {"name": name, "arguments": arguments}}


def conversations():
    user = {"role": "user", "content": "Hi there"}
    system = {"role": "system", "content": "Be brief.\n"}
    answer = {"role": "assistant", "content": "Hello!"}
    more = {"role": "user", "content": " And <b>you</b> & 'me'? "}
    yield "single", {"messages": [user]}
    yield "single-prompt", {"messages": [user], "add_generation_prompt": True}
    yield "system-turns", {"messages": [system, user, answer, more], "add_generation_prompt": True}
    yield "turns", {"messages": [user, answer, more, answer]}
    yield "system-only", {"messages": [system]}
    yield "developer", {"messages": [{"role": "developer", "content": "Rules."}, user], "add_generation_prompt": True}
    for thinking in (True, False):
        yield f"thinking-{thinking}".lower(), {
            "messages": [user, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes", "reasoning_content": "hm"}, more],
            "add_generation_prompt": True, "enable_thinking": thinking, "thinking": thinking, "reasoning_effort": "low"}
    yield "reasoning", {"messages": [user, {"role": "assistant", "content": "Yes", "reasoning_content": "First,\nthis.",
                                            "thinking": "First,\nthis.", "reasoning": "First,\nthis."}]}
    yield "tools", {"messages": [user], "tools": TOOLS, "add_generation_prompt": True}
    for kind, arguments in (("dict", {"city": "Köln", "days": 2, "x": None, "deep": {"a": [1, 2.5, True]}}),
                            ("text", "{\"city\": \"Köln\", \"days\": 2}")):
        calls = [call("get_weather", arguments, 1)]
        for name, content in (("empty", ""), ("null", None), ("text", "Let me look.")):
            yield f"calls-{kind}-{name}", {
                "messages": [system, user, {"role": "assistant", "content": content, "tool_calls": calls},
                             {"role": "tool", "tool_call_id": "call00001", "name": "get_weather", "content": "rain, 12°"}],
                "tools": TOOLS, "add_generation_prompt": True}
        yield f"calls-{kind}-several", {
            "messages": [user, {"role": "assistant", "content": "", "reasoning_content": "Two things.",
                                "tool_calls": [*calls, call("now", {} if kind == "dict" else "{}", 2)]},
                         {"role": "tool", "tool_call_id": "call00001", "name": "get_weather", "content": "{\"t\": 12}"},
                         {"role": "tool", "tool_call_id": "call00002", "name": "now", "content": "noon"},
                         {"role": "assistant", "content": "Rain."}, more],
            "tools": TOOLS, "add_generation_prompt": True}
    yield "tool-dict-content", {
        "messages": [user, {"role": "assistant", "tool_calls": [call("now", {}, 1)]},
                     {"role": "tool", "tool_call_id": "call00001", "name": "now", "content": {"time": "noon", "n": [1]}}], "tools": TOOLS}
    yield "parts", {"messages": [{"role": "system", "content": [{"type": "text", "text": "S"}]},
                                 {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "image", "image": "x.png"},
                                                              {"type": "text", "text": "this?"}]},
                                 {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}, more],
                    "add_generation_prompt": True}
    yield "unicode", {"messages": [{"role": "user", "content": "Ωμέγα ΟΔΟΣ ß 漢字 🙂 \u00a0x\u2028y\u0000"}], "add_generation_prompt": True}
    yield "empty", {"messages": [{"role": "user", "content": ""}], "add_generation_prompt": True}
    yield "nothing", {"messages": [], "add_generation_prompt": True}
    yield "null", {"messages": [{"role": "user", "content": None}]}
    yield "number", {"messages": [{"role": "user", "content": 5}], "add_generation_prompt": True}
    yield "missing", {"messages": [{"role": "user"}]}
    yield "odd-order", {"messages": [answer, user, user, answer, system]}
    yield "other-role", {"messages": [user, {"role": "critic", "content": "No."}], "add_generation_prompt": True}
    yield "names", {"messages": [{"role": "user", "name": "Ann", "content": "Hi"}, {"role": "assistant", "name": "Bot", "content": "x"}]}
    yield "documents", {"messages": [user], "documents": [{"title": "T", "text": "Body", "contents": "Body"}],
                        "add_generation_prompt": True, "citation_mode": "accurate", "custom_tools": None}
    yield "variables", {"messages": [system, user], "add_generation_prompt": True, "date_string": "26 Jul 2024", "tools_in_user_message": False,
                        "builtin_tools": ["browser", "python"], "model_identity": "You are X.", "add_vision_id": True, "keep_past_thinking": True,
                        "thinking_budget": 512, "think_mode": True, "xml_tools": TOOLS, "python_tools": TOOLS, "audio_output": True}
    yield "big-numbers", {"messages": [user, {"role": "assistant", "content": "", "tool_calls": [
        call("now", {"id": 12345678901234567890123, "e": 1e22, "f": -0.0, "s": "a\"b\\c\n\u007f"}, 1)]}], "tools": TOOLS}


class Generation(jinja2.ext.Extension):
    """{% generation %} renders as its body."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda format: datetime.datetime.now().strftime(format)
    return env


@functools.lru_cache(maxsize=2)
def compiled(source):
    return environment().from_string(source)


def upstream(source, context):
    """(text, None) or (None, message)."""
    try:
        context = {"tools": None, "documents": None, "add_generation_prompt": False, **TOKENS, **context}
        return compiled(source).render(**context), None
    except Exception as error:  # any of Python's
        return None, f"{type(error).__name__}: {error}"


def ours(program, folder, context_file, generation_prompt):
    command = [program, "template", folder, "--messages", context_file]
    done = subprocess.run(command + ([] if generation_prompt else ["--no-generation-prompt"]), capture_output=True, check=False, timeout=60)
    if done.returncode == 0:
        return done.stdout.decode("utf-8"), None
    if done.returncode != 3:
        return None, f"CRASH, status {done.returncode}: {done.stderr.decode('utf-8', 'replace')[:200]}"
    return None, done.stderr.decode("utf-8", "replace").strip()


def templates(folder):
    """(name, source), each source once."""
    seen = set()
    for path in sorted(folder.rglob("*")):
        found = []
        if path.suffix in (".jinja", ".jinja2"):
            found = [("", path.read_bytes().decode("utf-8", "replace"))]
        elif path.suffix == ".json":
            value = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
            found = [("", value)] if isinstance(value, str) else [(":" + t["name"], t["template"]) for t in value or []]
        for name, source in found:
            if source not in seen:
                seen.add(source)
                yield f"{path.relative_to(folder)}{name}", source


def compare_one(job):
    program, name, source, contexts = job
    results = []
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "chat_template.jinja").write_text(source, encoding="utf-8", newline="")
        pathlib.Path(folder, "tokenizer_config.json").write_text(json.dumps(TOKENS))
        for label, context, context_file in contexts:
            expected, why = upstream(source, context)
            got, error = ours(program, folder, context_file, context.get("add_generation_prompt", False))
            if error is not None and error.startswith("CRASH"):
                kind = "different"
            elif expected is None and got is None or expected == got:
                kind = "equal"
            else:
                kind = "refused" if got is None else "different"
            results.append((name, label, kind, expected, why, got, error))
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--program", default="build/release/bin/moe4")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--verbose", action="store_true", help="every refusal and difference")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        contexts = []
        for label, context in conversations():
            path = pathlib.Path(folder, label + ".json")
            path.write_text(json.dumps(context, ensure_ascii=False), encoding="utf-8")
            contexts.append((label, context, str(path)))
        jobs = [(options.program, name, source, contexts) for name, source in templates(options.folder)]
        with concurrent.futures.ProcessPoolExecutor(options.jobs) as pool:
            results = list(itertools.chain.from_iterable(pool.map(compare_one, jobs)))
    rendered = collections.Counter()
    worst = {}
    refusals = collections.Counter()
    for name, label, kind, expected, why, got, error in results:
        rendered[kind] += 1
        rendered["both raise"] += kind == "equal" and expected is None
        order = ["equal", "refused", "different"]
        worst[name] = max(worst.get(name, "equal"), kind, key=order.index)
        if kind == "refused":
            refusals[re.sub(r" \(file .*", "", error.splitlines()[0] if error else "")] += 1
        if kind != "equal" and (options.verbose or kind == "different"):
            print(f"{kind}: {name}, {label}")
            if got is not None and expected is not None:
                at = next((i for i, (a, b) in enumerate(zip(expected, got)) if a != b), min(len(expected), len(got)))
                print(f"  at {at}: jinja2 {expected[max(at - 30, 0):at + 40]!r}\n  moe4 {got[max(at - 30, 0):at + 40]!r}")
            else:
                print(f"  jinja2 {(why or expected or '')[:300]!r}\n  moe4 {(error or got or '')[:300]!r}")
    by_template = collections.Counter(worst.values())
    print("| | tried | equal | refused | different |\n|---|---|---|---|---|")
    for what, total, counts in (("templates", len(worst), by_template), ("renderings", len(results), rendered)):
        print(f"| {what} | {total} | {counts['equal']} | {counts['refused']} | {counts['different']} |")
    print(f"of the equal renderings, {rendered['both raise']} raise in both")
    for message, count in refusals.most_common():
        print(f"refused {count}: {message}")
    sys.exit(1 if rendered["different"] else 0)


if __name__ == "__main__":
    main()
