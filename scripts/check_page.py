#!/usr/bin/env python3
"""Uses the chat page in headless Chromium: an answer streamed, finished, stopped, errors, the keyboard alone, 400 pixels.

Needs the package playwright (scripts/requirements-page.txt) and Chromium: Debian's, or `playwright install chromium`.
  python3 scripts/check_page.py [--screenshots FOLDER] [--url http://127.0.0.1:8000/]
Without --url the page runs against a server of this script's own, which answers as it is told by the question.
Anything on the browser's console that is an error fails the check.
"""

import argparse
import http.server
import json
import pathlib
import re
import shutil
import threading
import time

from playwright.sync_api import expect, sync_playwright

PAGE = pathlib.Path(__file__).resolve().parent.parent / "src/server/page/index.html"
MARKDOWN = """# Title

Some **bold** text, *slanted*, `a<b>` and a [link](https://example.com/x).
<img src=x onerror="alert(1)"><script>alert(2)</script>

1. one
2. two

- a
- b

| x | y |
|---|---|
| 1 | 2 |

```cpp
int main() { return "<b>" && 1; }
```
[bad](javascript:alert(3))"""
PLAN = [{"layers": [0, 1, 2, 3, 5], "scheme": "W4A16", "backend": "cpu", "activations": "bf16", "reason": "first that can"}]


class FakeServer(http.server.BaseHTTPRequestHandler):
    """Answers by the last message: 'fail' with an error, 'break' amid the answer, 'long' slowly, 'md' with markdown."""

    requests, aborted = [], threading.Event()
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, body, kind="application/json"):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.path == "/":
            self.reply(200, PAGE.read_bytes(), "text/html; charset=utf-8")
        elif self.path == "/v1/models":
            self.reply(200, {"object": "list", "data": [{"id": "tiny-model", "object": "model"}]})
        elif self.path == "/props":
            self.reply(200, {"build_info": "moe4 0.1.0", "total_slots": 4, "default_generation_settings": {"n_ctx": 4096}})
        elif self.path == "/plan":
            self.reply(200, PLAN)
        else:
            self.reply(404, {"error": {"message": "no such page"}})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.requests.append((request, self.headers.get("Authorization")))
        question = request["messages"][-1]["content"]
        if question == "fail":
            return self.reply(503, {"error": {"message": "the queue is full: try again later", "type": "overloaded", "code": 503}})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            self.stream(question)
        except (BrokenPipeError, ConnectionResetError):
            self.aborted.set()

    def event(self, data):
        self.wfile.write(b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n")
        self.wfile.flush()

    def delta(self, finish=None, **delta):
        self.event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    def stream(self, question):
        self.delta(role="assistant", content="")
        if question == "think":
            for word in ["Let me ", "think."]:
                self.delta(reasoning_content=word)
        if question == "call":
            for piece in [{"id": "call_1", "function": {"name": "weather", "arguments": ""}},
                          {"function": {"arguments": "{\"place\": \"K\u00f6ln\"}"}}]:
                self.delta(tool_calls=[{"index": 0, **piece}])
        text = MARKDOWN if question == "md" else "word " * (2000 if question == "long" else 20)
        for at in range(0, len(text), 5):
            self.delta(content=text[at:at + 5])
            if question == "break" and at == 25:
                self.event({"error": {"message": "the model's numbers are not finite"}})
                return
            time.sleep(0.01)
        self.delta(finish="length" if question == "cut" else "stop")
        self.event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": len(text) // 5}})
        self.event(b"[DONE]")


class Check:
    def __init__(self, page, folder):
        self.page, self.folder = page, folder
        self.input = page.get_by_label("Message", exact=True)
        self.status = page.get_by_role("status")
        self.answer = page.locator("article.assistant").last

    def picture(self, name):
        if self.folder:
            self.page.screenshot(path=self.folder / f"{name}.png")

    def ask(self, text):
        self.input.fill(text)
        self.input.press("Enter")

    def streamed_and_finished(self, question, name="finished"):
        self.ask(question)
        expect(self.page.get_by_role("button", name="Stop")).to_be_visible()
        expect(self.answer.locator(".text")).not_to_be_empty()
        self.picture(name.replace("finished", "streamed"))
        expect(self.status).to_have_text("Done.", timeout=60000)
        expect(self.answer.locator(".stats")).to_contain_text("first token")
        expect(self.page.get_by_role("button", name="Send")).to_be_visible()
        expect(self.input).to_be_focused()
        self.picture(name)

    def stopped(self, question):
        self.ask(question)
        expect(self.answer.locator(".text")).not_to_be_empty()
        self.page.keyboard.press("Escape")
        expect(self.status).to_have_text("Stopped.")
        expect(self.answer.locator(".stats")).to_contain_text("stopped")
        before = self.answer.locator(".text").inner_text()
        self.page.wait_for_timeout(200)
        assert self.answer.locator(".text").inner_text() == before, "text came after the stop"
        self.picture("stopped")


def check_fake(check):
    page, input_box = check.page, check.input
    expect(page.get_by_label("Model", exact=True)).to_have_text("tiny-model")
    check.streamed_and_finished("hello")
    expect(check.answer.locator(".stats")).to_contain_text("tokens/s")
    sent = FakeServer.requests[-1][0]
    assert sent["stream"] and sent["model"] == "tiny-model" and "temperature" not in sent, sent
    # Markdown becomes elements, markup in it stays text.
    check.streamed_and_finished("md", "markdown")
    text = check.answer.locator(".text")
    expect(text.locator("h3")).to_have_text("Title")
    expect(text.locator("strong")).to_have_text("bold")
    expect(text.locator("a")).to_have_attribute("href", "https://example.com/x")
    assert text.locator("ol li, ul li").count() == 4 and text.locator("td").count() == 2
    expect(text.locator("pre")).to_have_text('int main() { return "<b>" && 1; }')
    assert text.locator("img, script, b").count() == 0, "markup of the model became elements"
    # Earlier turns are sent along.
    assert [m["role"] for m in FakeServer.requests[-1][0]["messages"]] == ["user", "assistant", "user"]
    # Reasoning can be opened.
    check.streamed_and_finished("think", "reasoning")
    check.answer.locator("summary").click()
    expect(check.answer.locator("details > div")).to_have_text("Let me think.")
    check.streamed_and_finished("call", "tool-call")
    expect(check.answer.locator("pre").last).to_have_text('weather {"place": "K\u00f6ln"}')
    check.streamed_and_finished("cut", "cut")
    expect(check.answer.locator(".stats")).to_contain_text("cut off")
    check.stopped("long")
    assert FakeServer.aborted.wait(10), "the server did not see the stop"
    # Errors: before the answer the question comes back, amid it both stay.
    check.ask("fail")
    expect(page.get_by_role("alert")).to_have_text("the queue is full: try again later")
    expect(input_box).to_have_value("fail")
    check.picture("error")
    check.ask("break")
    expect(page.get_by_role("alert").last).to_have_text("the model's numbers are not finite")
    expect(check.answer.locator(".text")).to_contain_text("word")
    check.picture("error-amid")
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("article")).to_have_count(0)


