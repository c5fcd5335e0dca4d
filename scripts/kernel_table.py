#!/usr/bin/env python3
"""Where the time of a step goes: a table of kernels out of bench/kernel_times.cc's file.

usage: kernel_table.py TIMES.csv [--last choose_kernel] [--steps 20]

A step ends with the kernel whose name holds --last. Takes the median step (by length) of the last --steps ones. Kernels
that overlap their predecessor are counted from when that ended, so that the column adds up to the step.
"""
import argparse
import re
import subprocess


def short(names):
    plain = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True).stdout.splitlines()
    result = {}
    for name, text in zip(names, plain):
        text = re.sub(r"^void ", "", text)
        text = re.sub(r"\(anonymous namespace\)::|moe4::|cuda::", "", text)
        result[name] = text.split("(")[0][:70]
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("times")
    parser.add_argument("--last", default="choose_kernel")
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    rows = []
    for line in open(args.times):
        begin, end, name = line.rstrip("\n").split(";", 2)
        rows.append((int(begin), int(end), name))
    rows.sort()
    steps, step = [], []
    for row in rows:
        step.append(row)
        if args.last in row[2]:
            steps.append(step)
            step = []
    steps = steps[-args.steps - 1:]
    lengths = [(this[-1][1] - before[-1][1], i + 1) for i, (before, this) in enumerate(zip(steps, steps[1:]))]
    lengths.sort()
    length, index = lengths[len(lengths) // 2]
    step, at = steps[index], steps[index - 1][-1][1]
    names = short(sorted({row[2] for row in step}))
    table = {}
    for begin, end, name in step:
        gap = max(begin - at, 0)
        own = max(end - max(begin, at), 0)
        entry = table.setdefault(names[name], [0, 0, 0, 0])
        entry[0] += 1
        entry[1] += own
        entry[2] += end - begin
        entry[3] += gap
        at = max(at, end)
    print(f"step of {length / 1e3:.1f} us, {len(step)} kernels\n")
    print("| kernel | launches | us of the step | of them waiting before it | us from begin to end, each |\n|---|---|---|---|---|")
    for name, (count, own, whole, gap) in sorted(table.items(), key=lambda item: -item[1][1] - item[1][3]):
        print(f"| {name} | {count} | {(own + gap) / 1e3:.1f} | {gap / 1e3:.1f} | {whole / count / 1e3:.2f} |")
    total = sum(own + gap for _, own, _, gap in table.values())
    print(f"| all | {len(step)} | {total / 1e3:.1f} | | |")


if __name__ == "__main__":
    main()
