#!/usr/bin/env python3
"""Writes the folders of tests/data/checkpoints that golden_recipe.py makes: small random models of further families.

Needs torch, transformers 5.24, nvidia-modelopt 0.47, compressed-tensors, tokenizers, safetensors.

    python scripts/make_family_goldens.py [NAME ...]
"""

import re
import sys

import torch
from deepseek_v4_names import V4_NAMES
from golden_recipe import W132, Case, by_modelopt, compressed, deepseek_fp8, deepseek_mxfp4, experts_only, modelopt, modelopt_mixed, stacked, write

COMMON = dict(vocab_size=320, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=2560,
              hidden_act="silu", rms_norm_eps=1e-5, tie_word_embeddings=False)
DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 10000.0}


def spelling_of_4(config, keep_partial=True):
    """config.json as transformers 4 wrote it."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope["rope_theta"]
    scaling = {k: v for k, v in rope.items() if k not in ("rope_theta", "partial_rotary_factor")}
    config["rope_scaling"] = None if scaling == {"rope_type": "default"} else scaling
    partial = rope.get("partial_rotary_factor")
    config.pop("partial_rotary_factor", None)
    if partial is not None and keep_partial:
        config["partial_rotary_factor"] = partial
    config["torch_dtype"] = config.pop("dtype", "bfloat16")
    return config


def drafts(prefix, hidden=64):
    """Tensors of a multi-token prediction layer, which has the next layer's index."""
    zeros = lambda *shape: torch.zeros(shape, dtype=torch.bfloat16)
    return {f"{prefix}enorm.weight": zeros(hidden), f"{prefix}eh_proj.weight": zeros(hidden, 2 * hidden),
            f"{prefix}shared_head.norm.weight": zeros(hidden), f"{prefix}mlp.gate.weight": zeros(8, hidden)}


def latent_eps(model):
    """transformers has an eps of 1e-6 in the norms of latents, whatever the file says."""
    for layer in model.model.layers:
        layer.self_attn.q_a_layernorm.variance_epsilon = model.config.rms_norm_eps
        layer.self_attn.kv_a_layernorm.variance_epsilon = model.config.rms_norm_eps


GLM = dict(moe_intermediate_size=32, intermediate_size=96, n_routed_experts=16, num_experts_per_tok=4, n_shared_experts=1,
           n_group=1, topk_group=1, norm_topk_prob=True)
GLM_STOPS = {"eos_token_id": [317, 318, 319], "pad_token_id": 317, "do_sample": True, "temperature": 1.0, "top_p": 0.95}


def glm4_moe():
    """GLM-4.6: biases of q, k and v, norms per head, half of a head rotated though the file does not say so, biases of the
    router that BF16 makes equal, a draft layer by index."""
    from transformers import Glm4MoeConfig, Glm4MoeForCausalLM
    config = Glm4MoeConfig(**COMMON, **GLM, num_key_value_heads=2, head_dim=32, attention_bias=True, use_qk_norm=True,
                           first_k_dense_replace=1, routed_scaling_factor=2.5, rope_parameters=DEFAULT_ROPE | {
                               "partial_rotary_factor": 0.5})

    def publish(written):
        written = spelling_of_4(written, keep_partial=False)
        written.pop("num_local_experts", None)
        return written | {"num_nextn_predict_layers": 1, "eos_token_id": GLM_STOPS["eos_token_id"]}

    return Case("glm4_moe-modelopt-nvfp4", Glm4MoeForCausalLM, config, 41, by_modelopt(experts_only), publish,
                bias=(6.94, 0.03), extra=drafts("model.layers.3."), generation=GLM_STOPS)


def glm4_moe_lite():
    """GLM-4.7-Flash: latent attention with plain rotary embedding, mlp_layer_types of transformers 5, a head_dim that is the
    rotary width, an eps that shows in both latents."""
    from transformers import Glm4MoeLiteConfig, Glm4MoeLiteForCausalLM
    config = Glm4MoeLiteConfig(**(COMMON | {"rms_norm_eps": 1e-3}), **GLM, num_key_value_heads=4, q_lora_rank=48, kv_lora_rank=32,
                               qk_nope_head_dim=16, qk_rope_head_dim=16, v_head_dim=32, routed_scaling_factor=1.8,
                               rope_parameters=dict(DEFAULT_ROPE))

    publish = lambda written: written | {"num_nextn_predict_layers": 1, "eos_token_id": GLM_STOPS["eos_token_id"]}
    return Case("glm4_moe_lite-modelopt-nvfp4", Glm4MoeLiteForCausalLM, config, 42, by_modelopt(experts_only), publish, fix=latent_eps,
                extra=drafts("model.layers.3."), generation=GLM_STOPS)


