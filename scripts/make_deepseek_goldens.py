#!/usr/bin/env python3
"""Writes tests/data/checkpoints/{deepseek_v3,kimi_k2}-*: small random latent-attention models as
ModelOpt publishes them, with goldens.

Needs torch, transformers 5.24, nvidia-modelopt 0.47, safetensors. ModelOpt quantises and
writes each checkpoint; this script reads it back, decodes it to float32, and takes logits, hidden
states, routing and a greedy continuation from the transformers class in float32 with eager
attention. The norms of the two latents get the configuration's eps, as vLLM and SGLang read it
(transformers has 1e-6 there, whatever the file says).

    python scripts/make_deepseek_goldens.py [NAME ...]
"""

import copy
import json
import pathlib
import shutil
import sys
import tempfile

import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.export import export_hf_checkpoint
from safetensors.torch import load_file, save_file
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/data/checkpoints"
TOKENS, GREEDY = 40, 24
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
ATTENTION = ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"]


def make_config(**changes):
    sizes = dict(hidden_size=64, intermediate_size=96, moe_intermediate_size=32,
                 num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
                 n_routed_experts=16, num_experts_per_tok=4, n_shared_experts=1,
                 first_k_dense_replace=1, kv_lora_rank=32, q_lora_rank=48, qk_rope_head_dim=16,
                 qk_nope_head_dim=16, v_head_dim=32, max_position_embeddings=2560, bos_token_id=0,
                 eos_token_id=1)
    config = DeepseekV3Config(**(sizes | changes), architectures=["DeepseekV3ForCausalLM"])
    config._attn_implementation = "eager"
    return config


