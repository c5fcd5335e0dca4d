#!/usr/bin/env python3
"""Times MoE layers of published shapes on the GPU of this machine and writes bench/results/GPU-PRESET.json (h200-...).

usage: bench_gpu_layers.py --moe-bench build/gpu/bin/gpu_moe_bench --commit HASH --out bench/results [--shapes NAME,NAME]
         [--tokens 1d,8d,...] [--backend hopper]

Names are those of src/moe/layer_presets.cc. Each shape is a process of its own; one that fails says so and the others go
on. A file that exists keeps its other sections: `layer` is replaced. scripts/make_tables.py writes the table of
docs/benchmarks-gpu.md.
"""
import argparse
import json
import pathlib
import subprocess
import tempfile
import time

SHAPES = "nemotron-3-nano,glm-4.5-air,minimax-m2,gpt-oss-20b,gemma-4-26b-a4b,kimi-k2"
TOKENS = "1d,8d,64d,256d,512p,1024p,2048p,8192p"
KEPT = ("backend", "tokens", "phase", "experts_hit", "bytes", "us", "spread", "sm_mhz", "floor_us", "times_floor", "sustained_us",
        "sustained_times_floor", "gb_per_s", "tflops", "error")


def rounded(value):
    return float(f"{value:.5g}") if isinstance(value, float) else value


def dump(document):
    """As the other files: a line a row."""
    head = json.dumps({key: value for key, value in document.items() if key != "sections"}, indent=1)[:-2]
    sections = []
    for section in document["sections"]:
        facts = json.dumps({key: value for key, value in section.items() if key != "rows"})[:-1]
        rows = ",\n".join("    " + json.dumps(row) for row in section["rows"])
        sections.append(f'  {facts},\n   "rows": [\n{rows}\n   ]}}')
    return head + ',\n "sections": [\n' + ",\n".join(sections) + "\n ]\n}\n"


def measure(args, shape):
    command = ["gpu_moe_bench", shape, args.tokens, args.backend, "0"]
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out.json"
        done = subprocess.run([args.moe_bench, *command[1:], str(out)], capture_output=True, text=True, timeout=args.timeout)
        if done.returncode != 0:
            raise RuntimeError(f"status {done.returncode}: {done.stderr[-2000:]}")
        print(done.stdout, flush=True)
        return " ".join(command), json.loads(out.read_text())


def write(args, shape, command, report):
    of = report["shapes"][0]
    device = report["device"]
    short = device.lower().removeprefix("nvidia ").replace(" ", "-")
    path = pathlib.Path(args.out) / f"{short}-{shape.replace('/', '-')}.json"
    section = {"name": "layer", "commit": args.commit, "command": command}
    section.update({key: report[key] for key in ("bf16_tflops_ceiling", "bf16_sustained_tflops", "bf16_tflops_ceiling_from")
                    if key in report})
    section["rows"] = [{key: rounded(row[key]) for key in KEPT if key in row} for row in report["rows"]]
    document = json.loads(path.read_text()) if path.exists() else {"sections": []}
    others = [s for s in document["sections"] if s["name"] != "layer"]
    document.update(device=device, preset=of["preset"], weights=of["weights"], activation=of["activation"],
                    gpu_layer={key: of[key] for key in ("hidden_size", "intermediate_size", "num_experts", "top_k")})
    document["sections"] = [section, *others]
    path.write_text(dump(document))
    print(f"wrote {path.name}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moe-bench", required=True)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--shapes", default=SHAPES)
    parser.add_argument("--tokens", default=TOKENS)
    parser.add_argument("--backend", default="hopper")
    parser.add_argument("--timeout", type=float, default=120, help="seconds a shape")
    args = parser.parse_args()
    args.moe_bench = str(pathlib.Path(args.moe_bench).resolve())
    failed = []
    for shape in args.shapes.split(","):
        begin = time.time()
        try:
            write(args, shape, *measure(args, shape))
        except (RuntimeError, subprocess.SubprocessError, OSError, ValueError, LookupError) as error:
            print(f"{shape} failed: {error}", flush=True)
            failed.append(shape)
        print(f"[{time.strftime('%H:%M:%S')}] {shape}: {time.time() - begin:.0f} s", flush=True)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
