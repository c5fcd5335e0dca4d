#!/usr/bin/env python3
"""Writes tests/data/gguf and fuzz/corpus/gguf: small models as llama.cpp's own converter writes them, and what they must give.

Needs torch, transformers 5.24, numpy, safetensors and llama.cpp's sources with convert_hf_to_gguf.py, conversion/ and
gguf-py/ (those of the source distribution of llama-cpp-python 0.3.36 on PyPI were taken):

    python scripts/make_gguf_goldens.py LLAMA_CPP_FOLDER [NAME ...]

Files are converted from Hugging Face folders, but for the quantised one, whose blocks are random bytes that gguf-py
decodes. Logits and greedy tokens are those of the transformers class in float32.
"""

import collections
import contextlib
import io
import json
import pathlib
import re
import shutil
import sys
import tempfile
from unittest import mock

import numpy as np
import torch
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
CHECKPOINTS, OUT = ROOT / "tests/data/checkpoints", ROOT / "tests/data/gguf"
TOKENS, GREEDY = 24, 12
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
TEXTS = ["Hello, world", "It's 1984, isn't it? We'll see 12345 6.7", "  two  spaces\n\n\nlines\t\ttabs ", "für Größe, naïve café",
         "你好世界 こんにちは", "🙂🙃 x", "the then there other another theother", "▁ x▁y", " ", ""]


def convert(folder, out, outtype, pre="qwen2", more=()):
    """llama.cpp's converter; the hash by which it knows pre-tokenizers is of no small vocabulary."""
    import conversion
    import conversion.base
    import convert_hf_to_gguf
    conversion.load_all_models()
    text_model = conversion.base.TextModel
    text_model.get_vocab_base_pre = lambda self, tokenizer: pre
    patches = contextlib.ExitStack()
    if not (folder / "tokenizer.json").exists():
        import gguf
        nothing = lambda self, *_: None
        patches.enter_context(mock.patch.object(gguf.GGUFWriter, "add_chat_template", nothing))  # DeepSeek-V4's, of llama.cpp
        for cls in all_subclasses(text_model):
            if "set_vocab" in vars(cls):
                patches.enter_context(mock.patch.object(cls, "set_vocab", nothing))
    arguments = ["convert_hf_to_gguf.py", str(folder), "--outfile", str(out), "--outtype", outtype,
                 "--model-name", out.stem, *more]
    log = io.StringIO()
    saved, sys.argv = sys.argv, arguments
    try:
        with patches, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            convert_hf_to_gguf.main()
    except BaseException:
        print(log.getvalue()[-2000:])
        raise
    finally:
        sys.argv = saved


def all_subclasses(cls):
    yield cls
    for sub in cls.__subclasses__():
        yield from all_subclasses(sub)


@torch.no_grad()
def golden(model, seed):
    """Logits of a prompt and the greedy tokens behind it; another prompt where two tokens are nearly alike."""
    vocab = model.config.get_text_config().vocab_size
    ids = torch.randint(3, vocab - 4, (1, TOKENS), generator=torch.Generator().manual_seed(seed))
    out = {"input_ids": ids[0].int(), "logits": model(ids, use_cache=False).logits[0]}
    margins = []
    for _ in range(GREEDY):
        best = model(ids, use_cache=False).logits[0, -1].topk(2)
        margins.append(float(best.values[0] - best.values[1]))
        ids = torch.cat([ids, best.indices[:1][None]], 1)
    if min(margins) < 1e-3:
        return golden(model, seed + 1)
    out["greedy"] = ids[0, TOKENS:].int()
    return {k: v.contiguous().clone() for k, v in out.items()}


def randomise(model, seed, one_plus):
    """Everything that could hide a mistake by being 0 or 1 is neither; all values are BF16 numbers."""
    generator = torch.Generator().manual_seed(seed)
    named = dict(model.named_parameters())
    named |= {n: b for n, b in model.named_buffers() if n.endswith(("e_score_correction_bias", "layer_scalar"))}
    for name, p in sorted(named.items()):
        noise = torch.randn(p.shape, generator=generator)
        with torch.no_grad():
            if name.endswith("e_score_correction_bias"):
                value = 0.3 * noise
            elif name.endswith("A_log"):
                value = (0.2 + 4 * torch.rand(p.shape, generator=generator)).log()
            elif name.endswith("dt_bias"):
                value = noise - 1
            elif name.endswith("bias"):
                value = 0.3 * noise
            elif p.ndim == 1:
                value = 0.2 * noise + (0 if name.endswith(one_plus) else 1)
            elif "embed" in name:
                value = noise
            else:
                value = 1.5 * noise / p.shape[-1] ** 0.5
            p.copy_(value.bfloat16().float())
    for name, table in sorted(model.named_buffers()):
        if name.endswith("tid2eid"):  # experts of every token, each once
            experts = torch.rand(table.shape[0], model.config.n_routed_experts, generator=generator).argsort(1)
            table.copy_(experts[:, :table.shape[1]])


SMALL = dict(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
             max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=False)
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
DELTA = dict(linear_num_key_heads=2, linear_num_value_heads=6, linear_key_head_dim=16, linear_value_head_dim=16,
             linear_conv_kernel_dim=4, shared_expert_intermediate_size=32, head_dim=32, num_experts=3, num_experts_per_tok=2,
             moe_intermediate_size=32, layer_types=["linear_attention", "full_attention"],
             rope_parameters=ROPE | {"partial_rotary_factor": 0.25})
