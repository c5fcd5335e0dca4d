"""From a transformers class to a small random checkpoint in its published form, with goldens.

What make_family_goldens.py says of a family is a Case; write() does the rest:
every tensor gets random values, the model is quantised by ModelOpt or by the packers of make_test_checkpoints.py, the
file is read back and decoded, and the decoded values are what transformers computes with, in float32 with eager attention.
"""

import copy
import dataclasses
import json
import pathlib
import shutil
import tempfile
from typing import Any, Callable

import torch
from make_test_checkpoints import (OUT, VOCAB, bf16, ct_nvfp4, e2m1_codes, e2m1_values, modelopt_nvfp4, pack, unpack,
                                   write_json)
from safetensors.torch import load_file, save_file

TOKENS, GREEDY = 40, 16
PLAIN = ("gate_proj", "up_proj", "down_proj")
W132 = ("w1", "w3", "w2")
# Not rounded to BF16.
AS_STORED = ("e_score_correction_bias", "expert_bias", "A_log", "position_bias", "hc.fn", "hc.base", "hc.scale", "hc_fn", "hc_base",
             "hc_scale")
BUFFERS = AS_STORED + ("layer_scalar",)  # of these ends are in files


@dataclasses.dataclass
class Case:
    """How a family is made and published."""
    name: str                               # of the folder
    model_class: Any
    config: Any                             # of transformers
    seed: int
    quantise: Callable                      # (model, published names) -> tensors, quantisation metadata
    publish: Callable = lambda config: config   # config.json of transformers 5 -> the publisher's spelling
    rename: Callable = lambda name: name    # of transformers' tensors and modules -> the file's
    projections: tuple = PLAIN              # names of an expert's
    one_plus: tuple = ()                    # ends of the names of norms that multiply by 1 + w
    bias: tuple = (0.0, 0.3)                # mean and spread of correction biases
    scores: Callable = lambda gate, logits: logits.sigmoid() + gate.e_score_correction_bias
    text: Callable = lambda model: model.model  # the module with embedding, layers and norm
    factor: float = 1.0                     # of the routed sum, where transformers applies it behind the experts
    fix: Callable = lambda model: None      # of the reference: what transformers does otherwise
    keep: Callable = lambda name: True      # which of the model's tensors are stored
    arrange: Callable = lambda tensors: tensors  # of experts one by one -> the file's
    extra: dict = dataclasses.field(default_factory=dict)       # further tensors that nobody reads
    generation: dict = dataclasses.field(default_factory=dict)  # generation_config.json


def tensors_of(model):
    """Parameters and the buffers that files have."""
    return dict(model.named_parameters()) | {n: b for n, b in model.named_buffers() if n.endswith(BUFFERS)}


def randomise(case, model):
    """Everything that could hide a mistake by being 0 or 1 is neither."""
    generator = torch.Generator().manual_seed(case.seed)
    mean, spread = case.bias
    for name, p in sorted(tensors_of(model).items()):
        noise = torch.randn(p.shape, generator=generator)
        with torch.no_grad():
            if name.endswith(("e_score_correction_bias", "expert_bias")):
                p.copy_(mean + spread * noise)
            elif name.endswith("A_log"):
                p.copy_((0.2 + 4 * torch.rand(p.shape, generator=generator)).log())
            elif name.endswith("dt_bias"):
                p.copy_(noise - 1)
            elif name.endswith("bias"):
                p.copy_(0.3 * noise)
            elif name.endswith("sinks") or name.endswith("sink_bias"):
                p.copy_(1 + noise)
            elif name.endswith("layer_scalar"):
                p.fill_(0.7)
            elif p.ndim == 1:
                p.copy_(0.2 * noise + (0 if name.endswith(case.one_plus) else 1))
            elif "embed" in name:
                p.copy_(noise)
            else:
                p.copy_(1.5 * noise / p.shape[-1] ** 0.5)
    for name, table in sorted(model.named_buffers()):
        if name.endswith("tid2eid"):  # experts of every token, each once
            table.copy_(torch.rand(table.shape[0], case.config.n_routed_experts, generator=generator).argsort(1)[:, :table.shape[1]])
    return model.eval()


# Quantisers: (case, model) -> tensors by published name, and additions to config.json and hf_quant_config.json.

