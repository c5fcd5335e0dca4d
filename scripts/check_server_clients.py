#!/usr/bin/env python3
"""Real clients against moe4 serve: openai, anthropic, litellm, lm-eval, schemathesis.

check_server_clients.py [--venv FOLDER] PROGRAM MODEL [CHECK...]

Makes a virtual environment from server_clients_requirements.txt and runs itself in it. Starts a server for each check.
lm-eval's figures are held against `moe4 eval`.
"""
import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import venv

HERE = os.path.dirname(os.path.abspath(__file__))
REQUIREMENTS = os.path.join(HERE, "server_clients_requirements.txt")
MARK = "MOE4_CLIENTS_VENV"


class Server:
    def __init__(self, program, model, *flags):
        self.process = subprocess.Popen(
            [program, "serve", model, "--port", "0", "--served-model-name", "tiny", *flags],
            stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            found = re.match(r"serving .* on http://(.*)$", line)
            if found:
                self.url = "http://" + found[1]
                break
        else:
            raise SystemExit("the server did not start")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        assert self.process.poll() is None, "the server has ended by itself"
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(120)
        log = self.process.stderr.read()
        self.process.stderr.close()
        assert status == 0, (status, log)


def check_openai(program, model):
    import openai
    with Server(program, model, "--api-key", "secret") as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="secret", max_retries=0)
        assert [m.id for m in client.models.list()] == ["tiny"]
        common = dict(model="tiny", max_tokens=12, temperature=0.7, top_p=0.9, seed=5, stop=["\x00"], n=2,
                      presence_penalty=0.5, frequency_penalty=-0.5, logit_bias={"17": -100}, user="me",
                      extra_body={"top_k": 40, "min_p": 0.01, "repetition_penalty": 1.1, "min_tokens": 2,
                                  "ignore_eos": True, "stop_token_ids": [4095], "skip_special_tokens": False})
        whole = client.completions.create(prompt="The sea", logprobs=2, echo=False, **common)
        assert len(whole.choices) == 2 and whole.usage.completion_tokens == 24
        assert len(whole.choices[0].logprobs.token_logprobs) == 12
        parts = ["", ""]
        for event in client.completions.create(prompt="The sea", stream=True, stream_options={"include_usage": True},
                                                logprobs=2, **common):
            for choice in event.choices:
                parts[choice.index] += choice.text
            usage = event.usage
        assert parts == [c.text for c in whole.choices] and usage == whole.usage
        messages = [{"role": "system", "content": "You know the sea."},
                    {"role": "user", "content": [{"type": "text", "text": "Tell me of it."}]}]
        whole = client.chat.completions.create(messages=messages, logprobs=True, top_logprobs=3, **common)
        parts = ["", ""]
        for event in client.chat.completions.create(messages=messages, stream=True, logprobs=True, top_logprobs=3,
                                                    stream_options={"include_usage": True}, **common):
            for choice in event.choices:
                parts[choice.index] += choice.delta.content or ""
        assert parts == [c.message.content for c in whole.choices]
        assert len(whole.choices[0].logprobs.content[0].top_logprobs) == 3
        assert whole.usage.prompt_tokens_details.cached_tokens is not None
        for error, call in [
                (openai.NotFoundError, lambda: client.completions.create(model="other", prompt="a")),
                (openai.BadRequestError, lambda: client.completions.create(model="tiny", prompt="a", temperature=-1)),
                (openai.AuthenticationError, lambda: client.with_options(api_key="wrong").models.list())]:
            try:
                call()
            except error as thrown:
                assert thrown.body["message"], thrown
            else:
                raise AssertionError(f"no {error}")
        asked = dict(model="tiny", input="Tell me of the sea.", instructions="Be brief.", max_output_tokens=16,
                     temperature=0)
        whole = client.responses.create(**asked)
        found = list(client.responses.create(stream=True, **asked))
        parts = [event.delta for event in found if event.type == "response.output_text.delta"]
        assert "".join(parts) == whole.output_text == found[-1].response.output_text
        stream = client.chat.completions.create(model="tiny", messages=messages, stream=True)
        next(iter(stream))
        stream.close()  # aborts