GLM = dict(moe_intermediate_size=32, intermediate_size=48, n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1,
           n_group=2, topk_group=1, norm_topk_prob=True, routed_scaling_factor=2.5, first_k_dense_replace=1)


def more_families():
    """Further ones; their folders go through publish()."""
    import transformers as t
    yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 32,
            "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0}
    latent = dict(q_lora_rank=16, kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=16, v_head_dim=32, num_key_value_heads=2)
    two_kinds = lambda part: {"full_attention": {"rope_type": "default", "rope_theta": 5e6, "partial_rotary_factor": part},
                              "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}}
    small = {k: v for k, v in SMALL.items() if k != "num_key_value_heads"}
    one_group = {"n_group": 1, "topk_group": 1}
    wide_and_narrow = ["full_attention", "sliding_attention"]
    dsa = dict(index_topk=8, index_head_dim=32, index_n_heads=12)  # of fewer all scores may be 0, which tie
    csa, hca = "compressed_sparse_attention", "heavily_compressed_attention"
    # All eight pairs of Step-3.7 but two are beyond the ramp.
    llama3 = {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 32.0, "original_max_position_embeddings": 64}
    gemma4 = lambda width: t.Gemma4TextConfig(
        **SMALL | {"vocab_size": GEMMA_TOKENS, "hidden_size": 64, "num_hidden_layers": 3, "num_key_value_heads": 2, "num_attention_heads": 4,
                   "tie_word_embeddings": True}, head_dim=16, global_head_dim=32, num_global_key_value_heads=1, attention_k_eq_v=True,
        sliding_window=8, intermediate_size=48, layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        final_logit_softcapping=30.0, enable_moe_block=True, num_experts=4, top_k_experts=2, moe_intermediate_size=width,
        hidden_size_per_layer_input=0)
    return {
        "qwen3_vl_moe": (t.Qwen3VLMoeForConditionalGeneration, t.Qwen3VLMoeConfig(
            text_config=dict(SMALL, head_dim=32, num_experts=3, num_experts_per_tok=2, moe_intermediate_size=32, intermediate_size=48,
                             rope_parameters={"rope_type": "default", "rope_theta": 5e6, "mrope_section": [6, 5, 5],
                                              "mrope_interleaved": True}),
            tie_word_embeddings=False, vision_config=dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=32,
                                                          deepstack_visual_indexes=[0], num_position_embeddings=16)), (), {}),
        "ernie4_5_moe": (t.Ernie4_5_MoeForCausalLM, t.Ernie4_5_MoeConfig(
            **SMALL | {"num_hidden_layers": 3, "tie_word_embeddings": True}, intermediate_size=48, moe_num_experts=4, moe_k=2,
            moe_intermediate_size=32, moe_num_shared_experts=2, moe_layer_start_index=1, moe_layer_end_index=2, moe_layer_interval=1,
            rope_parameters={"rope_type": "default", "rope_theta": 5e5}), (), {}),
        "hy_v3": (t.HYV3ForCausalLM, t.HYV3Config(**SMALL, head_dim=32, intermediate_size=48, num_experts=4, num_experts_per_tok=2,
                  moe_intermediate_size=32, num_shared_experts=1, router_scaling_factor=2.826, rope_parameters=dict(ROPE)), (), {}),
        "laguna": (t.LagunaForCausalLM, t.LagunaConfig(
            **SMALL, head_dim=32, intermediate_size=48, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
            shared_expert_intermediate_size=32, moe_routed_scaling_factor=2.5, sliding_window=8, gating="per-head",
            num_attention_heads_per_layer=[2, 4], layer_types=wide_and_narrow, mlp_layer_types=["dense", "sparse"], rope_parameters={
                "full_attention": {"rope_type": "yarn", "rope_theta": 5e5, "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
                                   "original_max_position_embeddings": 64, "partial_rotary_factor": 0.5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}}), (), {}),
        "llama4": (t.Llama4ForCausalLM, t.Llama4TextConfig(
            **SMALL | {"num_hidden_layers": 4}, head_dim=16, intermediate_size=32, intermediate_size_mlp=48, num_local_experts=3,
            num_experts_per_tok=1, interleave_moe_layer_step=2, use_qk_norm=True, rope_parameters={
                "rope_type": "llama3", "rope_theta": 5e5, "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0,
                "original_max_position_embeddings": 64}), (), {}),
        "mistral4": (t.Mistral4ForCausalLM, t.Mistral4Config(
            **small, **latent, intermediate_size=48, moe_intermediate_size=32, n_routed_experts=4, num_experts_per_tok=2,
            n_shared_experts=1, first_k_dense_replace=0, rope_parameters=yarn | {
                "original_max_position_embeddings": 16, "max_position_embeddings": 256, "factor": 16.0, "llama_4_scaling_beta": 0.1,
                "partial_rotary_factor": 0.5}), (), {}),
        "glm4_moe_lite": (t.Glm4MoeLiteForCausalLM, t.Glm4MoeLiteConfig(**small, **latent, **GLM | one_group,
                                                                        rope_parameters=dict(ROPE)), (), {}),
        "deepseek_v32": (t.DeepseekV32ForCausalLM, t.DeepseekV32Config(**small, **latent, **GLM, **dsa, rope_parameters=yarn), (),
                         {"scoring_func": "sigmoid"}),
        "glm_moe_dsa": (t.GlmMoeDsaForCausalLM, t.GlmMoeDsaConfig(
            **small | {"num_hidden_layers": 3}, **latent, **GLM | one_group, **dsa, indexer_types=["full", "full", "shared"],
            rope_parameters=ROPE | {"rope_theta": 1e6}), (), {"scoring_func": "sigmoid"}),
        "gemma4": (t.Gemma4ForCausalLM, gemma4(32), (), {}),
        "gemma4_nvfp4": (t.Gemma4ForCausalLM, gemma4(64), (), {}),
        "deepseek_v4": (t.DeepseekV4ForCausalLM, t.DeepseekV4Config(
            **SMALL | {"num_hidden_layers": 4, "num_attention_heads": 4}, head_dim=32, q_lora_rank=32, moe_intermediate_size=32,
            n_routed_experts=6, n_shared_experts=1, num_experts_per_tok=2, scoring_func="sqrtsoftplus", routed_scaling_factor=1.5,
            partial_rotary_factor=0.5, layer_types=["sliding_attention", csa, hca, csa], compress_rates={csa: 4, hca: 8},
            mlp_layer_types=["hash_moe", "moe", "moe", "moe"], hc_mult=4, hc_sinkhorn_iters=5, swiglu_limit=1.0, sliding_window=8,
            o_groups=2, o_lora_rank=32, index_n_heads=12, index_head_dim=32, index_topk=4, rope_parameters={
                "main": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}, "compress": {
                    "rope_type": "yarn", "rope_theta": 160000.0, "partial_rotary_factor": 0.5, "factor": 16.0,
                    "original_max_position_embeddings": 64, "beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": 1.0}}), (), {}),
        "mimo_v2_flash": (t.MiMoV2FlashForCausalLM, t.MiMoV2FlashConfig(
            **SMALL, head_dim=48, v_head_dim=32, intermediate_size=48, n_routed_experts=4, num_experts_per_tok=2,
            moe_intermediate_size=32, sliding_window=8, layer_types=wide_and_narrow, mlp_layer_types=["dense", "sparse"],
            rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 5e6, "partial_rotary_factor": 0.334},
                             "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.334}}), (), {}),
        "step3p7": (t.Step3p7ForConditionalGeneration, t.Step3p7Config(
            text_config=dict(SMALL | {"num_hidden_layers": 3}, head_dim=32, intermediate_size=48, n_routed_experts=4, num_experts_per_tok=2,
                             moe_intermediate_size=32, share_expert_dim=32, moe_router_scaling_factor=3.0, num_sliding_attention_heads=4,
                             sliding_window=8, layer_types=["full_attention", "sliding_attention", "full_attention"],
                             mlp_layer_types=["dense", "sparse", "sparse"], swiglu_limits=[0.0, 0.0, 0.7],
                             swiglu_limits_shared=[0.0, 0.0, 0.8],
                             rope_parameters=two_kinds(0.5) | {"full_attention": two_kinds(0.5)["full_attention"] | llama3}),
            vision_config=dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=2.0)),
            ("norm.weight",), {}),
        "minimax_m3": (t.MiniMaxM3VLForCausalLM, t.MiniMaxM3VLTextConfig(
            **SMALL, head_dim=32, intermediate_size=32, dense_intermediate_size=48, shared_intermediate_size=32, num_local_experts=4,
            num_experts_per_tok=2, routed_scaling_factor=2.0, rotary_dim=16, swiglu_limit=7.0, index_n_heads=1, index_head_dim=32,
            index_block_size=8, index_topk_blocks=2, index_local_blocks=1, layer_types=["full_attention", "minimax_m3_sparse"],
            mlp_layer_types=["dense", "sparse"], rope_parameters=ROPE | {"partial_rotary_factor": 0.5}), ("norm.weight",), {}),
    }