def by_modelopt(choose):
    """ModelOpt's own quantisation and export; `choose` gives its configuration."""
    def quantise(case, model):
        import modelopt.torch.quantization as mtq
        from modelopt.torch.export import export_hf_checkpoint
        kept = {case.rename(n): t.detach().float().clone() for n, t in tensors_of(model).items() if n.endswith(AS_STORED)}
        ids = torch.randint(0, VOCAB, (8, TOKENS), generator=torch.Generator().manual_seed(5))
        model = model.to(torch.bfloat16)
        mtq.quantize(model, choose(mtq), lambda m: m(ids))
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            export_hf_checkpoint(model, export_dir=folder)
            tensors = load_file(folder / "model.safetensors")
            config = json.loads((folder / "config.json").read_text())
            hf_quant = json.loads((folder / "hf_quant_config.json").read_text())
        # Published files have them in float32; ModelOpt writes what the cast left of it.
        for name, value in kept.items():
            assert name in tensors, (name, sorted(tensors)[:40])
            tensors[name] = value
        tensors = {case.rename(name): tensor for name, tensor in tensors.items()}
        body = hf_quant["quantization"]
        body["exclude_modules"] = [case.rename(name) for name in body["exclude_modules"]]
        return tensors, config, hf_quant
    return quantise


def experts_only(mtq):
    return copy.deepcopy(mtq.NVFP4_EXPERTS_ONLY_CFG)


def is_pair(name):
    """Whether it holds gate and up of one MLP, which files have apart."""
    return name.endswith(".gate_up_proj.weight")


def halves_of(case, name):
    """The file's modules of such a pair."""
    at = case.rename(name).removesuffix("gate_up_proj.weight")
    return at + PLAIN[0], at + PLAIN[1]


def is_fused(name, p):
    """Whether it holds a projection of all experts."""
    return p.ndim == 3 and name.endswith((".gate_up_proj", ".down_proj"))


def modules_of(case, model):
    """(module in the file, weight) of every matrix; experts one by one."""
    for name, p in model.state_dict().items():
        if not case.keep(name):
            continue
        module, _, leaf = name.rpartition(".")
        gate, up, down = case.projections
        if is_fused(name, p) and leaf == "gate_up_proj":
            half = p.shape[1] // 2
            for e in range(p.shape[0]):
                yield f"{case.rename(module)}.{e}.{gate}", p[e, :half]
                yield f"{case.rename(module)}.{e}.{up}", p[e, half:]
        elif is_fused(name, p):
            for e in range(p.shape[0]):
                yield f"{case.rename(module)}.{e}.{down}", p[e]
        elif is_pair(name):
            yield from zip(halves_of(case, name), p.chunk(2))
        elif leaf == "weight" and p.ndim == 2:
            yield case.rename(name).removesuffix(".weight"), p


def by_packers(kind_of, metadata):
    """The packers of make_test_checkpoints.py: kind_of(module) -> packer, metadata(kinds) -> config, hf_quant."""
    def quantise(case, model):
        tensors, kinds = {}, {}
        for module, weight in modules_of(case, model):
            kinds[module] = kind_of(module)
            stored, _ = kinds[module](weight.detach().float().bfloat16().float(), torch.tensor(4.0))
            tensors |= {f"{module}.{suffix}": t for suffix, t in stored.items()}
        for name, p in model.state_dict().items():
            file_name = case.rename(name)
            if not case.keep(name) or is_fused(name, p) or is_pair(name) or file_name.removesuffix(".weight") in kinds:
                continue
            is_kept = name.endswith(AS_STORED) or not p.is_floating_point()
            tensors[file_name] = p if is_kept else p.bfloat16()
        config = json.loads(model.config.to_json_string(use_diff=False))
        quantization, hf_quant = metadata(kinds)
        config |= {"architectures": [type(model).__name__], "dtype": "bfloat16"}
        if quantization is not None:
            config["quantization_config"] = quantization
        return tensors, config, hf_quant
    return quantise


def compressed(inputs=True, version="0.12.0"):
    """compressed-tensors' W4A4 or W4A16 of the routed experts."""
    args = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "symmetric": True}

    def kind_of(module):
        return (lambda w, amax: ct_nvfp4(w, amax if inputs else None)) if ".experts." in module else bf16

    def metadata(kinds):
        ignored = [m for m, kind in kinds.items() if kind is bf16 and "embed" not in m]
        group = {"targets": ["Linear"], "weights": args | {"dynamic": False},
                 "input_activations": args | {"dynamic": "local"} if inputs else None}
        return {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "version": version,
                "ignore": ignored, "config_groups": {"group_0": group}}, None
    return by_packers(kind_of, metadata)


