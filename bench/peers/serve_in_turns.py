#!/usr/bin/env python3
"""moe4 serve and llama-server under the same load in turns: one JSON with both, medians of the rounds, and their ratios.

    serve_in_turns.py --model MODEL --peer LLAMA_SERVER --gguf Q4_0.gguf --peer-version V --output bench/results/FILE.json

Both servers run all the time and have the machine in turns. Prompts are random token ids and answers have a given length, so
that both do the same work; see README.md here for how the peer and its file are made.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import urllib.request

FIGURES = ("output_throughput", "total_token_throughput", "mean_ttft_ms", "mean_tpot_ms", "p99_itl_ms")


def cpu_name():
    with open("/proc/cpuinfo") as info:
        for line in info:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def wait_for(url, process):
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"error: {process.args[0]} ended with {process.returncode}")
        try:
            with urllib.request.urlopen(url + "/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        time.sleep(1)
    raise SystemExit(f"error: {process.args[0]} did not answer within ten minutes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moe4", default="build/release/bin/moe4")
    parser.add_argument("--model", required=True)
    parser.add_argument("--peer", required=True, help="llama-server")
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--peer-version", required=True)
    parser.add_argument("--clients", default="1,4,16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=2, help="of each client in each round")
    parser.add_argument("--input", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--output", help="JSON file; stdout without it")
    arguments = parser.parse_args()
    clients = [int(number) for number in arguments.clients.split(",")]
    threads, slots = os.cpu_count(), max(clients)
    context = arguments.input + arguments.tokens + 64

    ports = {"moe4": 18431, "llama-server": 18432}
    commands = {
        "moe4": [arguments.moe4, "serve", arguments.model, "--port", str(ports["moe4"]), "--max-model-len", str(context),
                 "--max-num-seqs", str(slots), "--no-enable-prefix-caching"],
        "llama-server": [arguments.peer, "-m", arguments.gguf, "--port", str(ports["llama-server"]), "-c", str(context * slots),
                         "-np", str(slots), "-t", str(threads), "-tb", str(threads), "--no-webui", "--no-warmup",
                         "--cache-ram", "0"]}
    servers = {name: subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
               for name, command in commands.items()}
    try:
        for name, server in servers.items():
            wait_for(f"http://127.0.0.1:{ports[name]}", server)
        rows = [row_of(arguments, ports, number) for number in clients]
    finally:
        for server in servers.values():
            server.terminate()
    report = {"device": cpu_name(), "threads": threads,
              "commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip(),
              "llama_server": arguments.peer_version, "command": " ".join(["bench/peers/serve_in_turns.py", *sys.argv[1:]]),
              "rounds": arguments.rounds, "input": arguments.input, "tokens": arguments.tokens, "rows": rows}
    text = json.dumps(report, indent=1) + "\n"
    if arguments.output:
        with open(arguments.output, "w") as file:
            file.write(text)
    else:
        print(text, end="")


def row_of(arguments, ports, clients):
    """Both servers with so many clients: medians of the rounds."""
    samples = {name: [] for name in ports}
    for turn in range(arguments.rounds + 1):  # the first warms up
        for name, port in ports.items():
            done = subprocess.run(
                [arguments.moe4, "bench-serve", "--base-url", f"http://127.0.0.1:{port}", "--tokenizer", arguments.model,
                 "--random-input-len", str(arguments.input), "--random-output-len", str(arguments.tokens), "--num-prompts",
                 str(clients * arguments.requests), "--max-concurrency", str(clients), "--seed", str(turn), "--ignore-eos",
                 "--json"], capture_output=True, text=True)
            if done.returncode != 0:
                raise SystemExit(f"error: {name}: {done.stderr}")
            report = json.loads(done.stdout)
            expected = clients * arguments.requests * arguments.tokens
            if report["failed"] or report["total_output_tokens"] != expected:
                raise SystemExit(f"error: {name}: {report['failed']} failed, {report['total_output_tokens']} of {expected} tokens")
            if turn > 0:
                samples[name].append(report)
    medians = {name: {figure: round(statistics.median(report[figure] for report in reports), 3) for figure in FIGURES}
               for name, reports in samples.items()}
    ratio = medians["moe4"]["total_token_throughput"] / medians["llama-server"]["total_token_throughput"]
    print(f"{clients} clients: {medians}, {ratio:.2f} x", file=sys.stderr, flush=True)
    return {"clients": clients, **medians, "total_token_throughput_ratio": round(ratio, 2)}


if __name__ == "__main__":
    main()