def families():
    """name: (class, config, ends of norms of 1 + w, additions to config.json)."""
    import transformers as t
    from transformers.models.qwen3_5_moe.configuration_qwen3_5_moe import Qwen3_5MoeTextConfig
    from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeForCausalLM
    next_norms = ("layernorm.weight", "q_norm.weight", "k_norm.weight", "model.norm.weight")
    yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 32,
            "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0}
    return {
        "mixtral": (t.MixtralForCausalLM, t.MixtralConfig(**SMALL | {"num_attention_heads": 4, "num_key_value_heads": 2}, head_dim=16,
                    intermediate_size=32, num_local_experts=3, num_experts_per_tok=2, sliding_window=None,
                    rope_parameters=dict(ROPE)), (), {}),
        "minimax_m2": (t.MiniMaxM2ForCausalLM, t.MiniMaxM2Config(**SMALL, head_dim=32, intermediate_size=32, num_local_experts=3,
                       num_experts_per_tok=2, rope_parameters=ROPE | {"partial_rotary_factor": 0.5}), (),
                       {"rotary_dim": 16, "scoring_func": "sigmoid"}),
        "glm4_moe": (t.Glm4MoeForCausalLM, t.Glm4MoeConfig(**SMALL, **GLM, head_dim=32, attention_bias=True, use_qk_norm=True,
                     rope_parameters=ROPE | {"partial_rotary_factor": 0.5}), (), {}),
        "deepseek_v3": (t.DeepseekV3ForCausalLM, t.DeepseekV3Config(**SMALL | {"num_key_value_heads": 2}, **GLM, q_lora_rank=16,
                        kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=16, v_head_dim=32, rope_parameters=yarn), (),
                        {"scoring_func": "sigmoid"}),
        "qwen3_next": (t.Qwen3NextForCausalLM, t.Qwen3NextConfig(**SMALL, **DELTA), next_norms, {}),
        "qwen3_5_moe": (Qwen3_5MoeForCausalLM, Qwen3_5MoeTextConfig(**SMALL, **DELTA), next_norms, {}),
        "nemotron_h": (t.NemotronHForCausalLM, t.NemotronHConfig(
            vocab_size=64, hidden_size=32, num_attention_heads=2, num_key_value_heads=1, head_dim=16, layers_block_type=[
                "linear_attention", "moe", "full_attention", "mlp"], mamba_num_heads=4, mamba_head_dim=16, n_groups=2,
            ssm_state_size=16, conv_kernel=4, chunk_size=8, intermediate_size=48, moe_intermediate_size=32,
            moe_shared_expert_intermediate_size=48, n_routed_experts=4, num_experts_per_tok=2, routed_scaling_factor=2.5,
            n_group=1, topk_group=1, use_conv_bias=True, max_position_embeddings=256, tie_word_embeddings=False), (), {}),
    } | more_families()


