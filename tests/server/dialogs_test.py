#!/usr/bin/env python3
"""Reasoning, calls of tools and forms of answers through moe4 serve, by models that say what a script has.

dialogs_test.py PROGRAM [TEST...]; needs nothing but Python.
"""
import json
import os
import shutil
import sys
import tempfile
import unittest

from scripted_model import CUT, write_scripted_model
from server_process import ServerProcess, events

PROGRAM = os.path.abspath(sys.argv[1])
CHAT = "/v1/chat/completions"
PERSON = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"enum": [7, 8, 9]}},
          "required": ["name", "age"], "additionalProperties": False}
FORM = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
PLACE = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 9}}, "required": ["city"],
         "additionalProperties": False}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": PLACE}},
         {"type": "function", "function": {"name": "clock", "parameters": PLACE}}]
NAMED = {"type": "function", "function": {"name": "clock"}}


class Scripted(unittest.TestCase):
    """SCRIPTS: {name: (end of the prompt, what the model says)}."""
    SPECIAL = []

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp()
        cls.keys = {name: f"[{name}]{end}" for name, (end, _) in cls.SCRIPTS.items()}
        model = os.path.join(cls.folder, "model")
        write_scripted_model(PROGRAM, model, {cls.keys[name]: text for name, (_, text) in cls.SCRIPTS.items()}, cls.SPECIAL)
        cls.server = ServerProcess(PROGRAM, model, "--max-model-len", "1024", *cls.FLAGS)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)
        assert cls.server.stop() == 0, cls.server.log

    def ask(self, script, **more):
        """The choice of the whole answer, which is what the stream adds up to."""
        body = {"messages": [{"role": "user", "content": self.keys[script]}], "max_tokens": 900, "temperature": 0} | more
        whole, = self.server.answer(CHAT, body)["choices"]
        streamed = {"content": "", "reasoning": "", "calls": []}
        for chunk in events(self.server.post(CHAT, body, stream=True)[2]):
            choice, = chunk["choices"]
            delta = choice["delta"]
            for part in ["content", "reasoning"]:
                streamed[part] += delta.get(part) or ""
            for call in delta.get("tool_calls", []):
                if call["index"] == len(streamed["calls"]):
                    streamed["calls"].append({"name": call["function"]["name"], "arguments": ""})
                streamed["calls"][call["index"]]["arguments"] += call["function"]["arguments"]
        message = whole["message"]
        self.assertEqual(choice["finish_reason"], whole["finish_reason"])
        self.assertEqual(streamed["reasoning"], message.get("reasoning", ""))
        if streamed["calls"] or message["content"] is None:
            self.assertEqual(streamed["calls"], [call["function"] for call in message["tool_calls"]])
        else:
            self.assertEqual(streamed["content"], message["content"])
        return whole

    def check_text(self, script, reasoning, content, finish_reason="stop", **more):
        choice = self.ask(script, **more)
        self.assertEqual(choice["message"].get("reasoning", ""), reasoning)
        self.assertEqual(choice["message"]["content"], content)
        self.assertEqual(choice["finish_reason"], finish_reason)

    def check_calls(self, script, reasoning, calls, **more):
        choice = self.ask(script, tools=TOOLS, **more)
        self.assertEqual(choice["message"].get("reasoning", ""), reasoning)
        self.assertEqual([(c["function"]["name"], json.loads(c["function"]["arguments"]))
                          for c in choice["message"].get("tool_calls", [])], calls, choice)
        self.assertEqual(choice["finish_reason"], "tool_calls")
        self.assertIn(choice["message"]["content"], [None, ""])

    def check_one_call(self, script, reasoning, names, **more):
        choice = self.ask(script, tools=TOOLS, **more)
        self.assertEqual((choice["finish_reason"], choice["message"]["reasoning"]), ("tool_calls", reasoning))
        call, = choice["message"]["tool_calls"]
        self.assertIn(call["function"]["name"], names)
        self.assertEqual(set(json.loads(call["function"]["arguments"])), {"city"})

    def check_form(self, script, reasoning, **more):
        choice = self.ask(script, response_format=FORM, **more)
        self.assertEqual(choice["message"].get("reasoning", ""), reasoning)
        person = json.loads(choice["message"]["content"])
        self.assertEqual(set(person), {"name", "age"})
        self.assertEqual(choice["finish_reason"], "stop")
        return person


