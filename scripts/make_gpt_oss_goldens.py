#!/usr/bin/env python3
"""Writes tests/data/checkpoints/gpt_oss-mxfp4: a small random gpt-oss model as openai publishes them, with goldens.

Needs torch, transformers 5.24, compressed-tensors (through make_test_checkpoints.py), tokenizers, safetensors.

Every tensor is random, so that no part of the model is silent: biases, sinks and norms too. Experts are written as MXFP4
by the packer below, decoded from the very bytes that were written, and the decoded values are what transformers computes
with, in float32 with eager attention. 40 tokens are longer than the window of 8 and half of the original context of 64.

    python scripts/make_gpt_oss_goldens.py
"""

import json
import math
import shutil

import torch
from make_test_checkpoints import OUT, TEXT, VOCAB, e2m1_codes, e2m1_values, pack, unpack, write_json
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GptOssConfig, GptOssForCausalLM

FOLDER = OUT / "gpt_oss-mxfp4"
NUM_TOKENS, NUM_GREEDY = 40, 12
SPECIAL = ["<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>", "<|start|>", "<|end|>",
           "<|message|>", "<|call|>", "<|endofprompt|>"]
# As in o200k, of which gpt-oss has the words.
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")

CONFIG = {
    "architectures": ["GptOssForCausalLM"], "attention_bias": True, "attention_dropout": 0.0,
    "eos_token_id": VOCAB - len(SPECIAL) + 2, "experts_per_token": 4, "head_dim": 32, "hidden_act": "silu",
    "hidden_size": 64, "initial_context_length": 64, "initializer_range": 0.02, "intermediate_size": 32,
    "layer_types": ["sliding_attention", "full_attention"] * 2, "max_position_embeddings": 2048, "model_type": "gpt_oss",
    "num_attention_heads": 4, "num_experts_per_tok": 4, "num_hidden_layers": 4, "num_key_value_heads": 2,
    "num_local_experts": 8, "output_router_logits": False, "pad_token_id": VOCAB - len(SPECIAL) + 1,
    "quantization_config": {"modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router",
                                                       "model.embed_tokens", "lm_head"], "quant_method": "mxfp4"},
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 64,
                     "rope_type": "yarn", "truncate": False},
    "rope_theta": 150000, "router_aux_loss_coef": 0.9, "sliding_window": 8, "swiglu_limit": 1.5,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": VOCAB}


def mxfp4(w):
    """[.., K] to blocks [.., K/32, 16] and scales [.., K/32]: the largest value's power of two, less that of 6 (OCP MX)."""
    blocks = w.unflatten(-1, (-1, 32))
    amax = blocks.abs().amax(-1)
    exponent = torch.where(amax > 0, torch.floor(torch.log2(amax)) - 2, torch.zeros_like(amax))
    codes = e2m1_codes(blocks / torch.exp2(exponent)[..., None])
    return pack(codes), (exponent + 127).to(torch.uint8)


def decode(blocks, scales):
    return (e2m1_values(unpack(blocks)) * torch.exp2(scales.float() - 127)[..., None]).flatten(-2)


def randomise(model):
    generator = torch.Generator().manual_seed(40)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if name.endswith("bias"):
            noise *= 0.3
        elif name.endswith("norm.weight"):
            noise = 1 + 0.2 * noise
        elif name.endswith("sinks"):
            noise += 1
        elif "embed" not in name:
            inputs = p.shape[1] if ".experts." in name else p.shape[-1]
            noise /= math.sqrt(inputs)
        with torch.no_grad():
            p.copy_(noise.bfloat16().float())


def tensors_of(model):
    """As published; in the model, experts become what their tensors say."""
    out = {}
    for name, p in model.named_parameters():
        if name.endswith("experts.gate_up_proj") or name.endswith("experts.down_proj"):
            out[f"{name}_blocks"], out[f"{name}_scales"] = mxfp4(p.data.transpose(1, 2).contiguous())
        else:
            out[name] = p.data.bfloat16()
    return {n: t.contiguous().clone() for n, t in out.items()}


