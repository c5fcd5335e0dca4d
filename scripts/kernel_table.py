#!/usr/bin/env python3
"""Where the time of a step goes: a table of kernels out of bench/kernel_times.cc's file.

usage: kernel_table.py TIMES.csv [--last choose_kernel] [--steps 20] [--plan PLAN.json --seqs S --context C --gbs G] [--json]

A step ends with the kernel whose name holds --last. Takes the median step (by length) of the last --steps ones. Kernels
that overlap their predecessor are counted from when that ended, so that the column adds up to the step.

With a plan (`moe4 plan MODEL --device sm_90 --json`) rows are grouped by op, and the kernel of an op that takes longest
has the bytes that the op must move in a step of S generated tokens with C tokens of context each: weights, the experts
that S tokens of a uniform router hit, states read and written, keys and values, logits. The floor is those bytes at
--gbs gigabytes a second, as measured in the same visit. --json prints what scripts/make_tables.py reads.
"""
import argparse
import json
import pathlib
import re
import subprocess

SOURCES = pathlib.Path(__file__).resolve().parent.parent / "src"
# Folders of src/ops whose kernels are not named after an op of the plan.
SHARED = {"cuda": "shared"}


def demangled(names):
    plain = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True).stdout.splitlines()
    return dict(zip(names, plain))


def short(text):
    text = re.sub(r"^void ", "", text)
    text = re.sub(r"\(anonymous namespace\)::|moe4::|cuda::", "", text)
    return text.split("(")[0][:70]


def op_of(name, text, expected=()):
    """The folder below src/ops that a kernel comes from: mangled names hold the file's; the ops that the plan expects, then
    arguments, tell equal ones apart (ssm and delta_net both have a decode_kernel in decode.cu)."""
    found = re.search(r"_GLOBAL__N__[0-9a-f]+_\d+_(\w+?)_cu_", name)
    kernel = re.search(r"(\w+)(?:<|\()", short(text) + "(").group(1)
    files = list(SOURCES.rglob(f"{found.group(1)}.cu")) if found else []
    files = files or [f for f in SOURCES.rglob("*.cu*") if re.search(rf"\b{kernel}\(", f.read_text())]
    words = set(re.findall(r"\b[A-Z]\w+", text.split("(", 1)[-1])) - {"T"}
    def score(file):
        around = "".join(f.read_text() for f in file.parent.glob("*.[ch]*"))
        parts = file.relative_to(SOURCES).parts
        folder = SHARED.get(parts[1], parts[1]) if parts[0] == "ops" else ""
        return (bool(re.search(rf"\b{kernel}\b", file.read_text())), not expected or folder in expected,
                sum(word in around for word in words))
    if not files:
        return "other"
    best = max(files, key=score).relative_to(SOURCES).parts
    if best[0] != "ops":
        return "other"
    return SHARED.get(best[1], best[1])


def bytes_of_step(plan, seqs, context):
    """What ops must move: {folder of the op: bytes}."""
    moved = {}
    def add(op, count):
        moved[op] = moved.get(op, 0) + count
    folders = {"linear_group": "linear", "add_norm": "norm", "paged_attention": "attention", "shared_expert": "experts"}
    for group in plan["ops"]:
        # One kernel has the norm in front of it, the router and the choice of experts.
        fused = [i for i, op in enumerate(group["ops"]) if op["op"] == "norm_route" and op["implementation"] != "composed"]
        for i, op in enumerate(group["ops"]):
            weights = op["weight_bytes"] * len(group.get("layers", [0]))
            if op["op"] == "embed":
                continue  # a row a token
            part = fused and (i + 1 in fused or op["role"] in ("router", "route"))
            add("norm_route" if part else folders.get(op["op"], op["op"]), weights)
    expert_bytes = iter(plan["memory"].get("expert_bytes", []))
    for group in plan["groups"]:
        share = 1 - (1 - group["top_k"] / group["num_experts"]) ** seqs
        for _ in group["layers"]:
            add("experts", next(expert_bytes) * share)
    memory = plan["memory"]
    if memory["bytes_per_state"] > 0:
        recurrent = "ssm" if "ssm" in moved else "delta_net"
        # Read every token. Mamba-2 writes it every token, a delta net's ring folds into it every 8th.
        add(recurrent, (2 if recurrent == "ssm" else 9 / 8) * seqs * memory["bytes_per_state"])
    attention = "latent_attention" if "latent_attention" in moved else "attention"
    add(attention, seqs * context * memory["bytes_per_page"] / 64)
    add("sample", seqs * plan["vocab_size"] * 4)
    return moved