def mxfp8(w, _):
    """E4M3 with a power of two for every 32 along K, so that the largest of them is at most 448."""
    n, k = w.shape
    groups = w.view(n, k // 32, 32)
    exponent = (groups.abs().amax(-1) / 448).clamp(min=2.0 ** -127).log2().ceil()
    codes = (groups / 2.0 ** exponent[..., None]).to(torch.float8_e4m3fn)
    return {"weight": codes.view(n, k), "weight_scale": (exponent + 127).to(torch.uint8)}, None


def modelopt_mixed(is_mxfp8, version="0.45.0"):
    """ModelOpt's MIXED_PRECISION: NVFP4 of the routed experts, MXFP8 of what is_mxfp8(module) says."""
    def kind_of(module):
        if ".experts." in module:
            return lambda w, amax: modelopt_nvfp4(w, amax)
        return mxfp8 if is_mxfp8(module) else bf16

    def metadata(kinds):
        layers = {m: {"quant_algo": "MXFP8"} if kind is mxfp8 else {"quant_algo": "NVFP4", "group_size": 16}
                  for m, kind in kinds.items() if kind is not bf16}
        return None, {"producer": {"name": "modelopt", "version": version}, "quantization": {
            "quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": None, "exclude_modules": [],
            "quantized_layers": layers}}
    return by_packers(kind_of, metadata)


def fp8_e8m0(w, _):
    """E4M3 with a power of two for every 128 x 128, as DeepSeek-V4 has its linears."""
    n, k = w.shape
    blocks = torch.nn.functional.pad(w, (0, -k % 128, 0, -n % 128)).unfold(0, 128, 128).unfold(1, 128, 128)
    exponent = (blocks.abs().amax((2, 3)) / 448).clamp(min=2.0 ** -127).log2().ceil()
    factors = (2.0 ** exponent).repeat_interleave(128, 0).repeat_interleave(128, 1)[:n, :k]
    return {"weight": (w / factors).to(torch.float8_e4m3fn), "scale": (exponent + 127).to(torch.uint8).view(torch.float8_e8m0fnu)}, None


def mxfp4_e8m0(w, _):
    """E2M1 with a power of two for every 32 along K, as DeepSeek-V4 has its experts."""
    n, k = w.shape
    groups = w.view(n, k // 32, 32)
    exponent = (groups.abs().amax(-1) / 6).clamp(min=2.0 ** -127).log2().ceil()
    codes = e2m1_codes(groups / 2.0 ** exponent[..., None]).view(n, k)
    return {"weight": pack(codes).view(torch.int8), "scale": (exponent + 127).to(torch.uint8).view(torch.float8_e8m0fnu)}, None


DEEPSEEK_FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "scale_fmt": "ue8m0",
                "weight_block_size": [128, 128]}


def deepseek_mxfp4(is_fp8):
    """DeepSeek-V4's own FP8 and MXFP4 experts."""
    def kind_of(module):
        return mxfp4_e8m0 if ".experts." in module else fp8_e8m0 if is_fp8(module) else bf16
    return by_packers(kind_of, lambda kinds: (dict(DEEPSEEK_FP8), None))


def deepseek_fp8(is_fp8, version="0.44.0"):
    """DeepSeek-V4's own FP8 with ModelOpt's NVFP4 experts on top."""
    def kind_of(module):
        if ".experts." in module:
            return lambda w, amax: modelopt_nvfp4(w, amax)
        return fp8_e8m0 if is_fp8(module) else bf16

    def metadata(kinds):
        experts = sorted({m[:m.index(".experts.") + len(".experts")] for m in kinds if ".experts." in m})
        return DEEPSEEK_FP8 | {"moe_quant_algo": "NVFP4"}, {
            "producer": {"name": "modelopt", "version": version}, "quantization": {
                "quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": None, "exclude_modules": [],
                "quantized_layers": {m: {"quant_algo": "NVFP4", "group_size": 16} for m in experts}}}
    return by_packers(kind_of, metadata)


def modelopt(algorithm, version="0.44.0", is_routed=lambda module: ".experts." in module):
    """ModelOpt's NVFP4 (W4A4) or W4A16_NVFP4 of the routed experts."""
    def kind_of(module):
        inputs = algorithm == "NVFP4"
        return (lambda w, amax: modelopt_nvfp4(w, amax if inputs else None)) if is_routed(module) else bf16

    def metadata(kinds):
        return None, {"producer": {"name": "modelopt", "version": version}, "quantization": {
            "quant_algo": algorithm, "kv_cache_quant_algo": None, "group_size": 16,
            "exclude_modules": [m for m, kind in kinds.items() if kind is bf16 and "embed" not in m]}}
    return by_packers(kind_of, metadata)


def stacked(tensors):
    """Tensors of experts module.0.name, module.1.name, ... as one module.name each."""
    out, parts = {}, {}
    for name, tensor in tensors.items():
        words = name.split(".")
        at = next((i for i, word in enumerate(words) if word.isdigit() and words[i - 1] != "layers"), None)
        if at is None:
            out[name] = tensor
        else:
            parts.setdefault(".".join(words[:at] + words[at + 1:]), {})[int(words[at])] = tensor
    return out | {name: torch.stack([t for _, t in sorted(part.items())]) for name, part in parts.items()}


# Back from the file.

def decode(tensors, module):
    """The matrix of `module` in float32, in any dialect."""
    packed = tensors.get(module + ".weight_packed", tensors.get(module + ".weight"))
    if module + ".scale" in tensors:
        factors = 2.0 ** (tensors[module + ".scale"].view(torch.uint8).float() - 127)
        if packed.dtype == torch.int8:
            return e2m1_values(unpack(packed.view(torch.uint8))) * factors.repeat_interleave(32, 1)
        factors = factors.repeat_interleave(128, 0).repeat_interleave(128, 1)
        return packed.float() * factors[:packed.shape[0], :packed.shape[1]]
    if packed.dtype == torch.float8_e4m3fn:
        factors = 2.0 ** (tensors[module + ".weight_scale"].float() - 127)
        return packed.float() * factors.repeat_interleave(32, 1)
    if packed.dtype != torch.uint8:
        return packed.float()
    values = e2m1_values(unpack(packed))
    n, k = values.shape
    values = values.view(n, k // 16, 16) * tensors[module + ".weight_scale"].float()[..., None]
    if module + ".weight_scale_2" in tensors:
        return (values * tensors[module + ".weight_scale_2"].float()).view(n, k)
    return (values / tensors[module + ".weight_global_scale"].float()).view(n, k)


def decode_transposed(tensors, name):
    """All experts of [E, K, N], whose codes and scales have K as rows too."""
    packed = tensors[name]
    e, half, n = packed.shape
    values = e2m1_values(torch.stack([packed & 15, packed >> 4], 2).view(e, 2 * half, n))
    scales = tensors[name + "_weight_scale"].float().repeat_interleave(16, 1)
    return values * scales * tensors[name + "_weight_scale_2"].float()


def decoded_model(case, tensors):
    model = case.model_class._from_config(copy.deepcopy(case.config)).float().eval()
    state = {}
    for name, p in model.state_dict().items():
        if not case.keep(name):
            continue
        module, _, leaf = name.rpartition(".")
        gate, up, down = case.projections
        expert = lambda e, projection, module=module: decode(tensors, f"{case.rename(module)}.{e}.{projection}")
        if is_fused(name, p) and case.rename(name) in tensors:
            state[name] = decode_transposed(tensors, case.rename(name))
        elif is_fused(name, p) and leaf == "gate_up_proj":
            state[name] = torch.stack([torch.cat([expert(e, gate), expert(e, up)]) for e in range(p.shape[0])])
        elif is_fused(name, p):
            state[name] = torch.stack([expert(e, down) for e in range(p.shape[0])])
        elif is_pair(name):
            state[name] = torch.cat([decode(tensors, half) for half in halves_of(case, name)])
        elif leaf == "weight":
            state[name] = decode(tensors, case.rename(name).removesuffix(".weight"))
        else:
            state[name] = tensors[case.rename(name)].to(p.dtype).view(p.shape)
    left_out = model.load_state_dict(state, strict=False)
    assert not left_out.unexpected_keys and not any(map(case.keep, left_out.missing_keys)), left_out
    case.fix(model)
    return model


@torch.no_grad()
def golden(case, model):
    config = getattr(model.config, "text_config", model.config)
    out, hooks = {}, []
    text = case.text(model)
    first = lambda o: (o[0] if isinstance(o, tuple) else o).reshape(TOKENS, -1)

    def keep(module, key):
        hooks.append(module.register_forward_hook(lambda mod, args, o: out.__setitem__(key, first(o))))

    def keep_routing(block, key):
        seen = {}
        hooks.append(block.gate.register_forward_hook(lambda mod, args, o: seen.__setitem__("logits", o[0])))

        def hook(mod, args, o):
            x, ids, weights = args
            if hasattr(block.gate, "tid2eid"):  # in the order of the table
                order = torch.arange(ids.shape[1]).expand_as(ids)
            else:  # in that of moe/routing.h: falling (biased) score
                scores = case.scores(block.gate if hasattr(block.gate, "e_score_correction_bias") else block, seen["logits"])
                order = scores.gather(1, ids).argsort(-1, descending=True)
            out[key + "input"], out[key + "experts_output"] = first(x), first(o) * case.factor
            out[key + "topk_ids"] = ids.gather(1, order).int()
            out[key + "topk_weights"] = weights.gather(1, order) * case.factor
        hooks.append(block.experts.register_forward_hook(hook))

    def keep_parallel(layer, key):
        """Router and experts that read the residual; topk sorts."""
        def hook(mod, args, o):
            out[key + "input"], out[key + "topk_weights"], out[key + "topk_ids"] = first(args[0]), o[1], o[2].int()
        hooks.append(layer.router.register_forward_hook(hook))
        keep(layer.experts, key + "experts_output")

    def keep_weighted_inputs(block, key):
        """Experts that take every token, times its weight or 0."""
        def of_router(mod, args, o):
            best = o[1].sigmoid().topk(block.top_k)
            out[key + "input"], out[key + "topk_weights"], out[key + "topk_ids"] = first(args[0]), best.values, best.indices.int()

        def of_experts(mod, args, o):
            out[key + "experts_output"] = o.view(block.num_experts, TOKENS, -1).sum(0)
        hooks.append(block.router.register_forward_hook(of_router))
        hooks.append(block.experts.register_forward_hook(of_experts))

    keep(text.embed_tokens, "hidden.embed")
    keep(text.norm, "hidden.final_norm")
    for i, layer in enumerate(text.layers):
        keep(layer, f"hidden.layer{i}")
        if hasattr(layer, "router"):
            keep_parallel(layer, f"moe.layer{i}.")
        if hasattr(layer, "feed_forward"):
            if layer.is_moe_layer:
                keep_weighted_inputs(layer.feed_forward, f"moe.layer{i}.")
        elif hasattr(layer.mlp, "experts"):
            keep_routing(layer.mlp, f"moe.layer{i}.")
    ids = torch.randint(3, config.vocab_size - 20, (1, TOKENS), generator=torch.Generator().manual_seed(case.seed + 100))
    out["logits"] = model(ids, use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    check_steps(model, ids, out["logits"])
    out["input_ids"] = ids[0].int()
    margins = []
    for _ in range(GREEDY):
        best = model(ids, use_cache=False).logits[0, -1].topk(2)
        margins.append(best.values[0] - best.values[1])
        ids = torch.cat([ids, best.indices[:1][None]], 1)
    out["greedy"], out["greedy_margin"] = ids[0, TOKENS:].int(), torch.stack(margins)
    assert out["greedy_margin"].min() > 1e-3, out["greedy_margin"]
    return {k: v.float().contiguous().clone() if v.is_floating_point() else v.contiguous().clone() for k, v in out.items()}


def check_steps(model, ids, logits):
    """transformers' own single steps give the logits of one prompt."""
    cache, steps = None, []
    for i in range(ids.shape[1]):
        output = model(ids[:, i:i + 1], past_key_values=cache, use_cache=True)
        cache = output.past_key_values if hasattr(output, "past_key_values") else output.cache
        steps.append(output.logits[0, -1])
    error = (torch.stack(steps) - logits).abs().max() / logits.abs().max()
    assert error < 1e-5, error


def write(case):
    print(case.name)
    torch.manual_seed(case.seed)
    case.config._attn_implementation = "eager"
    case.config.architectures = [case.model_class.__name__]
    model = randomise(case, case.model_class._from_config(copy.deepcopy(case.config)))
    tensors, config, hf_quant = case.quantise(case, model)
    tensors = {n: t.detach().contiguous().clone() for n, t in tensors.items()}
    reference = decoded_model(case, tensors)
    config.pop("transformers_version", None)
    folder = OUT / case.name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "golden").mkdir(parents=True)
    write_json(folder / "config.json", case.publish(config))
    if hf_quant is not None:
        write_json(folder / "hf_quant_config.json", hf_quant)
    write_json(folder / "generation_config.json", case.generation)
    save_file(case.arrange(tensors) | case.extra, folder / "model.safetensors", {"format": "pt"})
    save_file(golden(case, reference), folder / "golden/w4a16.safetensors", {"mode": "w4a16"})
    print("  bytes:", sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()))
