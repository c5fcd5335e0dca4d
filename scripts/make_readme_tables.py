#!/usr/bin/env python3
"""Fills the tables of README.md from bench/results/*.json, between <!-- table:NAME --> and <!-- end -->.

NAME is the file's stem. What a file holds decides its table: `moe4 bench --json`, `moe4 bench-moe --json`, or the
GPU benchmark's report. A table without its file says so instead of keeping stale numbers.
Usage: scripts/make_readme_tables.py [--check]   (--check: exit 1 when README.md is not up to date)
"""
import json
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
        rows.append([r["backend"], r["activations"], r["tokens"], f"{r['median_ms']:.3f}", f"{r['min_ms']:.3f}",
                     f"{r['weight_gbs']:.1f}", f"{100 * r['weight_gbs'] / reads:.0f}%",
                     f"{r['gops']:.0f}", f"{r['median_over_roof2']:.2f}", f"{r['relative_error']:.1e}"])
    header = ["backend", "activations", "tokens", "median ms", "min ms", "GB/s", "of memory reads", "GOP/s",
              "time / roof", "error"]
    note = (f"H {report['hidden_size']}, I {report['intermediate_size']}, {report['num_experts']} experts, top "
            f"{report['top_k']}; {ceilings['threads']} threads, {ceilings['isa']}; memory reads at "
            f"{ceilings['dram_read_gbs']:.1f} GB/s")
    return f"{note}\n\n{markdown(header, rows)}"


def layers_table(report):
    """Several layers of one machine and commit, as bench/ writes them."""
    head = f"{report['device']}, commit {report['commit']}, weights {'cold' if report['cold'] else 'warm'}"
    return "\n\n".join([head] + [layer_table(layer) for layer in report["layers"]])


def gpu_table(report):
    """The GPU benchmark: microseconds per layer against the floor of the same run."""
    rows = [[r["shape"], r["backend"], r["tokens"], f"{r['us']:.1f}", f"{r['floor_us']:.1f}",
             f"{r['times_floor']:.2f}", f"{r['gb_per_s']:.0f}", f"{r['tflops']:.0f}", f"{r['error']:.1e}"]
            for r in report["rows"]]
    header = ["shape", "backend", "tokens", "us", "floor us", "x floor", "GB/s", "TFLOP/s", "error"]
    return f"{report['device']}\n\n{markdown(header, rows)}"


def table_of(name):
    path = ROOT / "bench" / "results" / f"{name}.json"
    if not path.exists():
        return "Not measured yet."
    report = json.loads(path.read_text())
    if "results" in report:
        return model_table(report)
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
