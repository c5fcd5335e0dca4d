#!/usr/bin/env python3
"""Times two builds of moe4 in turns over whole checkpoints and writes one JSON file for bench/results/.

usage: compare_versions.py --before MOE4 --after MOE4 --commits A,B --output FILE [--rounds N] [--repetitions N] MODEL:PROMPT:GENERATE...

Each round runs `moe4 bench` of both builds one after the other, so that a machine that drifts drifts for both; every run
measures the memory's read speed itself. The file holds medians over the rounds, and generation's bytes a second over the
read speed of the same run. With --load-checkpoint PROGRAM it also records that program's output for each model.
"""
import argparse
import json
import pathlib
import platform
import statistics
import subprocess
import sys


def bench(program, model, prompt, generate, repetitions):
    command = [program, "bench", model, "-p", prompt, "-n", generate, "-r", str(repetitions), "--quiet", "--json"]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    result = report["results"][0]
    gbs = result["gb_per_token"] * result["generation"]["tokens_per_second"]
    return {"prompt": result["prompt"]["tokens_per_second"], "generation": result["generation"]["tokens_per_second"],
            "gb_per_token": result["gb_per_token"], "generation_gbs": gbs, "memory_read_gbs": report["memory_read_gbs"],
            "memory_share": gbs / report["memory_read_gbs"], "threads": report["threads"],
            "activations": result["activations"]}


def median(runs):
    return {key: statistics.median(r[key] for r in runs) if isinstance(value, float) else value
            for key, value in runs[0].items()}


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--before", required=True)
parser.add_argument("--after", required=True)
parser.add_argument("--commits", required=True, help="of the two builds, with a comma between")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--repetitions", type=int, default=3, help="of each test in a run; the first also touches its memory")
parser.add_argument("--load-checkpoint")
parser.add_argument("--output", required=True)
parser.add_argument("models", nargs="+", help="MODEL:PROMPT:GENERATE")
args = parser.parse_args()
before, after = args.commits.split(",")
if args.rounds < 1:
    parser.error("--rounds: at least one, else nothing is compared")
models = []
for spec in args.models:
    model, prompt, generate = spec.split(":")
    runs = {"before": [], "after": []}
    for _ in range(args.rounds):
        runs["before"].append(bench(args.before, model, prompt, generate, args.repetitions))
        runs["after"].append(bench(args.after, model, prompt, generate, args.repetitions))
    entry = {"model": pathlib.Path(model).name, "prompt_tokens": int(prompt), "generated_tokens": int(generate),
             "before": median(runs["before"]), "after": median(runs["after"]), "runs": runs}
    if args.load_checkpoint:
        # The first run brings the file into the page cache.
        loads = [json.loads(subprocess.run([args.load_checkpoint, model], check=True, capture_output=True, text=True).stdout)
                 for _ in range(4)][1:]
        entry["load"] = sorted(loads, key=lambda r: r["seconds"])[1]
    models.append(entry)
cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),
           platform.machine())
# Programs and models by name: where they lie is this machine's affair.
command = " ".join([pathlib.Path(__file__).name] + [pathlib.Path(a).name if a.startswith("/") else a for a in sys.argv[1:]])
json.dump({"device": cpu, "command": command, "before_commit": before, "after_commit": after, "rounds": args.rounds, "models": models},
          open(args.output, "w"), indent=1)
