#!/usr/bin/env python3
"""Fills the tables of README.md from bench/results/*.json, between <!-- table:NAME --> and <!-- end -->.

NAME is the file's stem. What a file holds decides its table: `moe4 bench --json`, `moe4 bench-moe --json`, or the
GPU benchmark's report. A table without its file says so instead of keeping stale numbers.
Usage: scripts/make_readme_tables.py [--check]   (--check: exit 1 when README.md is not up to date)
"""
import json
import math
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def markdown(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def rate(entry):
    return f"{entry['tokens_per_second']:.0f} ± {entry['deviation']:.0f}" if entry else "-"


def model_table(report):
    """`moe4 bench --json`: speed and perplexity per backend and activation mode."""
    rows = []
    for r in report["results"]:
        gbs = r["gb_per_token"] * r.get("generation", {}).get("tokens_per_second", 0)
        rows.append([r["backend"], r["activations"], rate(r.get("prompt")), rate(r.get("generation")),
                     f"{r['gb_per_token']:.5f}", f"{gbs:.2f}",
                     f"{r['perplexity']:.3f}" if "perplexity" in r else "-"])
    header = ["backend", "activations", "prompt tok/s", "generation tok/s", "GB/token", "GB/s", "perplexity"]
    note = f"{report['threads']} threads, {report['dtype']}, memory reads at {report['memory_read_gbs']:.1f} GB/s"
    return f"{note}\n\n{markdown(header, rows)}"


def layer_table(report):
    """`moe4 bench-moe --json`: one layer on the CPU against the ceilings of the same run."""
    ceilings = report["ceilings"]
    rows = []
    for r in report["rows"]:
        if "rejected" in r:
            continue
        reads = r.get("dram_read_gbs", ceilings["dram_read_gbs"])  # measured just before and after the row
        # Both modes multiply int8; a 16-bit input is two of them (docs/cpu-kernels.md).
        peak = ceilings["int8_gops"] / (2 if r["activations"] == "bf16" else 1)
        rows.append([r["backend"], r["activations"], r["tokens"], f"{r['median_ms']:.3f}", f"{r['min_ms']:.3f}",
                     f"{r['weight_gbs']:.1f}", f"{100 * r['weight_gbs'] / reads:.0f}%",
                     f"{r['gops']:.0f}", f"{100 * r['gops'] / peak:.0f}%", f"{r['median_over_roof2']:.2f}",
                     f"{r['relative_error']:.1e}"])
    header = ["backend", "activations", "tokens", "median ms", "min ms", "GB/s", "of memory reads", "GOP/s",
              "of peak", "time / roof", "error"]
    note = (f"H {report['hidden_size']}, I {report['intermediate_size']}, {report['num_experts']} experts, top "
            f"{report['top_k']}; {ceilings['threads']} threads, {ceilings['isa']}; memory reads at "
            f"{ceilings['dram_read_gbs']:.1f} GB/s; peaks in GOP/s: int8 {ceilings['int8_gops']:.0f} (16-bit inputs take two "
            f"products: half of it), int16 {ceilings['int16_gops']:.0f}, FMA {ceilings['fma_gops']:.0f}")
    return f"{note}\n\n{markdown(header, rows)}"


def layers_table(report):
    """Several layers of one machine and commit, as bench/ writes them."""
    head = f"{report['device']}, commit {report['commit']}, weights {'cold' if report['cold'] else 'warm'}"
    return "\n\n".join([head] + [layer_table(layer) for layer in report["layers"]])


def versions_table(report):
    """bench/model/compare_versions.py: whole checkpoints with two builds in turns, and loading."""
    rows = []
    for m in report["models"]:
        for name in ("before", "after"):
            r = m[name]
            rows.append([m["model"], report[f"{name}_commit"], f"{r['prompt']:.0f}", f"{r['generation']:.1f}",
                         f"{r['gb_per_token']:.4f}", f"{r['generation_gbs']:.1f}", f"{100 * r['memory_share']:.0f}%"])
    header = ["checkpoint", "commit", "prompt tok/s", "generation tok/s", "GB/token", "GB/s", "of memory reads"]
    loads = [[m["model"], f"{m['load']['file_bytes'] * 1e-9:.3f}", f"{m['load']['seconds']:.2f}", f"{m['load']['gbs']:.2f}",
              " and ".join(f"{gbs:.2f}" for gbs in m["load"]["plain_read_gbs"]), f"{m['load']['peak_over_file']:.3f}"]
             for m in report["models"] if "load" in m and m["load"]["file_bytes"] > 1e9]
    load_header = ["loading", "file GB", "seconds", "GB/s", "plain read before and after, GB/s", "peak memory / file"]
    return (f"{report['device']}, {report['models'][0]['after']['threads']} threads; medians of {report['rounds']} rounds in "
            f"turns\n\n{markdown(header, rows)}\n\n{markdown(load_header, loads)}")


def clock(row):
    """SM clock while the row was timed; older files do not know it."""
    return f"{row['sm_mhz']:.0f}" if "sm_mhz" in row else "-"


SUSTAINED = ["sustained us", "x sustained floor"]


def sustained(row):
    """After a quarter of a second at the power limit, and beside a ceiling in the same state, unless that was given."""
    return [f"{row['sustained_us']:.1f}", f"{row['sustained_times_floor']:.2f}" if "sustained_times_floor" in row else "-"]


def geometric_mean(ratios):
    return math.prod(ratios) ** (1 / len(ratios))


def gpu_table(report):
    """The GPU benchmark: microseconds per layer against the floor of the same run."""
    rows = [[r["shape"], r["backend"], r["tokens"], f"{r['us']:.1f}", f"{r['floor_us']:.1f}",
             f"{r['times_floor']:.2f}", f"{r['gb_per_s']:.0f}", f"{r['tflops']:.0f}", clock(r),
             f"{r['error']:.1e}", *sustained(r)]
            for r in report["rows"]]
    header = ["shape", "backend", "tokens", "us", "floor us", "x floor", "GB/s", "TFLOP/s", "SM MHz", "error", *SUSTAINED]
    return f"{report['device']}\n\n{markdown(header, rows)}"


def peers_table(report):
    """bench/peers/interleave.py: moe4 and ggml in turns, one layer on the CPU."""
    rows = []
    for r in report["rows"]:
        for mine in [name for name in r["times"] if name.startswith("moe4")]:
            peers = [name for name in r["times"] if name.startswith("ggml")]
            ratios = {s["over"]: s["median_ms"] for s in r["speedups"] if s["of"] == mine}
            rows.append([r["tokens"], mine.removeprefix("moe4 "), f"{r['times'][mine]['median_ms']:.2f}"] +
                        [f"{r['times'][peer]['median_ms']:.2f} ({ratios[peer]:.1f} x)" for peer in peers])
    header = ["tokens", "activations", "moe4 ms"] + [f"{peer} ms" for peer in peers]
    note = f"{report['preset']}, {report['device']}, {report['threads']} threads, commit {report['commit']}, ggml {report['ggml_commit']}"
    return f"{note}\n\n{markdown(header, rows)}"


def gpu_peers_table(peers):
    """What the selector runs on SM90 (hopper, below its recorded batch sizes the mma.sync path it shares with marlin)
    beside the W4A16 layers of other projects, measured with the same method on the same kind of GPU."""
    ours = {}
    for name in ("h200_hopper_ab", "h200_hopper_c"):
        report = json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text())
        ours.update({(r["shape"], r["tokens"]): {**r, "commit": report["commit"]} for r in report["rows"]})
    rows, over_marlin, over_best, sustained_over_marlin, sustained_over_best = [], [], [], [], []
    for r in peers["rows"]:
        mine = ours.get((r["shape"], r["tokens"]))
        if not mine:
            continue
        best = min(r["us"], key=r["us"].get)
        over_marlin.append(r["us"]["Marlin"] / mine["us"])
        over_best.append(r["us"][best] / mine["us"])
        sustained_over_marlin.append(r["us"]["Marlin"] / mine["sustained_us"])
        sustained_over_best.append(r["us"][best] / mine["sustained_us"])
        rows.append([r["shape"], r["tokens"], mine["backend"], f"{mine['us']:.1f}", f"{mine['times_floor']:.2f}",
                     f"{mine['gb_per_s']:.0f}", f"{mine['tflops']:.0f}", f"{mine['error']:.4f}", *sustained(mine),
                     f"{r['us']['Marlin']:.1f} ({over_marlin[-1]:.1f} x)", f"{best} {r['us'][best]:.1f} ({over_best[-1]:.1f} x)"])
    header = ["shape", "tokens", "backend", "us", "x floor", "GB/s", "TFLOP/s", "error", *SUSTAINED, "vLLM Marlin us", "fastest other us"]
    note = (f"{peers['peers_on']}; geometric mean over {len(rows)} rows: {geometric_mean(over_marlin):.2f} x vLLM's Marlin, "
            f"{geometric_mean(over_best):.2f} x the fastest other; least: {min(over_best):.2f} x. With our sustained times against theirs as they are: "
            f"{geometric_mean(sustained_over_marlin):.2f} x, {geometric_mean(sustained_over_best):.2f} x and {min(sustained_over_best):.2f} x")
    return f"{note}\n\n{markdown(header, rows)}"


def table_of(name):
    path = ROOT / "bench" / "results" / f"{name}.json"
    if not path.exists():
        return "Not measured yet."
    report = json.loads(path.read_text())
    if "peers_on" in report:
        return gpu_peers_table(report)
    if "ggml_commit" in report:
        return peers_table(report)
    if "results" in report:
        return model_table(report)
    if "models" in report:
        return versions_table(report)
    if "layers" in report:
        return layers_table(report)
    if "ceilings" in report:
        return layer_table(report)
    return gpu_table(report)


readme = ROOT / "README.md"
old = readme.read_text()
new = re.sub(r"(<!-- table:([\w.-]+) -->\n).*?(<!-- end -->)",
             lambda m: f"{m[1]}{table_of(m[2])}\n{m[3]}", old, flags=re.S)
if "--check" in sys.argv[1:]:
    sys.exit("README.md is not up to date: run scripts/make_readme_tables.py" if new != old else 0)
readme.write_text(new)
