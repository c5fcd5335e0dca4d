#!/usr/bin/env python3
"""moe4 serve over sockets: answers, streams, wrong input, clients that leave, the way down.

sockets_test.py PROGRAM MODELS [TEST...]; needs nothing but Python.
"""
import concurrent.futures
import http.client
import json
import os
import re
import selectors
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import unittest

from server_process import PATIENCE, ServerProcess, events

PROGRAM, MODELS = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
MODEL = os.path.join(MODELS, "tiny-qwen3_5-moe-nvfp4")
HELLO = [{"role": "user", "content": "Tell me of the sea."}]


class Server(ServerProcess):
    def __init__(self, *flags, **variables):
        super().__init__(PROGRAM, MODEL, *flags, **variables)


class Shared(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()

    @classmethod
    def tearDownClass(cls):
        status = cls.server.stop()
        assert status == 0, (status, cls.server.log)

    def refused(self, status, param, path, body, **more):
        found, _, reply = self.server.post(path, body, **more)
        self.assertEqual(found, status, reply)
        self.assertEqual(set(reply["error"]), {"message", "type", "param", "code"})
        self.assertEqual(reply["error"]["param"], param, reply)
        self.assertEqual(reply["error"]["code"], status)
        return reply["error"]["message"]


class Information(Shared):
    def test_models(self):
        status, headers, reply = self.server.ask("GET", "/v1/models", headers={"X-Request-Id": "abc"})
        self.assertEqual((status, headers["x-request-id"]), (200, "abc"))
        self.assertEqual([m["id"] for m in reply["data"]], ["tiny"])
        self.assertEqual(reply["data"][0]["max_model_len"], 2048)
        self.assertEqual(self.server.ask("GET", "/v1/models/tiny")[2]["id"], "tiny")
        self.assertEqual(self.server.ask("GET", "/v1/models/other")[0], 404)

    def test_others(self):
        for path in ["/health", "/ping", "/version", "/props", "/slots", "/plan", "/openapi.json"]:
            status, headers, reply = self.server.ask("GET", path)
            self.assertEqual(status, 200, path)
            self.assertIsNotNone(reply)
            status, headers, reply = self.server.ask("HEAD", path)
            self.assertEqual((status, reply), (200, b""))
        status, headers, page = self.server.ask("GET", "/")
        self.assertEqual((status, headers["content-type"]), (200, "text/html; charset=utf-8"))
        self.assertIn(b"</html>", page)
        self.assertIn("im_start", self.server.ask("GET", "/props")[2]["chat_template"])
        self.assertIn("/v1/completions", self.server.ask("GET", "/openapi.json")[2]["paths"])
        self.assertIn("vllm:num_requests_running", self.server.ask("GET", "/metrics")[2].decode())

    def test_paths_and_methods(self):
        self.assertEqual(self.server.ask("GET", "/nothing")[0], 404)
        status, headers, _ = self.server.ask("GET", "/v1/completions")
        self.assertEqual((status, headers["allow"]), (405, "POST, OPTIONS"))
        self.assertEqual(self.server.ask("POST", "/health", {})[0], 405)
        status, headers, _ = self.server.ask("OPTIONS", "/v1/completions", headers={"Origin": "http://a"})
        self.assertEqual((status, headers["access-control-allow-origin"]), (204, "*"))
        self.assertEqual(headers["access-control-allow-methods"], "POST, OPTIONS")

    def test_tokens(self):
        reply = self.server.answer("/tokenize", {"prompt": "The sea is wide."}, return_token_strs=True)
        self.assertEqual(reply["count"], len(reply["tokens"]))
        self.assertEqual("".join(reply["token_strs"]), "The sea is wide.")
        back = self.server.answer("/detokenize", {"tokens": reply["tokens"]})
        self.assertEqual(back["prompt"], "The sea is wide.")
        text = self.server.answer("/apply-template", {"messages": HELLO})["prompt"]
        self.assertEqual(text, "<|im_start|>user\nTell me of the sea.<|im_end|>\n<|im_start|>assistant\n")
        self.assertEqual(self.server.answer("/tokenize", {"messages": HELLO})["tokens"],
                         self.server.answer("/tokenize", {"prompt": text})["tokens"])


class Completions(Shared):
    path = "/v1/completions"

    def test_is_what_run_generates(self):
        run = json.loads(subprocess.run(
            [PROGRAM, "run", MODEL, "-p", "In the beginning", "-n", "24", "--temperature", "0", "--json"],
            check=True, capture_output=True, text=True).stdout)
        reply = self.server.answer(self.path, {"prompt": "In the beginning"}, max_tokens=24, temperature=0)
        self.assertEqual(reply["choices"][0]["text"], run["text"])
        self.assertEqual(reply["usage"]["prompt_tokens"], run["prompt_tokens"])
        self.assertEqual(reply["usage"]["completion_tokens"], 24)
        self.assertEqual(reply["choices"][0]["finish_reason"], "length")
        ids = self.server.answer("/tokenize", {"prompt": "In the beginning"})["tokens"]
        for prompt in [ids, [ids, ids], ["In the beginning"] * 2]:
            reply = self.server.answer(self.path, {"prompt": prompt}, max_tokens=24, temperature=0)
            self.assertEqual({c["text"] for c in reply["choices"]}, {run["text"]})

    def test_echo_gives_the_logprobs_of_eval(self):
        """The mean over a text is what `moe4 eval` says of it."""
        text = "And God said, Let there be light: and there was light. The whale is a mammal."
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(text)
            file.flush()
            found = json.loads(subprocess.run([PROGRAM, "eval", MODEL, "--text", file.name, "--json"],
                                              check=True, capture_output=True, text=True).stdout)
        for most in [0, 1]:
            reply = self.server.answer(self.path, {"prompt": text}, echo=True, logprobs=1, max_tokens=most)
            logprobs = reply["choices"][0]["logprobs"]
            tokens = logprobs["tokens"][:len(logprobs["tokens"]) - most]
            self.assertEqual("".join(tokens), text)
            self.assertTrue(reply["choices"][0]["text"].startswith(text))
            self.assertEqual(logprobs["text_offset"][:3], [0, len(tokens[0]), len(tokens[0] + tokens[1])])
            self.assertIsNone(logprobs["token_logprobs"][0])
            self.assertIsNone(logprobs["top_logprobs"][0])
            values = logprobs["token_logprobs"][1:len(tokens)]
            self.assertAlmostEqual(sum(values) / len(values), found["mean_log_likelihood"], places=6)
            for token, value, top in list(zip(tokens, logprobs["token_logprobs"], logprobs["top_logprobs"]))[1:]:
                self.assertEqual(top[token], value)
                self.assertLessEqual(value, max(top.values()))
                self.assertLessEqual(len(top), 2)

    def test_stops(self):
        body = {"prompt": "In the beginning", "max_tokens": 60, "temperature": 0}
        whole = self.server.answer(self.path, body)["choices"][0]["text"]
        word = whole.split()[5]
        cut = whole[:whole.index(" " + word)]
        choice = self.server.answer(self.path, body, stop=["\x00", " " + word])["choices"][0]
        self.assertEqual((choice["text"], choice["finish_reason"], choice["stop_reason"]), (cut, "stop", " " + word))
        choice = self.server.answer(self.path, body, stop=" " + word, include_stop_str_in_output=True)["choices"][0]
        self.assertEqual(choice["text"], cut + " " + word)
        streamed = self.stream(body, stop=" " + word)
        self.assertEqual("".join(c["choices"][0]["text"] for c in streamed), cut)
        self.assertEqual(streamed[-1]["choices"][0]["finish_reason"], "stop")
        named = self.server.answer(self.path, body, logprobs=0, return_tokens_as_token_ids=True)["choices"][0]
        ids = [int(name.removeprefix("token_id:")) for name in named["logprobs"]["tokens"]]
        choice = self.server.answer(self.path, body, stop_token_ids=[ids[9]])["choices"][0]
        self.assertEqual((choice["finish_reason"], choice["stop_reason"]), ("stop", ids[9]))
        self.assertTrue(whole.startswith(choice["text"]))
        choice = self.server.answer(self.path, body, stop_token_ids=[ids[9]], min_tokens=30)["choices"][0]
        self.assertNotEqual(choice["text"], "")

    def stream(self, body, **more):
        status, headers, data = self.server.post(self.path, body, stream=True, **more)
        self.assertEqual((status, headers["content-type"]), (200, "text/event-stream; charset=utf-8"))
        return events(data)

    def test_stream_is_the_whole(self):
        body = {"prompt": ["In the beginning", "The sea"], "max_tokens": 20, "seed": 7, "n": 2, "logprobs": 2}
        whole = self.server.answer(self.path, body)
        chunks = self.stream(body, stream_options={"include_usage": True})
        self.assertEqual(chunks[-1]["choices"], [])
        self.assertEqual(chunks[-1]["usage"]["total_tokens"], whole["usage"]["total_tokens"])
        for choice in whole["choices"]:
            parts = [c["choices"][0] for c in chunks[:-1] if c["choices"][0]["index"] == choice["index"]]
            self.assertEqual("".join(p["text"] for p in parts), choice["text"])
            for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"]:
                joined = sum((p["logprobs"][name] for p in parts if p["logprobs"]), [])
                self.assertEqual(joined, choice["logprobs"][name])
        chunks = self.stream({"prompt": "The sea", "max_tokens": 3, "echo": True},
                             stream_options={"continuous_usage_stats": True})
        self.assertTrue(chunks[0]["choices"][0]["text"].startswith("The sea"))
        self.assertEqual(chunks[-1]["usage"]["completion_tokens"], 3)

    def test_answers_of_n_are_those_of_their_seeds(self):
        body = {"prompt": "The sea", "max_tokens": 12, "temperature": 1.0}
        many = self.server.answer(self.path, body, n=3, seed=11)["choices"]
        single = [self.server.answer(self.path, body, seed=11 + i)["choices"][0]["text"] for i in range(3)]
        self.assertEqual([c["text"] for c in many], single)
        self.assertEqual(len(set(single)), 3)

    def test_biases_and_penalties(self):
        body = {"prompt": "The sea", "max_tokens": 8, "temperature": 0}
        token = self.server.answer("/tokenize", {"prompt": " whale"})["tokens"][0]
        reply = self.server.answer(self.path, body, logit_bias={str(token): 100}, logprobs=0)
        self.assertEqual(len(set(reply["choices"][0]["logprobs"]["tokens"])), 1)
        # The model's own probabilities: the bias is not in them.
        self.assertLess(reply["choices"][0]["logprobs"]["token_logprobs"][0], -0.5)
        other = self.server.answer(self.path, body, logit_bias={str(token): 100}, presence_penalty=2,
                                   frequency_penalty=2, repetition_penalty=100)
        self.assertNotEqual(other["choices"][0]["text"], reply["choices"][0]["text"])

    def test_refusals(self):
        body = {"prompt": "a"}
        self.refused(400, "prompt", self.path, {})
        self.refused(400, "prompt", self.path, {"prompt": ""})
        self.refused(400, "prompt[1]", self.path, {"prompt": [1, 999999], "x": 1} | {"prompt": ["a", 7]})
        self.refused(400, "prompt", self.path, {"prompt": [1, 999999]})
        self.refused(400, "temperature", self.path, body, temperature="hot")
        self.refused(400, "suffix", self.path, body, suffix="b")
        self.refused(400, "max_tokens", self.path, body, max_tokens=2048)
        self.refused(400, "min_tokens", self.path, body, max_tokens=4, min_tokens=5)
        self.refused(400, "logit_bias", self.path, body, logit_bias={"4096": 1})
        self.refused(404, "model", self.path, body, model="gpt-4")
        message = self.refused(400, "prompt", self.path, {"prompt": [5] * 3000})
        self.assertIn("maximum context length is 2048", message)
        for bad in [b"", b"{", b"[]", b'{"prompt": "\xff"}', b'{"prompt": "a", "prompt": "b"}', b"\x00"]:
            status, _, reply = self.server.ask("POST", self.path, bad)
            self.assertEqual((status, reply["error"]["type"]), (400, "invalid_request_error"), bad)

    def test_unknown_fields_are_accepted(self):
        self.server.answer(self.path, {"prompt": "a", "max_tokens": 1}, from_the_future={"x": 1})


class Chat(Shared):
    path = "/v1/chat/completions"

    def test_is_the_completion_of_the_template(self):
        text = self.server.answer("/apply-template", {"messages": HELLO})["prompt"]
        plain = self.server.answer("/v1/completions", {"prompt": text}, max_tokens=16, temperature=0)
        reply = self.server.answer(self.path, {"messages": HELLO}, max_completion_tokens=16, temperature=0)
        self.assertEqual(reply["object"], "chat.completion")
        self.assertEqual(reply["choices"][0]["message"]["role"], "assistant")
        self.assertEqual(reply["choices"][0]["message"]["content"], plain["choices"][0]["text"])
        parts = [{"role": "user", "content": [{"type": "text", "text": "Tell me of the sea."}]}]
        again = self.server.answer(self.path, {"messages": parts}, max_tokens=16, temperature=0)
        self.assertEqual(again["choices"], reply["choices"])

    def test_stream_is_the_whole(self):
        body = {"messages": HELLO, "max_tokens": 20, "seed": 3, "n": 2, "logprobs": True, "top_logprobs": 2}
        whole = self.server.answer(self.path, body)
        chunks = events(self.server.post(self.path, body, stream=True,
                                         stream_options={"include_usage": True})[2])
        self.assertEqual(chunks[0]["choices"][0]["delta"], {"role": "assistant", "content": ""})
        self.assertEqual(chunks[-1]["usage"]["completion_tokens"], whole["usage"]["completion_tokens"])
        for choice in whole["choices"]:
            parts = [c["choices"][0] for c in chunks[:-1] if c["choices"][0]["index"] == choice["index"]]
            self.assertEqual("".join(p["delta"].get("content", "") for p in parts), choice["message"]["content"])
            self.assertEqual(parts[-1]["finish_reason"], choice["finish_reason"])
            joined = sum((p["logprobs"]["content"] for p in parts if p["logprobs"]), [])
            self.assertEqual(joined, choice["logprobs"]["content"])
            for entry in joined:
                self.assertEqual(bytes(entry["bytes"]).decode(errors="replace"), entry["token"])
                self.assertEqual(len(entry["top_logprobs"]), 2)

    def test_continues_the_last_message(self):
        begun = HELLO + [{"role": "assistant", "content": "The sea is"}]
        reply = self.server.answer(self.path, {"messages": begun}, max_tokens=8, temperature=0,
                                   add_generation_prompt=False, continue_final_message=True)
        text = self.server.answer("/apply-template", {"messages": HELLO})["prompt"] + "The sea is"
        plain = self.server.answer("/v1/completions", {"prompt": text}, max_tokens=8, temperature=0)
        self.assertEqual(reply["choices"][0]["message"]["content"], plain["choices"][0]["text"])

    def test_refusals(self):
        image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
        self.assertIn("image_url", self.refused(400, "messages[0].content[0]", self.path, {"messages": image}))
        self.refused(400, "messages", self.path, {"messages": []})
        self.refused(400, "messages[0].content", self.path, {"messages": [{"role": "user"}]})
        self.refused(400, "top_logprobs", self.path, {"messages": HELLO}, top_logprobs=3)


class Structures(Shared):
    """What the grammar allows and nothing else, from a model that knows nothing of it."""
    CHAT = "/v1/chat/completions"
    SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12},
                                               "age": {"type": "integer", "minimum": 0, "maximum": 120}},
              "required": ["name", "age"], "additionalProperties": False}
    TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {
                 "type": "object", "properties": {"unit": {"enum": ["C", "F"]}}, "required": ["unit"],
                 "additionalProperties": False}}},
             {"type": "function", "function": {"name": "time"}}]

    def check_person(self, text):
        person = json.loads(text)
        self.assertEqual(set(person), {"name", "age"})
        self.assertLessEqual(len(person["name"]), 12)
        self.assertTrue(0 <= person["age"] <= 120)

    def test_forms(self):
        body = {"messages": HELLO, "max_tokens": 300}
        for seed in range(3):
            reply = self.server.answer(self.CHAT, body, seed=seed, response_format={
                "type": "json_schema", "json_schema": {"name": "person", "schema": self.SCHEMA}})
            self.assertEqual(reply["choices"][0]["finish_reason"], "stop")
            self.check_person(reply["choices"][0]["message"]["content"])
        body = {"prompt": "A person:", "max_tokens": 300, "seed": 4}
        for more in [{"guided_json": self.SCHEMA}, {"guided_json": json.dumps(self.SCHEMA)},
                     {"structured_outputs": {"json": self.SCHEMA}}]:
            self.check_person(self.server.answer("/v1/completions", body, **more)["choices"][0]["text"])
        text = self.server.answer("/v1/completions", body, guided_regex="[0-9]{3}-(ab|cd)+x")["choices"][0]["text"]
        self.assertRegex(text, "^[0-9]{3}-(ab|cd)+x$")
        for choice in self.server.answer("/v1/completions", body, n=4, guided_choice=["red", "green"])["choices"]:
            self.assertIn(choice["text"], ["red", "green"])
        text = self.server.answer("/v1/responses", {"input": "Hi"}, max_output_tokens=300, text={"format": {
            "type": "json_schema", "name": "person", "schema": self.SCHEMA}})["output"][0]["content"][0]["text"]
        self.check_person(text)

    def test_calls(self):
        body = {"messages": HELLO, "tools": self.TOOLS, "max_tokens": 300, "temperature": 0}
        named = {"type": "function", "function": {"name": "weather"}}
        for choice in [named, "required"]:
            reply = self.server.answer(self.CHAT, body, tool_choice=choice, parallel_tool_calls=False)["choices"][0]
            self.assertEqual(reply["finish_reason"], "tool_calls")
            self.assertIsNone(reply["message"]["content"])
            call, = reply["message"]["tool_calls"]
            self.assertIn(call["function"]["name"], ["weather"] if choice == named else ["weather", "time"])
            arguments = json.loads(call["function"]["arguments"])
            if call["function"]["name"] == "weather":
                self.assertIn(arguments["unit"], ["C", "F"])
            chunks = events(self.server.post(self.CHAT, body, tool_choice=choice, parallel_tool_calls=False,
                                             stream=True)[2])
            deltas = [d for c in chunks for d in c["choices"][0]["delta"].get("tool_calls", [])]
            self.assertEqual(deltas[0]["function"]["name"], call["function"]["name"])
            self.assertEqual(json.loads("".join(d["function"]["arguments"] for d in deltas)), arguments)
            self.assertEqual(chunks[-1]["choices"][0]["finish_reason"], "tool_calls")
        reply = self.server.answer("/v1/messages", {"messages": HELLO, "max_tokens": 300, "tool_choice": {
            "type": "tool", "name": "weather"}, "tools": [
                {"name": "weather", "input_schema": self.TOOLS[0]["function"]["parameters"]}]})
        self.assertEqual((reply["stop_reason"], reply["content"][0]["type"]), ("tool_use", "tool_use"))
        self.assertIn(reply["content"][0]["input"]["unit"], ["C", "F"])

    def test_refusals(self):
        body = {"prompt": "a", "max_tokens": 1}
        self.refused(400, "guided_regex", "/v1/completions", body, guided_regex="(")
        self.refused(400, "guided_json", "/v1/completions", body, guided_json={"type": "nothing"})
        self.refused(400, "guided_choice", "/v1/completions", body, guided_choice=[])
        self.refused(400, "guided_regex", "/v1/completions", body, guided_json={}, guided_regex="a")
        self.refused(400, "response_format.type", "/v1/completions", body, response_format={"type": "xml"})
        self.refused(400, "structured_outputs.grammar", "/v1/completions", body, structured_outputs={"grammar": "x"})
        self.refused(400, "tool_choice", self.CHAT, {"messages": HELLO}, tool_choice="required")
        self.refused(400, "tool_choice", self.CHAT, {"messages": HELLO}, tools=self.TOOLS,
                     tool_choice={"type": "function", "function": {"name": "other"}})