NEXT_NORMS = ("layernorm.weight", "q_norm.weight", "k_norm.weight", "model.norm.weight")  # 1 + w


def minimax_m2_ct():
    """The same as compressed-tensors publishes it, with another seed."""
    case = minimax_m2()
    case.name, case.seed, case.quantise = "minimax_m2-ct-nvfp4", 51, compressed()
    return case


def minimax_m2():
    """MiniMax-M2: norms over all heads, half of a head rotated by rotary_dim, no plain eps of the router; config.json names
    other stop tokens than generation_config.json."""
    from transformers import MiniMaxM2Config, MiniMaxM2ForCausalLM
    config = MiniMaxM2Config(**(COMMON | {"num_hidden_layers": 2}), num_key_value_heads=2, head_dim=32, intermediate_size=32,
                             num_local_experts=8, num_experts_per_tok=3, rope_parameters={
                                 "rope_type": "default", "rope_theta": 5e6, "partial_rotary_factor": 0.5})

    def publish(written):
        written = spelling_of_4(written, keep_partial=False)
        return written | {"rotary_dim": 16, "qk_norm_type": "per_layer", "use_qk_norm": True, "use_routing_bias": True,
                          "scoring_func": "sigmoid", "attn_type_list": [1, 1], "num_mtp_modules": 3, "mtp_transformer_layers": 1,
                          "use_mtp": True, "shared_intermediate_size": 0, "layernorm_full_attention_beta": 1.0,
                          "layernorm_mlp_beta": 1.0, "sliding_window": None, "bos_token_id": 1, "eos_token_id": 2}

    return Case("minimax_m2-modelopt-nvfp4", MiniMaxM2ForCausalLM, config, 43, by_modelopt(experts_only), publish,
                rename=lambda name: name.replace(".mlp.", ".block_sparse_moe."), projections=W132,
                extra={"model.mtp.0.enorm.weight": torch.zeros(64)},
                generation={"bos_token_id": 319, "eos_token_id": 318, "do_sample": True, "temperature": 1.0, "top_p": 0.95})


def minimax_m3():
    """MiniMax-M3: norms of 1 + w per head, two of five blocks of keys by an indexer in all layers but the first, the clamped
    activation in dense, shared and routed MLPs; NVFP4 experts beside MXFP8 linears; a wrapper, and lists of released files."""
    from transformers import MiniMaxM3VLForCausalLM, MiniMaxM3VLTextConfig
    config = MiniMaxM3VLTextConfig(
        **COMMON, bos_token_id=1, eos_token_id=2, num_key_value_heads=2, head_dim=32, intermediate_size=32, dense_intermediate_size=96, shared_intermediate_size=64,
        num_local_experts=8, num_experts_per_tok=3, routed_scaling_factor=2.0, rotary_dim=16, swiglu_limit=1.5, index_n_heads=2,
        index_head_dim=32, index_block_size=8, index_topk_blocks=2, index_local_blocks=1,
        layer_types=["full_attention", "minimax_m3_sparse", "minimax_m3_sparse"], mlp_layer_types=["dense", "sparse", "sparse"],
        rope_parameters={"rope_type": "default", "rope_theta": 5e6, "partial_rotary_factor": 0.5})

    def rename(name):
        name = re.sub(r"\.mlp\.(experts|gate|shared_experts)(?=\.|$)", r".block_sparse_moe.\1", name)
        name = name.replace("block_sparse_moe.gate.e_score", "block_sparse_moe.e_score")
        return "language_model." + re.sub(r"\.indexer\.([qk]_)", r".index_\1", name)

    def publish(written):
        text = spelling_of_4(written)
        marks = [int(word == "minimax_m3_sparse") for word in text.pop("layer_types")]
        text.pop("model_type")
        text |= {"moe_layer_freq": [int(word == "sparse") for word in text.pop("mlp_layer_types")], "hidden_act": "swigluoai",
                 "use_gemma_norm": True, "use_qk_norm": True, "qk_norm_type": "per_head", "attention_output_gate": False,
                 "scoring_func": "sigmoid", "use_routing_bias": True, "n_shared_experts": 1, "num_mtp_modules": 7,
                 "num_nextn_predict_layers": 1, "sparse_attention_config": {
                     "use_sparse_attention": True, "sparse_index_dim": text.pop("index_head_dim"),
                     "sparse_num_index_heads": text.pop("index_n_heads"), "sparse_topk_blocks": text.pop("index_topk_blocks"),
                     "sparse_block_size": text.pop("index_block_size"), "sparse_score_type": "max", "sparse_init_block": 0,
                     "sparse_local_block": text.pop("index_local_blocks"), "sparse_disable_index_value": marks,
                     "sparse_attention_freq": marks}}
        return {"architectures": ["MiniMaxM3SparseForConditionalGeneration"], "model_type": "minimax_m3_vl", "text_config": text,
                "vision_config": {"model_type": "clip_vision_model"}, "torch_dtype": "bfloat16"}

    is_mxfp8 = lambda module: not module.endswith(("embed_tokens", "lm_head", ".gate"))
    return Case("minimax_m3-modelopt-mixed", MiniMaxM3VLForCausalLM, config, 61, modelopt_mixed(is_mxfp8), publish, rename,
                projections=W132, one_plus=("norm.weight",), bias=(6.94, 0.03), factor=2.0,
                extra={"mtp.0.enorm.weight": torch.zeros(64), "vision_tower.vision_model.pre_layrnorm.weight": torch.zeros(8),
                       "multi_modal_projector.linear_1.weight": torch.zeros(8, 8),
                       "patch_merge_mlp.linear_1.weight": torch.zeros(8, 8)},
                generation={"bos_token_id": 319, "eos_token_id": 318, "do_sample": True, "temperature": 1.0, "top_p": 0.95})


