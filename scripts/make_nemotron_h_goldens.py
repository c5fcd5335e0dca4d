#!/usr/bin/env python3
"""Writes tests/data/checkpoints/nemotron_h-*: tiny Nemotron-H checkpoints with goldens.

Needs what make_test_checkpoints.py needs, and transformers 5.24. Tensors are random, quantised and
named as the published checkpoints have them; the goldens are the transformers class in float32 with
the weights as the file decodes, its Mamba layers clamping steps by `time_step_limit` (transformers
clamps by time_step_min in prefill alone: issue 48989). tests/data/checkpoints/README.md describes the
result.

    python scripts/make_nemotron_h_goldens.py
"""

import json
import shutil

import torch
from make_test_checkpoints import (OUT, VOCAB, bf16, fp8_tensor, modelopt_nvfp4, write_json,
                                   write_tokenizer)
from safetensors.torch import save_file
from transformers import NemotronHConfig, NemotronHForCausalLM

TOKENS, GREEDY = 40, 16
PATTERN = "MEM*EM-"
PRODUCER = {"name": "modelopt", "version": "0.40.0"}
COMMON = dict(
    vocab_size=VOCAB, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    intermediate_size=96, ssm_state_size=16, mamba_num_heads=8, mamba_head_dim=16, n_groups=2,
    conv_kernel=4, moe_intermediate_size=48, moe_shared_expert_intermediate_size=80,
    n_shared_experts=1, layer_norm_epsilon=1e-5, max_position_embeddings=512, chunk_size=16)


def make_model(seed, time_step_limit, **changes):
    config = NemotronHConfig(**COMMON, hybrid_override_pattern=PATTERN, **changes)
    config._attn_implementation = "eager"
    model = NemotronHForCausalLM(config).float().eval()
    generator = torch.Generator().manual_seed(seed)
    tensors = dict(model.named_parameters()) | {
        n: b for n, b in model.named_buffers() if n.endswith("e_score_correction_bias")}
    for name, p in sorted(tensors.items()):
        noise = torch.randn(p.shape, generator=generator)
        with torch.no_grad():
            if name.endswith("A_log"):
                p.copy_((0.2 + 4 * torch.rand(p.shape, generator=generator)).log())
            elif name.endswith("dt_bias"):
                p.copy_(noise - 1)
            elif name.endswith("e_score_correction_bias"):
                p.copy_(6.9 + 0.1 * noise)  # as close together as published ones: BF16 loses them
                continue
            elif name.endswith(("norm.weight", "norm_f.weight", ".D")):
                p.copy_(1 + 0.2 * noise)
            elif name.endswith("bias"):
                p.copy_(0.3 * noise)
            elif "embeddings" in name:
                p.copy_(noise)
            else:
                p.copy_(noise * p[0].numel() ** -0.5 * (2 if p.ndim == 3 else 1))
            p.copy_(p.bfloat16().float())
    for layer in model.model.layers:
        if layer.block_type == "linear_attention":
            layer.mixer.time_step_limit = time_step_limit
    return model


def published(name):
    return name.replace("model.", "backbone.", 1)


def quantise(model, kind_of):
    """Tensors of the file; the model goes on with their values. kind_of(module) -> quantiser."""
    out, kinds = {}, {}

    def put(module, weight):
        kind = kinds[module] = kind_of(module)
        stored, values = kind(weight.clone(), torch.tensor(4.0))
        weight.copy_(values)
        out.update({f"{module}.{suffix}": t for suffix, t in stored.items()})

    linears = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    with torch.no_grad():
        for name, p in model.state_dict().items():
            module = published(name).removesuffix(".weight")
            if name.endswith(("experts.up_proj", "experts.down_proj")):
                base, projection = published(name).rsplit(".", 1)
                for e in range(p.shape[0]):
                    put(f"{base}.{e}.{projection}", p[e])
            elif name.removesuffix(".weight") in linears:
                put(module, p)
            elif name.endswith(("e_score_correction_bias", "A_log", ".D")):
                out[published(name)] = p.clone()
            else:
                out[published(name)] = p.bfloat16()
    return {n: t.contiguous() for n, t in out.items()}, kinds


def hf_config(model, **changes):
    config = json.loads(model.config.to_json_string(use_diff=False))
    keep = set(COMMON) | {
        "n_routed_experts", "num_experts_per_tok", "routed_scaling_factor", "moe_latent_size",
        "n_group", "topk_group", "norm_topk_prob", "attention_bias", "mlp_bias", "use_bias",
        "use_conv_bias", "mamba_proj_bias", "mamba_hidden_act", "mlp_hidden_act", "expand",
        "mamba_ssm_cache_dtype", "time_step_min", "time_step_max", "time_step_floor",
        "tie_word_embeddings", "residual_in_fp32", "rescale_prenorm_residual", "sliding_window"}
    config = {k: v for k, v in config.items() if k in keep}
    # Read by nobody: attention has no rotary embedding. The norm's eps is written twice.
    config |= {"rope_theta": 10000, "partial_rotary_factor": 1.0,
               "norm_eps": config["layer_norm_epsilon"]}
    return {"architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h",
            "eos_token_id": 2, "dtype": "bfloat16"} | config | changes


