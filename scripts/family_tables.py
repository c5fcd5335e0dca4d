"""Published 4-bit MoE checkpoints as data: sizes, config.json in the publisher's spelling, quantisation metadata, tensors.

Every entry says what a plan of it must find: which layers have routed experts, their problem, their scheme and the router.
Sizes are those of the published configurations; what is marked "assumed" could not be read there. Assumed everywhere:
max_position_embeddings, versions of producers, and of lists of excluded modules whatever does not concern the experts.
"""

from family_tensors import (deepseek_v4_mixer, deepseek_v4_router, delta_net_mixer, gemma4_mixer, gqa_mixer, minimax_m3_mixer, mla_mixer,
                            nemotron_mixer, router)

W4A4 = "W4A4 (nvfp4 static, nvfp4 dynamic)"
W4A16 = "W4A16 (nvfp4 static, none)"
PLAIN = ("gate_proj", "up_proj", "down_proj")
W123 = ("w1", "w3", "w2")
PRE_NORM = ("input_layernorm", "post_attention_layernorm")
OAI = "swigluoai(alpha=1.702, beta=1, limit=7)"


def modelopt(algo="NVFP4", exclude=(), layers=None, kv=None, version="0.33.0"):
    """hf_quant_config.json."""
    body = {"quant_algo": algo, "kv_cache_quant_algo": kv, "exclude_modules": list(exclude)}
    if layers is not None:
        body["quantized_layers"] = layers
    else:
        body["group_size"] = 16
    return {"producer": {"name": "modelopt", "version": version}, "quantization": body}


def compressed(ignore, targets=("Linear",), a16=False):
    """quantization_config of compressed-tensors, presets NVFP4 and NVFP4A16."""
    args = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "symmetric": True}
    return {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "version": "0.12.0", "ignore": list(ignore),
            "config_groups": {"group_0": {"targets": list(targets), "weights": dict(args, dynamic=False),
                                          "input_activations": None if a16 else dict(args, dynamic="local")}}}


def mixed(layers, algo):
    return {name: {"quant_algo": algo, "group_size": 16} for name in layers}


def router_of(scoring="softmax", renormalize=True, factor=1.0, groups=(1, 1), bias=False, **more):
    return dict({"scoring": scoring, "renormalize": renormalize, "scaling_factor": factor, "num_groups": groups[0],
                 "topk_groups": groups[1], "correction_bias": bias}, **more)


SIGMOID = dict(scoring="sigmoid", bias=True)


def entry(name, architecture, text, *, experts, top_k, width, moe_layers, scheme, form, router_expected,
          wrapper=None, wrapper_type=None, activation="silu", expert_input=None, on_input=False,
          hf_quant=None, quant=None, inner_quant=None, prefix="model.", module="mlp.experts", names=PLAIN, layout="one by one",
          norms=PRE_NORM, mixer=None, router_tensors=None, shared=0, shared_module="mlp.shared_experts", runs=False,
          unsupported=None, header_error=None, activations=None, **tensors):
    moe_layers = sorted(moe_layers)
    expected = {"problem": {"hidden_size": expert_input or text["hidden_size"], "intermediate_size": width, "num_experts": experts,
                            "top_k": top_k, "weight_on_input": on_input},
                "activation": activation, "activations": activations or {}, "moe_layers": moe_layers,
                "num_layers": text_layers(text), "scheme": scheme, "router": router_expected, "runs": runs,
                "unsupported": unsupported, "header_error": header_error}
    return dict(tensors, id=name, architecture=architecture, text=text, wrapper=wrapper, wrapper_type=wrapper_type, hf_quant=hf_quant,
                quant=quant, inner_quant=inner_quant, prefix=prefix, module=module, names=names, layout=layout, norms=norms, mixer=mixer,
                router=router_tensors or router(), shared=shared, shared_module=shared_module, form=form, experts=experts,
                width=width, expert_input=expert_input or text["hidden_size"], moe_layers=moe_layers, expected=expected)


def text_layers(text):
    for key in ("num_hidden_layers", "layers_block_type", "hybrid_override_pattern"):
        if key in text:
            return text[key] if isinstance(text[key], int) else len(text[key])
    raise KeyError("number of layers")


def from_layer(first, count):
    return list(range(first, count))


# gpt-oss -----------------------------------------------------------------------------------------