def median_step(path, last, count):
    rows = []
    for line in open(path):
        begin, end, name = line.rstrip("\n").split(";", 2)
        rows.append((int(begin), int(end), name))
    rows.sort()
    steps, step = [], []
    for row in rows:
        step.append(row)
        if last in row[2]:
            steps.append(step)
            step = []
    steps = steps[-count - 1:]
    lengths = sorted((this[-1][1] - before[-1][1], i + 1) for i, (before, this) in enumerate(zip(steps, steps[1:])))
    length, index = lengths[len(lengths) // 2]
    return length, steps[index], steps[index - 1][-1][1]


def rows_of(step, at, expected=()):
    text = demangled(sorted({row[2] for row in step}))
    table = {}
    for begin, end, name in step:
        gap = max(begin - at, 0)
        own = max(end - max(begin, at), 0)
        entry = table.setdefault(short(text[name]), {"name": name, "launches": 0, "own": 0, "whole": 0, "gap": 0})
        entry["launches"] += 1
        entry["own"] += own
        entry["whole"] += end - begin
        entry["gap"] += gap
        at = max(at, end)
    return [{"kernel": kernel, "op": op_of(e["name"], text[e["name"]], expected), "launches": e["launches"],
             "us": (e["own"] + e["gap"]) / 1e3, "waiting_us": e["gap"] / 1e3, "each_us": e["whole"] / e["launches"] / 1e3}
            for kernel, e in table.items()]


def with_bytes(rows, moved, gbs):
    """Grouped by op, the longest op first; its bytes stand at its longest kernel."""
    if "norm_route" in moved and "norm_route" not in {row["op"] for row in rows}:
        # More sequences than one kernel takes: a norm, a linear and a choice, nearly all bytes the linear's.
        moved["linear"] = moved.get("linear", 0) + moved.pop("norm_route")
    time = {}
    for row in rows:
        time[row["op"]] = time.get(row["op"], 0) + row["us"]
    rows.sort(key=lambda row: (-time[row["op"]], row["op"], -row["us"]))
    seen = set()
    for row in rows:
        if row["op"] in seen or row["op"] not in moved:
            continue
        seen.add(row["op"])
        row["bytes"] = round(moved[row["op"]])
        row["floor_us"] = moved[row["op"]] / gbs / 1e3
    missing = set(moved) - seen
    if any(moved[op] > 0 for op in missing):
        named = ", ".join(sorted(op for op in missing if moved[op] > 0))
        raise SystemExit(f"no kernel of this step belongs to: {named}")


def print_table(length, rows, has_bytes):
    print(f"step of {length / 1e3:.1f} us, {sum(row['launches'] for row in rows)} kernels\n")
    header = ["kernel", "launches", "us of the step", "of them waiting before it", "us from begin to end, each"]
    if has_bytes:
        header = ["op", *header, "MB", "floor us"]
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    def line(cells):
        print("| " + " | ".join(cells) + " |")
    for row in rows:
        cells = [row["kernel"], str(row["launches"]), f"{row['us']:.1f}", f"{row['waiting_us']:.1f}", f"{row['each_us']:.2f}"]
        if has_bytes:
            cells = [row["op"], *cells]
            cells += [f"{row['bytes'] * 1e-6:.1f}", f"{row['floor_us']:.1f}"] if "bytes" in row else ["", ""]
        line(cells)
    cells = ["all", str(sum(row["launches"] for row in rows)), f"{sum(row['us'] for row in rows):.1f}", "", ""]
    if has_bytes:
        cells = ["", *cells, f"{sum(row.get('bytes', 0) for row in rows) * 1e-6:.1f}",
                 f"{sum(row.get('floor_us', 0) for row in rows):.1f}"]
    line(cells)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("times")
    parser.add_argument("--last", default="choose_kernel")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--plan")
    parser.add_argument("--seqs", type=int)
    parser.add_argument("--context", type=int)
    parser.add_argument("--gbs", type=float)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.plan and None in (args.seqs, args.context, args.gbs):
        parser.error("--plan needs --seqs, --context and --gbs")
    length, step, at = median_step(args.times, args.last, args.steps)
    plan = json.loads(pathlib.Path(args.plan).read_text()) if args.plan else None
    moved = bytes_of_step(plan, args.seqs, args.context) if plan else {}
    rows = rows_of(step, at, set(moved) | set(SHARED.values()) if plan else ())
    if plan:
        with_bytes(rows, moved, args.gbs)
    else:
        rows.sort(key=lambda row: -row["us"])
    if args.json:
        print(json.dumps({"seqs": args.seqs, "context": args.context, "gbs": args.gbs, "step_us": length / 1e3,
                          "kernels": rows}, indent=1))
    else:
        print_table(length, rows, args.plan is not None)


if __name__ == "__main__":
    main()
