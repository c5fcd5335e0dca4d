#!/usr/bin/env python3
"""Measures whole models on the GPU of this machine and writes bench/results/GPU-*.json (h200-...), which docs/gpu-models.md shows.

usage: bench_gpu_model.py --moe4 build/gpu/bin/moe4 --commit HASH --out bench/results [--work DIR] [--preset NAME ...]
         [--parts model,steps,serve,memory] [--long] [--linear-bench gpu_linear_bench] [--kernel-times kernel_times.so]
       bench_gpu_model.py ... --preset families [--work /dev/shm/models]

Makes the full-size synthetic checkpoint of each preset in DIR, runs `moe4 bench` on it, and for qwen3.6-35b-a3b also:
  steps   the kernels of a step (bench/kernel_times.cc, scripts/kernel_table.py) beside their bytes, at the bandwidth that
          gpu_linear_bench reads off this machine
  serve   `moe4 serve` and `moe4 bench serve` with 1 to 256 clients, and the same load on the engine alone
  memory  experts of all layers on the CPU, and what fits into 12 GB
--long adds 32 requests with 64k tokens of context. A part that fails says so and the others go on; the file of the model
has the runs that succeeded.

`--preset families`, or some of their names (bench_families.py), makes each model of another family in DIR, up to 41 GB,
runs 1 sequence and 32 with 1k tokens of context, sets beside them what memory allows at the bandwidth that gpu_linear_bench
reads off this machine, and removes it before it makes the next.
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from bench_families import FAMILIES, measure_family  # noqa: E402

SYNTH = {"qwen3.6-35b-a3b": ("q36", "--preset qwen3.6-35b-a3b"),
         "qwen3-30b-a3b": ("q30", "--preset qwen3-30b-a3b --format modelopt")}
GENERATION = "-p 2048 -n 64 -d 1024 -r 2 --requests 8,32,64,128,256"
RUNS = {"qwen3.6-35b-a3b": ["-p 512 -n 0 -r 3", "-p 8192 -n 0 -r 3", GENERATION, "-p 0 -n 32 -d 8192 -r 1 --requests 32",
                            "-p 0 -n 32 -d 65536 -r 1"],
        "qwen3-30b-a3b": [GENERATION]}
LONG = {"-p 0 -n 32 -d 65536 -r 1": "-p 0 -n 32 -d 65536 -r 1 --requests 32"}
MEMORY = [("of all 40 layers on the CPU", "-p 2048 -n 16 -r 1 --cpu-moe all"),
          ("of {} layers on the CPU", "-p 2048 -n 16 -r 1 --gpu-memory 12GB --cpu-moe auto")]
STEPS = [1, 8, 32, 128]
CLIENTS = [(1, 8), (8, 64), (32, 192), (128, 512), (256, 1024)]  # and requests
PORT = 8123


def say(text):
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


class Machine:
    say = staticmethod(say)

    def __init__(self, args):
        self.args = args
        self.work = pathlib.Path(args.work)
        self.work.mkdir(parents=True, exist_ok=True)
        self.moe4 = str(pathlib.Path(args.moe4).resolve())
        self.name = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True,
                                   check=True).stdout.split("\n")[0]
        self.short_name = self.name.lower().removeprefix("nvidia ").replace(" ", "-")
        self.read = None

    def read_gbs(self):
        """GB/s of a cold read of 286 MB, measured once."""
        if self.read is None:
            rows = subprocess.run([self.args.linear_bench, "lm_head", "1d"], capture_output=True, text=True, check=True).stdout
            cells = [cell.strip() for cell in rows.strip().split("\n")[-1].split("|")]
            self.read = float(cells[5]) * 1e3 * float(cells[3]) / float(cells[4])
            say(f"memory reads at {self.read:.0f} GB/s")
        return self.read

    def run(self, command, env=None):
        """A moe4 command line as the results name it, in the folder of the checkpoints; its stdout."""
        begin = time.time()
        done = subprocess.run([self.moe4, *command.split()[1:]], cwd=self.work, capture_output=True, text=True,
                              env={**os.environ, **(env or {})})
        say(f"{command}: {time.time() - begin:.0f} s, status {done.returncode}")
        if done.returncode != 0:
            raise RuntimeError(f"{command}: {done.stderr[-2000:]}")
        self.stderr = done.stderr
        return done.stdout

    def bench(self, model, options, quiet="-q "):
        command = f"moe4 bench {model} --device cuda --chunk 8192 {quiet}--json {options}"
        report = json.loads(self.run(command))
        for result in report["results"]:
            for part in ("prompt", "generation"):
                if part in result:
                    say(f"  {part}: {result[part]['tokens_per_second']:.0f} tok/s")
            for row in result.get("together", []):
                say(f"  {row['requests']} requests: {row['tokens_per_second']:.0f} tok/s, prompts "
                    f"{row['prompt_tokens_per_second']:.0f}")
        return {"command": command, "report": report}

    def write(self, kind, preset, synth, content):
        path = pathlib.Path(self.args.out) / f"{self.short_name}-{kind}-{preset}.json"
        document = {"device_name": self.name, "commit": self.args.commit, "synthetic": synth, **content}
        path.write_text(json.dumps(document, indent=1) + "\n")
        say(f"wrote {path.name}")


def steps(machine, model, preset, synth):
    args = machine.args
    gbs = machine.read_gbs()
    plan = machine.work / "plan.json"
    plan.write_text(machine.run(f"moe4 plan {model} --device cuda --json"))
    all_steps = []
    for seqs in STEPS:
        times = machine.work / f"times{seqs}.csv"
        options = "-p 0 -n 16 -d 1024 -r 1" + (f" --requests {seqs}" if seqs > 1 else "")
        machine.run(f"moe4 bench {model} --device cuda --chunk 8192 -q --json {options}",
                    {"CUDA_INJECTION64_PATH": str(pathlib.Path(args.kernel_times).resolve()), "MOE4_KERNEL_TIMES": str(times)})
        table = subprocess.run([sys.executable, str(ROOT / "scripts/kernel_table.py"), str(times), "--plan", str(plan), "--seqs",
                                str(seqs), "--context", "1032", "--gbs", f"{gbs:.0f}", "--json"], capture_output=True, text=True,
                               check=True)
        all_steps.append(json.loads(table.stdout))
        say(f"  {seqs}: {all_steps[-1]['step_us']:.0f} us")
    machine.write("steps", preset, synth,
                  {"gbs_from": "a cold read of 286 MB in the same visit",
                   "command": f"moe4 bench {model} --device cuda --chunk 8192 -q --json -p 0 -n 16 -d 1024 -r 1 --requests N "
                              "under bench/kernel_times.cc", "model_steps": all_steps})


def serve(machine, model, preset, synth):
    server = f"moe4 serve {model} --device cuda --port {PORT} --max-model-len 8192"
    load = (f"moe4 bench serve --base-url http://127.0.0.1:{PORT} --random-input-len 220 --random-output-len 200 "
            "--random-range-ratio 0.9 --max-concurrency C --num-prompts N --ignore-eos --json")
    with open(machine.work / "serve.log", "w") as log:
        process = subprocess.Popen([machine.moe4, *server.split()[1:]], cwd=machine.work, stdout=log, stderr=log)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=1)
                break
            except OSError:
                if process.poll() is not None:
                    raise RuntimeError((machine.work / "serve.log").read_text()[-2000:])
                time.sleep(0.1)
        else:
            raise RuntimeError("the server did not begin to answer within a minute")
        runs = []
        for clients, requests in CLIENTS:
            runs.append(json.loads(machine.run(load.replace(" C ", f" {clients} ").replace(" N ", f" {requests} "))))
            say(f"  {clients} clients: {runs[-1]['output_throughput']:.0f} tok/s of answers, {runs[-1]['failed']} failed")
    finally:
        process.terminate()
        process.wait(timeout=60)
    content = {"server": server, "command": load, "served_runs": runs, "every_token_streamed": True}
    machine.write("serve", preset, synth, content)
    alone = (f"moe4 bench-throughput {model} --device cuda -q --max-model-len 8192 --random-input-len 220 --random-output-len 200 "
             "--random-range-ratio 0.9 --max-concurrency C --num-prompts N --json")
    content.update(engine_command=alone, engine_runs=[])
    for clients, requests in CLIENTS[2:]:
        run = json.loads(machine.run(alone.replace(" C ", f" {clients} ").replace(" N ", f" {requests} ")))
        say(f"  {clients} without a server: {run['output_tokens_per_second']:.0f} tok/s of answers")
        content["engine_runs"].append(run)
    machine.write("serve", preset, synth, content)


def measure(machine, preset):
    failed = []
    def attempt(what, function):
        try:
            return function()
        except (RuntimeError, subprocess.SubprocessError, OSError, ValueError, LookupError) as error:
            say(f"{what} failed: {error}\n{getattr(error, 'stderr', '') or ''}")
            failed.append(what)
            return None
    if preset in FAMILIES:
        attempt(preset, lambda: measure_family(machine, preset))
        return failed
    model, options = SYNTH[preset]
    synth = f"moe4 synth {options} {model}"
    if not (machine.work / model).exists():
        machine.run(synth)
    parts = machine.args.parts.split(",")
    runs = []
    if "model" in parts:
        for line in RUNS[preset]:
            if machine.args.long:
                line = LONG.get(line, line)
            run = attempt(line, lambda line=line: machine.bench(model, line))
            if run:
                runs.append(run)
                machine.write("model", preset, synth, {"model_runs": runs})
    if preset == "qwen3.6-35b-a3b":
        if "steps" in parts:
            attempt("steps", lambda: steps(machine, model, preset, synth))
        if "serve" in parts:
            attempt("serve", lambda: serve(machine, model, preset, synth))
        if "memory" in parts:
            def memory():
                every = next((run for run in runs if GENERATION in run["command"]), None) or machine.bench(model, GENERATION)
                rows = [{"what": "all on the GPU", **every}]
                for what, line in MEMORY:
                    run = machine.bench(model, line, quiet="")
                    layers = re.search(r"experts of (\d+) layers", machine.stderr)
                    rows.append({"what": what.format(layers.group(1) if layers else "some"), **run})
                machine.write("memory", preset, synth, {"memory_runs": rows})
            attempt("memory", memory)
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moe4", required=True)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--work", default=str(ROOT / "build/models"))
    parser.add_argument("--preset", nargs="+", choices=[*SYNTH, *FAMILIES, "families"], default=list(SYNTH))
    parser.add_argument("--parts", default="model,steps,serve,memory")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--linear-bench", default=str(ROOT / "build/gpu/bin/gpu_linear_bench"))
    parser.add_argument("--kernel-times", default=str(ROOT / "build/gpu/kernel_times.so"))
    args = parser.parse_args()
    machine = Machine(args)
    presets = [name for preset in args.preset for name in (FAMILIES if preset == "families" else [preset])]
    failed = [part for preset in presets for part in measure(machine, preset)]
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