def named_events(data):
    """(name, JSON) of each event of a stream with names."""
    parts = data.decode().split("\n\n")
    assert parts[-1] == ""
    found = [re.fullmatch(r"event: (.*)\ndata: (.*)", part) for part in parts[:-1]]
    return [(match[1], json.loads(match[2])) for match in found]


class OtherApis(Shared):
    def setUp(self):
        self.chat = self.server.answer("/v1/chat/completions", {"messages": HELLO}, max_tokens=16, temperature=0)
        self.text = self.chat["choices"][0]["message"]["content"]

    def test_messages(self):
        body = {"messages": HELLO, "max_tokens": 16, "temperature": 0, "model": "tiny"}
        reply = self.server.answer("/v1/messages", body)
        self.assertEqual(reply["content"], [{"type": "text", "text": self.text}])
        self.assertEqual((reply["stop_reason"], reply["stop_sequence"]), ("max_tokens", None))
        self.assertEqual(reply["usage"]["output_tokens"], 16)
        prompt = reply["usage"]["input_tokens"] + reply["usage"]["cache_read_input_tokens"]
        self.assertEqual(prompt, self.chat["usage"]["prompt_tokens"])
        self.assertEqual(self.server.answer("/v1/messages/count_tokens", {"messages": HELLO})["input_tokens"], prompt)
        found = named_events(self.server.post("/v1/messages", body, stream=True)[2])
        self.assertEqual([n for n, _ in found if n != "content_block_delta"],
                         ["message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop"])
        self.assertTrue(all(n == e["type"] for n, e in found))
        self.assertEqual("".join(e["delta"]["text"] for n, e in found if n == "content_block_delta"), self.text)
        word = self.text.split()[2]
        reply = self.server.answer("/v1/messages", body, stop_sequences=[word])
        self.assertEqual((reply["stop_reason"], reply["stop_sequence"]), ("stop_sequence", word))
        status, _, reply = self.server.post("/v1/messages", body, max_tokens=0)
        self.assertEqual((status, reply["type"], reply["error"]["param"]), (400, "error", "max_tokens"))

    def test_responses(self):
        body = {"input": HELLO[0]["content"], "max_output_tokens": 16, "temperature": 0, "model": "tiny"}
        reply = self.server.answer("/v1/responses", body)
        self.assertEqual(reply["output"][0]["content"][0]["text"], self.text)
        self.assertEqual((reply["status"], reply["incomplete_details"]), ("incomplete", {"reason": "max_output_tokens"}))
        self.assertEqual(reply["usage"]["total_tokens"], self.chat["usage"]["total_tokens"])
        self.assertEqual(self.server.answer("/v1/responses", body, input=HELLO)["output"][0]["content"],
                         reply["output"][0]["content"])
        found = named_events(self.server.post("/v1/responses", body, stream=True)[2])
        self.assertEqual([n for n, _ in found if n != "response.output_text.delta"], [
            "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
            "response.output_text.done", "response.content_part.done", "response.output_item.done",
            "response.incomplete"])
        self.assertEqual([e["sequence_number"] for _, e in found], list(range(len(found))))
        self.assertEqual("".join(e["delta"] for n, e in found if n == "response.output_text.delta"), self.text)
        self.assertEqual(found[-1][1]["response"]["output"][0]["content"], reply["output"][0]["content"])