# Changes of config.json. Model types that transformers knows it would translate when the converter reads them.
PUBLISHED = {
    "mistral4": {"architectures": ["Mistral3ForConditionalGeneration"]},
    "mimo_v2_flash": {
        "model_type": "mimo_v2", "rope_parameters": None, "rope_theta": 5e6, "swa_rope_theta": 1e4, "partial_rotary_factor": 0.334,
        "hybrid_layer_pattern": [0, 1], "moe_layer_freq": [0, 1], "sliding_window": 7, "swa_num_attention_heads": 2,
        "swa_num_key_value_heads": 2, "swa_head_dim": 48, "swa_v_head_dim": 32, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
        "layernorm_epsilon": 1e-5},
    "minimax_m3": {
        "model_type": "minimax_m3", "architectures": ["MiniMaxM3SparseForCausalLM"], "scoring_func": "sigmoid", "n_shared_experts": 1,
        "moe_layer_freq": [0, 1], "sparse_attention_config": {
            "sparse_index_dim": 32, "sparse_num_index_heads": 1, "sparse_topk_blocks": 2, "sparse_block_size": 8,
            "sparse_local_block": 1}},
    "gemma4": {"global_head_dim": 32, "num_global_key_value_heads": 1, "per_layer_config": None},
    "gemma4_nvfp4": {"global_head_dim": 32, "num_global_key_value_heads": 1, "per_layer_config": None},
    "deepseek_v4": {
        "compress_ratios": [0, 4, 8, 4, 0], "num_hash_layers": 1, "qk_rope_head_dim": 16, "rope_theta": 10000.0, "compress_rope_theta": 160000.0,
        "topk_method": "noaux_tc", "num_nextn_predict_layers": 1, "rope_parameters": None, "layer_types": None, "mlp_layer_types": None,
        "rope_scaling": {"type": "yarn", "factor": 16, "original_max_position_embeddings": 64, "beta_fast": 32, "beta_slow": 1}},
}


def publish(name, folder, model):
    """The folder as the makers write it, where transformers writes another."""
    config = json.loads((folder / "config.json").read_text()) | PUBLISHED.get(name, {})
    tensors = load_file(folder / "model.safetensors")
    if name == "qwen3_vl_moe":  # [experts, in, out]
        tensors = {n: t.transpose(1, 2).contiguous() if ".experts." in n else t for n, t in tensors.items()}
    elif name == "step3p7":
        config = config["text_config"] | {
            "architectures": ["Step3p5ForCausalLM"], "model_type": "step35",
            "num_attention_groups": 1, "moe_num_experts": 4, "moe_top_k": 2, "moe_layers_enum": "1,2", "moe_router_activation": "sigmoid",
            "norm_expert_weight": True, "rope_theta": [5e6, 1e4, 5e6], "partial_rotary_factors": [0.5, 1.0, 0.5],
            "rope_scaling": {k: v for k, v in config["text_config"]["rope_parameters"]["full_attention"].items() if k.endswith((
                "type", "factor", "embeddings")) and not k.startswith("partial")},
            "attention_other_setting": {"attention_type": "sliding_attention", "num_attention_heads": 4, "num_attention_groups": 1,
                                        "head_dim": 32}}
        for key in ("rope_parameters", "per_layer_config"):
            config.pop(key, None)
    elif name == "minimax_m3":
        for key in [key for key in tensors if "gate_up_proj" in key]:
            for part, half in zip(("gate_proj", "up_proj"), tensors.pop(key).chunk(2, -2)):
                tensors[key.replace("gate_up_proj", part)] = half.contiguous()
        for key in [key for key in tensors if ".mlp.experts." in key]:
            stacked, projection = tensors.pop(key), {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}[key.rsplit(".", 1)[1]]
            for e, one in enumerate(stacked):
                tensors[f"{key.rsplit('.', 1)[0]}.{e}.{projection}.weight"] = one.contiguous()
        moved = (("mlp.gate.e_score", "block_sparse_moe.e_score"), ("mlp.experts.", "block_sparse_moe.experts."),
                 ("mlp.gate.", "block_sparse_moe.gate."), ("mlp.shared_experts.", "block_sparse_moe.shared_experts."),
                 (".indexer.q_", ".index_q_"), (".indexer.k_", ".index_k_"))
        for theirs, ours in moved:
            tensors = {n.replace(theirs, ours): t for n, t in tensors.items()}
    elif name == "deepseek_v4":
        tensors = released_deepseek_v4(model.state_dict())
    elif name.startswith("gemma4"):
        gemma_tokenizer(folder)
        if name == "gemma4_nvfp4":
            tensors, config["quantization_config"] = experts_of_modelopt(tensors)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def released_deepseek_v4(tensors):
    """DeepSeek's names; experts in MXFP4, which in_mxfp4() made them."""
    from deepseek_v4_names import V4_NAMES
    out = {}
    for name, tensor in tensors.items():
        for pattern, to in V4_NAMES:
            name = re.sub(pattern, to, name)
        if ".experts." not in name:
            is_kept = tensor.ndim < 2 or name.endswith(("ape", "_fn", "tid2eid"))
            out[name] = tensor if is_kept else tensor.bfloat16()
            continue
        for module, one in one_by_one(name, tensor, ("w1", "w3", "w2")):
            codes, exponents = mxfp4(one)
            out[module + ".weight"] = (codes[:, 0::2] | codes[:, 1::2] << 4).view(torch.int8)
            out[module + ".scale"] = exponents.to(torch.uint8).view(torch.float8_e8m0fnu)
    return out