def gpt_oss(name, layers, experts, mxfp4):
    text = {"model_type": "gpt_oss", "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": layers, "head_dim": 64,
            "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 201088, "rms_norm_eps": 1e-5, "rope_theta": 150000,
            "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False},
            "layer_types": ["sliding_attention", "full_attention"] * (layers // 2), "sliding_window": 128, "attention_bias": True,
            "num_local_experts": experts, "num_experts_per_tok": 4, "experts_per_token": 4, "swiglu_limit": 7.0,
            "hidden_act": "silu", "max_position_embeddings": 131072}
    if mxfp4:
        how = dict(quant={"quant_method": "mxfp4", "modules_to_not_convert": [
            "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]},
            layout="mxfp4 blocks")
    else:
        how = dict(hf_quant=modelopt(exclude=["lm_head", "model.embed_tokens"] + [
            f"model.layers.{i}.{m}" for i in range(layers) for m in ("self_attn*", "mlp.router")]),
            layout="transposed", expert_biases=True)
    return entry(name, "GptOssForCausalLM", text, experts=experts, top_k=4, width=2880, moe_layers=range(layers),
                 scheme="W4A16 (mxfp4 static, none)" if mxfp4 else W4A4, form="modelopt", activation=OAI,
                 router_expected=router_of("softmax over the chosen", logit_bias=True),
                 mixer=gqa_mixer(bias=True, extra={"self_attn.sinks": "h", "self_attn.o_proj.bias": "H"}),
                 router_tensors=router("mlp.router", "mlp.router.bias"), runs=True, **how)


# Nemotron-3 --------------------------------------------------------------------------------------

NANO_PATTERN = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"
# Counts as published; the order of their layers is assumed.
SUPER_PATTERN = "MEMEMEMEME*" * 8
ULTRA_PATTERN = "MEMEMEME*" * 12
assert [NANO_PATTERN.count(c) for c in "ME*"] == [23, 23, 6]
assert [SUPER_PATTERN.count(c) for c in "ME*"] == [40, 40, 8]
assert [ULTRA_PATTERN.count(c) for c in "ME*"] == [48, 48, 12]
WORDS = {"M": "mamba", "E": "moe", "*": "attention", "-": "mlp"}
WORDS_OF_TRANSFORMERS_5 = {"M": "linear_attention", "E": "moe", "*": "full_attention", "-": "mlp"}


def nemotron(name, pattern, hidden, heads, experts, top_k, width, latent, shared, mamba_heads, factor, dialect, spelling):
    text = {"model_type": "nemotron_h", "hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": 2,
            "head_dim": 128, "vocab_size": 131072, "layer_norm_epsilon": 1e-5, "norm_eps": 1e-5, "rope_theta": 10000,
            "partial_rotary_factor": 1.0, "intermediate_size": width, "moe_intermediate_size": width, "n_routed_experts": experts,
            "num_experts_per_tok": top_k, "moe_shared_expert_intermediate_size": shared, "n_shared_experts": 1, "n_group": 1,
            "topk_group": 1, "norm_topk_prob": True, "routed_scaling_factor": factor, "mlp_hidden_act": "relu2",
            "mamba_hidden_act": "silu", "mamba_num_heads": mamba_heads, "mamba_head_dim": 64, "n_groups": 8, "ssm_state_size": 128,
            "conv_kernel": 4, "use_conv_bias": True, "use_bias": False, "time_step_limit": [0.0, 1e308],
            "num_nextn_predict_layers": 1, "max_position_embeddings": 262144}
    if spelling == "pattern":
        text["num_hidden_layers"] = len(pattern)
        text["hybrid_override_pattern"] = pattern
    elif spelling == "stages":  # with pipeline stages
        text["num_hidden_layers"] = len(pattern)
        text["hybrid_override_pattern"] = pattern[:9] + "|" + pattern[9:]
    else:
        text["layers_block_type"] = [(WORDS if spelling == "words" else WORDS_OF_TRANSFORMERS_5)[c] for c in pattern]
    if latent:
        text["moe_latent_size"] = latent
    moe = [i for i, c in enumerate(pattern) if c == "E"]
    mamba = [f"backbone.layers.{i}.mixer.{p}" for i, c in enumerate(pattern) if c == "M" for p in ("in_proj", "out_proj")]
    shared_names = [f"backbone.layers.{i}.mixer.shared_experts.{p}" for i in moe for p in ("up_proj", "down_proj")]
    routed = [f"backbone.layers.{i}.mixer.experts.{e}.{p}" for i in moe for e in range(experts) for p in ("up_proj", "down_proj")]
    scheme, form, forms = W4A4, "modelopt", {"mamba": "modelopt", "shared": "modelopt"}
    if dialect == "nvfp4":
        excluded = ["lm_head", "backbone.embeddings"] + [
            f"backbone.layers.{i}.mixer.conv1d" for i, c in enumerate(pattern) if c == "M"]
        for i, c in enumerate(pattern):
            if c == "*":
                excluded += [f"backbone.layers.{i}.mixer.{p}_proj" for p in "qkvo"] + [f"backbone.layers.{i - 1}.mixer.*"]
        hf = modelopt(exclude=[x for x in excluded if not any(x.startswith(f"backbone.layers.{m}.") for m in moe)], kv="FP8",
                      version="0.29.0")
    elif dialect == "nvfp4-nul":  # exclude names that an exporter damaged
        hf = modelopt(exclude=["lm_head", "backbone.\0.layers", "backbone.layers\0*"], kv="FP8", version="0.47.0")
    elif dialect == "mixed-a16":  # a key an expert
        layers = dict(mixed(routed + shared_names + ["lm_head"], "W4A16_NVFP4"))
        layers.update({m: {"quant_algo": "FP8"} for m in mamba})
        hf = modelopt("MIXED_PRECISION", layers=layers, kv="FP8", version="0.44.0")
        scheme, form, forms = W4A16, "modelopt-a16", {"mamba": "fp8", "shared": "modelopt-a16"}
    else:
        layers = mixed([f"backbone.layers.{i}.mixer.experts" for i in moe], "NVFP4")
        layers.update({m: {"quant_algo": "FP8"} for m in mamba + shared_names})
        hf = modelopt("MIXED_PRECISION", layers=layers, kv="FP8", version="0.43.0")
        forms = {"mamba": "fp8", "shared": "fp8"}
    return entry(name, "NemotronHForCausalLM", text, experts=experts, top_k=top_k, width=width, moe_layers=moe, scheme=scheme, form=form,
                 activation="relu2", expert_input=latent or hidden, hf_quant=hf, prefix="backbone.", module="mixer.experts",
                 names=(None, "up_proj", "down_proj"), norms=("norm",), mixer=nemotron_mixer(forms["mamba"]),
                 router_tensors=router("mixer.gate", "mixer.gate.e_score_correction_bias"), shared=shared,
                 shared_module="mixer.shared_experts", shared_form=forms["shared"], embedding="embeddings", final_norm="norm_f",
                 pattern=pattern, router_expected=router_of(factor=factor, **SIGMOID), runs=True)


# Latent attention: DeepSeek, Kimi, GLM-5, GLM-4.7-Flash, Mistral -----------------------------------

def latent(name, architecture, model_type, *, hidden=7168, layers=61, heads=128, q_lora=1536, r=512, n=128, p=64, v=128, dense=18432,
           first=3, experts=256, top_k=8, width=2048, groups=(8, 4), factor=2.5, vocab=129280, theta=10000, yarn=None, hf=None,
           quant=None, inner_quant=None, form="modelopt", shared_form="bf16", dense_form="bf16", o_form="bf16", more=None,
           prefix="model.", wrapper=None, wrapper_type=None, scoring="sigmoid", bias=True, drafts=1):
    text = {"model_type": model_type, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": heads, "q_lora_rank": q_lora, "kv_lora_rank": r, "qk_nope_head_dim": n, "qk_rope_head_dim": p,
            "v_head_dim": v, "intermediate_size": dense, "moe_intermediate_size": width, "first_k_dense_replace": first,
            "n_routed_experts": experts, "n_shared_experts": 1, "num_experts_per_tok": top_k, "n_group": groups[0],
            "topk_group": groups[1], "routed_scaling_factor": factor, "norm_topk_prob": True, "hidden_act": "silu",
            "vocab_size": vocab, "rope_theta": theta, "moe_layer_freq": 1, "max_position_embeddings": 163840,
            "num_nextn_predict_layers": drafts, "rms_norm_eps": 1e-6}
    if scoring == "sigmoid":
        text["scoring_func"] = "sigmoid"
    if bias:
        text["topk_method"] = "noaux_tc"
    if yarn:
        text["rope_scaling"] = {"type": "yarn", "factor": yarn, "original_max_position_embeddings": 4096, "mscale": 1.0,
                                "mscale_all_dim": 1.0, "beta_fast": 32, "beta_slow": 1}
    text.update(more or {})
    return entry(name, architecture, text, experts=experts, top_k=top_k, width=width, moe_layers=from_layer(first, layers), scheme=W4A4,
                 form=form, hf_quant=hf, quant=quant, inner_quant=inner_quant, prefix=prefix, wrapper=wrapper,
                 wrapper_type=wrapper_type, mixer=mla_mixer("bf16", o_form),
                 router_tensors=router("mlp.gate", "mlp.gate.e_score_correction_bias" if bias else None), shared=width,
                 shared_form=shared_form, dense_module="mlp", dense=dense, dense_form=dense_form,
                 head="language_model.lm_head" if prefix.startswith("language_model") else "lm_head",
                 router_expected=router_of(scoring, factor=factor, groups=groups, bias=bias),
                 runs=True)


def v3_excludes(layers):
    return ["lm_head", "model.embed_tokens", "model.norm", f"model.layers.{layers}*"] + [
        f"model.layers.{i}.{m}" for i in range(layers) for m in ("self_attn*", "mlp.gate", "input_layernorm", "post_attention_layernorm")]


def v31_excludes(layers):
    return ["lm_head", f"model.layers.{layers}*"] + [f"model.layers.{i}.self_attn.{m}" for i in range(layers)
                                                     for m in ("q_a_proj*", "q_b_proj", "kv_a_proj_with_mqa*", "kv_b_proj")]


def kimi_excludes(prefix, layers, shared):
    names = ["lm_head", "language_model.lm_head"] + [f"{prefix}layers.{i}.self_attn*" for i in range(layers)]
    if shared:
        names += [f"{prefix}layers.0.mlp*"] + [f"{prefix}layers.{i}.mlp.shared_experts*" for i in range(1, layers)]
    return names


def glm5_excludes(layers):
    return (["lm_head", "model.embed_tokens", f"model.layers.{layers}*", "model.layers.0*", "model.layers.1.*", "model.layers.2.*"] +
            [f"model.layers.{i}.{m}" for i in range(layers) for m in ("self_attn*", "mlp.shared_experts*")])


DSA = {"index_topk": 2048, "index_head_dim": 128, "index_n_heads": 64}
KIMI = dict(hidden=7168, layers=61, heads=64, first=1, experts=384, groups=(1, 1), factor=2.827, vocab=163840, theta=50000, drafts=0)
GLM5 = dict(hidden=6144, layers=78, heads=64, q_lora=2048, n=192, v=256, dense=12288, groups=(1, 1), vocab=154880, theta=1e6)
INT4_LEFTOVER = {"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"], "config_groups": {
    "group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "group_size": 32, "strategy": "group"}}}}


# Grouped-query attention ---------------------------------------------------------------------------

def gqa(name, architecture, model_type, *, hidden, layers, heads, kv, d, experts, top_k, width, vocab, moe_layers=None, keys=None,
        mixer=None, **rest):
    text = {"model_type": model_type, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": kv, "head_dim": d, "vocab_size": vocab, "hidden_act": "silu", "max_position_embeddings": 131072}
    text.update(keys or {})
    return entry(name, architecture, text, experts=experts, top_k=top_k, width=width,
                 moe_layers=range(layers) if moe_layers is None else moe_layers, mixer=mixer or gqa_mixer(), **rest)


def qwen3(name, hidden, layers, heads, experts, width, hf=None, quant=None, wrapped=False, form="modelopt"):
    inner = {"wrapper": "text_config", "wrapper_type": "qwen3_vl_moe", "prefix": "model.language_model."} if wrapped else {}
    return gqa(name, "Qwen3VLMoeForConditionalGeneration" if wrapped else "Qwen3MoeForCausalLM",
               "qwen3_vl_moe_text" if wrapped else "qwen3_moe", hidden=hidden, layers=layers, heads=heads, kv=4, d=128, experts=experts,
               top_k=8, width=width, vocab=151936, scheme=W4A4, form=form, hf_quant=hf, quant=quant, runs=True,
               keys={"num_experts": experts, "num_experts_per_tok": 8, "moe_intermediate_size": width, "intermediate_size": 3 * hidden,
                     "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [], "rope_theta": 1e6},
               mixer=gqa_mixer(qk_norm=True), router_expected=router_of(), **inner)


def qwen35(name, hidden, layers, heads, experts, top_k, width, value_heads, dialect, next_generation=True):
    text = {"model_type": "qwen3_5_moe_text", "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": 2, "head_dim": 256, "vocab_size": 248320, "num_experts": experts, "num_experts_per_tok": top_k,
            "moe_intermediate_size": width, "shared_expert_intermediate_size": width, "linear_num_key_heads": 16,
            "linear_num_value_heads": value_heads, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
            "linear_conv_kernel_dim": 4, "hidden_act": "silu", "max_position_embeddings": 262144, "full_attention_interval": 4,
            "layer_types": ["full_attention" if (i + 1) % 4 == 0 else "linear_attention" for i in range(layers)],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25,
                                "mrope_section": [11, 11, 10], "mrope_interleaved": True}}
    outer = {"wrapper": "text_config", "wrapper_type": "qwen3_5_moe"}
    prefix, architecture, fused = "model.language_model.", "Qwen3_5MoeForConditionalGeneration", False
    if not next_generation:
        text.update(model_type="qwen3_next", vocab_size=151936, rope_theta=1e7, partial_rotary_factor=0.25, mlp_only_layers=[],
                    decoder_sparse_step=1, norm_topk_prob=True)
        del text["rope_parameters"], text["layer_types"]
        outer, prefix, architecture, fused = {}, "model.", "Qwen3NextForCausalLM", True
    scheme, form, shared_form, mixer_form = W4A4, "modelopt", "bf16", "bf16"
    if dialect == "mixed":
        layers_map = mixed([f"{prefix}layers.{i}.mlp.{m}" for i in range(layers) for m in (
            "experts", "shared_expert.gate_proj", "shared_expert.up_proj", "shared_expert.down_proj")] + ["lm_head"], "W4A16_NVFP4")
        for i in range(layers):
            names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj") if (i + 1) % 4 == 0 else (
                "linear_attn.in_proj_qkv", "linear_attn.in_proj_z", "linear_attn.out_proj")
            layers_map.update({f"{prefix}layers.{i}.{m}": {"quant_algo": "FP8"} for m in names})
        hf = modelopt("MIXED_PRECISION", exclude=["mtp.layers.0*", "mtp*"], layers=layers_map, kv="FP8", version="0.44.0")
        scheme, form, shared_form, mixer_form = W4A16, "modelopt-a16", "modelopt-a16", "fp8"
    else:
        hf = modelopt(exclude=["lm_head", "model.visual*", "mtp*"] + [f"{prefix}layers.{i}.{m}" for i in range(layers) for m in (
            "linear_attn*", "self_attn*", "mlp.shared_expert.*", "mlp.shared_expert_gate")], kv="FP8")
    return entry(name, architecture, text, experts=experts, top_k=top_k, width=width, moe_layers=range(layers), scheme=scheme, form=form,
                 hf_quant=hf, prefix=prefix, mixer=delta_net_mixer(mixer_form, fused=fused), shared=width,
                 shared_module="mlp.shared_expert", shared_form=shared_form, runs=True,
                 router_tensors=router(extra=[("mlp.shared_expert_gate.weight", ("1", "H"))]),
                 head_form="modelopt-a16" if dialect == "mixed" else "bf16",
                 router_expected=router_of(), **outer)


# The vocabulary is assumed, and so are the excluded modules.
def glm4(name, hidden, layers, dense, first, experts, width, factor, qk_norm):
    return gqa(name, "Glm4MoeForCausalLM", "glm4_moe", hidden=hidden, layers=layers, heads=96, kv=8, d=128, experts=experts, top_k=8,
               width=width, vocab=151552, moe_layers=from_layer(first, layers), scheme=W4A4, form="modelopt",
               hf_quant=modelopt(exclude=["lm_head", f"model.layers.{layers}*"] + [
                   f"model.layers.{i}.{m}" for i in range(layers) for m in ("self_attn*", "mlp.shared_experts*", "mlp.gate")]),
               keys={"n_routed_experts": experts, "n_shared_experts": 1, "num_experts_per_tok": 8, "moe_intermediate_size": width,
                     "first_k_dense_replace": first, "intermediate_size": dense, "routed_scaling_factor": factor, "n_group": 1,
                     "topk_group": 1, "norm_topk_prob": True, "attention_bias": True, "use_qk_norm": qk_norm,
                     "num_nextn_predict_layers": 1},
               mixer=gqa_mixer(qk_norm=qk_norm, bias=True), shared=width, dense_module="mlp", dense=dense,
               router_tensors=router("mlp.gate", "mlp.gate.e_score_correction_bias"),
               router_expected=router_of(factor=factor, **SIGMOID), runs=True)


# The vocabulary and the excluded modules are assumed.
def llama4(name, experts, step, extra):
    layers = 48
    moe = [i for i in range(layers) if (i + 1) % step == 0]
    keys = {"num_local_experts": experts, "num_experts_per_tok": 1, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
            "interleave_moe_layer_step": step, "attention_chunk_size": 8192, "rope_theta": 500000.0,
            "no_rope_layers": [int((i + 1) % 4 != 0) for i in range(layers)], "moe_layers": moe}
    keys.update(extra)
    prefix = "language_model.model."
    return gqa(name, "Llama4ForConditionalGeneration", "llama4_text", hidden=5120, layers=layers, heads=40, kv=8, d=128, experts=experts,
               top_k=1, width=8192, vocab=202048, moe_layers=moe, scheme=W4A4, form="modelopt", layout="transposed",
               hf_quant=modelopt(exclude=["*lm_head", "vision_model*", "multi_modal_projector*"] + [
                   f"{prefix}layers.{i}.{m}" for i in range(layers) for m in ("self_attn*", "feed_forward.router")], kv="FP8"),
               keys=keys, wrapper="text_config", wrapper_type="llama4", prefix=prefix, module="feed_forward.experts",
               on_input=True, router_tensors=router("feed_forward.router"), shared=8192, shared_module="feed_forward.shared_expert",
               dense_module="feed_forward", dense=16384, dense_form="modelopt", shared_form="modelopt",
               head="language_model.lm_head", router_expected=router_of("sigmoid", renormalize=False), runs=True)


def deepseek_v4(name, dialect, hidden, layers, heads, experts, width, factor, o_groups, ratios):
    text = {"model_type": "deepseek_v4", "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": 1, "head_dim": 512, "qk_rope_head_dim": 64, "q_lora_rank": 1024, "o_groups": o_groups,
            "o_lora_rank": 1024, "sliding_window": 128, "compress_ratios": ratios, "index_topk": 512, "index_n_heads": 64,
            "index_head_dim": 128, "n_routed_experts": experts, "n_shared_experts": 1, "num_experts_per_tok": 6,
            "moe_intermediate_size": width, "scoring_func": "sqrtsoftplus", "topk_method": "noaux_tc", "norm_topk_prob": True,
            "routed_scaling_factor": factor, "num_hash_layers": 3, "swiglu_limit": 10.0, "hidden_act": "silu", "hc_mult": 4,
            "hc_sinkhorn_iters": 20, "vocab_size": 129280, "num_nextn_predict_layers": 1, "rope_theta": 10000,
            "compress_rope_theta": 160000, "max_position_embeddings": 1048576, "rope_scaling": {
                "type": "yarn", "factor": 16, "original_max_position_embeddings": 65536, "beta_fast": 32, "beta_slow": 1}}
    fp8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "scale_fmt": "ue8m0", "weight_block_size": [128, 128]}
    how = {}
    if dialect == "mxfp4":
        text["expert_dtype"] = "fp4"
        how = dict(quant=fp8, form="mxfp4-e8m0", scheme="W4A16 (mxfp4 static, none)")
    elif dialect == "modelopt":
        how = dict(quant=dict(fp8, moe_quant_algo="NVFP4"), form="modelopt", scheme=W4A4, hf_quant=modelopt(
            "MIXED_PRECISION", layers=mixed([f"layers.{i}.ffn.experts" for i in range(layers)], "NVFP4"), version="0.44.0"))
    else:
        body = compressed([], targets=[r"re:.*ffn.*(gate|up|down)_proj$"])
        group = body["config_groups"]["group_0"]
        block = {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128], "symmetric": True}
        body.update(format="mixed-precision", ignore=["lm_head", "re:.*shared_experts.*"], config_groups={
            "group_0": {"targets": [r"re:.*attn.*(fused_wqa_wkv|wq_b|wo_a|wo_b)$"], "format": "float-quantized", "weights": block,
                        "input_activations": {"num_bits": 8, "type": "float", "strategy": "group", "group_size": 128, "dynamic": True}},
            "group_1": dict(group, format="nvfp4-pack-quantized")})
        how = dict(quant=body, form="compressed", scheme=W4A4)
    return entry(name, "DeepseekV4ForCausalLM", text, experts=experts, top_k=6, width=width, moe_layers=range(layers),
                 activation="silu(limit=10)", prefix="", module="ffn.experts", names=W123, norms=("attn_norm", "ffn_norm"),
                 mixer=deepseek_v4_mixer, attention_form="fp8-e8m0" if dialect != "compressed" else "fp8-block",
                 router_tensors=deepseek_v4_router, shared=width, shared_module="ffn.shared_experts",
                 shared_form="fp8-e8m0" if dialect != "compressed" else "bf16", embedding="embed", head="head", runs=True,
                 router_expected=router_of("sqrtsoftplus", factor=factor, bias=True, hash_layers=[0, 1, 2]), **how)


# Vocabulary, dense width, heads and partial rotation of window layers, excluded modules and which layers have limits are assumed.
def step37():
    layers, drafts = 45, 3
    keys = {"moe_num_experts": 288, "moe_top_k": 8, "moe_intermediate_size": 1280, "share_expert_dim": 1280, "intermediate_size": 11264,
            "moe_layers_enum": ",".join(map(str, range(3, layers))), "moe_router_activation": "sigmoid", "use_moe_router_bias": True,
            "moe_router_scaling_factor": 3.0, "norm_expert_weight": True, "num_attention_groups": 8,
            "layer_types": ["full_attention" if i % 4 == 0 else "sliding_attention" for i in range(layers + drafts)],
            "sliding_window": 512, "attention_other_setting": {"num_attention_heads": 96, "num_attention_groups": 8},
            "num_nextn_predict_layers": drafts,
            "rope_theta": [5e6 if i % 4 == 0 else 1e4 for i in range(layers + drafts)],
            "partial_rotary_factors": [0.5 if i % 4 == 0 else 1.0 for i in range(layers + drafts)],
            # Limits near the end only; 0 is none.
            "swiglu_limits": [0.0] * 43 + [7.0, 7.0] + [0.0] * drafts,
            "swiglu_limits_shared": [0.0] * 44 + [16.0] + [0.0] * drafts}
    e = gqa("step-3.7-flash-nvfp4", "Step3p7ForCausalLM", "step3p7", hidden=4096, layers=layers, heads=64, kv=8, d=128, experts=288,
            top_k=8, width=1280, vocab=128896, moe_layers=from_layer(3, layers), scheme=W4A4, form="modelopt", layout="stacked",
            hf_quant=modelopt(exclude=["lm_head"] + [f"model.layers.{i}.{m}" for i in range(layers) for m in (
                "self_attn*", "moe.gate", "share_expert*", "mlp*")]),
            keys=keys, module="moe", router_tensors=router("moe.gate", "moe.router_bias"), shared=1280, shared_module="share_expert",
            dense_module="mlp", dense=11264, mixer=gqa_mixer(qk_norm=True, extra={"self_attn.g_proj.weight": "hH"}), runs=True, activations={43: "silu(late limit=7)", 44: "silu(late limit=7)"},
            router_expected=router_of(factor=3.0, **SIGMOID))
    del e["text"]["num_key_value_heads"]
    return e


def gemma4():
    layers, prefix = 30, "model.language_model."
    keys = {"intermediate_size": 2112, "num_experts": 128, "top_k_experts": 8, "moe_intermediate_size": 704, "enable_moe_block": True,
            "hidden_activation": "gelu_pytorch_tanh", "global_head_dim": 512, "num_global_key_value_heads": 2, "attention_k_eq_v": True,
            "sliding_window": 1024, "final_logit_softcapping": 30.0, "tie_word_embeddings": True, "hidden_size_per_layer_input": 0,
            "num_kv_shared_layers": 0,
            "layer_types": ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(layers)],
            "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                                "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25}}}
    e = gqa("gemma-4-26b-a4b-nvfp4", "Gemma4ForConditionalGeneration", "gemma4_text", hidden=2816, layers=layers, heads=16, kv=8, d=256,
            experts=128, top_k=8, width=704, vocab=262144, scheme=W4A4, form="modelopt", activation="gelu_tanh",
            hf_quant=modelopt(exclude=["lm_head", "model.vision_tower*"] + [f"{prefix}layers.{i}.{m}" for i in range(layers) for m in (
                "mlp*", "router*", "self_attn*")], kv="FP8", version="0.43.0"),
            keys=keys, wrapper="text_config", wrapper_type="gemma4", prefix=prefix, module="experts",
            norms=PRE_NORM + ("pre_feedforward_layernorm", "pre_feedforward_layernorm_2", "post_feedforward_layernorm",
                              "post_feedforward_layernorm_1", "post_feedforward_layernorm_2"),
            router_tensors=router("router.proj", extra=[("router.per_expert_scale", ("E",)), ("router.scale", ("H",))]),
            mixer=gemma4_mixer, runs=True, shared=2112, shared_module="mlp", router_expected=router_of(expert_scale=True))
    del e["text"]["hidden_act"]
    return e


