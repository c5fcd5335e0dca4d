#!/usr/bin/env python3
"""Writes tests/data/checkpoints/gpt_oss-{modelopt,ct}-nvfp4: the small gpt-oss of make_gpt_oss_goldens.py as NVFP4 exports.

Needs what that script needs, and nvidia-modelopt 0.47.

ModelOpt quantises and writes its folder itself: experts as transformers has them, [E, K, N] with gate and up in turn,
packed along K, one scale of float32 a tensor. compressed-tensors' tensors lie as llm-compressor's linearised experts do,
whose module is experts.experts, with the packer of make_test_checkpoints.py. In both the goldens are transformers' own
forward pass in float32 on the weights that the written bytes decode to.

    python scripts/make_gpt_oss_nvfp4_goldens.py
"""

import copy
import json
import pathlib
import shutil
import tempfile

import make_gpt_oss_goldens as plain
import torch
from golden_recipe import decode, decode_transposed, experts_only
from make_test_checkpoints import OUT, VOCAB, ct_nvfp4, write_json
from safetensors.torch import load_file, save_file
from transformers import GptOssConfig, GptOssForCausalLM

CONFIG = {key: value for key, value in plain.CONFIG.items() if key != "quantization_config"} | {
    "num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = CONFIG["num_local_experts"]
FOUR_BITS = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "symmetric": True}


def model_of():
    config = GptOssConfig(**json.loads(json.dumps(CONFIG)))
    config._attn_implementation = "eager"
    return GptOssForCausalLM._from_config(config).float().eval()


def by_modelopt(model):
    """Tensors and hf_quant_config.json of ModelOpt's own export."""
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint
    ids = torch.randint(0, VOCAB, (8, plain.NUM_TOKENS), generator=torch.Generator().manual_seed(5))
    model = copy.deepcopy(model).to(torch.bfloat16)
    mtq.quantize(model, experts_only(mtq), lambda m: m(ids))
    with tempfile.TemporaryDirectory() as folder:
        export_hf_checkpoint(model, export_dir=folder)
        folder = pathlib.Path(folder)
        return load_file(folder / "model.safetensors"), json.loads((folder / "hf_quant_config.json").read_text())


def by_llm_compressor(model):
    """Tensors and quantization_config."""
    tensors = {}
    for name, p in model.named_parameters():
        module, _, leaf = name.rpartition(".")
        if not module.endswith(".experts"):
            tensors[name] = p.data.bfloat16()
            continue
        bias = leaf.endswith("_bias")
        parts = {"down_proj": p} if leaf.startswith("down") else {"gate_proj": p[..., 0::2], "up_proj": p[..., 1::2]}
        for projection, values in parts.items():
            for e in range(EXPERTS):
                at = f"{module}.experts.{e}.{projection}"
                if bias:
                    tensors[f"{at}.bias"] = values[e].bfloat16()
                else:
                    stored, _ = ct_nvfp4(values[e].t().contiguous(), torch.tensor(4.0))
                    tensors |= {f"{at}.{suffix}": t for suffix, t in stored.items()}
    ignored = ["lm_head"] + [f"model.layers.{i}.self_attn.{p}_proj" for i in range(CONFIG["num_hidden_layers"]) for p in "qkvo"]
    group = {"targets": ["Linear"], "format": "nvfp4-pack-quantized", "weights": FOUR_BITS | {"dynamic": False},
             "input_activations": FOUR_BITS | {"dynamic": "local"}, "output_activations": None}
    return tensors, {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "quantization_status": "compressed",
                     "version": "0.12.2", "ignore": ignored, "config_groups": {"group_0": group}}


def decoded(stored, name):
    """A parameter of transformers' experts out of either folder's tensors."""
    if name in stored:
        return decode_transposed(stored, name)
    module, _, leaf = name.rpartition(".")
    expert = lambda e, projection: decode(stored, f"{module}.experts.{e}.{projection}")
    if leaf == "down_proj":
        return torch.stack([expert(e, "down_proj").t() for e in range(EXPERTS)])
    pairs = [torch.stack([expert(e, "gate_proj").t(), expert(e, "up_proj").t()], -1).flatten(1) for e in range(EXPERTS)]
    return torch.stack(pairs)


def write(name, model, tensors, quantization, hf_quant):
    folder = plain.FOLDER = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "golden").mkdir(parents=True)
    write_json(folder / "config.json", CONFIG | ({"quantization_config": quantization} if quantization else {}))
    if hf_quant:
        write_json(folder / "hf_quant_config.json", hf_quant)
    plain.write_tokenizer()
    save_file({n: t.contiguous().clone() for n, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    stored = load_file(folder / "model.safetensors")
    reference = model_of()
    with torch.no_grad():
        for n, p in reference.named_parameters():
            if n.endswith((".experts.gate_up_proj", ".experts.down_proj")):
                values = decoded(stored, n)
                assert (values - dict(model.named_parameters())[n]).abs().max() < 0.5, n  # of the same weights
                p.copy_(values)
            else:
                p.copy_(dict(model.named_parameters())[n])
    save_file(plain.golden(reference), folder / "golden/w4a16.safetensors", {"mode": "w4a16"})
    print(name, sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()))


def main():
    torch.set_num_threads(1)
    model = model_of()
    plain.randomise(model)
    tensors, hf_quant = by_modelopt(model)
    write("gpt_oss-modelopt-nvfp4", model, tensors, None, hf_quant)
    tensors, quantization = by_llm_compressor(model)
    write("gpt_oss-ct-nvfp4", model, tensors, quantization, None)


if __name__ == "__main__":
    main()