class Connections(Shared):
    BODY = json.dumps({"prompt": "a", "max_tokens": 1, "temperature": 0}).encode()

    def request(self, body=BODY, *headers, method="POST", path="/v1/completions", version="1.1"):
        lines = [f"{method} {path} HTTP/{version}", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
        return "\r\n".join(lines).encode() + body

    def read_all(self, connection):
        data = b""
        while piece := connection.recv(65536):
            data += piece
        return data

    def test_pipelined_requests_are_answered_in_order(self):
        with self.server.socket() as connection:
            connection.sendall(self.request() + self.request(b"", method="GET", path="/version") +
                               self.request(self.BODY, "Connection: close"))
            data = self.read_all(connection)
        self.assertEqual(data.count(b"HTTP/1.1 200 OK"), 3)
        self.assertLess(data.index(b"text_completion"), data.index(b'"version"'))

    def test_chunked_bodies_and_100_continue(self):
        with self.server.socket() as connection:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
                               b"Expect: 100-continue\r\nConnection: close\r\n\r\n")
            self.assertEqual(connection.recv(100), b"HTTP/1.1 100 Continue\r\n\r\n")
            for byte in self.BODY:
                connection.sendall(b"1\r\n" + bytes([byte]) + b"\r\n")
            connection.sendall(b"0\r\n\r\n")
            self.assertIn(b"text_completion", self.read_all(connection))

    def test_http_1_0(self):
        with self.server.socket() as connection:
            connection.sendall(self.request(json.dumps({"prompt": "a", "max_tokens": 2, "stream": True}).encode(),
                                            version="1.0"))
            head, body = self.read_all(connection).split(b"\r\n\r\n", 1)
        self.assertNotIn(b"chunked", head)
        self.assertTrue(events(body))

    def test_half_sent_requests_hurt_nobody(self):
        whole = self.request()
        for length in [1, 10, len(whole) - len(self.BODY) - 2, len(whole) - 5]:
            with self.server.socket() as connection:
                connection.sendall(whole[:length])
        self.server.answer("/v1/completions", {"prompt": "a", "max_tokens": 1})

    def test_what_is_no_http(self):
        for bad in [b"\x16\x03\x01\x02\x00\x01\x00\xfc\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
                    b"POST /v1/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
                    b"POST /v1/completions HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"]:
            with self.server.socket() as connection:
                connection.sendall(bad)
                self.assertTrue(self.read_all(connection).startswith(b"HTTP/1.1 400 "), bad)

    def test_limits(self):
        with self.server.socket() as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 100000)
            self.assertTrue(self.read_all(connection).startswith(b"HTTP/1.1 431 "))
        with self.server.socket() as connection:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\nabc")
            self.assertTrue(self.read_all(connection).startswith(b"HTTP/1.1 413 "))

    def open_stream(self, **more):
        connection = self.server.socket()
        body = {"prompt": "The sea", "max_tokens": 2000, "ignore_eos": True, "stream": True} | more
        connection.sendall(self.request(json.dumps(body).encode()))
        return connection

    def test_a_client_that_leaves_ends_its_request(self):
        aborted = self.server.metric('vllm:request_success_total{engine="0",model_name="tiny",finished_reason="abort"')
        with self.open_stream(n=4) as connection:
            connection.recv(1000)
        name = 'vllm:request_success_total{engine="0",model_name="tiny",finished_reason="abort"'
        self.assertEqual(self.server.wait_for(name, aborted + 4), aborted + 4)
        while self.server.metric("vllm:num_requests_running") > 0:
            pass

    def test_a_client_that_does_not_read_is_given_up(self):
        name = 'vllm:request_success_total{engine="0",model_name="tiny",finished_reason="abort"'
        aborted = self.server.metric(name)
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", self.server.port))
        body = {"prompt": "The sea", "max_tokens": 2000, "ignore_eos": True, "stream": True, "n": 32, "logprobs": 20}
        connection.sendall(self.request(json.dumps(body).encode()))
        self.server.wait_for(name, aborted + 32)
        self.server.answer("/v1/completions", {"prompt": "a", "max_tokens": 1})
        connection.close()

    def test_200_open_streams(self):
        selector = selectors.DefaultSelector()
        received = {}
        for i in range(200):
            connection = self.server.socket()
            body = {"prompt": f"The sea {i}", "max_tokens": 6, "stream": True, "temperature": 0}
            connection.sendall(self.request(json.dumps(body).encode(), "Connection: close"))
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_READ)
            received[connection] = b""
        while selector.get_map():
            ready = selector.select(PATIENCE)
            self.assertTrue(ready)
            for key, _ in ready:
                piece = key.fileobj.recv(65536)
                received[key.fileobj] += piece
                if not piece:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
        for data in received.values():
            self.assertIn(b"data: [DONE]", data)
            self.assertEqual(data.count(b'"finish_reason": "'), 1)