def golden(model):
    ids = torch.randint(3, VOCAB - 3, (1, TOKENS), generator=torch.Generator().manual_seed(7))
    out = {"input_ids": ids[0].int()}
    hooks, routers = [], []

    def keep(module, key, first=lambda o: o):
        hooks.append(module.register_forward_hook(
            lambda mod, args, o: out.update({key: first(o).reshape(TOKENS, -1)})))

    def keep_router(router, key):
        def hook(mod, args, o):
            logits, weights, ids = o
            routers.append((router, logits, ids))
            order = (logits.sigmoid() + router.e_score_correction_bias).gather(1, ids).argsort(
                -1, descending=True)
            out[f"{key}.topk_ids"] = ids.gather(1, order).int()
            out[f"{key}.topk_weights"] = weights.gather(1, order)
        hooks.append(router.register_forward_hook(hook))

    keep(model.model.embeddings, "hidden.embed")
    keep(model.model.norm_f, "hidden.final_norm")
    for i, layer in enumerate(model.model.layers):
        keep(layer, f"hidden.layer{i}")
        if layer.block_type != "moe":
            continue
        keep(layer.norm, f"moe.layer{i}.input")
        keep_router(layer.mixer.gate, f"moe.layer{i}")
        last = layer.mixer.fc2_latent_proj  # an Identity where there is no latent
        keep(last, f"moe.layer{i}.experts_output")
    with torch.no_grad():
        out["logits"] = model(ids, use_cache=False).logits[0]
        for hook in hooks:
            hook.remove()
        check_that_bf16_loses_the_bias(routers)
        margins = []
        for _ in range(GREEDY):  # without a cache: see above
            best = model(ids, use_cache=False).logits[0, -1].topk(2)
            margins.append(best.values[0] - best.values[1])
            ids = torch.cat([ids, best.indices[None, :1]], 1)
    out["greedy"], out["greedy_margin"] = ids[0, TOKENS:].int(), torch.stack(margins)
    assert out["greedy_margin"].min() > 1e-3, out["greedy_margin"]
    return out


def check_that_bf16_loses_the_bias(routers):
    """A correction bias rounded to BF16 must choose other experts somewhere."""
    for router, logits, ids in routers:
        rounded = logits.sigmoid() + router.e_score_correction_bias.bfloat16().float()
        other = rounded.topk(router.top_k, -1).indices.sort(-1).values
        assert (other != ids.sort(-1).values).any()


def write(name, model, kind_of, config, quantisation, extra):
    tensors, kinds = quantise(model, kind_of)
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "golden").mkdir(parents=True)
    write_json(folder / "config.json", config)
    write_json(folder / "hf_quant_config.json",
               {"producer": PRODUCER, "quantization": quantisation(kinds)})
    save_file(tensors | extra, folder / "model.safetensors", {"format": "pt"})
    write_tokenizer(folder)
    save_file({k: v.detach().clone().contiguous() for k, v in golden(model).items()},
              folder / "golden/w4a16.safetensors", {"mode": "w4a16"})
    print(name, sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()))


def nano():
    """As Nemotron-3-Nano: NVFP4 in experts, shared experts and Mamba, but not in the Mamba layer
    before attention; no latent experts. Steps are not clamped, though time_step_min is large."""
    model = make_model(1, (0.0, float("inf")), n_routed_experts=16, num_experts_per_tok=6,
                       routed_scaling_factor=2.5, time_step_min=0.2)

    def kind_of(module):
        four = ".experts." in module or "shared_experts" in module or (
            module.endswith(("in_proj", "out_proj")) and "layers.2." not in module)
        return modelopt_nvfp4 if four else bf16

    config = hf_config(model, hybrid_override_pattern=PATTERN, num_hidden_layers=len(PATTERN),
                       time_step_limit=[0.0, float("inf")])

    def quantisation(kinds):
        # What ModelOpt 0.47 makes of transformers 5's renamed modules stands among the names.
        exclude = [m for m, kind in kinds.items() if kind is bf16] + [
            "backbone.layers.*.mixer.conv1d", "\0sentinel\0.layers.2.mixer.in_proj"]
        return {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "group_size": 16,
                "exclude_modules": exclude}

    scale = {f"backbone.layers.3.mixer.{p}_proj.{p}_scale": torch.tensor(0.5) for p in "kv"}
    write("nemotron_h-nano", model, kind_of, config, quantisation, scale)


def super_():
    """As Nemotron-3-Super: NVFP4 experts on a latent, FP8 Mamba and shared experts, the rest BF16,
    22 experts a token, tensors of multi-token prediction; layer words of transformers 5. Steps are
    clamped on both sides."""
    limit = [0.15, 0.9]
    model = make_model(2, tuple(limit), n_routed_experts=24, num_experts_per_tok=22,
                       routed_scaling_factor=5.0, moe_latent_size=32)

    def kind_of(module):
        if ".experts." in module:
            return modelopt_nvfp4
        eight = module.endswith(("in_proj", "out_proj")) or "shared_experts" in module
        return fp8_tensor if eight else bf16

    words = [dict(M="linear_attention", E="moe", **{"*": "full_attention", "-": "mlp"})[c]
             for c in PATTERN]
    config = hf_config(model, layers_block_type=words, time_step_limit=limit,
                       num_nextn_predict_layers=1, mtp_hybrid_override_pattern="*E")

    def quantisation(kinds):
        layers = {m: ({"quant_algo": "FP8"} if kind is fp8_tensor else
                      {"quant_algo": "NVFP4", "group_size": 16})
                  for m, kind in kinds.items() if kind is not bf16}
        return {"quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": "FP8",
                "quantized_layers": layers}

    extra = {"mtp.layers.0.eh_proj.weight": torch.zeros(64, 128).bfloat16(),
             "mtp.layers.0.mixer.q_proj.weight": torch.zeros(64, 64).bfloat16(),
             "mtp.layers.1.final_layernorm.weight": torch.zeros(64).bfloat16()}
    write("nemotron_h-super", model, kind_of, config, quantisation, extra)


if __name__ == "__main__":
    torch.set_num_threads(1)
    nano()
    super_()
