#!/usr/bin/env python3
"""Writes a checkpoint of moe4 synth as GGUF with every matrix in Q4_0, by llama.cpp's own converter, for serve_in_turns.py.

    q4_0_gguf.py MODEL OUT.gguf --llama-cpp SOURCE --build BUILD       BUILD has bin/llama-quantize

NVFP4 and FP8 weights are decoded to BF16 first, since the scales that the converter sets beside NVFP4 would cost the peer
products that a checkpoint in Q4_0 has not. Room for two copies in BF16 is needed beside OUT.gguf and given back. Norms,
routers and convolutions stay float32, as llama.cpp wants them. Needs the packages that
convert_hf_to_gguf.py needs.
"""
import argparse
import json
import math
import mmap
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

import numpy
import torch

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
E2M1_PAIRS = torch.stack([E2M1.repeat(16), E2M1.repeat_interleave(16)], dim=1)  # [256, 2] of a byte, low nibble first
TYPES = {"F32": torch.float32, "U8": torch.uint8, "F8_E4M3": torch.float8_e4m3fn, "BF16": torch.bfloat16}
SCALES = ("_scale", "_scale_2", ".input_scale")


class Tensors:
    """All tensors of a folder's safetensors files, decoded when they are asked for."""

    def __init__(self, folder):
        self.places = {}
        for path in sorted(folder.glob("*.safetensors")):
            with open(path, "rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            size = struct.unpack("<Q", data[:8])[0]
            for name, entry in json.loads(data[8:8 + size]).items():
                if name != "__metadata__":
                    self.places[name] = (data, 8 + size, entry)
        if not self.places:
            raise SystemExit(f"error: {folder}: expected *.safetensors, found none")

    def weights(self):
        """Names of all but scales, with the shapes that they have decoded."""
        for name, (_, _, entry) in self.places.items():
            if not name.endswith(SCALES):
                shape = entry["shape"]
                yield name, [*shape[:-1], 2 * shape[-1]] if entry["dtype"] == "U8" else shape

    def raw(self, name):
        data, begin, entry = self.places[name]
        if entry["dtype"] not in TYPES:
            raise SystemExit(f"error: tensor {name}: expected one of {', '.join(TYPES)}, found {entry['dtype']}")
        first, last = entry["data_offsets"]
        values = numpy.frombuffer(data, numpy.uint8, offset=begin + first, count=last - first).copy()
        return torch.from_numpy(values).view(TYPES[entry["dtype"]]).reshape(entry["shape"])

    def bf16(self, name):
        weight = self.raw(name)
        if weight.dtype == torch.uint8:
            scales = self.raw(name + "_scale").float() * self.raw(name + "_scale_2")
            blocks = E2M1_PAIRS[weight.int()].reshape(*scales.shape, 16)
            weight = (blocks * scales[..., None]).reshape(weight.shape[0], -1)
        elif weight.dtype == torch.float8_e4m3fn:
            weight = weight.float() * self.raw(name + "_scale")
        return weight.to(torch.bfloat16)


def write_bf16(model, folder):
    """A copy of the checkpoint in BF16, one file."""
    tensors = Tensors(model)
    header, at = {}, 0
    for name, shape in tensors.weights():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + 2 * math.prod(shape)]}
        at += 2 * math.prod(shape)
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in header:
            file.write(tensors.bf16(name).view(torch.uint8).numpy().tobytes())
    config = json.loads((model / "config.json").read_text())
    config.pop("quantization_config", None)
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(model / name, folder)


def convert(folder, llama_cpp, out):
    """convert_hf_to_gguf.py, told the pre-tokenizer: it knows those of published tokenizers by their hashes alone."""
    sys.path.insert(0, str(llama_cpp))
    sys.path.insert(0, str(llama_cpp / "gguf-py"))
    import convert_hf_to_gguf
    from conversion.base import TextModel
    TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
    # Its default for Qwen3-Next and later is a model with a draft head, which a synthetic one has not.
    options = ["--no-mtp"] if json.loads((folder / "config.json").read_text())["model_type"] in ("qwen3_next", "qwen3_5_moe") else []
    sys.argv = ["convert_hf_to_gguf.py", str(folder), "--outfile", str(out), "--outtype", "bf16", *options]
    convert_hf_to_gguf.main()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--llama-cpp", type=pathlib.Path, required=True, help="its source")
    parser.add_argument("--build", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.out.resolve().parent) as work:
        folder, whole = pathlib.Path(work) / "bf16", pathlib.Path(work) / "bf16.gguf"
        folder.mkdir()
        write_bf16(arguments.model, folder)
        convert(folder, arguments.llama_cpp.resolve(), whole)
        shutil.rmtree(folder)
        subprocess.run([arguments.build / "bin/llama-quantize", "--pure", whole, arguments.out, "Q4_0", str(os.cpu_count())],
                       check=True)


if __name__ == "__main__":
    main()
