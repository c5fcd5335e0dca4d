"""Names, dtypes and shapes of the tensors of published checkpoints, family by family."""

# How a linear P of [N, K] is stored: suffix, dtype, shape.
FORMS = {
    "bf16": lambda n, k: [("weight", "BF16", [n, k])],
    "modelopt": lambda n, k: [("weight", "U8", [n, k // 2]), ("weight_scale", "F8_E4M3", [n, k // 16]),
                              ("weight_scale_2", "F32", []), ("input_scale", "F32", [])],
    "modelopt-a16": lambda n, k: [("weight", "U8", [n, k // 2]), ("weight_scale", "F8_E4M3", [n, k // 16]),
                                  ("weight_scale_2", "F32", [])],
    "compressed": lambda n, k: [("weight_packed", "U8", [n, k // 2]), ("weight_scale", "F8_E4M3", [n, k // 16]),
                                ("weight_global_scale", "F32", [1]), ("input_global_scale", "F32", [1])],
    "fp8": lambda n, k: [("weight", "F8_E4M3", [n, k]), ("weight_scale", "F32", []), ("input_scale", "F32", [])],
    "fp8-block": lambda n, k: [("weight", "F8_E4M3", [n, k]), ("weight_scale_inv", "F32", [-(-n // 128), -(-k // 128)])],
    "fp8-e8m0": lambda n, k: [("weight", "F8_E4M3", [n, k]), ("scale", "F8_E8M0", [-(-n // 128), -(-k // 128)])],
    "mxfp8": lambda n, k: [("weight", "F8_E4M3", [n, k]), ("weight_scale", "U8", [n, k // 32])],
    "mxfp4-e8m0": lambda n, k: [("weight", "I8", [n, k // 2]), ("scale", "F8_E8M0", [n, k // 32])],
}


class Tensors:
    """A growing list of (name, dtype, shape)."""

    def __init__(self):
        self.items = []

    def add(self, name, shape, dtype="BF16"):
        self.items.append((name, dtype, shape))

    def linear(self, module, n, k, form="bf16"):
        for suffix, dtype, shape in FORMS[form](n, k):
            self.add(f"{module}.{suffix}", shape, dtype)


def mla(t, p, c, form="bf16", o_form="bf16"):
    h, n, r, v, rope = c["num_attention_heads"], c["qk_nope_head_dim"], c["kv_lora_rank"], c["v_head_dim"], c["qk_rope_head_dim"]
    hidden, q = c["hidden_size"], c["q_lora_rank"]
    t.linear(p + "q_a_proj", q, hidden, form)
    t.add(p + "q_a_layernorm.weight", [q])
    t.linear(p + "q_b_proj", h * (n + rope), q, form)
    t.linear(p + "kv_a_proj_with_mqa", r + rope, hidden, form)
    t.add(p + "kv_a_layernorm.weight", [r])
    t.linear(p + "kv_b_proj", h * (n + v), r, form)
    t.linear(p + "o_proj", hidden, h * v, o_form)
    if "index_topk" in c:
        heads, d = c["index_n_heads"], c["index_head_dim"]
        t.linear(p + "indexer.wq_b", heads * d, q)
        t.linear(p + "indexer.wk", d, hidden)
        t.add(p + "indexer.k_norm.weight", [d])
        t.add(p + "indexer.k_norm.bias", [d])
        t.linear(p + "indexer.weights_proj", heads, hidden)


def gqa(t, p, hidden, h, g, d, form="bf16", v=None, bias=False, norms=None, q_rows=1):
    v = v or d
    for name, rows in (("q_proj", h * d * q_rows), ("k_proj", g * d), ("v_proj", g * v)):
        t.linear(p + name, rows, hidden, form)
        if bias:
            t.add(f"{p}{name}.bias", [rows])
    t.linear(p + "o_proj", hidden, h * v, form)
    for name, width in (norms or {}).items():
        t.add(f"{p}{name}.weight", [width])


def mlp(t, p, hidden, width, form="bf16", names=("gate_proj", "up_proj", "down_proj")):
    gate, up, down = names
    if gate:
        t.linear(p + gate, width, hidden, form)
    t.linear(p + up, width, hidden, form)
    t.linear(p + down, hidden, width, form)


def experts(t, base, family, form):
    """The routed experts of one layer; `base` ends where the layer's number does."""
    e, hidden, width = family["experts"], family["expert_input"], family["width"]
    module, names = base + family["module"], family["names"]
    layout = family.get("layout", "one by one")
    if layout == "one by one":
        for i in range(e):
            mlp(t, f"{module}.{i}.", hidden, width, form, names)
    elif layout == "stacked":  # [E, N, K], a tensor a projection
        for name, n, k in ((names[0], width, hidden), (names[1], width, hidden), (names[2], hidden, width)):
            for suffix, dtype, shape in FORMS[form](n, k):
                t.add(f"{module}.{name}.{suffix}", [e] + shape, dtype)
    elif layout == "transposed":  # [E, K/2, N], groups along axis 1
        for name, n, k in (("gate_up_proj", 2 * width, hidden), ("down_proj", hidden, width)):
            t.add(f"{module}.{name}", [e, k // 2, n], "U8")
            t.add(f"{module}.{name}_weight_scale", [e, k // 16, n], "F8_E4M3")
            t.add(f"{module}.{name}_weight_scale_2", [], "F32")
            t.add(f"{module}.{name}_input_scale", [], "F32")
            if family.get("expert_biases"):
                t.add(f"{module}.{name}_bias", [e, n])
    elif layout == "mxfp4 blocks":
        for name, n, k in (("gate_up_proj", 2 * width, hidden), ("down_proj", hidden, width)):
            t.add(f"{module}.{name}_blocks", [e, n, k // 32, 16], "U8")
            t.add(f"{module}.{name}_scales", [e, n, k // 32], "U8")
            t.add(f"{module}.{name}_bias", [e, n])
    else:
        raise ValueError(layout)


def decoder(t, family, num_layers):
    """Embedding, layers and head of a family of family_tables.py."""
    c, prefix = family["text"], family["prefix"]
    hidden, vocab = c["hidden_size"], c["vocab_size"]
    t.add(prefix + family.get("embedding", "embed_tokens") + ".weight", [vocab, hidden])
    t.add(prefix + family.get("final_norm", "norm") + ".weight", [hidden])
    if not c.get("tie_word_embeddings"):
        t.linear(family.get("head", "lm_head"), vocab, hidden, family.get("head_form", "bf16"))
    for i in range(num_layers):
        base = f"{prefix}layers.{i}."
        family["mixer"](t, base, family, i)
        for name in family["norms"]:
            t.add(f"{base}{name}.weight", [hidden])
        if i in family["moe_layers"]:
            experts(t, base, family, family["form"])
            family["router"](t, base, family)
            if family.get("shared"):
                shared_names = family.get("shared_names", family["names"])
                mlp(t, base + family["shared_module"] + ".", hidden, family["shared"],
                    family.get("shared_form", "bf16"), shared_names)
        elif family.get("dense_module") and family.get("is_dense", lambda i: True)(i):
            mlp(t, f"{base}{family['dense_module']}.", hidden, family["dense"], family.get("dense_form", "bf16"),
                family.get("shared_names", ("gate_proj", "up_proj", "down_proj")))


# Routers ------------------------------------------------------------------------------------------

def router(name="mlp.gate", bias=None, extra=()):
    def add(t, base, family):
        t.linear(base + name, family["experts"], family["text"]["hidden_size"])
        if bias:
            t.add(base + bias, [family["experts"]], "F32")
        for tensor, shape in extra:
            sizes = {"E": family["experts"], "H": family["text"]["hidden_size"], "1": 1}
            t.add(base + tensor, [sizes[s] for s in shape])
    return add


# Mixers ------------------------------------------------------------------------------------------

def mla_mixer(form="bf16", o_form="bf16"):
    return lambda t, base, family, i: mla(t, base + "self_attn.", family["text"], form, o_form)


def gqa_mixer(form="bf16", qk_norm=False, bias=False, full_width_norm=False, extra=None, q_rows=1, module="self_attn"):
    def add(t, base, family, i):
        c = family["text"]
        h = c["num_attention_heads"]
        g = c.get("num_key_value_heads", c.get("num_attention_groups"))
        d = c["head_dim"]
        norms = {}
        if "num_attention_heads_per_layer" in c:
            h = c["num_attention_heads_per_layer"][i]
        window = c.get("hybrid_layer_pattern", [0] * (i + 1))[i] or c.get("layer_types", [""] * (i + 1))[i] == "sliding_attention"
        if window:
            h = c.get("attention_other_setting", {}).get("num_attention_heads", h)
            g = c.get("swa_num_key_value_heads", g)
        if window and c.get("add_swa_attention_sink_bias"):
            t.add(f"{base}{module}.attention_sink_bias", [h])
        if qk_norm:
            norms = {"q_norm": h * d if full_width_norm else d, "k_norm": g * d if full_width_norm else d}
        gqa(t, f"{base}{module}.", c["hidden_size"], h, g, d, form, c.get("v_head_dim"), bias, norms, q_rows)
        for name, shape in (extra or {}).items():
            t.add(base + name, [{"H": c["hidden_size"], "h": h, "d": d}[s] for s in shape])
    return add


def minimax_m3_mixer(t, base, family, i):
    """Behind the first layers an indexer chooses blocks of keys."""
    c, p = family["text"], base + "self_attn."
    gqa_mixer("mxfp8", qk_norm=True)(t, base, family, i)
    sparse = c["sparse_attention_config"]
    if sparse["sparse_attention_freq"][i]:
        d = sparse["sparse_index_dim"]
        for name, rows in (("q", sparse["sparse_num_index_heads"] * d), ("k", d)):
            t.linear(f"{p}index_{name}_proj", rows, c["hidden_size"], "mxfp8")
            t.add(f"{p}index_{name}_norm.weight", [d])


def gemma4_mixer(t, base, family, i):
    """Full layers have heads of their own size, and no v_proj: their values are their keys."""
    c, p = family["text"], base + "self_attn."
    hidden, h, full = c["hidden_size"], c["num_attention_heads"], c["layer_types"][i] == "full_attention"
    g, d = ((c["num_global_key_value_heads"], c["global_head_dim"]) if full else (c["num_key_value_heads"], c["head_dim"]))
    t.linear(p + "q_proj", h * d, hidden)
    t.linear(p + "k_proj", g * d, hidden)
    if not full:
        t.linear(p + "v_proj", g * d, hidden)
    t.linear(p + "o_proj", hidden, h * d)
    t.add(p + "q_norm.weight", [d])
    t.add(p + "k_norm.weight", [d])
    t.add(base + "layer_scalar", [1])


def delta_net_mixer(form="bf16", attention_form=None, fused=False):
    full = gqa_mixer(attention_form or form, qk_norm=True, q_rows=2)

    def add(t, base, family, i):
        if (i + 1) % 4 == 0:
            return full(t, base, family, i)
        c = family["text"]
        hidden = c["hidden_size"]
        keys = c["linear_num_key_heads"] * c["linear_key_head_dim"]
        values = c["linear_num_value_heads"] * c["linear_value_head_dim"]
        heads = c["linear_num_value_heads"]
        p = base + "linear_attn."
        if fused:
            t.linear(p + "in_proj_qkvz", 2 * keys + 2 * values, hidden, form)
            t.linear(p + "in_proj_ba", 2 * heads, hidden)
        else:
            t.linear(p + "in_proj_qkv", 2 * keys + values, hidden, form)
            t.linear(p + "in_proj_z", values, hidden, form)
            t.linear(p + "in_proj_a", heads, hidden)
            t.linear(p + "in_proj_b", heads, hidden)
        t.add(p + "conv1d.weight", [2 * keys + values, 1, 4])
        t.add(p + "A_log", [heads])
        t.add(p + "dt_bias", [heads])
        t.add(p + "norm.weight", [c["linear_value_head_dim"]])
        t.linear(p + "out_proj", hidden, values, form)
        return None
    return add


def nemotron_mixer(mamba_form):
    def add(t, base, family, i):
        c = family["text"]
        kind = family["pattern"][i]
        p, hidden = base + "mixer.", c["hidden_size"]
        if kind == "*":
            gqa(t, p, hidden, c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"])
        elif kind == "M":
            inner = c["mamba_num_heads"] * c["mamba_head_dim"]
            channels = inner + 2 * c["n_groups"] * c["ssm_state_size"]
            t.linear(p + "in_proj", inner + channels + c["mamba_num_heads"], hidden, mamba_form)
            t.add(p + "conv1d.weight", [channels, 1, 4])
            t.add(p + "conv1d.bias", [channels])
            for name in ("A_log", "D", "dt_bias"):
                t.add(p + name, [c["mamba_num_heads"]])
            t.add(p + "norm.weight", [inner])
            t.linear(p + "out_proj", hidden, inner, mamba_form)
        elif kind == "E" and "moe_latent_size" in c:
            t.linear(p + "fc1_latent_proj", c["moe_latent_size"], hidden)
            t.linear(p + "fc2_latent_proj", hidden, c["moe_latent_size"])
    return add


def deepseek_v4_mixer(t, base, family, i):
    c, p = family["text"], base + "attn."
    hidden, h, d, q = c["hidden_size"], c["num_attention_heads"], c["head_dim"], c["q_lora_rank"]
    form = family["attention_form"]
    t.linear(p + "wq_a", q, hidden, form)
    t.add(p + "q_norm.weight", [q])
    t.linear(p + "wq_b", h * d, q, form)
    t.linear(p + "wkv", d, hidden, form)
    t.add(p + "kv_norm.weight", [d])
    t.linear(p + "wo_a", c["o_groups"] * c["o_lora_rank"], h * d // c["o_groups"], form)
    t.linear(p + "wo_b", hidden, c["o_groups"] * c["o_lora_rank"], form)
    t.add(p + "attn_sink", [h], "F32")
    for part in ("attn", "ffn"):
        t.add(f"{base}hc_{part}_fn", [24, 4 * hidden], "F32")
        t.add(f"{base}hc_{part}_base", [24], "F32")
        t.add(f"{base}hc_{part}_scale", [3], "F32")
    if i == 0:
        for name, shape in (("fn", [4, 4 * hidden]), ("base", [4]), ("scale", [1])):
            t.add(f"hc_head_{name}", shape, "F32")
    ratio = c["compress_ratios"][i]
    chosen = ratio == 4  # by an indexer, and entries overlap

    def compressor(at, width):
        rows = 2 * width if chosen else width
        t.linear(at + "wkv", rows, hidden)
        t.linear(at + "wgate", rows, hidden)
        t.add(at + "ape", [ratio, rows], "F32")
        t.add(at + "norm.weight", [width])

    if ratio:
        compressor(p + "compressor.", d)
    if chosen:
        compressor(p + "indexer.compressor.", c["index_head_dim"])
        t.linear(p + "indexer.wq_b", c["index_n_heads"] * c["index_head_dim"], q, form)
        t.linear(p + "indexer.weights_proj", c["index_n_heads"], hidden)


def deepseek_v4_router(t, base, family):
    """The experts of the first layers are given by the token."""
    c = family["text"]
    t.linear(base + "ffn.gate", family["experts"], c["hidden_size"])
    if int(base.split(".")[-2]) < c["num_hash_layers"]:
        t.add(base + "ffn.gate.tid2eid", [c["vocab_size"], c["num_experts_per_tok"]], "I64")
    else:
        t.add(base + "ffn.gate.bias", [family["experts"]], "F32")
