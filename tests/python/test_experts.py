"""A layer from NumPy tensors against its own arithmetic in float64."""

import ctypes
import os
import subprocess
import sys
import threading

import moe4
import numpy as np
import pytest
from moe4 import _library

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
EXPERTS, HIDDEN, WIDTH, TOP_K, TOKENS = 4, 64, 32, 2, 9


def e4m3(bits):
    """Values of E4M3 bytes, none of them NaN."""
    exponent, mantissa = (bits >> 3) & 15, bits & 7
    return np.where(exponent == 0, mantissa / 512, (1 + mantissa / 8) * 2.0 ** (exponent.astype(float) - 7))


class Layer:
    """Random tensors and what they mean."""

    def __init__(self, seed=1):
        rng = np.random.default_rng(seed)
        self.w13 = rng.integers(0, 256, (EXPERTS, 2 * WIDTH, HIDDEN // 2), dtype=np.uint8)
        self.w2 = rng.integers(0, 256, (EXPERTS, HIDDEN, WIDTH // 2), dtype=np.uint8)
        self.w13_scale = rng.integers(40, 60, (EXPERTS, 2 * WIDTH, HIDDEN // 16), dtype=np.uint8)
        self.w2_scale = rng.integers(40, 60, (EXPERTS, HIDDEN, WIDTH // 16), dtype=np.uint8)
        self.w13_scale_2 = rng.uniform(0.01, 0.1, (EXPERTS, 2)).astype(np.float32)
        self.w2_scale_2 = rng.uniform(0.01, 0.1, EXPERTS).astype(np.float32)
        self.x = rng.normal(size=(TOKENS, HIDDEN)).astype(np.float32)
        self.ids = rng.integers(0, EXPERTS, (TOKENS, TOP_K), dtype=np.int32)
        self.weights = rng.uniform(size=(TOKENS, TOP_K)).astype(np.float32)

    def tensors(self):
        return self.w13, self.w13_scale, self.w13_scale_2, self.w2, self.w2_scale, self.w2_scale_2

    def experts(self, **options):
        return moe4.Experts.from_tensors(*self.tensors(), top_k=TOP_K, **{"num_experts": EXPERTS, **options})

    def expected(self, here=range(EXPERTS)):
        def decode(codes, scales):
            values = np.stack([E2M1[codes & 15], E2M1[codes >> 4]], -1).reshape(*codes.shape[:2], -1)
            return values * np.repeat(e4m3(scales), 16, -1)

        w13, w2 = decode(self.w13, self.w13_scale), decode(self.w2, self.w2_scale)
        y = np.zeros((TOKENS, HIDDEN))
        for t in range(TOKENS):
            for expert, weight in zip(self.ids[t], self.weights[t]):
                if expert not in here:
                    continue
                gate = w13[expert, :WIDTH] @ self.x[t] * self.w13_scale_2[expert, 0]
                up = w13[expert, WIDTH:] @ self.x[t] * self.w13_scale_2[expert, 1]
                act = gate / (1 + np.exp(-gate)) * up
                y[t] += weight * (w2[expert] @ act) * self.w2_scale_2[expert]
        return y


def error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def test_a_layer_from_tensors_computes_its_formula():
    layer = Layer()
    experts = layer.experts()
    assert (experts.backend, experts.device) == ("cpu", -1)
    assert experts.weight_bytes > 0
    assert experts.batch_invariance == "yes"
    y = experts(layer.x, layer.weights, layer.ids)
    assert y.dtype == np.float32
    assert error(y, layer.expected()) < 1e-3
    out = np.empty_like(layer.x)
    assert experts(layer.x, layer.weights, layer.ids.astype(np.int64), out=out) is out
    assert (out == y).all()
    half = experts(layer.x.astype(np.float16), layer.weights, layer.ids)
    assert half.dtype == np.float16
    assert error(half.astype(float), layer.expected()) < 2e-3
    assert experts(layer.x[:0], layer.weights[:0], layer.ids[:0]).shape == (0, HIDDEN)


def test_reciprocal_scales_and_one_scale_for_both():
    layer = Layer()
    layer.w13_scale_2[:] = 0.0625
    layer.w2_scale_2[:] = 0.03125
    expected = layer.experts()(layer.x, layer.weights, layer.ids)
    layer.w13_scale_2, layer.w2_scale_2 = 1 / layer.w13_scale_2[:, 0].copy(), 1 / layer.w2_scale_2
    y = layer.experts(reciprocal_scales=True)(layer.x, layer.weights, layer.ids)
    assert (y == expected).all()


def test_expert_maps_of_the_layer_and_of_the_call():
    layer = Layer()
    here = [3, 1]
    part = Layer()
    for name in ("w13", "w13_scale", "w13_scale_2", "w2", "w2_scale", "w2_scale_2"):
        setattr(part, name, getattr(layer, name)[here].copy())
    expert_map = np.array([-1, 1, -1, 0], np.int32)
    own = part.experts(expert_map=expert_map)(layer.x, layer.weights, layer.ids)
    assert error(own, layer.expected(here)) < 1e-3
    experts = part.experts(expert_map_per_call=True)
    assert (experts(layer.x, layer.weights, layer.ids, expert_map=expert_map) == own).all()
    with pytest.raises(moe4.UsageError, match="expert_map is NULL"):
        experts(layer.x, layer.weights, layer.ids)


def test_activations_are_quantised_when_asked():
    layer = Layer()
    y = layer.experts(activations="fp4")(layer.x, layer.weights, layer.ids)
    assert 1e-2 < error(y, layer.expected()) < 0.3
    inputs = {"w13_input_scale": np.full((EXPERTS, 2), 0.01, np.float32)}
    inputs["w2_input_scale"] = np.full(EXPERTS, 0.1, np.float32)
    static = layer.experts(activations="fp4-static", **inputs)
    assert error(static(layer.x, layer.weights, layer.ids), layer.expected()) < 0.5


def test_threads_may_share_a_layer():
    layer = Layer()
    experts = layer.experts()
    expected = experts(layer.x, layer.weights, layer.ids)
    wrong = []

    def loop():
        for _ in range(50):
            if not (experts(layer.x, layer.weights, layer.ids) == expected).all():
                wrong.append(1)

    threads = [threading.Thread(target=loop) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_wrong_tensors_are_refused_by_name():
    layer = Layer()

    def refused(match, **changes):
        damaged = Layer()
        for name, value in changes.items():
            setattr(damaged, name, value)
        with pytest.raises(moe4.UsageError, match=match):
            damaged.experts()

    refused(r"w13_scale has shape \[4, 64, 3\], expected \[4, 64, 4\]", w13_scale=layer.w13_scale[:, :, :3])
    refused("w2_scale_2 is float64, expected float32", w2_scale_2=layer.w2_scale_2.astype(np.float64))
    refused("w2 has shape", w2=layer.w2[:, :32])
    refused("w13 is a list, expected a tensor", w13=[1])
    with pytest.raises(moe4.UsageError, match="activation is 'tanh'"):
        layer.experts(activation="tanh")
    with pytest.raises(moe4.UsageError, match="num_local_experts"):
        layer.experts(num_experts=3)
    with pytest.raises(moe4.BadInputError, match="experts.2.down_proj"):
        layer.w2_scale_2[2] = np.nan
        layer.experts()
    experts = Layer().experts()
    with pytest.raises(moe4.UsageError, match=r"topk_ids has shape \[9, 1\], expected \[9, 2\]"):
        experts(layer.x, layer.weights, layer.ids[:, :1])
    with pytest.raises(moe4.UsageError, match="x is float64"):
        experts(layer.x.astype(np.float64), layer.weights, layer.ids)
    with pytest.raises(moe4.UsageError, match="out is not dense"):
        experts(layer.x, layer.weights, layer.ids, out=np.empty((TOKENS, 2 * HIDDEN), np.float32)[:, ::2])
    with pytest.raises(moe4.UsageError, match="workspace of 16 bytes"):
        experts(layer.x, layer.weights, layer.ids, workspace=np.empty(16, np.uint8))


def test_a_question_needs_no_weights():
    answer = moe4.query(hidden_size=2048, intermediate_size=512, num_experts=256, top_k=8)
    assert answer["backend"] == "cpu"
    by_name = {candidate["backend"]: candidate for candidate in answer["candidates"]}
    assert by_name["marlin"]["kind"] == "device"
    assert by_name["cpu"]["kind"] is None
    nobody = moe4.query(hidden_size=2048, intermediate_size=512, num_experts=256, top_k=8, backend="hopper")
    assert nobody["backend"] == ""
    assert "hopper" in nobody["reason"]


def test_structures_have_the_librarys_sizes():
    sizes = {_library.StackedLinear: 80, _library.LayerDesc: 184, _library.ApplyArgs: 88, _library.Candidate: 24}
    sizes[_library.ModelOptions] = 120
    for structure, size in sizes.items():  # those of tests/capi/abi_test.cc
        assert ctypes.sizeof(structure) == size, structure.__name__


def test_threads_are_set_before_the_first_layer_and_once():
    code = (
        "import moe4, numpy as np; moe4.set_num_threads(2); from test_experts import Layer; Layer().experts();"
        "moe4.set_num_threads(2)\ntry: moe4.set_num_threads(1)\nexcept moe4.UsageError: print('refused')"
    )
    here = os.path.dirname(__file__)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=here)
    assert run.stdout == "refused\n", run.stderr
