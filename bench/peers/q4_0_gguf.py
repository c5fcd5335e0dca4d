#!/usr/bin/env python3
"""Writes a qwen3_moe checkpoint as GGUF with every matrix in Q4_0, for llama-server in serve_in_turns.py.

    q4_0_gguf.py MODEL OUT.gguf         MODEL: a folder of moe4 synth

NVFP4 and FP8 weights are decoded to float32 and rounded to Q4_0; norms and routers stay float32. The vocabulary is numbered
words, since prompts are token ids. Needs the packages gguf and numpy.
"""
import argparse
import json
import mmap
import pathlib
import struct

import gguf
import numpy

E2M1 = numpy.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], numpy.float32)
TYPES = {"F32": numpy.float32, "U8": numpy.uint8, "F8_E4M3": numpy.uint8, "BF16": numpy.uint16}


def e4m3_values():
    values = []
    for byte in range(128):
        exponent, mantissa = byte >> 3, byte & 7
        values.append(mantissa * 2.0**-9 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))
    values[127] = 0.0  # NaN, which the checkpoint does not have
    return numpy.array(values + [-value for value in values], numpy.float32)


E4M3 = e4m3_values()


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

    def raw(self, name):
        data, begin, entry = self.places[name]
        first, last = entry["data_offsets"]
        return numpy.frombuffer(data, TYPES[entry["dtype"]], offset=begin + first,
                                count=(last - first) // numpy.dtype(TYPES[entry["dtype"]]).itemsize).reshape(entry["shape"])

    def matrix(self, name):
        """The float32 of NAME.weight, whatever it is stored as."""
        dtype = self.places[name + ".weight"][2]["dtype"]
        weight = self.raw(name + ".weight")
        if dtype == "U8":
            codes = numpy.stack([weight & 15, weight >> 4], axis=-1).reshape(weight.shape[0], -1)
            scales = E4M3[self.raw(name + ".weight_scale")] * self.raw(name + ".weight_scale_2")
            return E2M1[codes] * numpy.repeat(scales, 16, axis=1)
        if dtype == "F8_E4M3":
            return E4M3[weight] * self.raw(name + ".weight_scale")
        return weight if dtype == "F32" else (weight.astype(numpy.uint32) << 16).view(numpy.float32)


def q4_0(matrix):
    return gguf.quants.quantize(numpy.ascontiguousarray(matrix, numpy.float32), gguf.GGMLQuantizationType.Q4_0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    arguments = parser.parse_args()
    config = json.loads((arguments.model / "config.json").read_text())
    if config["model_type"] != "qwen3_moe":
        raise SystemExit(f"error: {arguments.model}: expected qwen3_moe, found {config['model_type']}")
    tensors = Tensors(arguments.model)

    writer = gguf.GGUFWriter(arguments.out, "qwen3moe")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config.get("rope_theta") or config["rope_parameters"]["rope_theta"])
    writer.add_expert_count(config["num_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([f"w{i}" for i in range(config["vocab_size"])])
    writer.add_token_types([gguf.TokenType.NORMAL] * config["vocab_size"])
    writer.add_token_merges(["w 0"])
    writer.add_eos_token_id(config["vocab_size"] - 1)

    def add(name, matrix):
        writer.add_tensor(name, q4_0(matrix), raw_dtype=gguf.GGMLQuantizationType.Q4_0)

    def add_float(name, source):
        writer.add_tensor(name, numpy.ascontiguousarray(tensors.matrix(source), numpy.float32))

    add("token_embd.weight", tensors.matrix("model.embed_tokens"))
    add_float("output_norm.weight", "model.norm")
    add("output.weight", tensors.matrix("lm_head"))
    for layer in range(config["num_hidden_layers"]):
        ours, theirs = f"model.layers.{layer}.", f"blk.{layer}."
        for source, name in (("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"),
                             ("self_attn.q_norm", "attn_q_norm"), ("self_attn.k_norm", "attn_k_norm"),
                             ("mlp.gate", "ffn_gate_inp")):
            add_float(f"{theirs}{name}.weight", ours + source)
        for source, name in (("q_proj", "attn_q"), ("k_proj", "attn_k"), ("v_proj", "attn_v"), ("o_proj", "attn_output")):
            add(f"{theirs}{name}.weight", tensors.matrix(f"{ours}self_attn.{source}"))
        for kind in ("gate", "up", "down"):
            experts = [q4_0(tensors.matrix(f"{ours}mlp.experts.{e}.{kind}_proj")) for e in range(config["num_experts"])]
            writer.add_tensor(f"{theirs}ffn_{kind}_exps.weight", numpy.stack(experts), raw_dtype=gguf.GGMLQuantizationType.Q4_0)
        print(f"layer {layer}", flush=True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
