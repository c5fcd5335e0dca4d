#!/usr/bin/env python3
"""Writes tests/data/rotary/cases.json: frequencies and amplitudes of rotary embeddings by transformers' own functions.

usage: make_rotary_goldens.py            (torch, transformers 5.24)

A case holds the keys of a config.json (both generations' spellings; values of published files where `name` is that of a
model), what moe4 takes as the family's defaults, and what transformers makes of the same keys.
"""
import json
import pathlib

import torch
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/data/rotary/cases.json"


class Config(PreTrainedConfig):
    model_type = "rotary"
    hidden_size: int = 64
    num_attention_heads: int = 1
    max_position_embeddings: int = 2048
    rope_parameters: dict | None = None


DEEPSEEK = {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 4096, "type": "yarn"}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
          "rope_type": "llama3"}
CASES = {
    "default": (128, {"rope_theta": 1e6}),
    "default, transformers 5, partial": (256, {"rope_parameters": {
        "rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25, "mrope_section": [11, 11, 10]}}),
    "linear": (64, {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 8.0}}),
    "gpt-oss": (64, {"rope_theta": 150000, "max_position_embeddings": 131072, "rope_scaling": {
        "beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096,
        "rope_type": "yarn", "truncate": False}}),
    "DeepSeek-V3": (64, {"rope_theta": 10000, "max_position_embeddings": 163840, "rope_scaling": DEEPSEEK}),
    "DeepSeek-V2 mscales": (64, {"rope_theta": 10000, "max_position_embeddings": 163840, "rope_scaling": DEEPSEEK | {
        "mscale": 0.707, "mscale_all_dim": 1.0}}),
    "one mscale alone": (64, {"rope_theta": 10000, "rope_scaling": DEEPSEEK | {"mscale": 0.0, "mscale_all_dim": 1.0}}),
    "Kimi-K2-Instruct, a step": (64, {"rope_theta": 50000, "max_position_embeddings": 131072, "rope_scaling": DEEPSEEK | {
        "beta_fast": 1.0, "beta_slow": 1.0, "factor": 32.0}}),
    "a step between whole numbers": (64, {"rope_theta": 50000, "rope_scaling": {
        "type": "yarn", "beta_fast": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096,
        "truncate": False}}),
    "a ramp without length, at the first": (64, {"rope_parameters": {
        "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 6}}),
    "Mistral-Small-4": (64, {"max_position_embeddings": 1048576, "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 1e4, "factor": 128.0, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0,
        "mscale_all_dim": 1.0, "original_max_position_embeddings": 8192}}),
    "Qwen3 with its yarn": (128, {"rope_theta": 1000000, "max_position_embeddings": 40960, "rope_scaling": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}),
    "yarn, partial, attention_factor": (64, {"max_position_embeddings": 8192, "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 1e4, "partial_rotary_factor": 0.5, "factor": 4.0,
        "attention_factor": 1.25, "original_max_position_embeddings": 2048}}),
    "yarn, factor of the lengths": (64, {"max_position_embeddings": 16384, "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 1e4, "factor": None, "original_max_position_embeddings": 4096}}),
    "yarn, original length unknown": (64, {"max_position_embeddings": 4096, "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}),
    "Llama-3.1": (128, {"rope_theta": 500000.0, "max_position_embeddings": 131072, "rope_scaling": LLAMA3}),
    "Llama-4-Scout, no middle": (128, {"rope_theta": 500000.0, "max_position_embeddings": 10485760, "rope_scaling":
        LLAMA3 | {"factor": 16.0, "high_freq_factor": 1.0}}),
}


def main():
    cases = []
    for name, (head_dim, keys) in CASES.items():
        config = Config(**json.loads(json.dumps(keys)), head_dim=head_dim)
        kind = (config.rope_parameters or {}).get("rope_type", "default")
        if kind == "default":
            rope = config.rope_parameters
            dim = int(head_dim * rope.get("partial_rotary_factor", 1.0))
            frequencies = 1.0 / (rope["rope_theta"] ** (torch.arange(0, dim, 2, dtype=torch.float) / dim))
            amplitude = 1.0
        else:
            frequencies, amplitude = ROPE_INIT_FUNCTIONS[kind](config)
        cases.append({"name": name, "head_dim": head_dim, "config": keys, "amplitude": float(amplitude),
                      "inverse_frequencies": [float(f"{f:.9g}") for f in frequencies.tolist()]})
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