def qwen3_next():
    """Qwen3-Next: projections grouped by key head (two value heads each), norms of 1 + w, a gated shared expert, attention in
    the second of three layers by full_attention_interval, the last layer dense."""
    from transformers import Qwen3NextConfig, Qwen3NextForCausalLM
    config = Qwen3NextConfig(**COMMON, num_key_value_heads=2, head_dim=64, intermediate_size=96, num_experts=8, num_experts_per_tok=3,
                             moe_intermediate_size=32, shared_expert_intermediate_size=32, linear_num_key_heads=2,
                             linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16, mlp_only_layers=[2],
                             layer_types=["linear_attention", "full_attention", "linear_attention"],
                             rope_parameters={"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25})

    def publish(written):
        written = spelling_of_4(written)
        del written["layer_types"]
        return written | {"full_attention_interval": 2}

    return Case("qwen3_next-modelopt-nvfp4", Qwen3NextForCausalLM, config, 44, by_modelopt(experts_only), publish,
                one_plus=NEXT_NORMS, scores=lambda gate, logits: logits, extra={"mtp.fc.weight": torch.zeros(4, 4)},
                generation={"eos_token_id": [319, 317]})


def qwen3_vl_moe():
    """The text model of Qwen3-VL-MoE in its wrapper: sections of mrope, names with language_model, vision tensors."""
    from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration
    text = dict(COMMON | {"num_hidden_layers": 2}, num_key_value_heads=2, head_dim=32, num_experts=8, num_experts_per_tok=3,
                moe_intermediate_size=32, intermediate_size=96, rope_parameters={
                    "rope_type": "default", "rope_theta": 5e6, "mrope_section": [6, 5, 5], "mrope_interleaved": True})
    config = Qwen3VLMoeConfig(text_config=text, tie_word_embeddings=False, image_token_id=300, video_token_id=301,
                              vision_start_token_id=302, vision_end_token_id=303, vision_config=dict(
                                  depth=1, hidden_size=32, intermediate_size=32, num_heads=2, out_hidden_size=64,
                                  deepstack_visual_indexes=[0], num_position_embeddings=16))

    def publish(written):
        written["text_config"] = spelling_of_4(written["text_config"]) | {"norm_topk_prob": True}
        return written

    return Case("qwen3_vl_moe-modelopt-nvfp4", Qwen3VLMoeForConditionalGeneration, config, 45, modelopt("NVFP4"), publish,
                scores=lambda gate, logits: logits, text=lambda model: model.model.language_model,
                keep=lambda name: ".visual." not in name, extra={"model.visual.patch_embed.proj.bias": torch.zeros(4)},
                generation={"eos_token_id": [319, 317]})


def mixtral():
    """Mixtral: experts under block_sparse_moe.experts.N.w{1,2,3}, a window of 8 in every layer."""
    from transformers import MixtralConfig, MixtralForCausalLM
    config = MixtralConfig(**(COMMON | {"num_hidden_layers": 2}), num_key_value_heads=2, intermediate_size=32, num_local_experts=8,
                           num_experts_per_tok=2, sliding_window=8, rope_parameters={"rope_type": "default", "rope_theta": 1e6})

    def publish(written):
        written = spelling_of_4(written)
        written.pop("head_dim", None)
        return written

    return Case("mixtral-modelopt-nvfp4", MixtralForCausalLM, config, 46, by_modelopt(experts_only), publish,
                rename=lambda name: name.replace(".mlp.", ".block_sparse_moe."), projections=W132,
                scores=lambda gate, logits: logits, generation={"eos_token_id": 2})


def hy_v3():
    """Hy3 as compressed-tensors publishes it: router, correction bias and shared expert under names of its own."""
    from transformers import HYV3Config, HYV3ForCausalLM
    config = HYV3Config(**COMMON, num_key_value_heads=2, head_dim=32, intermediate_size=96, num_experts=8, num_experts_per_tok=3,
                        moe_intermediate_size=32, num_shared_experts=1, router_scaling_factor=2.826, rope_parameters={
                            "rope_type": "default", "rope_theta": 11158840.0})

    def rename(name):
        for ours, theirs in ((".mlp.gate.", ".mlp.router.gate."), (".mlp.e_score_correction_bias", ".mlp.expert_bias"),
                             (".mlp.shared_experts.", ".mlp.shared_mlp.")):
            name = name.replace(ours, theirs)
        return name

    def publish(written):
        written = spelling_of_4(written)
        del written["mlp_layer_types"]
        return written | {"first_k_dense_replace": 1, "qk_norm": True, "num_nextn_predict_layers": 1}

    return Case("hy_v3-ct-nvfp4", HYV3ForCausalLM, config, 47, compressed(), publish, rename=rename, bias=(6.94, 0.03),
                extra=drafts("model.layers.3."), generation={"eos_token_id": [319]})


def ernie4_5_moe():
    """Ernie-4.5: neighbouring elements are rotated, a softmax router with a correction bias, two shared experts, tied
    embeddings that the file does not mention, experts in the middle layers only."""
    from transformers import Ernie4_5_MoeConfig, Ernie4_5_MoeForCausalLM
    config = Ernie4_5_MoeConfig(**(COMMON | {"num_hidden_layers": 4, "tie_word_embeddings": True}), num_key_value_heads=2,
                                intermediate_size=96, moe_num_experts=8, moe_k=3, moe_intermediate_size=32,
                                moe_num_shared_experts=2, moe_layer_start_index=1, moe_layer_end_index=2, moe_layer_interval=1,
                                rope_parameters={"rope_type": "default", "rope_theta": 5e5})

    def publish(written):
        written = spelling_of_4(written)
        del written["tie_word_embeddings"]
        return written

    scores = lambda block, logits: logits.softmax(-1) + block.gate.moe_statics.e_score_correction_bias
    return Case("ernie4_5_moe-modelopt-w4a16", Ernie4_5_MoeForCausalLM, config, 48, modelopt("W4A16_NVFP4"), publish,
                rename=lambda name: name.replace(".mlp.gate.moe_statics.", ".mlp.moe_statics."), bias=(0.0, 0.1), scores=scores,
                keep=lambda name: name != "lm_head.weight", generation={"eos_token_id": 2})


def gemma4():
    """Gemma-4's text model in its wrapper: windows of 8 but for the last of three layers, whose values are its keys and
    whose rotation is that of another width; norms around every part, an MLP beside the experts, soft-capped logits.
    sqrt(96) is no BF16 number, so the rounding of the embeddings' scale counts."""
    from transformers import Gemma4ForCausalLM, Gemma4TextConfig
    hidden = 96
    config = Gemma4TextConfig(
        vocab_size=320, hidden_size=hidden, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        global_head_dim=32, num_global_key_value_heads=1, attention_k_eq_v=True, sliding_window=8, intermediate_size=96,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"], max_position_embeddings=2560,
        final_logit_softcapping=30.0, enable_moe_block=True, num_experts=8, top_k_experts=3, moe_intermediate_size=32,
        hidden_size_per_layer_input=0, rms_norm_eps=1e-6)

    def publish(written):
        for key in ("per_layer_config", "quantization_config", "architectures", "dtype"):
            written.pop(key, None)
        written |= {"global_head_dim": 32, "num_global_key_value_heads": 1, "model_type": "gemma4_text"}
        return {"architectures": ["Gemma4ForConditionalGeneration"], "model_type": "gemma4", "dtype": "bfloat16",
                "tie_word_embeddings": True, "text_config": written}

    def fix(model):
        scale = torch.tensor(hidden ** 0.5).bfloat16().float()
        model.model.embed_tokens.embed_scale = scale

    return Case("gemma4-modelopt-nvfp4", Gemma4ForCausalLM, config, 49, modelopt("NVFP4"), publish, fix=fix,
                rename=lambda name: name.replace("model.", "model.language_model.", 1), keep=lambda name: name != "lm_head.weight",
                extra={"model.embed_vision.embedding_projection.weight": torch.zeros(4, 4)}, generation={"eos_token_id": [1, 106]})


def mistral4():
    """Mistral-Small-4 as compressed-tensors publishes it: latent attention with YaRN (m^2 on the scores), a temperature that
    steps every 16 positions, a softmax router, the wrapper's names."""
    from transformers import Mistral4Config, Mistral4ForCausalLM
    config = Mistral4Config(**(COMMON | {"num_hidden_layers": 2}), num_key_value_heads=4, intermediate_size=96,
                            moe_intermediate_size=32, n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=1,
                            first_k_dense_replace=0, q_lora_rank=48, kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=16,
                            v_head_dim=32, rope_parameters={
                                "rope_type": "yarn", "type": "yarn", "rope_theta": 10000.0, "factor": 128.0, "beta_fast": 32.0,
                                "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
                                "original_max_position_embeddings": 16, "max_position_embeddings": 2560,
                                "partial_rotary_factor": 0.5})

    def publish(written):
        quantization = written.pop("quantization_config")
        return {"architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3", "dtype": "bfloat16",
                "quantization_config": quantization, "text_config": written, "vision_config": {"hidden_size": 8}}

    return Case("mistral4-ct-nvfp4", Mistral4ForCausalLM, config, 49, compressed(), publish, fix=latent_eps,
                rename=lambda name: "language_model." + name, scores=lambda gate, logits: logits,
                extra={"vision_tower.ln_pre.weight": torch.zeros(8)}, generation={"eos_token_id": 2})


def laguna():
    """Laguna: windows of 8 and 8 heads in every other layer, full attention with YaRN and 4 heads in the others, softplus gates
    a head, the correction bias among the experts, two kinds of rotary embedding."""
    from transformers import LagunaConfig, LagunaForCausalLM
    config = LagunaConfig(**COMMON, num_key_value_heads=2, head_dim=32, intermediate_size=96, num_experts=8, num_experts_per_tok=3,
                          moe_intermediate_size=32, shared_expert_intermediate_size=32, moe_routed_scaling_factor=2.5,
                          sliding_window=8, gating="per-head", num_attention_heads_per_layer=[4, 8, 4],
                          layer_types=["full_attention", "sliding_attention", "full_attention"],
                          mlp_layer_types=["dense", "sparse", "sparse"], rope_parameters={
                              "full_attention": {"rope_type": "yarn", "rope_theta": 5e5, "factor": 32.0, "beta_fast": 32.0,
                                                 "beta_slow": 1.0, "original_max_position_embeddings": 64,
                                                 "partial_rotary_factor": 0.5},
                              "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}})

    def rename(name):
        return name.replace(".mlp.gate.e_score_", ".mlp.experts.e_score_").replace(".mlp.shared_experts.", ".mlp.shared_expert.")

    return Case("laguna-modelopt-nvfp4", LagunaForCausalLM, config, 50, modelopt("NVFP4"), rename=rename, bias=(6.94, 0.03),
                factor=2.5, generation={"eos_token_id": [2, 24]})


def llama4():
    """Llama-4: chunks of 16 with rotated pairs and norms without weights, a layer without rotation whose temperature steps every
    8 positions, experts [E, K, N] in every second layer that take their weight on the input, a rotary embedding without a
    middle band."""
    from transformers import Llama4ForCausalLM, Llama4TextConfig
    config = Llama4TextConfig(**(COMMON | {"num_hidden_layers": 4}), num_key_value_heads=2, head_dim=16, intermediate_size=32,
                              intermediate_size_mlp=96, num_local_experts=8, num_experts_per_tok=1, interleave_moe_layer_step=2,
                              attention_chunk_size=16, floor_scale=8, attn_scale=0.1, use_qk_norm=True, rope_parameters={
                                  "rope_type": "llama3", "rope_theta": 5e5, "factor": 16.0, "low_freq_factor": 1.0,
                                  "high_freq_factor": 1.0, "original_max_position_embeddings": 64})

    def publish(written):
        written = spelling_of_4(written)
        for key in ("layer_types", "no_rope_layer_interval", "architectures", "quantization_config"):
            written.pop(key, None)
        written |= {"no_rope_layers": [], "for_llm_compressor": False, "model_type": "llama4_text"}
        return {"architectures": ["Llama4ForConditionalGeneration"], "model_type": "llama4", "tie_word_embeddings": False,
                "text_config": written, "vision_config": {"hidden_size": 8}, "torch_dtype": "bfloat16"}

    return Case("llama4-modelopt-nvfp4", Llama4ForCausalLM, config, 52, by_modelopt(experts_only), publish,
                rename=lambda name: "language_model." + name, extra={
                    "vision_model.class_embedding": torch.zeros(8), "multi_modal_projector.linear_1.weight": torch.zeros(4, 8)},
                generation={"bos_token_id": 300, "eos_token_id": [301, 317, 318], "do_sample": True, "temperature": 0.6, "top_p": 0.9})


def mimo_v2_flash():
    """MiMo-V2-Flash: keys of 48 and values of 32 that are scaled, windows of 8 with sinks and twice the KV heads, a rotary
    embedding a kind, a dense layer, biases of the router that BF16 makes equal."""
    from transformers import MiMoV2FlashConfig, MiMoV2FlashForCausalLM
    config = MiMoV2FlashConfig(**COMMON, num_key_value_heads=1, head_dim=48, v_head_dim=32, intermediate_size=96, n_routed_experts=8,
                               num_experts_per_tok=3, moe_intermediate_size=32, sliding_window=8,
                               layer_types=["full_attention", "sliding_attention", "sliding_attention"],
                               mlp_layer_types=["dense", "sparse", "sparse"], rope_parameters={
                                   "full_attention": {"rope_type": "default", "rope_theta": 5e6, "partial_rotary_factor": 0.334},
                                   "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.334}})

    def publish(written):
        for key in ("layer_types", "mlp_layer_types", "rope_parameters", "sliding_window", "num_local_experts"):
            written.pop(key, None)
        return written | {
            "rope_theta": 5000000, "swa_rope_theta": 10000, "partial_rotary_factor": 0.334, "hybrid_layer_pattern": [0, 1, 1],
            "moe_layer_freq": [0, 1, 1], "sliding_window": 7, "sliding_window_size": 7, "attention_chunk_size": 7,
            "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 48, "swa_v_head_dim": 32,
            "add_swa_attention_sink_bias": True, "add_full_attention_sink_bias": False, "n_shared_experts": None,
            "routed_scaling_factor": None, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "layernorm_epsilon": 1e-5}

    return Case("mimo_v2_flash-modelopt-nvfp4", MiMoV2FlashForCausalLM, config, 53, modelopt("NVFP4"), publish, bias=(6.94, 0.03),
                rename=lambda name: name.replace(".sinks", ".attention_sink_bias"),
                extra={"model.mtp.layers.0.enorm.weight": torch.zeros(64)}, generation={"eos_token_id": [319, 317]})


def step3p7():
    """Step-3.7: windows of 8 and 8 heads in the middle layers, sigmoid gates a head, norms of 1 + w, stacked experts under names of
    their own, products clamped behind their activation in two layers, lists that go on for a draft layer."""
    from transformers import Step3p7Config, Step3p7ForConditionalGeneration
    types = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    text = dict(COMMON | {"num_hidden_layers": 4}, num_key_value_heads=2, head_dim=32, intermediate_size=96, n_routed_experts=8,
                num_experts_per_tok=3, moe_intermediate_size=32, share_expert_dim=32, moe_router_scaling_factor=3.0,
                num_sliding_attention_heads=8, sliding_window=8, layer_types=types,
                mlp_layer_types=["dense", "sparse", "sparse", "sparse"],
                swiglu_limits=[0.0, 0.0, 0.7, 0.5], swiglu_limits_shared=[0.9, 0.0, 0.0, 0.8], rope_parameters={
                    "full_attention": {"rope_type": "default", "rope_theta": 5e6, "partial_rotary_factor": 0.5},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}})
    config = Step3p7Config(text_config=text, image_token_id=300, vision_config=dict(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=2.0))

    def rename(name):
        for ours, theirs in (("model.language_model.", "model."), (".mlp.gate.e_score_correction_bias", ".moe.router_bias"),
                             (".mlp.gate.weight", ".moe.gate.weight"), (".mlp.experts", ".moe"),
                             (".mlp.shared_experts.", ".share_expert.")):
            name = name.replace(ours, theirs)
        return name

    def publish(written):
        text = written["text_config"]
        for key in ("rope_parameters", "per_layer_config", "mlp_layer_types", "mtp_layer_types", "mtp_mlp_layer_types",
                    "num_sliding_attention_heads", "num_key_value_heads", "n_routed_experts", "num_local_experts", "num_experts_per_tok"):
            text.pop(key, None)
        text |= {"model_type": "step3p5", "num_attention_groups": 2, "moe_num_experts": 8, "moe_top_k": 3, "moe_layers_enum": "1,2,3",
                 "moe_router_activation": "sigmoid", "use_moe_router_bias": True, "norm_expert_weight": True,
                 "attention_other_setting": {"attention_type": "sliding_attention", "num_attention_heads": 8, "num_attention_groups": 2,
                                             "head_dim": 32},
                 "use_head_wise_attn_gate": True, "use_qk_norm": True, "num_nextn_predict_layers": 1,
                 "rope_theta": [5e6, 1e4, 1e4, 5e6, 1e4], "partial_rotary_factors": [0.5, 1.0, 1.0, 0.5, 1.0],
                 "layer_types": types + ["sliding_attention"]}
        for key in ("swiglu_limits", "swiglu_limits_shared"):
            text[key] = text[key] + [0.0]
        return {"architectures": ["Step3p7ForConditionalGeneration"], "model_type": "step3p7", "torch_dtype": "bfloat16",
                "tie_word_embeddings": False, "text_config": text, "vision_config": {"width": 32}}

    norms = ("layernorm.weight", "q_norm.weight", "k_norm.weight", "model.norm.weight")
    return Case("step3p7-modelopt-nvfp4", Step3p7ForConditionalGeneration, config, 57,
                modelopt("NVFP4", is_routed=lambda module: ".moe." in module and module.endswith("_proj")), publish, rename=rename,
                bias=(6.94, 0.03), one_plus=norms, factor=3.0, arrange=stacked, text=lambda model: model.model.language_model,
                keep=lambda name: "vision" not in name and "projector" not in name,
                extra=drafts("model.layers.4.") | {"vision_model.ln_pre.weight": torch.zeros(8)},
                generation={"eos_token_id": [319, 317]})


DSA = dict(q_lora_rank=48, kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=16, v_head_dim=32, num_key_value_heads=4,
           moe_intermediate_size=32, intermediate_size=96, n_routed_experts=16, num_experts_per_tok=4, n_shared_experts=1,
           first_k_dense_replace=1, norm_topk_prob=True, routed_scaling_factor=2.5, index_topk=8, index_head_dim=32, index_n_heads=12)


def deepseek_v32():
    """DeepSeek-V3.2: latent attention with YaRN (m^2 on the scores) over the 8 keys that an indexer chooses, whose rotation is of
    halves; groups of experts."""
    from transformers import DeepseekV32Config, DeepseekV32ForCausalLM
    config = DeepseekV32Config(**(COMMON | {"rms_norm_eps": 1e-3}), **DSA, n_group=4, topk_group=2, rope_parameters={
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0,
        "mscale_all_dim": 1.0, "original_max_position_embeddings": 64})

    def publish(written):
        written = spelling_of_4(written)
        for key in ("layer_types", "mlp_layer_types", "num_local_experts", "qk_head_dim"):
            written.pop(key, None)
        return written | {"num_nextn_predict_layers": 1, "moe_layer_freq": 1, "scoring_func": "sigmoid", "topk_method": "noaux_tc"}

    return Case("deepseek_v32-modelopt-nvfp4", DeepseekV32ForCausalLM, config, 55, by_modelopt(experts_only), publish, fix=latent_eps,
                extra=drafts("model.layers.3."), generation={"eos_token_id": 1})


def glm_moe_dsa():
    """GLM-5: the same with neighbours rotated in the indexer too, no YaRN and no groups, and a layer that takes the choice of the
    one before."""
    from transformers import GlmMoeDsaConfig, GlmMoeDsaForCausalLM
    types = ["full", "full", "shared", "full"]
    config = GlmMoeDsaConfig(**(COMMON | {"num_hidden_layers": 4, "rms_norm_eps": 1e-3}), **DSA, n_group=1, topk_group=1,
                             indexer_types=types, rope_parameters=DEFAULT_ROPE | {"rope_theta": 1e6})

    def publish(written):
        for key in ("layer_types", "mlp_layer_types", "num_local_experts", "qk_head_dim"):
            written.pop(key, None)
        return written | {"num_nextn_predict_layers": 1, "moe_layer_freq": 1, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
                          "indexer_rope_interleave": True, "rope_interleave": True, "head_dim": 192,
                          "eos_token_id": GLM_STOPS["eos_token_id"]}

    return Case("glm_moe_dsa-modelopt-nvfp4", GlmMoeDsaForCausalLM, config, 58, by_modelopt(experts_only), publish, fix=latent_eps,
                extra=drafts("model.layers.4."), generation=GLM_STOPS)


def deepseek_v4_of(name, seed, quantise, ratios, num_hashed, changes, published):
    """DeepSeek-V4 with a layer a ratio; quantise(is_fp8); further keys of transformers' configuration, of the published one."""
    from transformers import DeepseekV4Config, DeepseekV4ForCausalLM
    csa, hca = "compressed_sparse_attention", "heavily_compressed_attention"
    shared = max(ratios)
    kinds = {0: "sliding_attention", 4: csa, shared: hca}
    mlps = ["hash_moe" if i < num_hashed else "moe" for i in range(len(ratios))]
    rope = {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    config = DeepseekV4Config(
        **(COMMON | {"num_hidden_layers": len(ratios)}), num_key_value_heads=1, head_dim=32, q_lora_rank=48,
        n_shared_experts=1, scoring_func="sqrtsoftplus", routed_scaling_factor=1.5, partial_rotary_factor=0.5,
        layer_types=[kinds[ratio] for ratio in ratios], compress_rates={csa: 4, hca: shared}, mlp_layer_types=mlps, hc_mult=4,
        hc_sinkhorn_iters=5, swiglu_limit=1.0, sliding_window=8, o_lora_rank=32, index_n_heads=12, index_head_dim=32,
        **changes, rope_parameters={
            "main": rope | {"rope_type": "default"}, "compress": rope | {
                "rope_type": "yarn", "rope_theta": 160000.0, "factor": 16.0, "original_max_position_embeddings": 64,
                "beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": 1.0}})

    def rename(name):
        for pattern, to in V4_NAMES:
            name = re.sub(pattern, to, name)
        return name

    def publish(written):
        for key in ("layer_types", "mlp_layer_types", "compress_rates", "rope_parameters", "partial_rotary_factor", "num_local_experts"):
            written.pop(key, None)
        return written | {"compress_ratios": ratios + [0], "num_hash_layers": num_hashed, "qk_rope_head_dim": 16,
                          "rope_theta": 10000.0, "compress_rope_theta": 160000.0, "topk_method": "noaux_tc",
                          "num_nextn_predict_layers": 1, "rope_scaling": {
                              "type": "yarn", "factor": 16, "original_max_position_embeddings": 64, "beta_fast": 32,
                              "beta_slow": 1}} | published

    is_fp8 = lambda module: module.endswith((".wq_a", ".wq_b", "attn.wkv", ".wo_a", ".wo_b", "shared_experts.w1", "shared_experts.w2",
                                             "shared_experts.w3"))
    return Case(name, DeepseekV4ForCausalLM, config, seed, quantise(is_fp8), publish, rename, projections=W132,
                bias=(6.94, 0.03), scores=lambda gate, logits: torch.nn.functional.softplus(logits).sqrt() + gate.e_score_correction_bias,
                extra={"mtp.0.enorm.weight": torch.zeros(64), "mtp.0.attn.wq_a.weight": torch.zeros(8, 8)},
                generation={"bos_token_id": 0, "eos_token_id": 1})


def deepseek_v4():
    """A window alone, then shared keys of 4 (chosen by an indexer), 8 and 4 tokens; YaRN without an amplitude in those; four
    residual streams; the experts of the first layer by token; FP8 with power-of-two scales beside NVFP4 experts."""
    return deepseek_v4_of("deepseek_v4-modelopt-fp8", 62, deepseek_fp8, [0, 4, 8, 4], 1, dict(
        moe_intermediate_size=32, n_routed_experts=16, num_experts_per_tok=4, o_groups=2, index_topk=4), {})


def deepseek_v4_mxfp4():
    """The original's MXFP4 experts; shared keys of 16 tokens, of 4, a window; two layers with experts by token."""
    return deepseek_v4_of("deepseek_v4-mxfp4", 63, deepseek_mxfp4, [16, 4, 0], 2, dict(
        moe_intermediate_size=64, n_routed_experts=8, num_experts_per_tok=3, o_groups=4, index_topk=5), {"expert_dtype": "fp4"})


CASES = [gemma4, glm4_moe, glm4_moe_lite, minimax_m2, minimax_m2_ct, minimax_m3, qwen3_next, qwen3_vl_moe, mixtral, hy_v3, ernie4_5_moe, mistral4, laguna,
         llama4, mimo_v2_flash, step3p7,
         deepseek_v32, glm_moe_dsa, deepseek_v4, deepseek_v4_mxfp4]

if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in CASES:
        if len(sys.argv) == 1 or case.__name__ in sys.argv[1:]:
            write(case())