class Together(unittest.TestCase):
    def test_answers_are_those_alone(self):
        """The bits of logprobs do not depend on company, nor on the prefix cache."""
        long = "The whale is a mammal and lives in the sea. " * 12
        bodies = [{"prompt": long + tail, "max_tokens": 24, "logprobs": 3, "seed": i, "temperature": 0.8}
                  for i, tail in enumerate(["It", "They", "Ships", "Men", "In the beginning", "", "God", "No"])]
        found = []
        for flags in [["--no-enable-prefix-caching", "--max-num-seqs", "1"],
                      ["--enable-prefix-caching", "--max-num-batched-tokens", "128"]]:
            server = Server(*flags)
            ask = lambda body: server.answer("/v1/completions", body)["choices"]
            found.append([ask(body) for body in bodies])
            with concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
                found.append(list(pool.map(ask, bodies)))
            hits = server.metric("vllm:prefix_cache_hits_total")
            self.assertEqual(hits > 0, flags[0].startswith("--enable"))
            self.assertEqual(server.stop(), 0)
        for other in found[1:]:
            self.assertEqual(other, found[0])


class Settings(unittest.TestCase):
    def test_keys(self):
        server = Server("--api-key", "secret", "--api-key", "other")
        body = {"prompt": "a", "max_tokens": 1}
        for header, status in [({}, 401), ({"Authorization": "Bearer wrong!"}, 401), ({"Authorization": "Bearer "}, 401),
                               ({"Authorization": "Basic secret"}, 401), ({"Authorization": "Bearer secret2"}, 401),
                               ({"Authorization": "Bearer secret"}, 200), ({"authorization": "bearer other"}, 200),
                               ({"x-api-key": "secret"}, 200)]:
            found, headers, reply = server.ask("POST", "/v1/completions", body, header)
            self.assertEqual(found, status, header)
            if status == 401:
                self.assertEqual(reply["error"]["type"], "authentication_error")
                self.assertEqual(headers["www-authenticate"], "Bearer")
        self.assertEqual(server.ask("GET", "/health")[0], 200)
        self.assertEqual(server.ask("GET", "/v1/models")[0], 401)
        server.stop()
        server = Server(MOE4_API_KEY="of the environment")
        self.assertEqual(server.ask("GET", "/v1/models")[0], 401)
        server.stop()

    def test_names_paths_and_templates(self):
        with tempfile.NamedTemporaryFile("w", suffix=".jinja") as file:
            file.write("{% for m in messages %}[{{ m.content }}]{% endfor %}{{ eos_token }}")
            file.flush()
            server = Server("--served-model-name", "second", "--root-path", "/ai/", "--chat-template", file.name)
        self.assertEqual([m["id"] for m in server.ask("GET", "/ai/v1/models")[2]["data"]], ["tiny", "second"])
        self.assertEqual(server.ask("GET", "/v1/models")[0], 200)
        reply = server.answer("/v1/completions", {"prompt": "a", "model": "second", "max_tokens": 1})
        self.assertEqual(reply["model"], "tiny")
        text = server.answer("/apply-template", {"messages": HELLO})["prompt"]
        self.assertEqual(text, "[Tell me of the sea.]<|im_end|>")
        server.stop()

    def test_a_body_above_the_limit(self):
        server = Server("--max-body-mib", "1")
        for size, expected in ((1 << 20, 200), ((1 << 20) + 1, 413)):
            body = json.dumps({"model": "tiny", "prompt": "x", "max_tokens": 1}).encode()
            self.assertEqual(server.ask("POST", "/v1/completions", body.ljust(size))[0], expected, size)
        server.stop()

    def test_a_full_queue(self):
        server = Server("--max-num-seqs", "1", "--max-queued-requests", "1")
        status, headers, reply = server.ask("POST", "/v1/completions", {"prompt": "a", "n": 3})
        self.assertEqual((status, headers["retry-after"]), (429, "1"))
        self.assertEqual(reply["error"]["type"], "rate_limit_error")
        self.assertEqual(server.ask("POST", "/v1/completions", {"prompt": "a", "n": 2})[0], 200)
        server.stop()

    def test_wrong_flags(self):
        for flags, status in [(["--ssl-certfile", "x"], 2), (["--api-key", ""], 2), (["--host", "256.1.1.1"], 4),
                              (["--max-model-len", "4096"], 2), (["--kv-cache-memory-bytes", "1000"], 4),
                              (["--max-num-batched-tokens", "10"], 2), (["--chat-template", "/nowhere"], 3),
                              (["--enable-prefix-caching", "--no-enable-prefix-caching"], 2),
                              (["--ssl-certfile", PROGRAM, "--ssl-keyfile", PROGRAM], 3)]:
            run = subprocess.run([PROGRAM, "serve", MODEL, "--port", "0", *flags], capture_output=True, text=True,
                                 timeout=PATIENCE)
            self.assertEqual(run.returncode, status, (flags, run.stderr))
            self.assertIn("error: ", run.stderr)

    @unittest.skipUnless(shutil.which("openssl"), "the program openssl makes the certificate")
    def test_https(self):
        with tempfile.TemporaryDirectory() as folder:
            key, certificate = os.path.join(folder, "key.pem"), os.path.join(folder, "certificate.pem")
            subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out",
                            certificate, "-days", "2", "-subj", "/CN=localhost"], check=True, capture_output=True)
            server = Server("--ssl-certfile", certificate, "--ssl-keyfile", key)
            context = ssl.create_default_context(cafile=certificate)
            context.check_hostname = False
            connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=PATIENCE)
            for stream in [False, True]:
                connection.request("POST", "/v1/completions",
                                   json.dumps({"prompt": "a", "max_tokens": 2, "stream": stream}))
                response = connection.getresponse()
                self.assertEqual(response.status, 200)
                self.assertIn(b"text_completion", response.read())
            connection.close()
            with server.socket() as plain:
                plain.sendall(b"GET / HTTP/1.1\r\n\r\n")  # no TLS: hurts nobody
            self.assertEqual(server.stop(), 0)


