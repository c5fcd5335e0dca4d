#!/usr/bin/env python3
"""Thousands of clients that behave badly against moe4 serve, and good ones among them that must not notice.

abuse_server.py PROGRAM MODEL [--requests 10000] [--seed 1] [--clients 32]

Clients leave before, within and after an answer, send half a request, what is no JSON, no UTF-8, no HTTP, too large, with
wrong keys, byte by byte; they do not read. The seed decides what comes; the order is that of the network. Good requests
have the answer that they had alone. In the end nothing runs or waits, no connection is left, the metrics add up, as many
requests as there are slots run at once, SIGTERM ends with status 0, and the log holds no report of a sanitizer (for which
PROGRAM may be built). Needs nothing but Python.
"""
import argparse
import asyncio
import collections
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import threading
import time

KEY = "a key of the test"
SLOTS = 8
PATIENCE = 600  # seconds; only a server that hangs takes as long
REPORTS = re.compile(r"Sanitizer|runtime error:|DEADLYSIGNAL")
PROMPTS = ["The sea", "In the beginning", "And God said", "Call me Ishmael", "The whale is a mammal. " * 12]


class Server:
    def __init__(self, program, model):
        self.process = subprocess.Popen(
            [program, "serve", model, "--port", "0", "--api-key", KEY, "--max-num-seqs", str(SLOTS), "--max-body-mib", "1",
             "--max-num-batched-tokens", "128"], stderr=subprocess.PIPE, text=True, errors="replace")
        self.log = []
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.match(r"serving .* on http://.*:(\d+)$", line):
                self.port = int(found[1])
                break
        else:
            raise SystemExit("error: the server did not start: " + "".join(self.log))
        self.reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True)
        self.reader.start()

    def open_files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(PATIENCE)
        self.reader.join(PATIENCE)
        return status


class Failure(Exception):
    pass


def require(condition, what):
    if not condition:
        raise Failure(what)


def request(body, path="/v1/completions", key=KEY, method="POST", length=None, close=True):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body) if length is None else length}"]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    if close:
        lines.append("Connection: close")
    return "\r\n".join(lines + ["", ""]).encode() + body