def one_by_one(name, tensor, projections=("gate_proj", "up_proj", "down_proj")):
    """Stacked experts: (module, weight) of each."""
    at, _, leaf = name.rpartition(".")
    parts = zip(projections, tensor.chunk(2, 1)) if leaf == "gate_up_proj" else ((projections[2], tensor),)
    return [(f"{at}.{e}.{projection}", one.contiguous()) for projection, stacked in parts for e, one in enumerate(stacked)]


def experts_of_modelopt(tensors):
    """NVFP4 experts, which in_nvfp4() made them, and what config.json says of them."""
    out = {}
    for name, tensor in tensors.items():
        if ".experts." not in name:
            out[name] = tensor
            continue
        for module, one in one_by_one(name, tensor):
            out |= {f"{module}.{suffix}": part.contiguous() for suffix, part in modelopt_nvfp4(one).items()}
    return out, {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16, "ignore": ["model.layers.*.self_attn*", "lm_head"]}


def mxfp4(w):
    """Codes [N, K] and biased exponents [N, K / 32], the largest value of a group at most 6."""
    groups = w.reshape(w.shape[0], -1, 32)
    exponents = 127 + (groups.abs().amax(-1) / 6).log2().ceil()
    x = groups * 2.0 ** (127 - exponents)[..., None]
    codes = (x.abs()[..., None] - E2M1).abs().argmin(-1).to(torch.uint8) + 8 * (x < 0).to(torch.uint8)
    return codes.view(w.shape), exponents


@torch.no_grad()
def in_mxfp4(model):
    """Experts are numbers of MXFP4 from here on."""
    for name, p in model.named_parameters():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            continue
        for one in p:
            codes, exponents = mxfp4(one)
            signs = 1 - 2 * (codes >> 3).float()
            values = (E2M1[(codes & 7).long()] * signs).view(one.shape[0], -1, 32)
            one.copy_((values * 2.0 ** (exponents - 127)[..., None]).view(one.shape))


@torch.no_grad()
def in_nvfp4(model):
    """The same of NVFP4; packing them again gives the same codes."""
    for name, p in model.named_parameters():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            continue
        for stacked in p.chunk(2, 1) if name.endswith("gate_up_proj") else (p,):
            for one in stacked:
                parts = modelopt_nvfp4(one)
                codes = torch.stack([parts["weight"] & 15, parts["weight"] >> 4], -1).view(one.shape)
                values = (E2M1[(codes & 7).long()] * (1 - 2 * (codes >> 3).float())).view(one.shape[0], -1, 16)
                one.copy_((values * parts["weight_scale"].float()[..., None] * parts["weight_scale_2"]).view(one.shape))


GEMMA_TOKENS = 400
GEMMA_SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
GEMMA_TEXTS = TEXTS + ["<bos><|turn>user\nWhat is <table> and <|channel>?<turn|>\n", "a<table>b <unused1> ", "▁▁ and \n\n\n\n", "\xa0 \u200b§"]


def gemma_tokenizer(folder):
    """A tokenizer of Gemma-4's form: merges of the commonest words, letter by letter. Two added tokens are no special ones."""
    from tokenizer_families import CORPUS
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
    special, plain = GEMMA_SPECIAL + ["<|turn>", "<turn|>", "<|channel>"], ["<table>", "<unused1>"]
    text = "\n".join(CORPUS).replace(" ", "▁")
    commonest = lambda parts, count: sorted(collections.Counter(parts).items(), key=lambda part: (-part[1], part[0]))[:count]
    vocab = special + plain + ["\n"] + [f"<0x{byte:02X}>" for byte in range(256)]
    vocab += [character for character, _ in commonest(re.sub("\\s", "", text), 60)]
    merges = [("\n", "\n"), ("\n\n", "\n\n")]
    for word, _ in commonest(re.findall("▁[a-z]+|[a-z]{3,}", text), 200):
        merges += [(word[:i], word[i]) for i in range(1, len(word)) if word[i] in vocab]
    for left, right in list(merges):
        if len(vocab) < GEMMA_TOKENS and left in vocab and left + right not in vocab:
            vocab.append(left + right)
    merges = [pair for pair in dict.fromkeys(merges) if pair[0] + pair[1] in vocab and pair[0] in vocab]
    model = Tokenizer(models.BPE({token: i for i, token in enumerate(vocab)}, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    model.normalizer = normalizers.Replace(" ", "▁")
    model.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    model.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    model.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    model.add_tokens([AddedToken(token, normalized=False) for token in plain])
    assert model.get_vocab_size() == GEMMA_TOKENS, model.get_vocab_size()
    model.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>", "eos_token": "<turn|>", "unk_token": "<unk>",
        "pad_token": "<pad>", "additional_special_tokens": ["<mask>", "<|turn>"], "clean_up_tokenization_spaces": False}))
    cases = []
    for text in GEMMA_TEXTS:
        ids = model.encode(text, add_special_tokens=False).ids
        cases.append({"text": text, "ids": ids, "decoded": model.decode(ids, skip_special_tokens=False)})
    (OUT / "gemma4.json").write_text(json.dumps(cases, ensure_ascii=False).replace("}, ", "},\n ") + "\n")


