#!/usr/bin/env python3
"""Writes tests/data/long_context: a small qwen3_moe checkpoint and its logits far into a sequence.

Needs numpy and safetensors. The forward pass is written out in float64 from the definition of the
architecture (transformers' Qwen3MoeForCausalLM), key by key without segments or blocks; only what
transformers computes in float32 whatever the weights, the angles of the rotary embedding, is rounded
to float32. Before it writes anything the script holds this forward pass against goldens that
transformers made (tests/data/checkpoints/qwen3-bf16-sharded).

    python scripts/make_long_context_goldens.py
"""

import json
import pathlib

import numpy as np
from safetensors.numpy import load_file, save_file

DATA = pathlib.Path(__file__).resolve().parent.parent / "tests/data"
LENGTH = 1600
# Borders of chunks (300, 512, 700), of segments of keys (1024), and the end.
POSITIONS = [0, 1, 299, 300, 511, 512, 513, 699, 700, 1022, 1023, 1024, 1025, 1026, 1027, 1028, 1029,
             1030, 1199, 1200, 1399, 1400, 1500, 1599]
CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "intermediate_size": 64, "moe_intermediate_size": 32, "num_experts": 4,
    "num_experts_per_tok": 2, "norm_topk_prob": True, "decoder_sparse_step": 1,
    "mlp_only_layers": [], "hidden_act": "silu", "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "vocab_size": 128, "tie_word_embeddings": False,
    "attention_bias": False, "torch_dtype": "bfloat16",
}