class Forms(Scripted):
    """The form begins where the reasoning has ended."""
    FLAGS = ["--reasoning-parser", "qwen3", "--tool-call-parser", "hermes"]
    SCRIPTS = {
        "good": ("", '<think>\nA {"name": first.\n</think>\n\n{"name": "Ann", "age": 8}'),
        "begun": ("<think>\n", 'Eight, I guess.</think>{ "name":"Bob","age":9}'),
        "over": ("<think>\n\n</think>\n\n", '{"name": "Cid", "age": 7}'),
        "none": ("", '{"name": "Dan", "age": 9}'),
        "bad": ("", "<think>Whatever.</think>\n\n" + CUT + "Her name is Eve."),
        "endless": ("", "<think>On and on"),
    }

    def test_reasoning_is_free_and_the_answer_has_the_form(self):
        self.assertEqual(self.check_form("good", 'A {"name": first.'), {"name": "Ann", "age": 8})
        self.assertEqual(self.check_form("begun", "Eight, I guess."), {"name": "Bob", "age": 9})
        self.check_form("bad", "Whatever.")

    def test_there_need_not_be_any_reasoning(self):
        self.assertEqual(self.check_form("over", ""), {"name": "Cid", "age": 7})
        self.assertEqual(self.check_form("none", ""), {"name": "Dan", "age": 9})

    def test_patterns_and_choices_too(self):
        self.assertRegex(self.ask("bad", guided_regex="H[a-z]{2}")["message"]["content"], "^H[a-z]{2}$")
        self.check_text("bad", "Whatever.", "Her name", guided_choice=["Her name", "His name"])

    def test_an_answer_that_only_reasons_is_cut_short(self):
        choice = self.ask("endless", response_format=FORM, max_tokens=20)
        self.assertEqual((choice["finish_reason"], choice["message"]["content"]), ("length", ""))
        self.assertTrue(choice["message"]["reasoning"].startswith("On and on"))

    def test_other_endpoints(self):
        key = self.keys["good"]
        reply = self.server.answer("/v1/responses", {"input": key, "max_output_tokens": 200, "temperature": 0,
                                                     "text": {"format": {"type": "json_schema", "name": "p", "schema": PERSON}}})
        kinds = {item["type"]: item for item in reply["output"]}
        self.assertEqual(json.loads(kinds["message"]["content"][0]["text"]), {"name": "Ann", "age": 8})
        reply = self.server.answer("/v1/messages", {
            "messages": [{"role": "user", "content": key}], "max_tokens": 200, "temperature": 0,
            "tool_choice": {"type": "tool", "name": "clock"}, "tools": [{"name": "clock", "input_schema": PLACE}]})
        self.assertEqual([part["type"] for part in reply["content"]], ["thinking", "tool_use"])
        self.assertEqual((reply["stop_reason"], set(reply["content"][1]["input"])), ("tool_use", {"city"}))


class Calls:
    """Of each format: CALL as the model writes it, of `weather` in Rome; TWO, then of `clock` in Oslo."""
    BEGIN, END = "<think>", "</think>\n\n"  # around reasoning

    @classmethod
    def setUpClass(cls):
        says = {"call": ("Ask.", cls.CALL), "two": ("Do both!", cls.TWO), "text": ("Let me say", "I cannot know.")}
        cls.SCRIPTS = {name: ("", cls.BEGIN + reasoning + cls.END + (CUT if name != "two" else "") + text)
                       for name, (reasoning, text) in says.items()}
        super().setUpClass()

    def test_auto(self):
        self.check_calls("call", "Ask.", [("weather", {"city": "Rome"})])
        self.check_text("text", "Let me say", "I cannot know.", tools=TOOLS)
        self.check_calls("two", "Do both!", [("weather", {"city": "Rome"}), ("clock", {"city": "Oslo"})])

    def test_a_call_that_is_demanded_comes(self):
        for script, reasoning in [("call", "Ask."), ("text", "Let me say")]:
            for choice, names in [("required", ["weather", "clock"]), (NAMED, ["clock"])]:
                self.check_one_call(script, reasoning, names, tool_choice=choice, parallel_tool_calls=False)


class OwnCalls(Calls):
    """Formats with JSON arguments: a call that is demanded is written as the model would."""

    def test_required_is_what_the_model_says(self):
        self.check_calls("call", "Ask.", [("weather", {"city": "Rome"})], tool_choice="required")
        self.check_calls("two", "Do both!", [("weather", {"city": "Rome"}), ("clock", {"city": "Oslo"})],
                         tool_choice="required")
        self.check_calls("two", "Do both!", [("weather", {"city": "Rome"})], tool_choice="required",
                         parallel_tool_calls=False)