def family(name):
    cls, config, one_plus, more = families()[name]
    config._attn_implementation = "eager"
    model = cls._from_config(config).float().eval()
    randomise(model, 11, one_plus)
    if name == "deepseek_v4":
        in_mxfp4(model)
    elif name == "gemma4_nvfp4":
        in_nvfp4(model)
    if hasattr(config, "kv_lora_rank"):  # transformers has 1e-6 there, whatever the file says
        for layer in model.model.layers:
            layer.self_attn.q_a_layernorm.variance_epsilon = layer.self_attn.kv_a_layernorm.variance_epsilon = config.rms_norm_eps
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        model.save_pretrained(folder)
        written = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(written | more))
        publish(name, folder, model)
        drafts = any(word in name for word in ("next", "3_5", "mimo"))
        convert(folder, OUT / f"{name}.gguf", "bf16", more=("--no-mtp",) if drafts else ())
    save_file(golden(model, 5), OUT / f"{name}.safetensors")


def gpt_oss():
    """The first two layers of the folder, with the limit that all published models have, which the file does not say."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        source = CHECKPOINTS / "gpt_oss-mxfp4"
        tensors = load_file(source / "model.safetensors")
        save_file({n: t for n, t in tensors.items() if not n.startswith(("model.layers.2.", "model.layers.3."))},
                  folder / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((source / "config.json").read_text())
        config |= {"num_hidden_layers": 2, "layer_types": config["layer_types"][:2], "swiglu_limit": 7.0}
        (folder / "config.json").write_text(json.dumps(config))
        for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
            shutil.copy(source / name, folder / name)
        convert(folder, OUT / "gpt_oss_mxfp4.gguf", "bf16", pre="gpt-4o")




def modelopt_nvfp4(w):
    """ModelOpt's formulas: weight_scale_2 = amax / 2688, block scale = e4m3(block amax / (6 weight_scale_2))."""
    scale_2 = w.abs().max() / 2688
    blocks = w.view(w.shape[0], -1, 16)
    scale = (blocks.abs().amax(-1) / (6 * scale_2)).clamp(2**-9, 448).to(torch.float8_e4m3fn)
    x = blocks / (scale.float() * scale_2)[..., None]
    codes = (x.abs()[..., None] - E2M1).abs().argmin(-1).to(torch.uint8) + 8 * (x < 0).to(torch.uint8)
    codes = codes.view(w.shape)
    return {"weight": codes[:, 0::2] | codes[:, 1::2] << 4, "weight_scale": scale, "weight_scale_2": scale_2,
            "input_scale": torch.tensor(0.01)}