def checkpoints():
    """All entries."""
    glm_flash = dict(hidden=2048, layers=47, heads=20, q_lora=768, n=192, v=256, dense=10240, first=1, experts=64, top_k=4, width=1536,
                     groups=(1, 1), factor=1.8, vocab=154880, theta=1e6)
    m2_names = ["lm_head", "model.embed_tokens"] + [f"model.layers.{i}.{m}" for i in range(62) for m in (
        "self_attn*", "block_sparse_moe.gate")]
    m3 = "language_model.model."
    m3_layers = mixed([f"{m3}layers.{i}.block_sparse_moe.experts.{e}.{p}" for i in range(3, 60) for e in range(128) for p in W123], "NVFP4")
    m3_layers.update({f"{m3}layers.{i}.self_attn.{p}_proj": {"quant_algo": "MXFP8"} for i in range(60)
                      for p in ("q", "k", "v", "o", "index_q", "index_k")})
    yield gpt_oss("gpt-oss-20b", 24, 32, True)
    yield gpt_oss("gpt-oss-120b", 36, 128, True)
    yield gpt_oss("gpt-oss-20b-nvfp4", 24, 32, False)
    yield gpt_oss("gpt-oss-120b-nvfp4", 36, 128, False)
    nano = (NANO_PATTERN, 2688, 32, 128, 6, 1856, None, 3712, 64, 2.5)
    yield nemotron("nemotron-3-nano-nvfp4", *nano, "nvfp4", "pattern")
    yield nemotron("nemotron-3-nano-nul-names", *nano, "nvfp4-nul", "words of transformers 5")
    yield nemotron("nemotron-3.5-lightning-nvfp4", *nano, "mixed-a16", "words")
    yield nemotron("nemotron-3-super-nvfp4", SUPER_PATTERN, 4096, 32, 512, 22, 2688, 1024, 5376, 128, 5.0, "mixed", "stages")
    yield nemotron("nemotron-3-ultra-nvfp4", ULTRA_PATTERN, 8192, 64, 512, 22, 5120, 2048, 10240, 256, 5.0, "mixed", "words")
    v3 = ("DeepseekV3ForCausalLM", "deepseek_v3")
    yield latent("deepseek-v3-0324-nvfp4", *v3, yarn=40, hf=modelopt(exclude=v3_excludes(61), version="0.27.0"), shared_form="modelopt",
                 dense_form="modelopt")
    yield latent("deepseek-v3.1-nvfp4", *v3, yarn=40, hf=modelopt(exclude=v31_excludes(61), kv="FP8"), shared_form="modelopt",
                 dense_form="modelopt", o_form="modelopt")
    yield latent("deepseek-r1-0528-nvfp4", *v3, yarn=40, hf=modelopt(exclude=v3_excludes(61)), shared_form="modelopt",
                 dense_form="modelopt", more={"head_dim": 64})
    yield latent("deepseek-v3.2-nvfp4", "DeepseekV32ForCausalLM", "deepseek_v32", yarn=40, more=DSA, shared_form="modelopt",
                 dense_form="modelopt", o_form="modelopt", hf=modelopt(exclude=v31_excludes(61) + [
                     f"model.layers.{i}.self_attn.indexer*" for i in range(61)], kv="FP8"))
    yield latent("kimi-k2-nvfp4", "DeepseekV3ForCausalLM", "kimi_k2", yarn=32, hf=modelopt(exclude=kimi_excludes("model.", 61, True)),
                 **KIMI)
    yield latent("kimi-k2.5-nvfp4", "KimiK25ForConditionalGeneration", "kimi_k2", yarn=64, wrapper="text_config", wrapper_type="kimi_k25",
                 prefix="language_model.model.", hf=modelopt(exclude=kimi_excludes("language_model.model.", 61, False)),
                 inner_quant=INT4_LEFTOVER, shared_form="modelopt", dense_form="modelopt", **KIMI)
    glm5 = ("GlmMoeDsaForCausalLM", "glm_moe_dsa")
    yield latent("glm-5-nvfp4", *glm5, more=dict(DSA, index_n_heads=32), shared_form="modelopt", dense_form="modelopt",
                 hf=modelopt(exclude=["lm_head", "model.layers.78*"] + [f"model.layers.{i}.self_attn*" for i in range(78)]), **GLM5)
    yield latent("glm-5.2-nvfp4", *glm5, more=dict(DSA, index_n_heads=32, head_dim=192, index_topk_freq=4, index_skip_topk_offset=2,
                                                              indexer_rope_interleave=True), hf=modelopt(exclude=glm5_excludes(78)),
                 **dict(GLM5, theta=8e6))
    yield latent("glm-4.7-flash-nvfp4", "Glm4MoeLiteForCausalLM", "glm4_moe_lite", hf=modelopt(exclude=v3_excludes(47)),
                 shared_form="modelopt", dense_form="modelopt", **glm_flash)
    yield glm4("glm-4.5-nvfp4", 5120, 92, 12288, 3, 160, 1536, 2.5, True)
    yield glm4("glm-4.6-nvfp4", 5120, 92, 12288, 3, 160, 1536, 2.5, True)
    yield glm4("glm-4.5-air-nvfp4", 4096, 46, 10944, 1, 128, 1408, 1.0, False)
    yield gqa("minimax-m2-nvfp4", "MiniMaxM2ForCausalLM", "minimax_m2", hidden=3072, layers=62, heads=48, kv=8, d=128, experts=256, top_k=8,
              width=1536, vocab=200064, scheme=W4A4, form="modelopt", hf_quant=modelopt(exclude=m2_names, kv="FP8"),
              keys={"num_local_experts": 256, "num_experts_per_tok": 8, "intermediate_size": 1536, "rotary_dim": 64, "rope_theta": 5e6,
                    "scoring_func": "sigmoid", "use_routing_bias": True, "qk_norm_type": "per_layer", "use_qk_norm": True,
                    "num_mtp_modules": 3}, module="block_sparse_moe.experts", names=W123,
              mixer=gqa_mixer(qk_norm=True, full_width_norm=True),
              router_tensors=router("block_sparse_moe.gate", "block_sparse_moe.e_score_correction_bias"),
              router_expected=router_of(**SIGMOID), runs=True)
    yield gqa("minimax-m3-nvfp4", "MiniMaxM3SparseForConditionalGeneration", None, hidden=6144, layers=60, heads=64, kv=4, d=128,
              experts=128, top_k=4, width=3072, vocab=200064, moe_layers=from_layer(3, 60), scheme=W4A4, form="modelopt",
              hf_quant=modelopt("MIXED_PRECISION", layers=m3_layers, version="0.45.0"), activation=OAI, wrapper="text_config",
              wrapper_type="minimax_m3_vl", prefix=m3, module="block_sparse_moe.experts", names=W123,
              keys={"num_local_experts": 128, "num_experts_per_tok": 4, "intermediate_size": 3072, "dense_intermediate_size": 12288,
                    "shared_intermediate_size": 3072, "n_shared_experts": 1, "moe_layer_freq": [0] * 3 + [1] * 57, "hidden_act": "silu",
                    "sparse_attention_config": {
                        "use_sparse_attention": True, "sparse_index_dim": 128, "sparse_num_index_heads": 4, "sparse_topk_blocks": 16,
                        "sparse_block_size": 128, "sparse_score_type": "max", "sparse_init_block": 0, "sparse_local_block": 1,
                        "sparse_disable_index_value": [0] * 3 + [1] * 57, "sparse_attention_freq": [0] * 3 + [1] * 57},
                    "rope_theta": 5e6, "partial_rotary_factor": 0.5, "use_qk_norm": True, "qk_norm_type": "per_head",
                    "attention_output_gate": False, "num_mtp_modules": 7, "swiglu_alpha": 1.702, "swiglu_limit": 7.0, "scoring_func": "sigmoid",
                    "use_gemma_norm": True, "routed_scaling_factor": 2.0, "use_routing_bias": True, "rotary_dim": 64},
              mixer=minimax_m3_mixer, shared=3072, shared_module="block_sparse_moe.shared_experts", shared_form="mxfp8",
              shared_names=PLAIN, dense_module="mlp", dense=12288, dense_form="mxfp8", head="language_model.lm_head",
              router_tensors=router("block_sparse_moe.gate", "block_sparse_moe.e_score_correction_bias"),
              router_expected=router_of(factor=2.0, **SIGMOID), runs=True)
    yield gemma4()
    coder = [f"model.layers.{i}.mlp.gate" for i in range(62)] + ["lm_head"]
    yield qwen35("qwen3-next-80b-a3b-nvfp4", 2048, 48, 16, 512, 10, 512, 32, "nvfp4", next_generation=False)
    yield qwen3("qwen3-vl-235b-a22b-nvfp4", 4096, 94, 64, 128, 1536, wrapped=True, hf=modelopt(exclude=["lm_head", "model.visual*"] + [
        f"model.language_model.layers.{i}.{m}" for i in range(94) for m in ("mlp.gate", "self_attn*")]))
    yield qwen3("qwen3-coder-480b-a35b-nvfp4", 6144, 62, 96, 160, 2560, hf=modelopt(exclude=coder + [
        f"model.layers.{i}.self_attn*" for i in range(62)], kv="FP8"))
    yield qwen3("qwen3-coder-30b-a3b-nvfp4", 2048, 48, 32, 128, 768, form="compressed", quant=compressed(
        ["lm_head", "re:.*mlp.gate$", "re:.*self_attn.*"]))
    yield qwen35("qwen3.5-122b-a10b-nvfp4", 3072, 48, 32, 256, 8, 1024, 64, "nvfp4")
    yield qwen35("qwen3.5-397b-a17b-nvfp4", 4096, 60, 32, 512, 10, 1024, 64, "nvfp4")
    yield qwen35("qwen3.6-35b-a3b-nvfp4", 2048, 40, 16, 256, 8, 512, 32, "mixed")
    # The dense width of Mistral-Small-4 (it has no dense layer) and the excluded modules are assumed.
    yield latent("mistral-small-4-119b-nvfp4", "Mistral3ForConditionalGeneration", "mistral4", hidden=4096, layers=36, heads=32, q_lora=1024,
                 r=256, n=64, p=64, v=128, dense=8192, first=0, experts=128, top_k=4, width=2048, groups=(1, 1), factor=1.0, vocab=131072,
                 yarn=128, scoring="softmax", bias=False, wrapper="text_config", wrapper_type="mistral3", prefix="language_model.model.",
                 form="compressed", quant=compressed(["lm_head", "re:.*self_attn.*", "re:.*mlp.gate$", "re:.*vision.*"]), drafts=0,
                 more={"llama_4_scaling": {"beta": 0.1, "original_max_position_embeddings": 8192}})
    # Sizes of Mistral-Large-3 are assumed.
    yield latent("mistral-large-3-nvfp4", *v3, heads=128, dense=16384, experts=128, top_k=4, width=4096, groups=(1, 1), factor=1.0, yarn=64,
                 vocab=131072, form="compressed", quant=compressed(["lm_head", "re:.*self_attn.*", "re:.*mlp.gate$"]), drafts=0)
    yield llama4("llama-4-scout-nvfp4", 16, 1, {"use_qk_norm": True, "rope_scaling": {"rope_type": "llama3", "factor": 16.0,
                 "low_freq_factor": 1.0, "high_freq_factor": 1.0, "original_max_position_embeddings": 8192}})
    yield llama4("llama-4-maverick-nvfp4", 128, 2, {"use_qk_norm": False})
    # Vocabulary, dense width, excluded modules and the order of Laguna's layer types are assumed.
    laguna_types = ["full_attention" if i % 4 == 0 else "sliding_attention" for i in range(48)]
    yield gqa("laguna-s-2.1-nvfp4", "LagunaForCausalLM", "laguna", hidden=3072, layers=48, heads=48, kv=8, d=128, experts=256, top_k=10,
              width=1024, vocab=100352, moe_layers=from_layer(1, 48), scheme=W4A4, form="modelopt",
              hf_quant=modelopt(exclude=["lm_head"] + [f"model.layers.{i}.{m}" for i in range(48) for m in (
                  "self_attn*", "mlp.shared_expert*", "mlp.gate")] + ["model.layers.0.mlp*"]),
              keys={"num_experts": 256, "num_experts_per_tok": 10, "moe_intermediate_size": 1024, "shared_expert_intermediate_size": 1024,
                    "intermediate_size": 12288, "mlp_layer_types": ["dense"] + ["sparse"] * 47, "moe_routed_scaling_factor": 2.5,
                    "layer_types": laguna_types, "num_attention_heads_per_layer": [48 if t == "full_attention" else 72 for t in laguna_types],
                    "sliding_window": 512, "gating": "per-head", "rope_parameters": {
                        "full_attention": {"rope_type": "yarn", "rope_theta": 5e5, "factor": 32.0},
                        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}},
              mixer=gqa_mixer(qk_norm=True, extra={"self_attn.g_proj.weight": "hH"}), shared=1024, shared_module="mlp.shared_expert", dense_module="mlp", dense=12288,
              router_tensors=router("mlp.gate", "mlp.experts.e_score_correction_bias"), router_expected=router_of(factor=2.5, **SIGMOID), runs=True)
    yield step37()
    # Sizes of Hy3 but its layers, key/value heads and head width are assumed.
    yield gqa("hy3-nvfp4", "HYV3ForCausalLM", "hy_v3", hidden=4096, layers=80, heads=64, kv=8, d=128, experts=192, top_k=8, width=1536,
              vocab=120832, moe_layers=from_layer(1, 80), scheme=W4A4, form="compressed",
              quant=compressed(["lm_head", "re:.*self_attn.*", "re:.*router.*", "re:.*shared_mlp.*"]),
              keys={"num_experts": 192, "num_experts_per_tok": 8, "moe_intermediate_size": 1536, "intermediate_size": 13312,
                    "num_shared_experts": 1, "first_k_dense_replace": 1, "router_scaling_factor": 2.826, "qk_norm": True,
                    "num_nextn_predict_layers": 1},
              mixer=gqa_mixer(qk_norm=True), shared=1536, shared_module="mlp.shared_mlp", dense_module="mlp", dense=13312,
              dense_form="compressed", router_tensors=router("mlp.router.gate", "mlp.expert_bias"),
              router_expected=router_of(factor=2.826, **SIGMOID), runs=True)
    # compress_rope_theta and the order of the ratios after the first two are assumed.
    flash_ratios = [0, 0] + [4, 128] * 20 + [4] + [0]
    pro_ratios = [4, 128] * 30 + [4] + [0]
    flash = (4096, 43, 64, 256, 2048, 1.5, 8, flash_ratios)
    yield deepseek_v4("deepseek-v4-flash", "mxfp4", *flash)
    yield deepseek_v4("deepseek-v4-flash-nvfp4", "modelopt", *flash)
    yield deepseek_v4("deepseek-v4-flash-nvfp4-fp8", "compressed", *flash)
    yield deepseek_v4("deepseek-v4-pro-nvfp4", "modelopt", 7168, 61, 128, 384, 3072, 2.5, 16, pro_ratios)
    # Vocabularies and excluded modules of Mixtral and MiMo are assumed, and so is MiMo's dense width.
    yield gqa("mixtral-8x7b-nvfp4", "MixtralForCausalLM", "mixtral", hidden=4096, layers=32, heads=32, kv=8, d=128, experts=8, top_k=2,
              width=14336, vocab=32000, scheme=W4A4, form="modelopt", hf_quant=modelopt(exclude=["lm_head"] + [
                  f"model.layers.{i}.block_sparse_moe.gate" for i in range(32)]),
              keys={"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 14336, "rope_theta": 1e6,
                    "sliding_window": None}, module="block_sparse_moe.experts", names=W123, mixer=gqa_mixer("modelopt"),
              router_tensors=router("block_sparse_moe.gate"), router_expected=router_of(), runs=True)
    yield gqa("mimo-v2-flash-nvfp4", "MiMoV2FlashForCausalLM", "mimo_v2_flash", hidden=4096, layers=48, heads=64, kv=4, d=192, experts=256,
              top_k=8, width=2048, vocab=152576, moe_layers=from_layer(1, 48), scheme=W4A4, form="modelopt",
              hf_quant=modelopt(exclude=["lm_head"] + [f"model.layers.{i}.{m}" for i in range(48) for m in ("self_attn*", "mlp.gate")]),
              keys={"n_routed_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "intermediate_size": 16384,
                    "moe_layer_freq": [0] + [1] * 47, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "n_group": 1, "topk_group": 1,
                    "norm_topk_prob": True, "routed_scaling_factor": None, "n_shared_experts": None, "v_head_dim": 128,
                    "hybrid_layer_pattern": [int(i % 6 != 0) for i in range(48)], "swa_num_key_value_heads": 8,
                    "partial_rotary_factor": 0.334, "rope_theta": 5e6, "swa_rope_theta": 1e4, "sliding_window_size": 128,
                    "attention_value_scale": 0.707, "add_swa_attention_sink_bias": True, "add_full_attention_sink_bias": False},
              runs=True, dense_module="mlp", dense=16384, dense_form="modelopt",
              router_tensors=router("mlp.gate", "mlp.gate.e_score_correction_bias"), router_expected=router_of(**SIGMOID))
    # Sizes of Ernie-4.5-21B-A3B are assumed.
    yield gqa("ernie-4.5-21b-a3b-nvfp4", "Ernie4_5_MoeForCausalLM", "ernie4_5_moe", hidden=2560, layers=28, heads=20, kv=4, d=128,
              experts=64, top_k=6, width=1536, vocab=103424, moe_layers=from_layer(1, 28), scheme=W4A16, form="modelopt-a16",
              hf_quant=modelopt("W4A16_NVFP4", exclude=["lm_head"] + [f"model.layers.{i}.{m}" for i in range(28) for m in (
                  "self_attn*", "mlp.gate", "mlp.shared_experts*")] + ["model.layers.0.mlp*"]),
              keys={"moe_num_experts": 64, "moe_k": 6, "moe_intermediate_size": 1536, "moe_num_shared_experts": 2, "intermediate_size": 12288,
                    "moe_layer_start_index": 1, "moe_layer_end_index": 27, "moe_layer_interval": 1, "tie_word_embeddings": True},
              shared=3072, dense_module="mlp", dense=12288,
              router_tensors=router("mlp.gate", "mlp.moe_statics.e_score_correction_bias"),
              router_expected=router_of("softmax", bias=True), runs=True)
