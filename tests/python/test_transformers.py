"""The embedded checkpoint in transformers, through moe4 and through its own experts on decoded weights."""

import json

import moe4
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import moe4.transformers  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def decoded(weights, name):
    codes = weights[f"{name}.weight"]
    values = E2M1[torch.stack([codes & 15, codes >> 4], -1).reshape(codes.shape[0], -1).long()]
    scales = weights[f"{name}.weight_scale"].float().repeat_interleave(16, 1)
    return values * scales * weights[f"{name}.weight_scale_2"]


@pytest.fixture(scope="module")
def own_experts(checkpoint):
    """transformers' own model in float32, with experts decoded here."""
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    del config.quantization_config
    config.dtype = torch.float32
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    weights = load_file(checkpoint / "model.safetensors")
    state = {name: tensor.float() for name, tensor in weights.items() if ".experts." not in name}
    for layer in range(config.num_hidden_layers):
        at = f"model.layers.{layer}.mlp.experts"
        experts = range(config.num_experts)
        gate_up = [torch.cat([decoded(weights, f"{at}.{e}.{p}_proj") for p in ("gate", "up")]) for e in experts]
        state[f"{at}.gate_up_proj"] = torch.stack(gate_up)
        state[f"{at}.down_proj"] = torch.stack([decoded(weights, f"{at}.{e}.down_proj") for e in experts])
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert set(missing) <= {"lm_head.weight"}
    assert not unexpected
    model.tie_weights()
    return model.eval()


@pytest.fixture(scope="module")
def rows(checkpoint):
    return load_file(checkpoint.parent / "heldout_tokens.safetensors")["tokens"][:3, :512].long()


def perplexity(model, rows):
    losses = []
    with torch.no_grad():
        for row in rows.to(model.device):
            logits = model(row[None]).logits[0, :-1].float()
            losses.append(torch.nn.functional.cross_entropy(logits, row[1:]).item())
    return float(torch.tensor(losses).mean().exp())


def test_perplexity_is_that_of_transformers_own_experts(checkpoint, own_experts, rows):
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    assert isinstance(model.model.layers[0].mlp.experts, moe4.transformers.NvFp4Experts)
    assert model.model.layers[0].mlp.experts.layer.experts.backend == "cpu"
    expected, found = perplexity(own_experts, rows), perplexity(model, rows)
    print(f"perplexity: own experts {expected:.4f}, moe4 {found:.4f}")
    assert abs(found / expected - 1) < 1e-3
    ours = moe4.evaluate(checkpoint, rows.tolist(), dtype="float32")["perplexity"]
    assert abs(found / ours - 1) < 1e-3


def test_bfloat16_generates_what_moe4_generates(checkpoint, llm):
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, experts_implementation="moe4")
    assert model.dtype == torch.bfloat16
    ids = torch.tensor([llm.tokenizer.encode("The President of the United States")])
    tokens = model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :].tolist()
    ours = llm.generate(ids[0].tolist(), moe4.SamplingParams(temperature=0, max_tokens=6))[0].outputs[0].token_ids
    assert tokens[:3] == ours[:3]  # BF16 layers part them later


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_perplexity_and_the_text_of_the_cpu(checkpoint, own_experts, rows, llm):
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16, device_map="cuda")
    experts = model.model.layers[0].mlp.experts.layer.experts
    assert experts.device == 0
    expected, found = perplexity(own_experts, rows), perplexity(model, rows)
    print(f"perplexity: own experts in float32 on the CPU {expected:.4f}, moe4's {experts.backend} {found:.4f}")
    assert abs(found / expected - 1) < 3e-3  # every layer rounds to BF16
    ids = torch.tensor([llm.tokenizer.encode("The President of the United States")], device="cuda")
    tokens = model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :].tolist()
    ours = llm.generate(ids[0].tolist(), moe4.SamplingParams(temperature=0, max_tokens=6))[0].outputs[0].token_ids
    assert tokens[:3] == ours[:3]


def test_quantised_activations_cost_what_they_cost(checkpoint, own_experts, rows):
    expected = perplexity(own_experts, rows)
    try:
        for activations in ("fp4", "fp4-static"):
            moe4.transformers.configure(activations=activations)
            model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
            assert 1 < perplexity(model, rows) / expected < 1.05
    finally:
        moe4.transformers.configure(activations="bf16")


def test_compressed_tensors_gives_the_perplexity_of_modelopt(checkpoint, own_experts, rows, tmp_path):
    """The same numbers in the other dialect's names."""
    from safetensors.torch import save_file

    weights = {}
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        if ".experts." in name:
            stem, _, kind = name.rpartition(".")
            name = (
                stem
                + {
                    "weight": ".weight_packed",
                    "weight_scale": ".weight_scale",
                    "weight_scale_2": ".weight_global_scale",
                    "input_scale": ".input_global_scale",
                }[kind]
            )
            tensor = 1 / tensor.reshape(1) if kind in ("weight_scale_2", "input_scale") else tensor
        weights[name] = tensor
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((checkpoint / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "nvfp4-pack-quantized",
        "config_groups": {"group_0": {"format": "nvfp4-pack-quantized", "targets": ["Linear"]}},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert abs(perplexity(model, rows[:1]) / perplexity(own_experts, rows[:1]) - 1) < 1e-3


def test_a_layer_that_moe4_does_not_take_is_named(checkpoint):
    moe4.transformers.configure(backend="b12x")  # which a CPU does not run
    try:
        with pytest.raises(moe4.UnavailableError, match=r"^model\.layers\.0\.mlp\.experts: .*b12x"):
            transformers.AutoModelForCausalLM.from_pretrained(checkpoint)
    finally:
        moe4.transformers.configure(backend="auto")


def test_a_model_whose_experts_are_not_quantised_says_so(checkpoint, own_experts):
    own_experts.set_experts_implementation("moe4")
    try:
        with pytest.raises(moe4.UsageError, match="experts are not quantised"):
            own_experts(torch.tensor([[1, 2, 3]]))
    finally:
        own_experts.set_experts_implementation("eager")


def test_other_quantised_linears_are_decoded(checkpoint, tmp_path, rows):
    from safetensors.torch import save_file

    weights = load_file(checkpoint / "model.safetensors")
    name = "model.layers.0.mlp.shared_expert.down_proj"
    whole = weights.pop(f"{name}.weight").float()
    scale = whole.abs().amax() / 448
    weights[f"{name}.weight"] = (whole / scale).to(torch.float8_e4m3fn)
    weights[f"{name}.weight_scale"] = scale
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(json.loads((checkpoint / "config.json").read_text())))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    found = model.get_submodule(name).weight
    assert torch.equal(found, weights[f"{name}.weight"].float() * scale)
    weights[f"{name}.weight_scale"] = torch.ones(3)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(moe4.BadInputError, match="shared_expert.down_proj: expected NVFP4, or FP8"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