def nvfp4():
    """A folder of ModelOpt's and the file made of it: experts whose rows are whole blocks of 64, and an attention in NVFP4."""
    source = CHECKPOINTS / "qwen3-modelopt-nvfp4"
    folder = OUT / "qwen3_moe_nvfp4"
    folder.mkdir(exist_ok=True)
    config = json.loads((source / "config.json").read_text())
    config |= {"moe_intermediate_size": 64, "num_hidden_layers": 1, "num_local_experts": 4, "num_experts_per_tok": 2}
    ignore = ["lm_head", "model.embed_tokens", "model.layers.0.mlp.gate"]
    config["quantization_config"]["ignore"] = ignore
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    hf_quant = json.loads((source / "hf_quant_config.json").read_text())
    hf_quant["quantization"]["exclude_modules"] = ignore
    (folder / "hf_quant_config.json").write_text(json.dumps(hf_quant, indent=1))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(source / name, folder / name)
    generator = torch.Generator().manual_seed(3)
    noise = lambda *shape: torch.randn(shape, generator=generator)
    at = "model.layers.0."
    tensors = {"model.embed_tokens.weight": noise(320, 64).bfloat16(), "model.norm.weight": (1 + 0.2 * noise(64)).bfloat16()}
    for norm, width in (("input_layernorm", 64), ("post_attention_layernorm", 64), ("self_attn.q_norm", 16), ("self_attn.k_norm", 16)):
        tensors[f"{at}{norm}.weight"] = (1 + 0.2 * noise(width)).bfloat16()
    tensors[at + "mlp.gate.weight"] = (noise(4, 64) / 8).bfloat16()
    matrices = [(f"self_attn.{p}_proj", n, 64) for p, n in (("q", 64), ("k", 32), ("v", 32), ("o", 64))]
    matrices += [(f"mlp.experts.{e}.{p}_proj", 64, 64) for e in range(4) for p in ("gate", "up", "down")]
    for module, rows, columns in matrices:
        # Scales differ by expert and projection, so that none can stand for another.
        spread = float(torch.rand((), generator=generator)) + 0.5
        parts = modelopt_nvfp4(spread * noise(rows, columns) / 8)
        tensors |= {f"{at}{module}.{suffix}": t.contiguous() for suffix, t in parts.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    convert(folder, OUT / "qwen3_moe_nvfp4.gguf", "bf16")


def random_blocks(quantisation, rows, columns, generator, spread):
    """Rows of a type with random codes and scales, finite and of about this size."""
    import gguf
    elements, size = gguf.GGML_QUANT_SIZES[quantisation]
    count = rows * columns // elements
    blocks = generator.integers(0, 256, (count, size), dtype=np.uint8)
    half = lambda scale: (generator.uniform(0.5, 1.5, count) * scale).astype(np.float16).view(np.uint8).reshape(count, 2)
    name = quantisation.name
    if name == "Q8_0":
        blocks[:, :2] = half(spread / 64)
    elif name == "Q4_K":
        blocks[:, :2], blocks[:, 2:4] = half(spread / 256), half(spread / 32)
    elif name == "Q6_K":
        blocks[:, 208:] = half(spread / 2048)
        blocks[:, 192:208] = generator.integers(-100, 100, (count, 16), dtype=np.int8).view(np.uint8)
    elif name == "NVFP4":
        blocks[:, :4] = generator.integers(0, 0x7f, (count, 4), dtype=np.uint8)
    elif name == "MXFP4":
        blocks[:, 0] = generator.integers(0, 253, count, dtype=np.uint8)
    return blocks.reshape(rows, columns // elements * size)


def blocks():
    """Blocks of every type and gguf-py's values of them."""
    import gguf
    generator = np.random.default_rng(1)
    out = {}
    for name in ("Q8_0", "Q4_K", "Q6_K", "NVFP4", "MXFP4"):
        kind = gguf.GGMLQuantizationType[name]
        data = random_blocks(kind, 1, 1024, generator, 1.0)
        out[f"{name}.blocks"] = torch.from_numpy(data)
        out[f"{name}.values"] = torch.from_numpy(gguf.quants.dequantize(data, kind)).float()
    save_file(out, OUT / "blocks.safetensors")


def quantised():
    """Qwen3-MoE with Q4_K, Q6_K, Q8_0 and F16 tensors as a K-quant of llama.cpp has them."""
    import gguf
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
    generator = np.random.default_rng(2)
    heads, width, hidden, vocab, experts = 2, 16, 256, 64, 3
    config = Qwen3MoeConfig(vocab_size=vocab, hidden_size=hidden, num_hidden_layers=1, num_attention_heads=heads,
                            num_key_value_heads=1, head_dim=width, intermediate_size=64, moe_intermediate_size=32,
                            num_experts=experts, num_experts_per_tok=2, norm_topk_prob=True, max_position_embeddings=256,
                            rms_norm_eps=1e-5, tie_word_embeddings=True, rope_parameters=dict(ROPE))
    config._attn_implementation = "eager"
    model = Qwen3MoeForCausalLM._from_config(config).float().eval()
    writer = gguf.GGUFWriter(OUT / "qwen3_moe_quantised.gguf", "qwen3moe")
    writer.add_block_count(1)
    writer.add_context_length(256)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(64)
    writer.add_head_count(heads)
    writer.add_head_count_kv(1)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_expert_count(experts)
    writer.add_expert_used_count(2)
    writer.add_expert_feed_forward_length(32)
    state = {}

    def add(name, kind, shape, spread):
        kind = gguf.GGMLQuantizationType[kind]
        if kind in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16):
            values = (1 + 0.2 * generator.standard_normal(shape)) if len(shape) == 1 else spread * generator.standard_normal(shape)
            data = values.astype(np.float32 if kind == gguf.GGMLQuantizationType.F32 else np.float16)
            writer.add_tensor(name, data)
            return torch.from_numpy(data.astype(np.float32))
        rows = int(np.prod(shape[:-1]))
        data = random_blocks(kind, rows, shape[-1], generator, spread)
        writer.add_tensor(name, data.reshape(*shape[:-1], -1), raw_dtype=kind)
        return torch.from_numpy(gguf.quants.dequantize(data, kind).reshape(shape).copy())

    layer = "model.layers.0."
    state["model.embed_tokens.weight"] = add("token_embd.weight", "Q6_K", (vocab, hidden), 1.0)
    state["model.norm.weight"] = add("output_norm.weight", "F32", (hidden,), 0)
    for ours, theirs, size in (("attn_norm", "input_layernorm", hidden), ("ffn_norm", "post_attention_layernorm", hidden),
                               ("attn_q_norm", "self_attn.q_norm", width), ("attn_k_norm", "self_attn.k_norm", width)):
        state[f"{layer}{theirs}.weight"] = add(f"blk.0.{ours}.weight", "F32", (size,), 0)
    for ours, theirs, kind, shape in (("attn_q", "q_proj", "Q4_K", (heads * width, hidden)), ("attn_k", "k_proj", "Q6_K", (width, hidden)),
                                      ("attn_v", "v_proj", "Q8_0", (width, hidden)), ("attn_output", "o_proj", "F16", (hidden, heads * width))):
        state[f"{layer}self_attn.{theirs}.weight"] = add(f"blk.0.{ours}.weight", kind, shape, 0.1)
    state[layer + "mlp.gate.weight"] = add("blk.0.ffn_gate_inp.weight", "F32", (experts, hidden), 0.1)
    gate = add("blk.0.ffn_gate_exps.weight", "Q4_K", (experts, 32, hidden), 0.1)
    up = add("blk.0.ffn_up_exps.weight", "Q6_K", (experts, 32, hidden), 0.1)
    state[layer + "mlp.experts.gate_up_proj"] = torch.cat([gate, up], 1)
    state[layer + "mlp.experts.down_proj"] = add("blk.0.ffn_down_exps.weight", "Q8_0", (experts, hidden, 32), 0.3)
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model.load_state_dict(state)
    save_file(golden(model, 6), OUT / "qwen3_moe_quantised.safetensors")




def sentencepiece_tokens():
    """A vocabulary that SentencePiece trained, and what it makes of texts."""
    import gguf
    import sentencepiece
    from tokenizer_families import CORPUS
    with tempfile.TemporaryDirectory() as folder:
        text = pathlib.Path(folder) / "text"
        text.write_text("\n".join(CORPUS * 3))
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_prefix=folder + "/m", vocab_size=700, model_type="bpe", byte_fallback=True,
            character_coverage=0.98, normalization_rule_name="identity", remove_extra_whitespaces=False, num_threads=1)
        model = sentencepiece.SentencePieceProcessor(model_file=folder + "/m.model")
    writer = gguf.GGUFWriter(OUT / "sentencepiece.gguf", "llama")
    writer.add_tokenizer_model("llama")
    ids = range(model.vocab_size())
    types = [2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1 for i in ids]
    writer.add_token_list([model.id_to_piece(i) for i in ids])
    writer.add_token_scores([model.get_score(i) for i in ids])
    writer.add_token_types(types)
    writer.add_bos_token_id(model.bos_id())
    writer.add_eos_token_id(model.eos_id())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    golden = [{"text": text, "ids": model.encode(text), "decoded": model.decode(model.encode(text))} for text in TEXTS]
    (OUT / "sentencepiece.json").write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n")