def randomise(model, seed, bias, spread):
    """Everything that could hide a mistake by being 0 or 1 is neither."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim == 1:
                p.copy_(1 + 0.2 * noise)
            else:
                p.copy_(noise * (1.0 if "embed" in name else 1.5 / p.shape[-1] ** 0.5))
        for name, b in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                b.copy_(bias + spread * torch.randn(b.shape, generator=generator))
    return model.eval()


def correction_biases(model):
    return {n: b.detach().float().clone() for n, b in model.named_buffers()
            if n.endswith("e_score_correction_bias")}


# Which linears ModelOpt quantises.
NVFP4 = {"num_bits": (2, 1),
         "block_sizes": {-1: 16, "type": "dynamic", "scale_bits": (4, 3)}}


def experts_only():
    return copy.deepcopy(mtq.NVFP4_EXPERTS_ONLY_CFG)


def all_but_latents():
    """As nvidia/DeepSeek-V3.1-NVFP4: o_proj, dense layers and shared experts too."""
    config = copy.deepcopy(mtq.NVFP4_DEFAULT_CFG)
    config["quant_cfg"] += [{"quantizer_name": f"*{name}*", "enable": False} for name in ATTENTION]
    return config


def export(model, quantisation, folder):
    bias = correction_biases(model)
    ids = torch.randint(0, model.config.vocab_size, (8, TOKENS),
                        generator=torch.Generator().manual_seed(5))
    model = model.to(torch.bfloat16)
    mtq.quantize(model, quantisation, lambda m: m(ids))
    export_hf_checkpoint(model, export_dir=folder)
    tensors = load_file(folder / "model.safetensors")
    # Published files have the router's bias in float32; ModelOpt writes what the cast left of it.
    for name, value in bias.items():
        assert name in tensors, name
        tensors[name] = value
    return tensors


def decode(tensors, module):
    weight = tensors[module + ".weight"]
    if weight.dtype != torch.uint8:
        return weight.float()
    codes = torch.stack([weight & 15, weight >> 4], -1).flatten(-2)
    values = E2M1[(codes & 7).long()] * torch.where(codes >= 8, -1.0, 1.0)
    n, k = values.shape
    blocks = values.view(n, k // 16, 16) * tensors[module + ".weight_scale"].float()[..., None]
    return (blocks * tensors[module + ".weight_scale_2"].float()).view(n, k)


def decoded_model(config, tensors):
    model = DeepseekV3ForCausalLM._from_config(config).float().eval()
    state = {}
    for name in model.state_dict():
        module, _, leaf = name.rpartition(".")
        if leaf == "gate_up_proj":
            state[name] = torch.stack([
                torch.cat([decode(tensors, f"{module}.{e}.gate_proj"),
                           decode(tensors, f"{module}.{e}.up_proj")])
                for e in range(config.n_routed_experts)])
        elif leaf == "down_proj":
            state[name] = torch.stack([decode(tensors, f"{module}.{e}.down_proj")
                                       for e in range(config.n_routed_experts)])
        elif leaf == "weight":
            state[name] = decode(tensors, module)
        else:
            state[name] = tensors[name].float()
    model.load_state_dict(state)
    for layer in model.model.layers:
        for norm in (layer.self_attn.q_a_layernorm, layer.self_attn.kv_a_layernorm):
            if norm is not None:
                norm.variance_epsilon = config.rms_norm_eps
    return model


@torch.no_grad()
def golden(model, seed):
    config = model.config
    out, hooks = {}, []

    def keep(name):
        def hook(_, inputs, output):
            value = output[0] if isinstance(output, tuple) else output
            out[name] = value[0].float() if value.ndim == 3 else value.float()
        return hook

    def keep_input(name):
        def hook(_, inputs):
            out[name] = inputs[0].view(-1, config.hidden_size).float()
        return hook

    def keep_routing(name):
        def hook(module, inputs, output):
            logits, weights, ids = output
            # In the order of moe/routing.h: falling biased score.
            chosen = (logits.sigmoid() + module.e_score_correction_bias).gather(1, ids)
            order = chosen.argsort(-1, descending=True)
            out[name + "topk_ids"] = ids.gather(1, order).int()
            out[name + "topk_weights"] = weights.gather(1, order).float()
        return hook

    hooks.append(model.model.embed_tokens.register_forward_hook(keep("hidden.embed")))
    hooks.append(model.model.norm.register_forward_hook(keep("hidden.final_norm")))
    for i, layer in enumerate(model.model.layers):
        hooks.append(layer.register_forward_hook(keep(f"hidden.layer{i}")))
        if hasattr(layer.mlp, "experts"):
            key = f"moe.layer{i}."
            hooks.append(layer.mlp.register_forward_pre_hook(keep_input(key + "input")))
            hooks.append(layer.mlp.experts.register_forward_hook(keep(key + "experts_output")))
            hooks.append(layer.mlp.gate.register_forward_hook(keep_routing(key)))
    ids = torch.randint(2, config.vocab_size, (1, TOKENS),
                        generator=torch.Generator().manual_seed(seed))
    out["logits"] = model(ids).logits[0].float()
    for hook in hooks:
        hook.remove()
    out["input_ids"] = ids[0].int()
    greedy, margin = [], 1e9
    for _ in range(GREEDY):
        logits = model(ids).logits[0, -1]
        best = logits.topk(2)
        margin = min(margin, float(best.values[0] - best.values[1]))
        greedy.append(int(best.indices[0]))
        ids = torch.cat([ids, best.indices[:1][None]], 1)
    out["greedy"] = torch.tensor(greedy, dtype=torch.int32)
    print(f"  closest greedy choice: {margin:.4f} of {out['logits'].abs().max():.2f}")
    return {k: v.contiguous().clone() for k, v in out.items()}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def published_config(written, model_type):
    """config.json as the releases spell it (transformers 4)."""
    rope = written.pop("rope_parameters")
    written["rope_theta"] = rope.pop("rope_theta")
    rope["type"] = rope.pop("rope_type")
    written["rope_scaling"] = rope
    written["torch_dtype"] = written.pop("dtype", None) or written.pop("torch_dtype", "bfloat16")
    written.pop("head_dim", None)
    written.pop("qk_head_dim", None)
    written.pop("rope_interleave", None)
    written.pop("num_local_experts", None)
    return written | {"model_type": model_type, "scoring_func": "sigmoid",
                      "topk_method": "noaux_tc", "moe_layer_freq": 1, "ep_size": 1,
                      "seq_aux": True, "aux_loss_alpha": 0.001}


def draft_layer(config):
    """The shape of DeepSeek's multi-token prediction layer, which has the next layer's index."""
    at, hidden = f"model.layers.{config.num_hidden_layers}.", config.hidden_size
    zeros = lambda *shape: torch.zeros(shape, dtype=torch.bfloat16)
    return {at + "enorm.weight": zeros(hidden), at + "hnorm.weight": zeros(hidden),
            at + "eh_proj.weight": zeros(hidden, 2 * hidden),
            at + "shared_head.norm.weight": zeros(hidden),
            at + "self_attn.kv_a_layernorm.weight": zeros(config.kv_lora_rank),
            at + "mlp.gate.e_score_correction_bias": torch.zeros(config.n_routed_experts)}


def write(name, config, seed, bias, spread, quantisation, model_type=None, drafts=False):
    print(name)
    torch.manual_seed(seed)
    model = randomise(DeepseekV3ForCausalLM._from_config(config), seed, bias, spread)
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "golden").mkdir(parents=True)
    with tempfile.TemporaryDirectory() as exported:
        exported = pathlib.Path(exported)
        tensors = export(model, quantisation, exported)
        written = json.loads((exported / "config.json").read_text())
        shutil.copy(exported / "hf_quant_config.json", folder)
    written.pop("transformers_version", None)
    if model_type is not None:
        written = published_config(written, model_type)
    reference = decoded_model(config, tensors)
    if drafts:
        tensors |= draft_layer(config)
        written["num_nextn_predict_layers"] = 1
    write_json(folder / "config.json", written)
    write_json(folder / "generation_config.json", {"bos_token_id": 0, "eos_token_id": 1})
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    save_file(golden(reference, seed + 100), folder / "golden" / "w4a16.safetensors",
              {"mode": "w4a16"})
    print("  bytes:", sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()))


def yarn(factor, **changes):
    return dict(rope_type="yarn", rope_theta=10000.0, factor=factor, beta_fast=32, beta_slow=1,
                original_max_position_embeddings=64) | changes


def deepseek_v3():
    """DeepSeek-V3.1: groups, yarn with equal mscales (amplitude 1, scores times m^2)."""
    config = make_config(vocab_size=320, n_group=4, topk_group=2, routed_scaling_factor=2.5,
                         num_nextn_predict_layers=0, rms_norm_eps=1e-6,
                         rope_parameters=yarn(40.0, mscale=1.0, mscale_all_dim=1.0))
    write("deepseek_v3-modelopt-nvfp4", config, 31, 0.0, 0.3, all_but_latents(),
          model_type="deepseek_v3", drafts=True)


def kimi_k2():
    """Queries without a latent, unequal mscales, a step for a ramp (both betas 1), one group, and
    biases so close to each other that BF16 makes them equal."""
    config = make_config(vocab_size=128, n_group=1, topk_group=1, routed_scaling_factor=2.827,
                         q_lora_rank=None, num_nextn_predict_layers=0, rms_norm_eps=1e-5,
                         rope_parameters=yarn(32.0, mscale=0.707, mscale_all_dim=1.0, beta_fast=1,
                                              beta_slow=1))
    write("kimi_k2-modelopt-nvfp4", config, 32, 6.94, 0.03, experts_only(), model_type="kimi_k2")


def negative_bias():
    """Negative biased scores (a masked group is not 0), an eps that both latents show, the
    spelling of transformers 5, yarn without mscale keys (amplitude m, scores as they are)."""
    config = make_config(vocab_size=128, n_group=4, topk_group=2, routed_scaling_factor=2.5,
                         num_nextn_predict_layers=0, rms_norm_eps=1e-3,
                         rope_parameters=yarn(40.0))
    write("deepseek_v3-negative-bias", config, 33, -3.0, 0.3, experts_only())


CASES = [deepseek_v3, kimi_k2, negative_bias]

if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in CASES:
        if len(sys.argv) == 1 or case.__name__ in sys.argv[1:]:
            case()
