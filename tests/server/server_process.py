"""moe4 serve as a process, for tests that ask it over sockets."""
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading

PATIENCE = 300  # seconds; only a server that hangs takes as long


class ServerProcess:
    """A running `moe4 serve`; its log is read until it has said its port."""

    def __init__(self, program, model, *flags, **variables):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MOE4_")}
        self.process = subprocess.Popen(
            [program, "serve", model, "--port", "0", "--served-model-name", "tiny", *flags],
            stderr=subprocess.PIPE, text=True, env=environment | variables)
        self.log = []
        for line in self.process.stderr:
            self.log.append(line)
            found = re.match(r"serving .* on https?://.*:(\d+)$", line)
            if found:
                self.port = int(found[1])
                break
        else:
            raise AssertionError("no server: " + "".join(self.log))
        self.reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True)
        self.reader.start()

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def socket(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def ask(self, method, path, body=None, headers=None):
        """(status, headers, JSON or text)"""
        connection = self.connect()
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        data = response.read()
        connection.close()
        if response.headers.get("content-type", "").startswith("application/json") and data:
            data = json.loads(data)
        return response.status, response.headers, data

    def post(self, path, body, **more):
        return self.ask("POST", path, body | more)

    def answer(self, path, body, **more):
        status, _, reply = self.post(path, body, **more)
        assert status == 200, reply
        return reply

    def metric(self, name):
        text = self.ask("GET", "/metrics")[2].decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
                   if line.startswith(name))

    def wait_for(self, name, value):
        while self.metric(name) < value:
            assert self.process.poll() is None
        return self.metric(name)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(PATIENCE)
        self.reader.join(PATIENCE)
        self.process.stderr.close()
        return status


def events(data):
    """The JSON of each event of a stream that must end with [DONE]."""
    parts = data.decode().split("\n\n")
    assert parts[-1] == "" and parts[-2] == "data: [DONE]", parts[-2:]
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]