def bf16_bits(x):
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def bf16_values(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rms_norm(x, w, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w


def silu(x):
    return x / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def angles(config, positions):
    """[T, head_dim / 2], float32 products of float32 frequencies as in transformers."""
    dim = config["head_dim"]
    exponents = np.arange(0, dim, 2).astype(np.float32) / np.float32(dim)
    theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    inverse = (np.float32(1) / np.power(np.float64(theta), exponents.astype(np.float64))
               .astype(np.float32))
    return np.asarray(positions, np.float32)[:, None] * inverse[None, :]


def rotate(x, angle):
    """x [T, heads, head_dim]"""
    half = x.shape[-1] // 2
    cos, sin = np.cos(angle.astype(np.float64))[:, None], np.sin(angle.astype(np.float64))[:, None]
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def forward(config, weights, ids):
    """Logits [T, V] in float64; the smallest gap between the last expert taken and the next."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    eps, heads, kv_heads = (config[k] for k in
                            ("rms_norm_eps", "num_attention_heads", "num_key_value_heads"))
    dim, top_k, tokens = config["head_dim"], config["num_experts_per_tok"], len(ids)
    experts = config.get("num_experts") or config["num_local_experts"]
    angle, gap = angles(config, range(tokens)), np.inf
    x = w["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        h = rms_norm(x, w[p + "input_layernorm.weight"], eps)
        q = (h @ w[p + "self_attn.q_proj.weight"].T).reshape(tokens, heads, dim)
        k = (h @ w[p + "self_attn.k_proj.weight"].T).reshape(tokens, kv_heads, dim)
        v = (h @ w[p + "self_attn.v_proj.weight"].T).reshape(tokens, kv_heads, dim)
        q = rotate(rms_norm(q, w[p + "self_attn.q_norm.weight"], eps), angle)
        k = rotate(rms_norm(k, w[p + "self_attn.k_norm.weight"], eps), angle)
        out = np.empty((tokens, heads, dim))
        for head in range(heads):
            of = head // (heads // kv_heads)
            for t in range(tokens):
                scores = k[: t + 1, of] @ q[t, head] / np.sqrt(dim)
                out[t, head] = softmax(scores) @ v[: t + 1, of]
        x = x + out.reshape(tokens, -1) @ w[p + "self_attn.o_proj.weight"].T
        h = rms_norm(x, w[p + "post_attention_layernorm.weight"], eps)
        probabilities = softmax(h @ w[p + "mlp.gate.weight"].T)
        order = np.argsort(-probabilities, -1, kind="stable")
        ranked = np.take_along_axis(probabilities, order, -1)
        gap = min(gap, (ranked[:, top_k - 1] - ranked[:, top_k]).min())
        chosen = ranked[:, :top_k]
        if config["norm_topk_prob"]:
            chosen = chosen / chosen.sum(-1, keepdims=True)
        y = np.zeros_like(x)
        for e in range(experts):
            m = f"{p}mlp.experts.{e}."
            weight = (chosen * (order[:, :top_k] == e)).sum(-1, keepdims=True)
            inner = silu(h @ w[m + "gate_proj.weight"].T) * (h @ w[m + "up_proj.weight"].T)
            y += weight * (inner @ w[m + "down_proj.weight"].T)
        x = x + y
    return rms_norm(x, w["model.norm.weight"], eps) @ w["lm_head.weight"].T, gap


def read_bf16(path):
    tensors, raw = {}, path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    for name, info in json.loads(raw[8:8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + size + x for x in info["data_offsets"])
        assert info["dtype"] == "BF16", name
        bits = np.frombuffer(raw[begin:end], np.uint16)
        tensors[name] = bf16_values(bits).reshape(info["shape"])
    return tensors


def check_against_transformers():
    folder = DATA / "checkpoints/qwen3-bf16-sharded"
    weights = {}
    for shard in sorted(folder.glob("*.safetensors")):
        weights.update(read_bf16(shard))
    golden = load_file(folder / "golden/bf16.safetensors")
    config = json.loads((folder / "config.json").read_text())
    logits, _ = forward(config, weights, golden["input_ids"])
    error = np.linalg.norm(logits - golden["logits"]) / np.linalg.norm(golden["logits"])
    print(f"against transformers: relative error {error:.1e}")
    assert error < 2e-6


def save_bf16(path, tensors):
    header, at, blobs = {}, 0, []
    for name, bits in tensors.items():
        data = bits.tobytes()
        header[name] = {"dtype": "BF16", "shape": list(bits.shape),
                        "data_offsets": [at, at + len(data)]}
        at += len(data)
        blobs.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))


def random_weights():
    rng = np.random.default_rng(5)
    h, dim = CONFIG["hidden_size"], CONFIG["head_dim"]
    shapes = {"model.embed_tokens.weight": (CONFIG["vocab_size"], h),
              "lm_head.weight": (CONFIG["vocab_size"], h)}
    scales = {"model.embed_tokens.weight": 1.0, "lm_head.weight": 0.3}
    for layer in range(CONFIG["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        for name, n in (("q", 4), ("k", 2), ("v", 2)):
            shapes[p + f"self_attn.{name}_proj.weight"] = (n * dim, h)
        shapes[p + "self_attn.o_proj.weight"] = (h, 4 * dim)
        shapes[p + "mlp.gate.weight"] = (CONFIG["num_experts"], h)
        for e in range(CONFIG["num_experts"]):
            for name in ("gate_proj", "up_proj"):
                shapes[p + f"mlp.experts.{e}.{name}.weight"] = (CONFIG["moe_intermediate_size"], h)
            shapes[p + f"mlp.experts.{e}.down_proj.weight"] = (h, CONFIG["moe_intermediate_size"])
    bits = {name: bf16_bits(rng.normal(0, scales.get(name, 0.125), shape))
            for name, shape in shapes.items()}
    norms = {"model.norm.weight": h}
    for layer in range(CONFIG["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        norms |= {p + "input_layernorm.weight": h, p + "post_attention_layernorm.weight": h,
                  p + "self_attn.q_norm.weight": dim, p + "self_attn.k_norm.weight": dim}
    for name, n in norms.items():
        # Queries are sharp: a few keys far back decide, and scores differ between segments.
        center = 2.0 if "q_norm" in name else 1.0
        bits[name] = bf16_bits(center + rng.normal(0, 0.1, n))
    return bits


def main():
    check_against_transformers()
    folder = DATA / "long_context"
    folder.mkdir(exist_ok=True)
    bits = random_weights()
    weights = {name: bf16_values(b).reshape(b.shape) for name, b in bits.items()}
    ids = np.random.default_rng(6).integers(0, CONFIG["vocab_size"], LENGTH).astype(np.int32)
    logits, gap = forward(CONFIG, weights, ids)
    top = logits.max(-1, keepdims=True)
    log_p = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
    next_log_p = log_p[np.arange(LENGTH - 1), ids[1:]]
    print(f"smallest gap of a router {gap:.1e}, mean log likelihood {next_log_p.mean():.6f}")
    far = [1000, 131071, 1048575]
    angle = angles(CONFIG, far).astype(np.float64)
    save_bf16(folder / "model.safetensors", bits)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    save_file({"input_ids": ids, "positions": np.array(POSITIONS, np.int32),
               "logits": logits[POSITIONS].astype(np.float32),
               "next_log_probability": next_log_p.astype(np.float32),
               "rotary.positions": np.array(far, np.int32),
               "rotary.cos": np.cos(angle).astype(np.float32),
               "rotary.sin": np.sin(angle).astype(np.float32)}, folder / "golden.safetensors")


if __name__ == "__main__":
    main()