def write_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(O200K), "removed", invert=True),
         pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([TEXT], trainers.BpeTrainer(
        vocab_size=VOCAB - len(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=[],
        show_progress=False))
    tokenizer.add_special_tokens(SPECIAL)
    assert tokenizer.get_vocab_size() == VOCAB, tokenizer.get_vocab_size()
    (FOLDER / "tokenizer.json").write_text(tokenizer.to_str())
    write_json(FOLDER / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|startoftext|>", "eos_token": "<|return|>",
        "pad_token": "<|endoftext|>", "model_max_length": 2048})


def golden(model):
    ids = torch.randint(0, VOCAB - len(SPECIAL), (1, NUM_TOKENS), generator=torch.Generator().manual_seed(7))
    out = {"input_ids": ids[0].int()}
    hooks = []
    first = lambda o: (o[0] if isinstance(o, tuple) else o).reshape(NUM_TOKENS, -1)
    keep = lambda key: lambda mod, args, o: out.__setitem__(key, first(o))

    def hook(module, f):
        hooks.append(module.register_forward_hook(f))

    hook(model.model.embed_tokens, keep("hidden.embed"))
    hook(model.model.norm, keep("hidden.final_norm"))
    for i, layer in enumerate(model.model.layers):
        key = f"moe.layer{i}"

        def router(mod, args, o, key=key):
            out[f"{key}.input"], out[f"{key}.router_logits"] = args[0], o[0]
            out[f"{key}.topk_weights"], out[f"{key}.topk_ids"] = o[1], o[2].int()

        hook(layer, keep(f"hidden.layer{i}"))
        hook(layer.mlp.router, router)
        hook(layer.mlp.experts, keep(f"{key}.experts_output"))
    with torch.no_grad():
        out["logits"] = model(ids).logits[0]
    for h in hooks:
        h.remove()
    greedy, margins = [], []
    with torch.no_grad():
        for _ in range(NUM_GREEDY):
            best = model(ids).logits[0, -1].topk(2)
            greedy.append(best.indices[0].item())
            margins.append((best.values[0] - best.values[1]).item())
            ids = torch.cat([ids, best.indices[:1][None]], 1)
    out["greedy"], out["greedy_margin"] = torch.tensor(greedy).int(), torch.tensor(margins)
    assert min(margins) > 1e-3, margins
    return {k: v.detach().clone().contiguous() for k, v in out.items()}


def main():
    torch.set_num_threads(1)
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "golden").mkdir(parents=True)
    config = GptOssConfig(**json.loads(json.dumps({k: v for k, v in CONFIG.items() if k != "quantization_config"})))
    config._attn_implementation = "eager"
    model = GptOssForCausalLM._from_config(config).float().eval()
    randomise(model)
    write_json(FOLDER / "config.json", CONFIG)
    ids = {name: VOCAB - len(SPECIAL) + i for i, name in enumerate(SPECIAL)}
    write_json(FOLDER / "generation_config.json", {
        "bos_token_id": ids["<|startoftext|>"], "do_sample": True, "pad_token_id": ids["<|endoftext|>"],
        "eos_token_id": [ids["<|return|>"], ids["<|endoftext|>"], ids["<|call|>"]]})
    write_tokenizer()
    save_file(tensors_of(model), FOLDER / "model.safetensors", {"format": "pt"})
    stored = load_file(FOLDER / "model.safetensors")
    with torch.no_grad():
        for name, p in model.named_parameters():
            if f"{name}_blocks" in stored:
                p.copy_(decode(stored[f"{name}_blocks"], stored[f"{name}_scales"]).transpose(1, 2))
    save_file(golden(model), FOLDER / "golden/w4a16.safetensors", {"mode": "w4a16"})
    print(FOLDER.name, sum(f.stat().st_size for f in FOLDER.rglob("*") if f.is_file()))


if __name__ == "__main__":
    main()
