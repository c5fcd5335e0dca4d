#!/usr/bin/env python3
"""moe4 serve and another OpenAI server under the same load in turns: one JSON with both, medians of the rounds, and their ratios.

    serve_in_turns.py --model MODEL --peer 'llama-server -m Q4_0.gguf --port {port} -c {all_context} -np {slots} -t {threads} ...' \\
      --peer-name llama-server --peer-version V --output bench/results/FILE.json

Both servers are loaded all the time; the one whose turn it is not is stopped (SIGSTOP), so that each has the machine alone.
Which of them begins changes from round to round, and the first round warms up. Prompts are random token ids of a fixed
number, other ones in each round, and answers have a given length, so that both do the same work and reuse nothing. See
README.md here for how the peer and its file are made and for its flags. Each run says how many cores all other programs (and a
hypervisor) took meanwhile: times of a run with more than a few hundredths of a core are not worth much.
"""
import argparse
import json
import os
import pathlib
import platform
import resource
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

# The names of `moe4 bench serve --json`. TTFT and TPOT: the median request of each round.
FIGURES = ("output_throughput", "total_token_throughput", "median_ttft_ms", "median_tpot_ms", "p99_itl_ms")
PORTS = {"moe4": 18431, "peer": 18432}


def cpu_name():
    with open("/proc/cpuinfo") as info:
        for line in info:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


class Server:
    def __init__(self, name, command, port, log_folder):
        self.name, self.command, self.url = name, command, f"http://127.0.0.1:{port}"
        self.log = log_folder / f"{name}.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(shlex.split(command), stdout=log, stderr=log)

    def wait_until_ready(self):
        for _ in range(600):
            if self.process.poll() is not None:
                raise SystemExit(f"error: {self.command} ended with {self.process.returncode}:\n{self.log.read_text()[-2000:]}")
            try:
                with urllib.request.urlopen(self.url + "/health", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                pass
            time.sleep(1)
        raise SystemExit(f"error: {self.command} did not answer within ten minutes")

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime, stime

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def end(self):
        self.resume()
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()


def all_cpu_seconds():
    """Of all cores since the start, but idle and waiting for disks: user, nice, system, interrupts, stolen."""
    fields = pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    return sum(int(fields[i]) for i in (0, 1, 2, 5, 6, 7)) / os.sysconf("SC_CLK_TCK")


def client_cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)  # counts those that have ended: the clients
    return usage.ru_utime + usage.ru_stime


def load_once(arguments, server, clients, seed):
    """One run of `moe4 bench serve`; what it says, and how many cores others took."""
    def others():
        return all_cpu_seconds() - server.cpu_seconds() - client_cpu_seconds()
    begin, others_before = time.monotonic(), others()
    done = subprocess.run(
        [arguments.moe4, "bench-serve", "--base-url", server.url, "--tokenizer", arguments.model,
         "--random-input-len", str(arguments.input), "--random-output-len", str(arguments.tokens), "--num-prompts",
         str(clients * arguments.requests), "--max-concurrency", str(clients), "--seed", str(seed), "--temperature", "0",
         "--ignore-eos", "--json"], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"error: {server.name}: {done.stderr}")
    report = json.loads(done.stdout)
    report["other_cores"] = (others() - others_before) / (time.monotonic() - begin)
    requests = clients * arguments.requests
    expected = {"failed": 0, "total_input_tokens": requests * arguments.input, "total_output_tokens": requests * arguments.tokens}
    found = {key: report[key] for key in expected}
    if found != expected:
        raise SystemExit(f"error: {server.name}: expected {expected}, found {found}")
    return report


def row_of(arguments, servers, clients):
    """Both servers with so many clients: medians of the rounds, and the least and the most of each figure."""
    samples = {name: [] for name in servers}
    for turn in range(arguments.rounds + 1):  # the first warms up
        for name in sorted(servers, reverse=turn % 2 == 1):
            servers[name].resume()
            report = load_once(arguments, servers[name], clients, turn)
            servers[name].pause()
            if turn > 0:
                samples[name].append(report)
    row = {"clients": clients}
    for name, reports in samples.items():
        row[name] = {figure: round(statistics.median(report[figure] for report in reports), 3) for figure in FIGURES}
        row[name + "_range"] = {figure: [round(choose(report[figure] for report in reports), 3) for choose in (min, max)]
                                for figure in FIGURES}
        row[name + "_other_cores"] = round(max(report["other_cores"] for report in reports), 3)
    row["ratios"] = {figure: round(row["moe4"][figure] / row["peer"][figure], 3) for figure in FIGURES}
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moe4", default="build/release/bin/moe4")
    parser.add_argument("--moe4-flags", default="", help="more flags of moe4 serve")
    parser.add_argument("--model", required=True)
    parser.add_argument("--synthetic", help="the command that made the model")
    parser.add_argument("--peer", required=True, help="its command line, with {port}, {context} of a slot, {all_context} of all "
                        "slots together, {slots} and {threads}")
    parser.add_argument("--peer-name", required=True)
    parser.add_argument("--peer-version", required=True)
    parser.add_argument("--peer-weights", help="in which format the peer has the weights")
    parser.add_argument("--clients", default="1,4,16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=2, help="of each client in each round")
    parser.add_argument("--input", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--output", help="JSON file; stdout without it")
    arguments = parser.parse_args()
    clients = [int(number) for number in arguments.clients.split(",")]
    # A whole number of pages of 64 tokens and of the 256 that llama-server rounds a slot's context up to.
    context = (arguments.input + arguments.tokens + 255) // 256 * 256
    values = {"context": context, "slots": max(clients), "all_context": context * max(clients), "threads": os.cpu_count()}
    moe4 = (f"{arguments.moe4} serve {arguments.model} --port {PORTS['moe4']} --max-model-len {context} --max-num-seqs "
            f"{max(clients)} --no-enable-prefix-caching {arguments.moe4_flags}").strip()
    commands = {"moe4": moe4, "peer": arguments.peer.format(port=PORTS["peer"], **values)}

    with tempfile.TemporaryDirectory() as logs:
        servers = {}
        try:
            for name, command in commands.items():
                servers[name] = Server(name, command, PORTS[name], pathlib.Path(logs))
                servers[name].wait_until_ready()
                servers[name].pause()
            rows = [row_of(arguments, servers, number) for number in clients]
        finally:
            for server in servers.values():
                server.end()
    report = {"device_name": cpu_name(), "threads": os.cpu_count(),
              "commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip(),
              "synthetic": arguments.synthetic, "peer_name": arguments.peer_name, "peer_version": arguments.peer_version,
              "peer_weights": arguments.peer_weights, "moe4_command": without_folders(commands["moe4"]),
              "peer_command": without_folders(commands["peer"]), "rounds": arguments.rounds, "requests": arguments.requests,
              "input": arguments.input, "tokens": arguments.tokens, "rows_in_turns": rows}
    text = json.dumps(report, indent=1) + "\n"
    if arguments.output:
        pathlib.Path(arguments.output).write_text(text)
    else:
        print(text, end="")


def without_folders(command):
    return " ".join(pathlib.Path(part).name if "/" in part else part for part in shlex.split(command))


if __name__ == "__main__":
    main()