class Shutdown(unittest.TestCase):
    BODY = {"prompt": "The sea", "max_tokens": 2000, "ignore_eos": True, "stream": True}

    def begin(self, server):
        connection = server.connect()
        connection.request("POST", "/v1/completions", json.dumps(self.BODY))
        response = connection.getresponse()
        return connection, response, response.read(10)

    def test_answers_end_before_the_server(self):
        server = Server()
        idle = server.connect()
        idle.request("GET", "/health")
        idle.getresponse().read()
        connection, response, begun = self.begin(server)
        server.process.send_signal(signal.SIGTERM)
        self.assertEqual(events(begun + response.read())[-1]["choices"][0]["finish_reason"], "length")
        self.assertEqual(server.process.wait(PATIENCE), 0)
        with self.assertRaises(OSError):
            server.socket()
        connection.close()
        idle.close()
        server.stop()

    def test_a_second_signal_cuts_them_off(self):
        server = Server("--max-num-seqs", "4")
        connection, response, _ = self.begin(server)
        server.process.send_signal(signal.SIGINT)
        while not any("shutting down" in line for line in server.log):
            pass
        server.process.send_signal(signal.SIGINT)
        self.assertEqual(server.process.wait(PATIENCE), 0)
        connection.close()
        server.stop()


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=2)
