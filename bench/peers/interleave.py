#!/usr/bin/env python3
"""Times moe4's CPU experts and ggml's in turns and writes one JSON with both and their ratios; see README.md here."""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys

SHAPES = {  # hidden, intermediate, experts, top_k
    "qwen3.6-35b-a3b": (2048, 512, 256, 8),
    "qwen3-30b-a3b": (2048, 768, 128, 8),
}


def run_json(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout[done.stdout.index("{"):])


def cpu_name():
    with open("/proc/cpuinfo") as info:
        for line in info:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moe4", default="build/release/bin/moe4")
    parser.add_argument("--peer", required=True, help="the built ggml_moe_layer")
    parser.add_argument("--ggml-commit", required=True)
    parser.add_argument("--preset", choices=SHAPES, default="qwen3.6-35b-a3b")
    parser.add_argument("--tokens", default="1,4,16,64,256,1024")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each program in each round")
    parser.add_argument("--output", help="JSON file; stdout without it")
    args = parser.parse_args()

    rows = []
    for tokens in args.tokens.split(","):
        samples = {}
        for _ in range(args.rounds):
            for kind in ("nvfp4", "q4_0"):
                shape = [str(n) for n in SHAPES[args.preset]]
                row = run_json([args.peer, kind, *shape, tokens, str(args.seconds)])
                samples.setdefault(f"ggml {kind}", []).append(row)
            report = run_json([args.moe4, "bench-moe", "--preset", args.preset, "--tokens", tokens, "--moe-backend", "cpu",
                               "--activations", "bf16,fp4", "--seconds", str(args.seconds), "--json"])
            for row in report["rows"]:
                samples.setdefault("moe4 " + row["activations"].split()[0], []).append(row)
        times = {name: {"median_ms": round(statistics.median(r["median_ms"] for r in runs), 5),
                        "min_ms": min(r["min_ms"] for r in runs)} for name, runs in samples.items()}
        ours = [name for name in times if name.startswith("moe4")]
        peers = [name for name in times if name.startswith("ggml")]
        row = {"tokens": int(tokens), "times": times, "speedups": [
            {"of": mine, "over": peer, **{key: round(times[peer][key] / times[mine][key], 2) for key in times[mine]}}
            for mine in ours for peer in peers]}
        rows.append(row)
        print(json.dumps(row), file=sys.stderr)

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, text=True).stdout.strip()
    result = {"device": cpu_name(), "threads": os.cpu_count(), "commit": commit, "ggml_commit": args.ggml_commit,
              "command": "bench/peers/interleave.py " + " ".join(
                  a if not os.path.isabs(a) else os.path.basename(a) for a in sys.argv[1:]),
              "preset": args.preset, "rounds": args.rounds, "rows": rows}
    text = json.dumps(result, indent=1) + "\n"
    if args.output:
        with open(args.output + ".tmp", "w") as out:
            out.write(text)
        os.replace(args.output + ".tmp", args.output)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