class Hermes(OwnCalls, Scripted):
    FLAGS = ["--reasoning-parser", "qwen3", "--tool-call-parser", "hermes"]
    CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    TWO = (CALL + '\n<tool_call>\n{"name": "clock", "arguments": {"city": "Oslo"}}\n</tool_call>')


class Qwen3Coder(Calls, Scripted):
    FLAGS = ["--reasoning-parser", "qwen3", "--tool-call-parser", "qwen3_coder"]
    CALL = "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>"
    TWO = CALL + "\n<tool_call>\n<function=clock>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>"


class MiniMaxM3(Calls, Scripted):
    FLAGS = ["--reasoning-parser", "minimax_m3", "--tool-call-parser", "minimax_m3"]
    BEGIN, END = "<mm:think>", "</mm:think>"
    CALL = ('#<tool_call>\n#<invoke name="weather">#<city>Rome#</city>#</invoke>\n#</tool_call>').replace("#", "]<]minimax[>[")
    TWO = CALL.replace("]<]minimax[>[</tool_call>", ('#<invoke name="clock">#<city>Oslo#</city>#</invoke>\n'
                                                     "#</tool_call>").replace("#", "]<]minimax[>["))


class DeepSeekV4(Calls, Scripted):
    FLAGS = ["--reasoning-parser", "deepseek_v4", "--tool-call-parser", "deepseek_v4"]
    INVOKE = '<｜DSML｜invoke name="{}">\n<｜DSML｜parameter name="city" string="true">{}</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
    CALL = "<｜DSML｜tool_calls>\n" + INVOKE.format("weather", "Rome") + "</｜DSML｜tool_calls>"
    TWO = CALL.replace("</｜DSML｜tool_calls>", INVOKE.format("clock", "Oslo") + "</｜DSML｜tool_calls>")


class DeepSeekV31(OwnCalls, Scripted):
    FLAGS = ["--reasoning-parser", "deepseek_r1", "--tool-call-parser", "deepseek_v31"]
    BEGIN = ""
    CALL = '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Rome"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
    TWO = CALL.replace("<｜tool▁calls▁end｜>", '<｜tool▁call▁begin｜>clock<｜tool▁sep｜>{"city": "Oslo"}<｜tool▁call▁end｜>'
                                             "<｜tool▁calls▁end｜>")


class DeepSeekV3(OwnCalls, Scripted):
    FLAGS = ["--reasoning-parser", "deepseek_v3", "--tool-call-parser", "deepseek_v3"]
    CALL = ('<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{"city": "Rome"}\n```'
            "<｜tool▁call▁end｜><｜tool▁calls▁end｜>")
    TWO = CALL.replace("<｜tool▁calls▁end｜>", '\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>clock\n```json\n{"city": "Oslo"}\n```'
                                             "<｜tool▁call▁end｜><｜tool▁calls▁end｜>")


class Harmony:
    """One script a model: tags that are special tokens are in all of them, and a token has one successor that comes first."""
    FLAGS = ["--reasoning-parser", "harmony", "--tool-call-parser", "harmony"]
    SPECIAL = ["<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>"]
    PROMPT, ANALYSIS = "<|start|>assistant", "<|channel|>analysis<|message|>Why not.<|end|><|start|>assistant"
    CALL = '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "Rome"}<|call|>'


class HarmonyCall(Harmony, Scripted):
    SCRIPTS = {"call": (Harmony.PROMPT, Harmony.CALL)}

    def test_auto(self):
        self.check_calls("call", "", [("weather", {"city": "Rome"})])


class HarmonyReasonedCall(Harmony, Scripted):
    SCRIPTS = {"call": (Harmony.PROMPT, Harmony.ANALYSIS + Harmony.CALL)}

    def test_a_call_that_is_demanded_comes(self):
        self.check_calls("call", "Why not.", [("weather", {"city": "Rome"})], tool_choice="required")
        self.check_one_call("call", "Why not.", ["clock"], tool_choice=NAMED)


class HarmonyForm(Harmony, Scripted):
    SCRIPTS = {"form": (Harmony.PROMPT, Harmony.ANALYSIS + '<|channel|>final<|message|>{"name": "Ann", "age": 8}<|return|>')}

    def test_the_final_channel_has_the_form(self):
        self.assertEqual(self.check_form("form", "Why not."), {"name": "Ann", "age": 8})


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[2:], verbosity=2)
