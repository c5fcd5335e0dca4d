#!/usr/bin/env python3
"""The table of docs/models.md that says how much memory the published models take: from `plan --json` on headers of full size.

    memory_table.py PROGRAM [--only NAME]...             writes docs/models.md, or prints the rows of those named
    memory_table.py PROGRAM --check [--only NAME]...     compares them with docs/models.md

A row is a checkpoint of family_tables.py. Whether it fits on one H200 is the program's own word; how many tokens fit is
arithmetic on its figures: weights and caches divided evenly, the rest on each. Checkpoints with the same figures share a
row.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from family_tables import checkpoints  # noqa: E402
from make_family_folders import write_headers  # noqa: E402

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs/models.md"
BEGIN, END = "<!-- memory plans -->", "<!-- end -->"
GPU_BYTES, USED = 141 * 10**9, 0.9  # an H200, and --gpu-memory-utilization where it is not given
PAGE = 64  # tokens
# Keys and values a token in 16 bits by hand, from the published sizes: layers x (key and value heads x widths, or a latent and its
# rotated key, and the indexer's keys) x 2 bytes. Layers with windows count, since they keep their pages.
BY_HAND = {
    "deepseek-v3-0324-nvfp4": 61 * (512 + 64) * 2, "deepseek-v3.2-nvfp4": 61 * (512 + 64 + 128) * 2,
    "kimi-k2-nvfp4": 61 * (512 + 64) * 2, "glm-5-nvfp4": 78 * (512 + 64 + 128) * 2,
    "glm-4.7-flash-nvfp4": 47 * (512 + 64) * 2, "mistral-small-4-119b-nvfp4": 36 * (256 + 64) * 2,
    "glm-4.6-nvfp4": 92 * 2 * 8 * 128 * 2, "glm-4.5-air-nvfp4": 46 * 2 * 8 * 128 * 2,
    "gpt-oss-20b": 24 * 2 * 8 * 64 * 2, "gpt-oss-120b": 36 * 2 * 8 * 64 * 2, "nemotron-3-nano-nvfp4": 6 * 2 * 2 * 128 * 2,
    "minimax-m2-nvfp4": 62 * 2 * 8 * 128 * 2, "mixtral-8x7b-nvfp4": 32 * 2 * 8 * 128 * 2, "hy3-nvfp4": 80 * 2 * 8 * 128 * 2,
    "gemma-4-26b-a4b-nvfp4": (25 * 2 * 8 * 256 + 5 * 2 * 2 * 512) * 2, "qwen3-next-80b-a3b-nvfp4": 12 * 2 * 2 * 256 * 2}
HEADER = ["checkpoint", "weights GB", "of that experts", "KV bytes a token", "state MB a sequence", "beside them GB", "1 H200",
          "2", "4", "8"]


def plan_of(program, folder, *flags):
    """`memory` of a plan for an H200."""
    command = [program, "plan", folder, "--device", "sm_90", "--json", *flags]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return json.loads(run.stdout)["memory"] if run.stdout.strip() else None


def tokens(number):
    return f"{number / 1e6:.1f} M" if number >= 10**6 else f"{number / 1e3:.0f} k"


def on_one(plan, planned):
    """Tokens in the caches, or the layers whose experts the CPU must have; `planned`: with the GPU's memory."""
    if "error" not in planned:
        return on_several(plan, 1)
    if "--cpu-moe" in planned["error"]:
        return "`--cpu-moe " + planned["error"].split("--cpu-moe ")[1].split()[0] + "`"
    return "-"


def on_several(plan, gpus):
    """Tokens in the caches of so many GPUs, if all is divided evenly."""
    beside = plan["workspace"] + plan["buffers"] + plan["graphs"]
    left = gpus * (int(GPU_BYTES * USED) - beside) - plan["weights"] - plan["bytes_per_state"]
    pages = left // plan["bytes_per_page"]
    return tokens(pages * PAGE) if pages > 0 else "-"


def row_of(program, entry):
    with tempfile.TemporaryDirectory() as folder:
        write_headers(entry, entry["expected"]["num_layers"], folder)
        plan = plan_of(program, folder, "--max-num-seqs", "1")
        if plan is None or "error" in plan:
            raise ValueError(f"{entry['id']}: no memory plan: {plan}")
        one = plan_of(program, folder, "--max-num-seqs", "1", "--max-model-len", "4096", "--gpu-memory", f"{GPU_BYTES // 10**9}GB")
    by_hand = BY_HAND.get(entry["id"])
    if by_hand is not None and plan["bytes_per_page"] != by_hand * PAGE:
        raise ValueError(f"{entry['id']}: {plan['bytes_per_page'] // PAGE} bytes a token, by hand {by_hand}")
    state = plan["bytes_per_state"]
    beside = plan["workspace"] + plan["buffers"] + plan["graphs"]
    cells = [f"{plan['weights'] / 1e9:.1f}", f"{sum(plan['expert_bytes']) / 1e9:.1f}", f"{plan['bytes_per_page'] // PAGE}",
             f"{state / 1e6:.1f}" if state else "", f"{beside / 1e9:.1f}", on_one(plan, one)]
    return cells + [on_several(plan, gpus) for gpus in (2, 4, 8)]


def rows_of(program, only):
    """Cells of a row -> checkpoints."""
    rows = {}
    for entry in checkpoints():
        if entry["expected"]["runs"] and (not only or entry["id"] in only):
            rows.setdefault(tuple(row_of(program, entry)), []).append(entry["id"])
    return rows


def table(rows):
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    lines += ["| " + " | ".join([", ".join(names), *cells]) + " |" for cells, names in rows.items()]
    return "\n".join(lines)


def missing_rows(rows, text):
    """Checkpoints whose row is not in the document."""
    written = {}
    for line in text.split(BEGIN)[1].split(END)[0].splitlines():
        names, *cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        written |= dict.fromkeys(names.split(", "), tuple(cells))
    for cells, names in rows.items():
        for name in names:
            if written.get(name) != cells:
                yield f"{name}: {DOCS.name} has {written.get(name)}, the program says {cells}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--check", action="store_true")
    flags = parser.parse_args()
    text = DOCS.read_text(encoding="utf-8")
    rows = rows_of(flags.program, flags.only)
    if not rows:
        parser.error("no such checkpoint")
    if flags.check:
        wrong = list(missing_rows(rows, text))
        print("\n".join(wrong + [f"{sum(map(len, rows.values()))} checkpoints, {len(wrong)} wrong"]))
        return 1 if wrong else 0
    if flags.only:
        print(table(rows))
        return 0
    before, rest = text.split(BEGIN)
    DOCS.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
