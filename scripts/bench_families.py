"""Models that `moe4 synth` has no preset for: how their folders are made, and what a token of theirs must read at least.

A folder is made of the tables of make_family_folders.py by `moe4 synth --headers`, of the published sizes, cut to so many
layers as a disk of 64 GB holds. Of bench_gpu_model.py.
"""
import json
import shutil

from family_tables import checkpoints, text_layers
from kernel_table import bytes_of_step
from make_family_folders import write_headers

# Preset: the entry of family_tables.py, and the layers that are kept (None: all).
FAMILIES = {"gpt-oss-20b": ("gpt-oss-20b", None),
            "nemotron-3-nano": ("nemotron-3-nano-nvfp4", None),
            "glm-4.7-flash": ("glm-4.7-flash-nvfp4", None),
            "gemma-4-26b-a4b": ("gemma-4-26b-a4b-nvfp4", None),
            "mistral-small-4": ("mistral-small-4-119b-nvfp4", 20),
            "deepseek-v3": ("deepseek-v3-0324-nvfp4", 8)}
DEPTH, GENERATED, SEQS = 1024, 64, (1, 32)
OPTIONS = f"-p 2048 -n {GENERATED} -d {DEPTH} -r 2 --requests {SEQS[1]}"


def entry_of(preset):
    name, layers = FAMILIES[preset]
    entry = next(entry for entry in checkpoints() if entry["id"] == name)
    return entry, layers or text_layers(entry["text"])


def layers_note(preset):
    """"8 of 61 layers", or "all 24 layers"."""
    entry, layers = entry_of(preset)
    total = text_layers(entry["text"])
    return f"all {total} layers" if layers == total else f"{layers} of {total} layers"


def make(machine, preset):
    """The filled folder, and the command lines that made it."""
    entry, layers = entry_of(preset)
    headers = machine.work / f"{preset}-headers"
    write_headers(entry, layers, headers)
    command = f"moe4 synth {preset} --headers {preset}-headers"
    machine.run(command)
    return f"scripts/make_family_folders.py . --only {entry['id']} --layers {layers}; {command}"


def read_share(text, layers, context):
    """Of the keys and values of `context` tokens in all layers, the part that attention reads: windows end it."""
    window, kinds = text.get("sliding_window"), text.get("layer_types")
    if not window or not kinds:
        return 1.0
    read = kept = 0
    for kind in kinds[:layers]:
        is_full = kind == "full_attention"
        heads = is_full and text.get("num_global_key_value_heads") or text["num_key_value_heads"]
        size = heads * (is_full and text.get("global_head_dim") or text["head_dim"])
        kept += size * context
        read += size * (context if is_full else min(context, window))
    return read / kept


def least_bytes(plan, preset, seqs):
    """What a step of `seqs` sequences must move: weights once, the experts hit, states, and keys and values."""
    entry, layers = entry_of(preset)
    context = DEPTH + GENERATED // 2
    moved = bytes_of_step(plan, seqs, context)
    for op in ("attention", "latent_attention"):
        cached = seqs * context * plan["memory"]["bytes_per_page"] / 64
        if op in moved and moved[op] >= cached:
            moved[op] -= cached * (1 - read_share(entry["text"], layers, context))
            break
    return moved


def limit_of(plan, preset, seqs, tokens_per_second, gbs):
    moved = least_bytes(plan, preset, seqs)
    total = sum(moved.values())
    limit = seqs * gbs * 1e9 / total
    return {"seqs": seqs, "tokens_per_second": tokens_per_second, "gb_a_step": total * 1e-9,
            "gb_of_ops": {op: count * 1e-9 for op, count in moved.items()}, "limit_tokens_per_second": limit,
            "share_of_limit": tokens_per_second / limit}


def remove(machine, preset):
    for name in (preset, f"{preset}.partial", f"{preset}-headers"):
        shutil.rmtree(machine.work / name, ignore_errors=True)


def measure_family(machine, preset):
    """Makes, runs, writes and removes one model; throws what its commands throw."""
    remove(machine, preset)
    gbs = machine.read_gbs()
    try:
        synthetic = make(machine, preset)
        plan = json.loads(machine.run(f"moe4 plan {preset} --device cuda --json"))
        run = machine.bench(preset, OPTIONS)
        result = run["report"]["results"][0]
        speeds = {1: result["generation"]["tokens_per_second"]}
        speeds.update({row["requests"]: row["tokens_per_second"] for row in result["together"]})
        limits = [limit_of(plan, preset, seqs, speeds[seqs], gbs) for seqs in SEQS]
        for limit in limits:
            machine.say(f"  {limit['seqs']}: {100 * limit['share_of_limit']:.0f} % of {limit['limit_tokens_per_second']:.0f} tok/s")
        machine.write("model", preset, synthetic,
                      {"preset": preset, "of": layers_note(preset), "read_gbs": gbs, "family_run": run, "limits": limits})
    finally:
        remove(machine, preset)