def seeds():
    """fuzz/corpus/gguf: headers of the files above, and a whole file with a tokenizer and every type that is decoded."""
    import gguf
    folder = ROOT / "fuzz/corpus/gguf"
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(OUT.glob("*.gguf")):
        if not gguf.GGUFReader(path).tensors:
            continue
        start = min(t.data_offset for t in gguf.GGUFReader(path).tensors)
        if start < 20000:
            (folder / path.stem).write_bytes(path.read_bytes()[:start])
    writer = gguf.GGUFWriter(folder / "whole", "qwen3moe")
    for add, value in ((writer.add_block_count, 1), (writer.add_embedding_length, 64), (writer.add_head_count, 2),
                       (writer.add_head_count_kv, 1), (writer.add_key_length, 16), (writer.add_expert_count, 2),
                       (writer.add_expert_used_count, 1), (writer.add_expert_feed_forward_length, 64),
                       (writer.add_rope_freq_base, 1e4), (writer.add_layer_norm_rms_eps, 1e-6)):
        add(value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(["a", "b", "ab", "\u0120", "<|im_end|>", "<think>", "[PAD6]"])
    writer.add_token_types([1, 1, 1, 1, 3, 4, 5])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(4)
    writer.add_chat_template("{{ messages }}")
    generator = np.random.default_rng(4)
    for name, kind, shape in (("token_embd", "F16", (7, 64)), ("blk.0.attn_norm", "F32", (64,)), ("blk.0.attn_q", "NVFP4", (4, 64)),
                              ("blk.0.attn_k", "Q8_0", (2, 64)), ("blk.0.attn_v", "BF16", (2, 64)), ("blk.0.ffn_up", "Q4_K", (1, 256)),
                              ("blk.0.ffn_gate", "Q6_K", (1, 256)), ("blk.0.ffn_up_exps", "MXFP4", (2, 2, 64)),
                              ("blk.0.ffn_gate_exps", "MXFP4", (2, 2, 64)), ("blk.0.ffn_down_exps", "MXFP4", (2, 2, 64))):
        kind = gguf.GGMLQuantizationType[kind]
        if kind in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.BF16):
            data = gguf.quants.quantize(generator.standard_normal(shape).astype(np.float32), kind)
        else:
            rows = int(np.prod(shape[:-1]))
            data = random_blocks(kind, rows, shape[-1], generator, 1.0).reshape(*shape[:-1], -1)
        writer.add_tensor(name + ".weight", data, raw_dtype=kind)
    writer.add_tensor("blk.0.attn_q.scale", np.ones(1, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    llama_cpp = pathlib.Path(sys.argv[1])
    sys.path[:0] = [str(llama_cpp), str(llama_cpp / "gguf-py")]
    OUT.mkdir(exist_ok=True)
    makers = {"sentencepiece": sentencepiece_tokens, "blocks": blocks, "gpt_oss": gpt_oss, "nvfp4": nvfp4, "quantised": quantised}
    makers |= {name: lambda name=name: family(name) for name in families()}
    makers["seeds"] = seeds
    for name in sys.argv[2:] or makers:
        print(name)
        makers[name]()


if __name__ == "__main__":
    main()
