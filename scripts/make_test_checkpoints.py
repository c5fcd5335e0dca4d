#!/usr/bin/env python3
"""Writes tests/data/checkpoints: small random models in every dialect, with goldens.

Needs torch, transformers 5.17, compressed-tensors 0.18, tokenizers, safetensors. Weights are random;
forward passes are those of the transformers classes in float32 with dequantised weights. Numbers in
compressed-tensors' folders come from that library's own functions; ModelOpt's formulas
(weight_scale_2 = amax / 2688, block scale = e4m3(clamp(block amax / (6 weight_scale_2), 2^-9, 448)),
1.0 for a block of zeros) are written out below. tests/data/README.md describes the result.

    python scripts/make_test_checkpoints.py [NAME ...]
"""

import contextlib
import json
import pathlib
import re
import shutil
import sys

import torch
from compressed_tensors.compressors.nvfp4.base import NVFP4PackedCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.models.qwen3_5_moe.configuration_qwen3_5_moe import Qwen3_5MoeTextConfig
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeForCausalLM

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/data/checkpoints"
VOCAB = 320
E4M3 = torch.float8_e4m3fn
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])

# ---------------------------------------------------------------------------------------------
# Number formats. Each quantiser returns the tensors it stores (by suffix) and the float32 values
# they stand for.


def e4m3(x):
    return x.clamp(-448, 448).to(E4M3)


def e2m1_codes(x):
    """Nearest, ties to the even code, saturating; sign in bit 3."""
    a = x.abs().contiguous()
    code = torch.zeros_like(a, dtype=torch.uint8)
    for limit, ties_up in [(0.25, 0), (0.75, 1), (1.25, 0), (1.75, 1), (2.5, 0), (3.5, 1), (5, 0)]:
        code += (a >= limit if ties_up else a > limit).to(torch.uint8)
    return code + 8 * (x < 0).to(torch.uint8)


def e2m1_values(codes):
    return E2M1[(codes & 7).long()] * torch.where(codes >= 8, -1.0, 1.0)


def pack(codes):
    return (codes[..., 0::2] | (codes[..., 1::2] << 4)).contiguous()


def unpack(packed):
    return torch.stack([packed & 15, packed >> 4], -1).flatten(-2)