def check_keyboard(check):
    """No mouse: settings, a message of two lines, stop, plan."""
    page = check.page
    page.reload()
    expect(check.input).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    assert check.input.input_value() == "one\ntwo"
    page.keyboard.press("Enter")
    expect(check.status).to_have_text("Done.", timeout=60000)
    expect(page.locator("article.user .text")).to_have_text("one\ntwo")
    names = []
    for _ in range(4):
        page.keyboard.press("Shift+Tab")
        names.append(page.evaluate("document.activeElement.textContent || document.activeElement.id"))
        if names[-1] == "Settings":
            break
    assert names[-1] == "Settings", names
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Settings")).to_be_visible()
    page.keyboard.type("Be brief.")
    page.keyboard.press("Tab")
    page.keyboard.type("0.5")
    check.picture("settings")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(check.input).to_be_focused()
    page.keyboard.press("Shift+Tab")
    while page.evaluate("document.activeElement.textContent") != "Plan":
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Plan")).to_be_visible()
    expect(page.get_by_role("dialog").locator("td").first).to_have_text(re.compile(r"^\d+(-\d+)?(, \d+(-\d+)?)*$"))
    check.picture("plan")
    page.keyboard.press("Escape")


def check_settings(check):
    page = check.page
    page.get_by_role("button", name="Settings").click()
    for label, value in [("Max tokens", "33"), ("API key", "secret"), ("Top p", "0.9")]:
        page.get_by_label(label).fill(value)
    page.get_by_label("Thinking").select_option("off")
    page.get_by_label("Colours").select_option("dark")
    page.get_by_role("button", name="Done").click()
    page.reload()  # kept
    check.streamed_and_finished("hello", "dark")
    sent, key = FakeServer.requests[-1]
    assert key == "Bearer secret" and sent["max_tokens"] == 33 and sent["top_p"] == 0.9, sent
    assert sent["temperature"] == 0.5 and sent["chat_template_kwargs"] == {"enable_thinking": False}
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}


def check_small(check, question, name):
    check.page.set_viewport_size({"width": 400, "height": 700})
    check.streamed_and_finished(question, name)
    for element in ["document.documentElement", "document.querySelector('main')"]:
        wide = check.page.evaluate(f"{element}.scrollWidth - {element}.clientWidth")
        assert wide <= 0, f"{element} is {wide} pixels too wide"


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--screenshots", type=pathlib.Path)
    arguments.add_argument("--url", help="a running server, instead of this script's own")
    arguments = arguments.parse_args()
    if arguments.screenshots:
        arguments.screenshots.mkdir(parents=True, exist_ok=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = arguments.url or f"http://127.0.0.1:{server.server_port}/"
    problems = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 750}, color_scheme="light")
        page.set_default_timeout(20000)
        # A refused request is on the console too; that one is part of the check.
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" and "status of 503" not in m.text else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: (problems.append("a script of the model ran"), dialog.dismiss()))
        page.goto(url)
        check = Check(page, arguments.screenshots)
        if arguments.url:
            check.streamed_and_finished("Tell me about the sea.")
            check_keyboard(check)
            check_small(check, "And about a lake.", "finished-400")
        else:
            check_fake(check)
            check_keyboard(check)
            check_settings(check)
            check_small(check, "md", "finished-400")
        browser.close()
    assert not problems, problems
    print("the page does what it should")


if __name__ == "__main__":
    main()
