#!/usr/bin/env python3
"""Checkpoint folders without weights for every family of family_tables.py, and what a plan of them must say.

    make_family_folders.py OUT [--only NAME] [--full | --layers N]     writes OUT/{metadata,headers}/NAME and OUT/expected.json
    make_family_folders.py --check PROGRAM [--only NAME] [--full | --layers N]
                          writes each to a temporary folder, runs `PROGRAM plan --json` and `inspect --json` on it, compares

metadata/NAME has config.json and quantisation metadata only; headers/NAME also a model.safetensors that ends after its
header, with all tensors: `moe4 synth --headers` fills it. Headers are cut to a few first layers, with --layers to so many,
with --full not at all; the metadata always has all of them. --only takes all whose names contain NAME.
"""

import argparse
import json
import math
import os
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from family_tables import checkpoints, text_layers  # noqa: E402
from family_tensors import Tensors, decoder  # noqa: E402

BYTES = {"BF16": 2, "F32": 4, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E8M0": 1, "I64": 8}


def cut_text(text, layers):
    """The text configuration with its first `layers` layers; lists keep what draft layers add."""
    full = text_layers(text)
    drafts = text.get("num_nextn_predict_layers") or 0

    def cut(values):
        is_list = lambda value: isinstance(value, list) and len(value) in (full, full + drafts)
        return {key: value[:layers] + value[full:] if is_list(value) else value for key, value in values.items()}

    out = cut(text)
    if "sparse_attention_config" in text:
        out["sparse_attention_config"] = cut(text["sparse_attention_config"])
    if "num_hidden_layers" in text:
        out["num_hidden_layers"] = layers
    if "hybrid_override_pattern" in text:
        whole = text["hybrid_override_pattern"]
        while len(whole.replace("|", "")) > layers:
            whole = whole[:-1]
        out["hybrid_override_pattern"] = whole.rstrip("|")
    if "moe_layers" in text:
        out["moe_layers"] = [i for i in text["moe_layers"] if i < layers]
    if "moe_layers_enum" in text:
        out["moe_layers_enum"] = ",".join(i for i in text["moe_layers_enum"].split(",") if int(i) < layers)
    if "moe_layer_end_index" in text:
        out["moe_layer_end_index"] = layers - 1
    return out


def config_of(entry, text):
    text = {key: value for key, value in text.items() if key != "model_type" or value is not None}
    if entry["inner_quant"]:
        text["quantization_config"] = entry["inner_quant"]
    if entry["wrapper"]:
        config = {"architectures": [entry["architecture"]], "model_type": entry["wrapper_type"], entry["wrapper"]: text,
                  "vision_config": {"hidden_size": 1152}, "tie_word_embeddings": text.get("tie_word_embeddings", False)}
    else:
        config = dict({"architectures": [entry["architecture"]]}, **text)
    if entry["quant"]:
        config["quantization_config"] = entry["quant"]
    return config


def save_json(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file)


def write_metadata(entry, text, folder):
    os.makedirs(folder, exist_ok=True)
    save_json(os.path.join(folder, "config.json"), config_of(entry, text))
    if entry["hf_quant"]:
        save_json(os.path.join(folder, "hf_quant_config.json"), entry["hf_quant"])


def write_header(entry, layers, folder):
    tensors = Tensors()
    decoder(tensors, entry, layers)
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, shape in tensors.items:
        if name in header:
            raise ValueError(f"{entry['id']}: {name} twice")
        size = BYTES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    with open(os.path.join(folder, "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)


def layers_in_header(entry, full, layers=None):
    """As many as asked for, or enough for one of every kind and at least two with experts."""
    total = entry["expected"]["num_layers"]
    if full or layers:
        return min(total, layers or total)
    return min(total, max(entry["moe_layers"][1] + 1, 3))


def expected_of(entry, layers, kind):
    """What plan and inspect must say of a folder of `kind` with that many layers."""
    expected = entry["expected"]
    fails = expected["unsupported"] is not None or (kind == "headers" and expected["header_error"] is not None)
    error = expected["header_error"] if kind == "headers" else "quantisation is not supported" if fails else None
    per_layer = {}
    for i in expected["moe_layers"]:
        if i < layers:
            activation = expected["activations"].get(i, expected["activation"])
            per_layer[str(i)] = dict(expected["problem"], scheme=expected["scheme"], activation=activation)
    return {"num_layers": layers, "layers": per_layer, "router": expected["router"], "known": bool(expected["runs"]),
            "run": bool(expected["runs"]) and not (kind == "headers" and expected["header_error"] is not None),
            "status": 3 if fails else 0, "error": error}


def write_headers(entry, layers, folder):
    """The first `layers` layers without weights."""
    write_metadata(entry, cut_text(entry["text"], layers), folder)
    write_header(entry, layers, folder)


def folders(out, only, full, cut_to):
    """Writes every folder; yields (kind, name, folder, expected)."""
    for entry in checkpoints():
        if only and only not in entry["id"]:
            continue
        total = entry["expected"]["num_layers"]
        folder = os.path.join(out, "metadata", entry["id"])
        write_metadata(entry, entry["text"], folder)
        yield "metadata", entry["id"], folder, expected_of(entry, total, "metadata")
        layers = layers_in_header(entry, full, cut_to)
        folder = os.path.join(out, "headers", entry["id"])
        write_headers(entry, layers, folder)
        yield "headers", entry["id"], folder, expected_of(entry, layers, "headers")


def layer_map(groups):
    return {str(layer): group for group in groups for layer in group["layers"]}


def router_differs(found, want):
    for key, value in want.items():
        have = found.get(key)
        same = math.isclose(have, value, rel_tol=1e-6) if key == "scaling_factor" else have == value
        if not same:
            yield f"router {key} is {have}, expected {value}"


def differences(program, folder, want):
    """Sentences about what plan and inspect say wrongly."""
    plan = subprocess.run([program, "plan", folder, "--json", "--device", "sm_121"], capture_output=True, text=True, check=False)
    if plan.returncode != want["status"]:
        yield f"plan exits {plan.returncode}, expected {want['status']}: {plan.stderr.strip()}"
    if want["error"] and want["error"] not in plan.stderr:
        yield f"plan says {plan.stderr.strip()!r}, expected {want['error']!r}"
    if not plan.stdout.strip():
        yield "plan prints nothing"
        return
    report = json.loads(plan.stdout)
    found = layer_map(report["groups"])
    if sorted(found) != sorted(want["layers"]):
        yield f"plan has experts in layers {sorted(found, key=int)}, expected {sorted(want['layers'], key=int)}"
    for layer, expected in want["layers"].items():
        group = found.get(layer, {})
        for key, value in expected.items():
            if group.get(key) != value:
                yield f"layer {layer}: {key} is {group.get(key)!r}, expected {value!r}"
        # Of sm_121: b12x takes NVFP4 alone.
        backend = "marlin" if "mxfp4" in expected["scheme"] else "b12x"
        if want["status"] == 3:
            backend = None
        if group.get("backend") != backend:
            yield f"layer {layer}: backend is {group.get('backend')!r}, expected {backend!r}: {group.get('error')}"
    yield from router_differs(report["router"], want["router"])
    if report["run"]["possible"] != want["run"]:
        yield f"run is {report['run']}, expected {want['run']}"
    if not want["known"] and report["model_type"] not in report["run"].get("reason", ""):
        yield f"run says {report['run']}, expected why not"

    inspect = subprocess.run([program, "inspect", folder, "--json"], capture_output=True, text=True, check=False)
    if inspect.returncode != 0:
        yield f"inspect exits {inspect.returncode}: {inspect.stderr.strip()}"
        return
    report = json.loads(inspect.stdout)
    if report["num_layers"] != want["num_layers"]:
        yield f"inspect says {report['num_layers']} layers, expected {want['num_layers']}"
    for group in report["layer_groups"]:
        for layer in group["layers"]:
            expected = want["layers"].get(str(layer))
            text = group["feed_forward"]
            if expected is None:
                if "experts" in text:
                    yield f"inspect: layer {layer} is {text!r}, expected no routed experts"
                continue
            start = "{num_experts} experts of width {intermediate_size}, top {top_k}, {scheme}".format(**expected)
            if not text.startswith(start):
                yield f"inspect: layer {layer} is {text!r}, expected {start!r}"


def check(program, only, full, cut_to):
    wrong = compared = 0
    with tempfile.TemporaryDirectory() as out:
        for kind, name, folder, want in folders(out, only, full, cut_to):
            compared += 1
            found = list(dict.fromkeys(differences(program, folder, want)))
            wrong += bool(found)
            for sentence in found[:8]:
                print(f"{kind}/{name}: {sentence}")
            subprocess.run(["rm", "-rf", folder], check=True)
    print(f"{compared} folders, {wrong} wrong")
    return 0 if compared and not wrong else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?")
    parser.add_argument("--check", metavar="PROGRAM")
    parser.add_argument("--only", default="")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--full", action="store_true")
    length.add_argument("--layers", type=int, metavar="N")
    flags = parser.parse_args()
    if flags.layers is not None and flags.layers < 1:
        parser.error("--layers takes 1 and more")
    if flags.check:
        return check(flags.check, flags.only, flags.full, flags.layers)
    if not flags.out:
        parser.error("give OUT or --check PROGRAM")
    expected = {}
    for kind, name, _, want in folders(flags.out, flags.only, flags.full, flags.layers):
        expected.setdefault(name, {})[kind] = want
    save_json(os.path.join(flags.out, "expected.json"), expected)
    return 0


if __name__ == "__main__":
    sys.exit(main())