def modelopt_nvfp4(w, act_amax=None, amax=None):
    n, k = w.shape
    scale2 = (w.abs().max() if amax is None else amax) / 2688
    blocks = w.view(n, k // 16, 16)
    s = blocks.abs().amax(-1) / (6 * scale2)
    s = torch.where(s == 0, torch.ones_like(s), s.clamp(2**-9, 448))
    s = e4m3(s)
    codes = e2m1_codes(blocks / (s.float() * scale2)[..., None]).view(n, k)
    stored = {"weight": pack(codes), "weight_scale": s, "weight_scale_2": scale2}
    if act_amax is not None:
        stored["input_scale"] = act_amax / 2688
    w = (e2m1_values(codes).view(n, k // 16, 16) * s.float()[..., None]) * scale2
    return stored, w.view(n, k)


NVFP4_ARGS = QuantizationArgs(num_bits=4, type="float", strategy="tensor_group", group_size=16,
                              symmetric=True, dynamic=False, scale_dtype=E4M3)


def ct_nvfp4(w, act_amax=None, amax=None):
    n, k = w.shape
    g = generate_gparam(w.min(), w.max()) if amax is None else generate_gparam(-amax, amax)
    blocks = w.view(n, k // 16, 16)
    scale, _ = calculate_qparams(blocks.amin(-1), blocks.amax(-1), NVFP4_ARGS, global_scale=g)
    stored = NVFP4PackedCompressor.compress(
        {"weight": w, "weight_scale": scale, "weight_global_scale": g},
        QuantizationScheme(targets=["Linear"], weights=NVFP4_ARGS))
    if act_amax is not None:
        stored["input_global_scale"] = generate_gparam(-act_amax, act_amax)
    values = e2m1_values(unpack(stored["weight_packed"])).view(n, k // 16, 16)
    return stored, (values * stored["weight_scale"].float()[..., None] / g).view(n, k)


def fp8_tensor(w, act_amax=None, amax=None):
    scale = w.abs().max() / 448
    q = e4m3(w / scale)
    stored = {"weight": q, "weight_scale": scale}
    if act_amax is not None:
        stored["input_scale"] = act_amax / 448
    return stored, q.float() * scale


def fp8_channel(w, act_amax=None, amax=None):
    scale = (w.abs().amax(-1, keepdim=True) / 448).bfloat16()
    q = e4m3(w / scale.float())
    return {"weight": q, "weight_scale": scale}, q.float() * scale.float()


def fp8_block128(w, act_amax=None, amax=None):
    n, k = w.shape
    rows, cols = -(-n // 128), -(-k // 128)
    padded = torch.zeros(rows * 128, cols * 128)
    padded[:n, :k] = w
    scale = padded.view(rows, 128, cols, 128).abs().amax((1, 3)) / 448
    full = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[:n, :k]
    q = e4m3(w / full)
    return {"weight": q, "weight_scale_inv": scale}, q.float() * full


def bf16(w, act_amax=None, amax=None):
    return {"weight": w.bfloat16()}, w.bfloat16().float()


# ---------------------------------------------------------------------------------------------
# Activation quantisation: x' in float32.


def act_nvfp4(x, g):
    blocks = x.view(*x.shape[:-1], -1, 16)
    s = e4m3(torch.minimum(blocks.abs().amax(-1) / (6 * g), torch.tensor(448.0))).float()
    d = (s * g)[..., None]
    q = torch.where(d == 0, torch.zeros_like(blocks),
                    e2m1_values(e2m1_codes(blocks / torch.where(d == 0, torch.ones_like(d), d))))
    return (q * d).view(x.shape)


def act_fp8(x, scale):
    return e4m3(x / scale).float() * scale


def act_fp8_dynamic(x, group):
    blocks = x.split(group, -1)
    scales = [b.abs().amax(-1, keepdim=True) / 448 for b in blocks]
    return torch.cat([act_fp8(b, torch.where(s == 0, torch.ones_like(s), s))
                      for b, s in zip(blocks, scales)], -1)


def make_activation(kind, mode, stored):
    """The function a linear applies to its input in `mode`, or None."""
    if kind in ("nvfp4", "ct_nvfp4") and mode == "w4a4-unit":
        return lambda x: act_nvfp4(x, torch.tensor(1.0))
    if kind == "nvfp4" and mode == "w4a4-static":
        return lambda x: act_nvfp4(x, stored["input_scale"])
    if kind == "ct_nvfp4" and mode == "w4a4-static":
        return lambda x: act_nvfp4(x, (1 / stored["input_global_scale"]).squeeze())
    if mode == "w4a16-fp8act":
        if kind == "fp8_tensor":
            return lambda x: act_fp8(x, stored["input_scale"])
        if kind == "fp8_channel":
            return lambda x: act_fp8_dynamic(x, x.shape[-1])
        if kind == "fp8_block128":
            return lambda x: act_fp8_dynamic(x, 128)
    return None


QUANTISERS = {"bf16": bf16, "nvfp4": modelopt_nvfp4, "nvfp4_a16": modelopt_nvfp4,
              "ct_nvfp4": ct_nvfp4, "ct_nvfp4_a16": ct_nvfp4, "fp8_tensor": fp8_tensor,
              "fp8_channel": fp8_channel, "fp8_block128": fp8_block128}

# ---------------------------------------------------------------------------------------------
# Models


def qwen3(**changes):
    config = dict(vocab_size=VOCAB, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
                  num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_experts=6,
                  num_experts_per_tok=3, moe_intermediate_size=32, norm_topk_prob=True,
                  max_position_embeddings=512, tie_word_embeddings=True)
    config.update(changes)
    config = Qwen3MoeConfig(**config, attn_implementation="eager")
    return Qwen3MoeForCausalLM._from_config(config)


def qwen3_5(**changes):
    config = dict(vocab_size=VOCAB, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
                  num_key_value_heads=2, head_dim=32, num_experts=6, num_experts_per_tok=3,
                  moe_intermediate_size=32, shared_expert_intermediate_size=32,
                  linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16,
                  linear_value_head_dim=16, linear_conv_kernel_dim=4, max_position_embeddings=512,
                  layer_types=["linear_attention", "full_attention"], tie_word_embeddings=True,
                  rope_parameters={"mrope_interleaved": True, "mrope_section": [2, 1, 1],
                                   "partial_rotary_factor": 0.25, "rope_theta": 10000.0,
                                   "rope_type": "default"})
    config.update(changes)
    config = Qwen3_5MoeTextConfig(**config, attn_implementation="eager")
    return Qwen3_5MoeForCausalLM._from_config(config)


def randomise(model, seed, expert_std=None):
    """Weights of a spread that keeps every part of the model audible; all are BF16 values."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        with torch.no_grad():
            if name.endswith("A_log"):
                p.copy_(torch.rand(p.shape, generator=generator).log().abs().log1p())
            elif name.endswith("norm.weight") and "q_norm" not in name and "k_norm" not in name:
                # (1 + w) norms store values around 0, plain ones around 1.
                p.copy_(0.2 * noise + (0 if p.abs().max() == 0 else 1))
            elif p.ndim == 1:
                p.copy_(0.2 * noise + (0 if p.abs().max() == 0 else 1))
            else:
                std = 1.0 if "embed" in name else 1.5 / p.shape[-1] ** 0.5
                if "experts." in name and expert_std is not None:
                    std = expert_std
                p.copy_(noise * std)
            p.copy_(p.bfloat16().float())
    return model.eval()


class Experts:
    """One layer's experts: the float32 weights and, in a mode, each expert's activations."""

    def __init__(self, model, layer):
        self.module = model.model.layers[layer].mlp.experts
        self.inter = self.module.gate_up_proj.shape[1] // 2
        self.amax = {}      # (expert, projection) -> largest input
        self.activation = {}  # (expert, "gate" | "up" | "down") -> function
        self.module.forward = self.forward

    def weight(self, e, which):
        if which == "down":
            return self.module.down_proj.data[e]
        first = 0 if which == "gate" else self.inter
        return self.module.gate_up_proj.data[e, first:first + self.inter]

    def forward(self, x, ids, weights):
        out = torch.zeros_like(x)
        for e in range(self.module.num_experts):
            token, rank = torch.where(ids == e)
            if len(token) == 0:
                continue
            h = x[token]
            for which in ("gate", "up"):
                self.see(e, which, h)
            act = lambda which, t: self.activation.get((e, which), lambda u: u)(t)
            gate = act("gate", h) @ self.weight(e, "gate").T
            up = act("up", h) @ self.weight(e, "up").T
            h = torch.nn.functional.silu(gate) * up
            self.see(e, "down", h)
            y = act("down", h) @ self.weight(e, "down").T
            out.index_add_(0, token, y * weights[token, rank, None])
        return out

    def see(self, e, which, h):
        self.amax[e, which] = max(self.amax.get((e, which), torch.tensor(0.0)), h.abs().max())


class Subject:
    """A model under way from random weights to a checkpoint folder."""

    def __init__(self, name, model, kind_of, extra=None, gate_factor=None):
        self.name, self.model, self.kind_of = name, model, kind_of
        self.stored = {}   # module on disk -> suffix -> tensor
        self.kinds = {}    # module on disk -> kind
        self.separate = gate_factor is not None  # own global scales for gate and up
        layers = range(model.config.num_hidden_layers)
        self.experts = {i: Experts(model, i) for i in layers
                        if hasattr(model.model.layers[i].mlp, "experts")}
        if gate_factor is not None:
            for experts in self.experts.values():
                for e in range(experts.module.num_experts):
                    experts.weight(e, "gate").mul_(gate_factor)
        self.linears = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
        self.quantise()
        self.extra = extra or {}

    def quantise(self):
        linear_amax = {}
        hooks = [m.register_forward_pre_hook(
            lambda mod, args, n=n: linear_amax.__setitem__(n, args[0].abs().max()))
            for n, m in self.linears.items()]
        with torch.no_grad():
            ids = torch.randint(0, VOCAB, (1, 128), generator=torch.Generator().manual_seed(99))
            self.model(ids)
        for hook in hooks:
            hook.remove()
        tied = self.model.config.tie_word_embeddings
        for name, module in self.linears.items():
            if name == "lm_head" and tied:
                continue
            self.put(name, module.weight.data, linear_amax[name])
        for layer, experts in self.experts.items():
            for e in range(experts.module.num_experts):
                # Both libraries give gate and up one global scale, unless told otherwise.
                both = max(experts.weight(e, w).abs().max() for w in ("gate", "up"))
                for which in ("gate", "up", "down"):
                    amax = None if which == "down" or self.separate else both
                    self.put(f"model.layers.{layer}.mlp.experts.{e}.{which}_proj",
                             experts.weight(e, which), experts.amax[e, which], amax)

    def put(self, module, weight, input_amax, amax=None):
        kind = self.kinds[module] = self.kind_of(module)
        needs_input = kind in ("nvfp4", "ct_nvfp4", "fp8_tensor")
        stored, values = QUANTISERS[kind](weight.clone(), input_amax if needs_input else None,
                                          amax if "nvfp4" in kind else None)
        self.stored[module] = stored
        weight.copy_(values)  # in place: the model computes with what the file says

    def tensors(self):
        out = {}
        for module, stored in self.stored.items():
            for suffix, tensor in stored.items():
                out[f"{module}.{suffix}"] = tensor
        for name, p in self.model.state_dict().items():
            module = name.removesuffix(".weight")
            if "experts." in name or module in self.stored or name == "lm_head.weight":
                continue
            out[name] = p.bfloat16()
        return {n: t.detach().contiguous().clone() for n, t in out.items()} | self.extra

    @contextlib.contextmanager
    def mode(self, mode):
        hooks = []
        for name, module in self.linears.items():
            act = name in self.stored and make_activation(self.kinds[name], mode, self.stored[name])
            if act:
                hooks.append(module.register_forward_pre_hook(
                    lambda mod, args, act=act: (act(args[0]),)))
        for layer, experts in self.experts.items():
            for e in range(experts.module.num_experts):
                for which in ("gate", "up", "down"):
                    name = f"model.layers.{layer}.mlp.experts.{e}.{which}_proj"
                    act = make_activation(self.kinds[name], mode, self.stored[name])
                    if act:
                        experts.activation[e, which] = act
        yield
        for hook in hooks:
            hook.remove()
        for experts in self.experts.values():
            experts.activation.clear()

    def golden(self, mode, num_tokens=12):
        ids = torch.randint(0, VOCAB - 3, (1, num_tokens),
                            generator=torch.Generator().manual_seed(7))
        out = {"input_ids": ids[0].int()}
        hooks = []

        def hook(module, f):
            hooks.append(module.register_forward_hook(f))

        first = lambda o: (o[0] if isinstance(o, tuple) else o).reshape(num_tokens, -1)
        keep = lambda key: lambda mod, args, o: out.__setitem__(key, first(o))
        hook(self.model.model.embed_tokens, keep("hidden.embed"))
        hook(self.model.model.norm, keep("hidden.final_norm"))
        for i, layer in enumerate(self.model.model.layers):
            hook(layer, keep(f"hidden.layer{i}"))
            if i not in self.experts:
                continue
            key = f"moe.layer{i}"

            def router(mod, args, o, key=key):
                out[f"{key}.router_logits"], out[f"{key}.topk_weights"] = o[0], o[1]
                out[f"{key}.topk_ids"] = o[2].int()

            def block(mod, args, o, key=key):
                out[f"{key}.input"], out[f"{key}.output"] = first(args[0]), first(o)

            hook(layer.mlp.gate, router)
            hook(layer.mlp, block)
            experts = self.experts[i]
            experts.module.forward = lambda x, t, w, experts=experts, key=key: out.setdefault(
                f"{key}.experts_output", experts.forward(x, t, w))
        with torch.no_grad(), self.mode(mode):
            out["logits"] = self.model(ids).logits[0]
        for h in hooks:
            h.remove()
        for experts in self.experts.values():
            experts.module.forward = experts.forward
        return {k: v.detach().clone().contiguous() for k, v in out.items()}


# ---------------------------------------------------------------------------------------------
# Folders

TEXT = """The river runs down to the sea, and the sea is never full. What does the word mean? It
means what the people who use it make it mean. One two three four five six seven eight nine ten.
There is a time for everything, and a season for every activity under the heavens."""

CHATML = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
          "message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1) + "\n")


def write_tokenizer(folder):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
                  r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(split, "isolated"),
         pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([TEXT], trainers.BpeTrainer(
        vocab_size=VOCAB - 3, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[], show_progress=False))
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    assert tokenizer.get_vocab_size() == VOCAB, tokenizer.get_vocab_size()
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    write_json(folder / "tokenizer_config.json",
               {"tokenizer_class": "Qwen2Tokenizer", "chat_template": CHATML,
                "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
                "model_max_length": 512})


def hf_config(model, spelling=5):
    config = json.loads(model.config.to_json_string(use_diff=False))
    keep = set(json.loads(model.config.to_json_string())) | {"tie_word_embeddings"}
    config = {k: v for k, v in sorted(config.items()) if k in keep}
    config["architectures"] = [type(model).__name__]
    config["eos_token_id"] = VOCAB - 1
    config["dtype"] = "bfloat16"
    if spelling == 4:
        config["torch_dtype"] = config.pop("dtype")
        if "num_local_experts" in config:
            config["num_experts"] = config.pop("num_local_experts")
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope["rope_theta"]
        config["rope_scaling"] = None
        if "mrope_section" in rope:
            config["rope_scaling"] = {"rope_type": "default", "mrope_interleaved": True,
                                      "mrope_section": rope["mrope_section"]}
            config["partial_rotary_factor"] = rope["partial_rotary_factor"]
    return config


def shard(folder, tensors, count):
    names = sorted(tensors)
    weight_map = {}
    for i in range(count):
        part = names[i * len(names) // count:(i + 1) * len(names) // count]
        file = f"model-{i + 1:05}-of-{count:05}.safetensors"
        save_file({n: tensors[n] for n in part}, folder / file, {"format": "pt"})
        weight_map |= {n: file for n in part}
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    write_json(folder / "model.safetensors.index.json",
               {"metadata": {"total_size": total}, "weight_map": weight_map})


def write(subject, config, modes, hf_quant=None, shards=1, rename=lambda n: n, tensors=None):
    folder = OUT / subject.name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "golden").mkdir(parents=True)
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json",
               {"do_sample": True, "eos_token_id": [VOCAB - 1, VOCAB - 3], "temperature": 0.7,
                "top_k": 20, "top_p": 0.8})
    if hf_quant is not None:
        write_json(folder / "hf_quant_config.json", hf_quant)
    write_tokenizer(folder)
    tensors = {rename(n): t for n, t in (tensors or subject.tensors()).items()}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    else:
        shard(folder, tensors, shards)
    for mode in modes:
        save_file(subject.golden(mode), folder / "golden" / f"{mode}.safetensors", {"mode": mode})
    print(subject.name, sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()))


def is_expert(module):
    return ".mlp.experts." in module


def layer_of(module):
    found = re.search(r"layers\.(\d+)\.", module)
    return int(found[1]) if found else -1


PRODUCER = {"name": "modelopt", "version": "0.44.0"}
FLOAT4 = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16}
FLOAT8 = {"dynamic": False, "num_bits": 8, "type": "float"}
CT_NVFP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16,
            "symmetric": True, "dynamic": False, "scale_dtype": "torch.float8_e4m3fn"}
CT_NVFP4_INPUT = CT_NVFP4 | {"dynamic": "local"}
CT_FP8_CHANNEL = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True,
                  "dynamic": False, "group_size": None}
CT_FP8_TOKEN = {"num_bits": 8, "type": "float", "strategy": "token", "symmetric": True,
                "dynamic": True, "group_size": None}


def ct_config(groups, ignore, fmt):
    return {"quant_method": "compressed-tensors", "format": fmt, "config_groups": groups,
            "ignore": ignore, "kv_cache_scheme": None, "quantization_status": "compressed",
            "version": "0.18.0"}


def unquantised_modules(subject):
    return [m for m, kind in subject.kinds.items() if kind == "bf16"] + ["lm_head"] + [
        f"model.layers.{i}.mlp.gate" for i in subject.experts]


def modelopt_pair(algorithm, exclude, inputs):
    group = {"weights": FLOAT4, "targets": ["Linear"]}
    if inputs:
        group["input_activations"] = FLOAT4
    config = {"quant_method": "modelopt", "quant_algo": algorithm, "ignore": exclude,
              "config_groups": {"group_0": group}, "producer": PRODUCER}
    hf = {"producer": PRODUCER, "quantization": {
        "quant_algo": algorithm, "kv_cache_quant_algo": None, "group_size": 16,
        "exclude_modules": exclude}}
    return config, hf


W4A4_MODES = ["w4a16", "w4a4-static", "w4a4-unit"]


def experts_only(kind):
    return lambda module: kind if is_expert(module) else "bf16"


def make_modelopt(name, model, algorithm, inputs, modes, **options):
    kind = "nvfp4" if algorithm == "NVFP4" else "nvfp4_a16"
    subject = Subject(name, model, experts_only(kind), **options)
    exclude = ["lm_head", "model.embed_tokens"]
    for i in subject.experts:
        exclude += [f"model.layers.{i}.self_attn*", f"model.layers.{i}.mlp.gate"]
    config, hf = modelopt_pair(algorithm, exclude, inputs)
    write(subject, hf_config(model) | {"quantization_config": config}, modes, hf)


def modelopt_nvfp4_case():
    make_modelopt("qwen3-modelopt-nvfp4", randomise(qwen3(), 1), "NVFP4", True, W4A4_MODES)


def modelopt_w4a16_case():
    # config_groups claim 4-bit inputs, as published W4A16 checkpoints do; quant_algo is right.
    make_modelopt("qwen3-modelopt-w4a16", randomise(qwen3(), 2), "W4A16_NVFP4", True, ["w4a16"])


def gate_up_scales_case():
    make_modelopt("qwen3-gate-up-scales", randomise(qwen3(moe_intermediate_size=48), 3), "NVFP4",
                  True, W4A4_MODES, gate_factor=10.0)


def tiny_weights_case():
    make_modelopt("qwen3-tiny-weights", randomise(qwen3(), 4, expert_std=0.002), "NVFP4", True,
                  W4A4_MODES)


def modelopt_mixed_exact_case():
    model = randomise(qwen3(), 5)
    kind_of = lambda m: ("bf16" if not is_expert(m) else
                         "fp8_tensor" if layer_of(m) == 0 else "nvfp4_a16")
    subject = Subject("qwen3-modelopt-mixed-exact", model, kind_of)
    listed = {m: ({"quant_algo": "FP8"} if k == "fp8_tensor" else
                  {"quant_algo": "W4A16_NVFP4", "group_size": 16})
              for m, k in subject.kinds.items() if k != "bf16"}
    hf = {"producer": PRODUCER, "quantization": {
        "quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": None, "quantized_layers": listed}}
    # No quantization_config: the older form, hf_quant_config.json alone.
    write(subject, hf_config(model), ["w4a16", "w4a16-fp8act"], hf)


def modelopt_mixed_prefix_case():
    """The shape of the published mixed Qwen3.6 checkpoint, multimodal names included."""
    model = randomise(qwen3_5(tie_word_embeddings=False), 6)

    def kind_of(m):
        if is_expert(m) or "shared_expert." in m or m == "lm_head":
            return "nvfp4_a16"
        attention = r"(in_proj_qkv|in_proj_z|out_proj|[qkvo]_proj)$"
        return "fp8_tensor" if re.search(attention, m) else "bf16"

    rename = lambda n: n.replace("model.", "model.language_model.", 1) if n.startswith(
        "model.layers") or n.startswith("model.embed") or n.startswith("model.norm") else n
    extra = {"model.visual.patch_embed.proj.weight": torch.zeros(8, 3, 2, 2).bfloat16(),
             "mtp.fc.weight": torch.zeros(8, 16).bfloat16(),
             "mtp.layers.0.mlp.gate.weight": torch.zeros(8, 64).bfloat16()}
    subject = Subject("qwen3_5-modelopt-mixed-prefix", model, kind_of, extra)
    layers = {}
    for m, kind in subject.kinds.items():
        if kind == "bf16":
            continue
        key = rename(re.sub(r"\.experts\..*", ".experts", m))
        layers[key] = ({"quant_algo": "FP8"} if kind == "fp8_tensor" else
                       {"quant_algo": "W4A16_NVFP4", "group_size": 16})
    four = [k for k, v in layers.items() if v["quant_algo"] != "FP8"]
    eight = [k for k, v in layers.items() if v["quant_algo"] == "FP8"]
    quantization = {
        "quant_method": "modelopt", "quant_algo": "MIXED_PRECISION",
        "ignore": ["mtp.layers.0*", "mtp*"], "quantized_layers": layers,
        "config_groups": {
            "group_0": {"input_activations": FLOAT8, "weights": FLOAT8, "targets": eight},
            "group_1": {"input_activations": FLOAT4, "weights": FLOAT4, "targets": four}},
        "producer": {"name": "modelopt", "version": "0.37.0"}}
    hf = {"producer": PRODUCER, "quantization": {
        "quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": "FP8",
        "exclude_modules": ["mtp.layers.0*", "mtp*"], "quantized_layers": layers}}
    text = hf_config(model)
    text.pop("architectures")
    config = {"architectures": ["Qwen3_5MoeForConditionalGeneration"], "model_type": "qwen3_5_moe",
              "image_token_id": 300, "tie_word_embeddings": False, "text_config": text,
              "vision_config": {"model_type": "qwen3_5_moe", "depth": 1, "hidden_size": 8},
              "quantization_config": quantization}
    write(subject, config, ["w4a16", "w4a16-fp8act"], hf, rename=rename)


def ct_case(name, model, kind, groups_input, modes, shards=1):
    subject = Subject(name, model, experts_only(kind))
    group = {"targets": ["Linear"], "weights": CT_NVFP4, "output_activations": None,
             "input_activations": groups_input, "format": "nvfp4-pack-quantized"}
    quantization = ct_config({"group_0": group}, unquantised_modules(subject),
                             "nvfp4-pack-quantized")
    write(subject, hf_config(model, 4) | {"quantization_config": quantization}, modes,
          shards=shards)


def ct_nvfp4_case():
    ct_case("qwen3-ct-nvfp4", randomise(qwen3(), 7), "ct_nvfp4", CT_NVFP4_INPUT, W4A4_MODES,
            shards=2)


def ct_nvfp4a16_case():
    ct_case("qwen3_5-ct-nvfp4a16", randomise(qwen3_5(), 8), "ct_nvfp4_a16", None, ["w4a16"])


def ct_mixed_case():
    model = randomise(qwen3(), 9)

    def kind_of(m):
        if is_expert(m):
            return "fp8_channel" if layer_of(m) == 0 else "ct_nvfp4_a16"
        return "fp8_channel" if re.search(r"self_attn\.[qkv]_proj$", m) else "bf16"

    subject = Subject("qwen3-ct-mixed", model, kind_of)
    eight = {"targets": ["re:.*layers\\.0\\.mlp\\.experts\\.\\d+\\.(gate|up|down)_proj$",
                         "re:.*self_attn\\.qkv_proj$"],  # as an engine that fuses q, k, v names it
             "weights": CT_FP8_CHANNEL, "input_activations": CT_FP8_TOKEN,
             "output_activations": None, "format": "float-quantized"}
    four = {"targets": ["re:model\\.layers\\.1\\.mlp\\.experts\\."], "weights": CT_NVFP4,
            "input_activations": None, "output_activations": None,
            "format": "nvfp4-pack-quantized"}
    quantization = ct_config({"group_0": eight, "group_1": four},
                             ["lm_head", "re:.*mlp\\.gate$", "re:.*o_proj$"], "mixed-precision")
    write(subject, hf_config(model, 4) | {"quantization_config": quantization},
          ["w4a16", "w4a16-fp8act"])


def bf16_case():
    model = randomise(qwen3(tie_word_embeddings=False), 10)
    write(Subject("qwen3-bf16-sharded", model, lambda m: "bf16"), hf_config(model), ["bf16"],
          shards=3)


def fp8_tensor_case():
    model = randomise(qwen3(), 11)
    subject = Subject("qwen3-modelopt-fp8", model, experts_only("fp8_tensor"))
    exclude = ["lm_head", "*.self_attn.*", "*.mlp.gate"]
    hf = {"producer": PRODUCER, "quantization": {
        "quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": exclude}}
    write(subject, hf_config(model), ["w4a16", "w4a16-fp8act"], hf)


def fp8_block128_case():
    # Sizes that are not multiples of 128, and a dense layer beside the MoE layer.
    model = randomise(qwen3(hidden_size=160, moe_intermediate_size=144, num_experts=3,
                            num_experts_per_tok=2, num_attention_heads=2, num_key_value_heads=1,
                            mlp_only_layers=[1], vocab_size=VOCAB), 12)
    subject = Subject("qwen3-fp8-block128", model, experts_only("fp8_block128"))
    quantization = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3",
                    "weight_block_size": [128, 128],
                    "modules_to_not_convert": ["lm_head"] + [
                        m for m, k in subject.kinds.items() if k == "bf16"]}
    write(subject, hf_config(model) | {"quantization_config": quantization},
          ["w4a16", "w4a16-fp8act"])


def fused_experts_case():
    """Experts in 3-D tensors: layer 0 BF16 as Qwen3.5's own releases have them, layer 1 NVFP4 with
    weight_scale_2 [E, 2] (gate, up)."""
    model = randomise(qwen3_5(), 13)
    kind_of = lambda m: "nvfp4_a16" if is_expert(m) and layer_of(m) == 1 else "bf16"
    subject = Subject("qwen3_5-fused-experts", model, kind_of)
    tensors = subject.tensors()
    for layer in subject.experts:
        base = f"model.layers.{layer}.mlp.experts"
        parts = {}
        for e in range(model.config.num_experts):
            for which in ("gate", "up", "down"):
                for suffix in ("weight", "weight_scale", "weight_scale_2"):
                    tensor = tensors.pop(f"{base}.{e}.{which}_proj.{suffix}", None)
                    if tensor is not None:
                        parts.setdefault((which, suffix), []).append(tensor)
        for suffix in ("weight", "weight_scale", "weight_scale_2"):
            if ("gate", suffix) not in parts:
                continue
            gate, up, down = (torch.stack(parts[w, suffix]) for w in ("gate", "up", "down"))
            tail = "" if suffix == "weight" else f"_{suffix}"
            tensors[f"{base}.gate_up_proj{tail}"] = torch.cat([gate, up], 1) if gate.ndim > 1 \
                else torch.stack([gate, up], 1)
            tensors[f"{base}.down_proj{tail}"] = down
    hf = {"producer": PRODUCER, "quantization": {
        "quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": None,
        "quantized_layers": {"model.layers.1.mlp.experts": {"quant_algo": "W4A16_NVFP4",
                                                            "group_size": 16}}}}
    write(subject, hf_config(model), ["w4a16"], hf, tensors=tensors)


CASES = [modelopt_nvfp4_case, modelopt_w4a16_case, gate_up_scales_case, tiny_weights_case,
         modelopt_mixed_exact_case, modelopt_mixed_prefix_case, ct_nvfp4_case, ct_nvfp4a16_case,
         ct_mixed_case, bf16_case, fp8_tensor_case, fp8_block128_case, fused_experts_case]

if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in CASES:
        if len(sys.argv) == 1 or case.__name__.removesuffix("_case") in sys.argv[1:]:
            case()
