#!/usr/bin/env python3
"""Cuts trained checkpoints with golden files down to what the expert tests need, to carry them to a GPU machine.

usage: slice_goldens.py MODELS_DIR OUT

MODELS_DIR holds <model>/<format>/ checkpoints and <model>/golden/<format>.<mode>.safetensors. OUT gets the same folders
with the `moe.*` tensors of the golden files and the routed experts of their layers alone: about a tenth of the bytes.
Needs Python alone.
"""
import json
import pathlib
import re
import shutil
import sys


def read_header(path):
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(size)), 8 + size


def slice_file(sources, out, keep):
    """Writes the tensors that keep(name) wants of all source files to one file; returns their names."""
    header, blobs, offset = {}, [], 0
    for path in sources:
        tensors, begin = read_header(path)
        data = path.read_bytes()
        for name, info in tensors.items():
            if name == "__metadata__" or not keep(name):
                continue
            first, last = info["data_offsets"]
            blobs.append(data[begin + first:begin + last])
            header[name] = {**info, "data_offsets": [offset, offset + last - first]}
            offset += last - first
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))
    return list(header)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    models, out = map(pathlib.Path, sys.argv[1:])
    layers = {}  # checkpoint folder -> layers with goldens
    for golden in sorted(models.glob("*/golden/*.safetensors")):
        folder = golden.parent.parent / golden.name.rsplit(".", 2)[0]
        if not folder.is_dir() or "bf16" in golden.name:
            continue
        names = slice_file([golden], out / golden.relative_to(models), lambda name: name.startswith("moe."))
        layers.setdefault(folder, set()).update(re.match(r"moe\.layer(\d+)\.", name)[1] for name in names)
    if not layers:
        sys.exit(f"error: no golden files of quantised checkpoints under {models}")
    for folder, wanted in layers.items():
        target = out / folder.relative_to(models)
        pattern = re.compile(r".*layers\.(%s)\.mlp\.experts\." % "|".join(sorted(wanted)))
        slice_file(sorted(folder.glob("*.safetensors")), target / "model.safetensors",
                   lambda name: pattern.match(name) is not None)
        for config in folder.glob("*config.json"):
            shutil.copy(config, target)
        print(f"{target}: layers {', '.join(sorted(wanted))}")


main()