def check_anthropic(program, model):
    import anthropic
    with Server(program, model, "--api-key", "secret") as server:
        client = anthropic.Anthropic(base_url=server.url, api_key="secret", max_retries=0)
        common = dict(model="tiny", max_tokens=16, extra_body={"temperature": 0}, system="You know the sea.",
                      stop_sequences=["\x00"],
                      messages=[{"role": "user", "content": [{"type": "text", "text": "Tell me of it."}]}])
        whole = client.messages.create(**common)
        assert whole.stop_reason == "max_tokens" and whole.usage.output_tokens == 16
        with client.messages.stream(**common) as stream:
            assert "".join(stream.text_stream) == whole.content[0].text
            final = stream.get_final_message()
        assert final.content[0].text == whole.content[0].text and final.stop_reason == whole.stop_reason
        count = client.messages.count_tokens(model="tiny", system=common["system"], messages=common["messages"])
        assert count.input_tokens == whole.usage.input_tokens + whole.usage.cache_read_input_tokens
        for error, arguments, key in [(anthropic.NotFoundError, {"model": "other"}, "secret"),
                                      (anthropic.BadRequestError, {"max_tokens": 0}, "secret"),
                                      (anthropic.AuthenticationError, {}, "wrong")]:
            try:
                client.with_options(api_key=key).messages.create(**(common | arguments))
            except error as thrown:
                assert thrown.body["error"]["message"], thrown
            else:
                raise AssertionError(f"no {error}")


def check_litellm(program, model):
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # prices are not downloaded
    import litellm
    with Server(program, model) as server:
        arguments = dict(model="openai/tiny", api_base=server.url + "/v1", api_key="none", max_tokens=8,
                         temperature=0, messages=[{"role": "user", "content": "Tell me of the sea."}])
        whole = litellm.completion(**arguments)
        parts = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(stream=True, **arguments)]
        assert "".join(parts) == whole.choices[0].message.content
        text = litellm.text_completion(model="text-completion-openai/tiny", api_base=server.url + "/v1",
                                       api_key="none", prompt="The sea", max_tokens=8, temperature=0)
        assert text.choices[0].text


def check_lm_eval(program, model):
    """local-completions: loglikelihood as `moe4 eval` has it, and generation as `moe4 run`."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI
    texts = ["And God said, Let there be light: and there was light.", "The whale is a mammal and lives in the sea.",
             "A database is a file with tables, and every table has columns."]
    with Server(program, model) as server:
        lm = LocalCompletionsAPI(model="tiny", base_url=server.url + "/v1/completions", tokenizer=model,
                                 tokenizer_backend="huggingface", num_concurrent=1, max_length=2048, batch_size=2)
        # The first token is the context: eval has no chance for it either.
        ids = [lm.tok_encode(text) for text in texts]
        requests = [Instance("loglikelihood", {}, (lm.tokenizer.decode(i[:1]), lm.tokenizer.decode(i[1:])), n)
                    for n, i in enumerate(ids)]
        found = [value for value, _ in lm.loglikelihood(requests)]
        for text, i, value in zip(texts, ids, found):
            with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
                file.write(text)
                file.flush()
                eval_json = json.loads(subprocess.run([program, "eval", model, "--text", file.name, "--json"],
                                                      check=True, capture_output=True, text=True).stdout)
            expected = eval_json["mean_log_likelihood"] * eval_json["predictions"]
            assert eval_json["predictions"] == len(i) - 1
            assert abs(value - expected) < 1e-4 * abs(expected), (text, value, expected)
        text = lm.generate_until([Instance("generate_until", {}, ("In the beginning", {
            "until": ["\n\n"], "max_gen_toks": 16, "temperature": 0, "do_sample": False}), 0)])[0]
        run = json.loads(subprocess.run(
            [program, "run", model, "-p", "In the beginning", "-n", "16", "--temperature", "0", "--json"],
            check=True, capture_output=True, text=True).stdout)
        assert text == run["text"].split("\n\n")[0], (text, run["text"])


def check_schemathesis(program, model):
    """Requests made from /openapi.json: no answer but those that it names."""
    flags = ["--max-model-len", "64", "--max-num-seqs", "16", "--max-queued-requests", "0"]
    with Server(program, model, *flags) as server, tempfile.TemporaryDirectory() as folder:
        subprocess.run([os.path.join(os.path.dirname(sys.executable), "schemathesis"), "run",
                        server.url + "/openapi.json", "--checks",
                        "not_a_server_error,status_code_conformance,content_type_conformance,"
                        "response_schema_conformance",
                        "--max-examples", "40", "--seed", "1", "--request-timeout", "60", "--no-color"],
                       check=True, cwd=folder)


CHECKS = {name.removeprefix("check_"): function for name, function in list(globals().items())
          if name.startswith("check_")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", default="build/clients-venv")
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("checks", nargs="*", default=[], help=", ".join(CHECKS))
    arguments = parser.parse_args()
    if MARK not in os.environ:
        python = os.path.join(arguments.venv, "bin", "python")
        if not os.path.exists(python):
            venv.create(arguments.venv, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", REQUIREMENTS], check=True)
        os.execve(python, [python, *sys.argv], os.environ | {MARK: "1"})
    for name in arguments.checks or CHECKS:
        CHECKS[name](os.path.abspath(arguments.program), os.path.abspath(arguments.model))
        print(f"{name}: good", flush=True)


if __name__ == "__main__":
    main()