class Connection:
    """A socket without the buffers of asyncio's streams, which would read for those who do not."""

    def __init__(self, port, receive_buffer=None):
        self.port = port
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.setblocking(False)
        self.loop = asyncio.get_running_loop()

    async def __aenter__(self):
        await self.loop.sock_connect(self.socket, ("127.0.0.1", self.port))
        return self

    async def __aexit__(self, *_):
        self.socket.close()

    async def send(self, data):
        """What the server takes of it: it may answer and close before the end."""
        try:
            await self.loop.sock_sendall(self.socket, data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    async def receive(self, most=65536):
        return await self.loop.sock_recv(self.socket, most)

    async def read_all(self):
        data = b""
        while piece := await self.receive():
            data += piece
        return data

    def reset(self):
        """The close that follows is a reset, not an orderly end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def split_answer(data):
    """(status, body)"""
    head, _, body = data.partition(b"\r\n\r\n")
    require(head.startswith(b"HTTP/1.1 ") and head[9:12].isdigit(), f"no answer of HTTP: {data[:200]!r}")
    if b"Transfer-Encoding: chunked" in head:
        whole = b""
        while True:
            size, _, rest = body.partition(b"\r\n")
            length = int(size, 16)
            if length == 0:
                break
            whole, body = whole + rest[:length], rest[length + 2:]
        body = whole
    return int(head[9:12]), body


class Abuse:
    """One run: every coroutine `do_...` is a kind of client."""

    def __init__(self, server, seed):
        self.server, self.rng = server, random.Random(seed)
        self.alone = {}
        self.counts = collections.Counter()
        self.answered = self.submitted = 0  # of the engine's requests: known to have ended well; at most sent

    async def ask(self, data):
        async with Connection(self.server.port) as connection:
            await connection.send(data)
            return split_answer(await connection.read_all())

    async def metrics(self):
        status, text = await self.ask(request(b"", "/metrics", method="GET"))
        require(status == 200, f"/metrics: {status}")
        values = collections.Counter()
        for line in text.decode().splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                values[name] += float(value)
                values[name.partition("{")[0]] += float(value)
        return values

    async def refused(self, data, *statuses):
        status, body = await self.ask(data)
        require(status in statuses, f"status {status} instead of {statuses}: {body[:300]!r}")
        error = json.loads(body)["error"]
        require(error["code"] == status and error["message"], f"no error object: {body[:300]!r}")

    def body(self, **more):
        n = self.rng.choice([1, 1, 1, 3])
        self.submitted += n
        return {"prompt": self.rng.choice(PROMPTS), "max_tokens": self.rng.randint(1, 6), "temperature": 0.9, "n": n,
                "ignore_eos": True, "seed": self.rng.randrange(1000)} | more

    def whole_request(self, rng, **more):
        """Of any endpoint that generates."""
        body = self.body(**more)
        if rng.random() < 0.5:
            return request(body, close=rng.random() < 0.5)
        body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
        return request(body, "/v1/chat/completions", close=rng.random() < 0.5)

    def long_request(self, rng, tokens=60):
        return self.whole_request(rng, max_tokens=tokens, stream=True)

    # Good clients.

    async def answer_of(self, prompt):
        self.submitted += 1
        status, body = await self.ask(request({"prompt": prompt, "max_tokens": 4, "temperature": 0, "logprobs": 1}))
        require(status == 200, f"status {status}: {body[:300]!r}")
        self.answered += 1
        choice = json.loads(body)["choices"][0]
        return choice["text"], choice["logprobs"]["token_logprobs"]

    async def do_good(self, rng):
        prompt = rng.choice(PROMPTS)
        require(await self.answer_of(prompt) == self.alone[prompt], "not the answer of the request alone")

    async def do_good_stream(self, rng):
        body = self.body(stream=True)
        status, data = await self.ask(request(body))
        require(status == 200 and data.endswith(b"data: [DONE]\n\n"), f"stream of status {status}: {data[-300:]!r}")
        require(data.count(b'"finish_reason": "length"') + data.count(b'"finish_reason":"length"') == body["n"],
                f"ends of {body['n']} answers: {data[-300:]!r}")
        self.answered += body["n"]

    async def do_byte_by_byte(self, rng):
        data = request(self.body(n=1))
        async with Connection(self.server.port) as connection:
            while data:
                some = rng.randint(1, 40)
                await connection.send(data[:some])
                data = data[some:]
                await asyncio.sleep(0)
            status, body = split_answer(await connection.read_all())
        require(status == 200, f"status {status}: {body[:300]!r}")
        self.answered += 1

    async def do_pipeline(self, rng):
        """Several at once; the client leaves after the first."""
        data = b"".join(request(self.body(), close=False) for _ in range(rng.randint(2, 4)))
        async with Connection(self.server.port) as connection:
            await connection.send(data)
            require((await connection.receive()).startswith(b"HTTP/1.1 200 "), "first of a pipeline")

    # Those that leave.

    async def do_leave_at_once(self, rng):
        async with Connection(self.server.port) as connection:
            await connection.send(self.whole_request(rng))
            if rng.random() < 0.5:
                connection.reset()

    async def do_leave_in_stream(self, rng):
        async with Connection(self.server.port) as connection:
            await connection.send(self.long_request(rng))
            for _ in range(rng.randint(1, 4)):
                if not await connection.receive(rng.randint(1, 600)):
                    break
            if rng.random() < 0.5:
                connection.reset()

    async def do_leave_in_a_while(self, rng):
        async with Connection(self.server.port) as connection:
            await connection.send(self.whole_request(rng, max_tokens=30))
            await asyncio.sleep(rng.random() * 0.2)

    async def do_half_head(self, rng):
        data = request(self.body())
        async with Connection(self.server.port) as connection:
            await connection.send(data[:rng.randrange(data.index(b"\r\n\r\n") + 3)])
            await asyncio.sleep(rng.choice([0, 0.01]))

    async def do_half_body(self, rng):
        data = request(self.body())
        async with Connection(self.server.port) as connection:
            await connection.send(data[:rng.randrange(data.index(b"\r\n\r\n") + 4, len(data))])
            await asyncio.sleep(rng.choice([0, 0.01]))

    async def do_broken_chunks(self, rng):
        head = (f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
                "Transfer-Encoding: chunked\r\n\r\n").encode()
        async with Connection(self.server.port) as connection:
            await connection.send(head + rng.choice([b"zz\r\n{}\r\n0\r\n\r\n", b"5\r\n{\"prompt\": ", b"ffffffffffffffffff\r\n",
                                                     b"2\r\n{}XX0\r\n\r\n", b"-1\r\n"]))
            connection.socket.shutdown(socket.SHUT_WR)
            data = await connection.read_all()
        require(not data or split_answer(data)[0] == 400, f"broken chunks: {data[:200]!r}")

    async def do_slow_reader(self, rng):
        async with Connection(self.server.port, receive_buffer=4096) as connection:
            await connection.send(self.long_request(rng, tokens=rng.choice([20, 60])))
            for _ in range(rng.randint(1, 6)):
                await asyncio.sleep(rng.random() * 0.3)
                if not await connection.receive(rng.randint(1, 50)):
                    break
            if rng.random() < 0.3:
                await asyncio.wait_for(connection.receive(65536), PATIENCE)

    # Wrong requests.

    async def do_wrong_json(self, rng):
        text = json.dumps(self.body()).encode()
        cut = rng.randrange(1, len(text) - 1)
        bad = rng.choice([text[:cut], text + b"}", b"", b"[" * 3000, b'{"a":' * 3000, b"null", b"[1]", b"nan", text[:cut] + b"\x00",
                          b'{"prompt": "a", "max_tokens": 1e999}', b'{"prompt": "\\ud800"', b'{"prompt": 1' + b"0" * 5000 + b"}"])
        await self.refused(request(bad, rng.choice(["/v1/completions", "/tokenize"])), 400)

    async def do_wrong_field(self, rng):
        more = rng.choice([{"max_tokens": -1}, {"n": 0}, {"n": 1 << 40}, {"temperature": "hot"}, {"prompt": {}}, {"prompt": [1 << 40]},
                           {"prompt": []}, {"prompt": ""}, {"stop": 5}, {"logit_bias": {"x": 1}}, {"top_p": 7}, {"seed": 1.5},
                           {"max_tokens": 10 ** 6}, {"prompt": [[-1]]}, {"suffix": "a"}, {"model": "another"},
                           {"response_format": {"type": "json_schema"}}, {"guided_regex": "("}, {"stream": "yes"}])
        await self.refused(request(self.body(**more)), 400, 404)

    async def do_invalid_utf8(self, rng):
        bad = rng.choice([b"\xff", b"\xc3", b"\xf4\x90\x80\x80", b"\xed\xa0\x80", b"\xc0\xaf", bytes(rng.randrange(128, 192) for _ in range(9))])
        await self.refused(request(b'{"max_tokens": 1, "prompt": "a' + bad + b'b"}'), 400)

    async def do_random_bytes(self, rng):
        data = rng.randbytes(rng.randint(1, 3000))
        if rng.random() < 0.5:
            await self.refused(request(data), 400)
            return
        async with Connection(self.server.port) as connection:
            await connection.send(data)
            connection.socket.shutdown(socket.SHUT_WR)
            answer = await connection.read_all()
        require(not answer or 400 <= split_answer(answer)[0] < 500, f"random bytes: {answer[:200]!r}")

    async def do_huge_body(self, rng):
        if rng.random() < 0.5:  # said
            await self.refused(request(b"x" * 1000, length=rng.choice([2 << 20, 10 ** 12, 2 ** 63 - 1])), 413)
            return
        async with Connection(self.server.port) as connection:  # found out
            await connection.send(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
                                  "Transfer-Encoding: chunked\r\n\r\n".encode())
            for _ in range(24):
                await connection.send(b"10000\r\n" + b" " * 65536 + b"\r\n")
            try:
                status, _ = split_answer(await connection.read_all())
            except ConnectionResetError:
                return
        require(status == 413, f"status {status} of a body above the limit")

    async def do_huge_head(self, rng):
        async with Connection(self.server.port) as connection:
            await connection.send(b"GET / HTTP/1.1\r\nX: " + b"x" * rng.choice([70000, 300000]))
            try:
                status, _ = split_answer(await connection.read_all())
            except ConnectionResetError:
                return
        require(status == 431, f"status {status} of large headers")

    async def do_wrong_key(self, rng):
        key = rng.choice([None, "", KEY[:-1], KEY + "x", "clé", "x" * 5000])
        await self.refused(request(self.body(), rng.choice(["/v1/completions", "/tokenize", "/v1/models"]), key=key), 401)

    async def do_wrong_path(self, rng):
        method, path = rng.choice([("GET", "/v1/completions"), ("POST", "/health"), ("DELETE", "/v1/models"), ("GET", "/nothing"),
                                   ("POST", "/" + "a/" * 500), ("GET", "/%00%ff"), ("BREW", "/v1/completions")])
        await self.refused(request(b"", path, method=method), 400, 404, 405, 501)

    async def do_others(self, rng):
        path = rng.choice(["/metrics", "/health", "/slots", "/v1/models", "/plan", "/openapi.json", "/"])
        status, body = await self.ask(request(b"", path, method="GET"))
        require(status == 200 and body, f"{path}: {status}")

    async def run(self, requests, clients):
        for prompt in PROMPTS:
            self.alone[prompt] = await self.answer_of(prompt)
        kinds = sorted(name for name in dir(self) if name.startswith("do_"))
        todo = [self.rng.choice(kinds) for _ in range(requests)]
        begin, places = time.time(), asyncio.Semaphore(clients)

        async def one(i, kind):
            async with places:
                try:
                    await asyncio.wait_for(getattr(self, kind)(random.Random(f"{i} {kind}")), PATIENCE)
                except (ConnectionResetError, BrokenPipeError) as error:
                    # Of a client that still sent when the server had answered and closed.
                    require(kind in ("do_random_bytes", "do_broken_chunks", "do_wrong_key", "do_huge_body"), f"{kind}: {error!r}")
                except (Failure, TimeoutError, asyncio.TimeoutError, ValueError, KeyError) as error:
                    raise Failure(f"request {i}, {kind[3:]}: {error!r}") from error
                self.counts[kind[3:]] += 1
                done = self.counts.total()
                if done % 1000 == 0:
                    print(f"{done} requests, {time.time() - begin:.0f} s", flush=True)

        await asyncio.gather(*(one(i, kind) for i, kind in enumerate(todo)))

    async def settle(self, files):
        """Nothing is left of all that."""
        deadline = time.time() + PATIENCE
        while True:
            values = await self.metrics()
            left = values["vllm:num_requests_running"] + values["vllm:num_requests_waiting"]
            ended = values["vllm:request_success_total"]
            if left == 0 and self.server.open_files() <= files and ended == values["vllm:e2e_request_latency_seconds_count"]:
                break
            require(time.time() < deadline, f"{left} requests and {self.server.open_files() - files} files are left")
            await asyncio.sleep(0.2)
        require(values["vllm:kv_cache_usage_perc"] == 0, f"pages in use: {values['vllm:kv_cache_usage_perc']}")
        for name in ["request_prompt_tokens", "request_generation_tokens", "request_params_max_tokens", "request_queue_time_seconds",
                     "request_prefill_time_seconds", "request_decode_time_seconds"]:
            require(values[f"vllm:{name}_count"] == ended, f"{name} counts {values[f'vllm:{name}_count']} of {ended} requests")
        prompt, generated = values["vllm:prompt_tokens_total"], values["vllm:generation_tokens_total"]
        require(values["vllm:request_prompt_tokens_sum"] == prompt, "prompt tokens do not add up")
        require(values["vllm:request_generation_tokens_sum"] == generated, "generated tokens do not add up")
        require(values["vllm:time_to_first_token_seconds_count"] + values["vllm:inter_token_latency_seconds_count"] == generated,
                "times of tokens are not as many as tokens")
        well = sum(v for k, v in values.items() if 'finished_reason="length"' in k or 'finished_reason="stop"' in k)
        require(self.answered <= well <= ended <= self.submitted,
                f"{self.answered} answers arrived, {well} ended well, {ended} ended, {self.submitted} were sent")
        require(not any(v for k, v in values.items() if 'finished_reason="error"' in k), "answers ended in errors")
        # Every slot is free again.
        await asyncio.wait_for(asyncio.gather(*(self.answer_of(PROMPTS[i % len(PROMPTS)]) for i in range(SLOTS))), PATIENCE)
        return int(well), int(ended)


def memory_mib(process):
    with open(f"/proc/{process.pid}/status") as file:
        found = re.search(r"VmRSS:\s+(\d+)", file.read())
    return int(found[1]) // 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=32)
    arguments = parser.parse_args()
    server = Server(os.path.abspath(arguments.program), arguments.model)
    try:
        files = server.open_files() + 1  # the connection that asks
        abuse = Abuse(server, arguments.seed)
        asyncio.run(abuse.run(arguments.requests // 10, arguments.clients))
        before = memory_mib(server.process)
        asyncio.run(abuse.run(arguments.requests - arguments.requests // 10, arguments.clients))
        after = memory_mib(server.process)
        well, ended = asyncio.run(abuse.settle(files))
        status = server.stop()
        log = "".join(server.log)
        require(status == 0, f"exit status {status}: {log[-3000:]}")
        require(not REPORTS.search(log), log[-6000:])
    except BaseException:
        server.process.kill()
        server.reader.join(10)
        print("".join(server.log)[-6000:])
        raise
    print(", ".join(f"{kind} {count}" for kind, count in sorted(abuse.counts.items())))
    print(f"{abuse.counts.total()} requests: {ended} answers begun, {well} of them whole; memory after a tenth {before} MiB, "
          f"in the end {after} MiB; exit status 0")


if __name__ == "__main__":
    main()
