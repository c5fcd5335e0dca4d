"""The operators: what PyTorch asks of them, compiled and eager, and tensors of PyTorch in Experts."""

import gc

import moe4
import numpy as np
import pytest
from test_experts import HIDDEN, TOKENS, Layer, error

torch = pytest.importorskip("torch")
import moe4.torch  # noqa: E402


def tensors(layer, device="cpu"):
    def of(array, dtype=None):
        tensor = torch.from_numpy(array).to(device)
        return tensor if dtype is None else tensor.view(dtype)

    e4m3 = torch.float8_e4m3fn
    return (
        of(layer.w13), of(layer.w13_scale, e4m3), of(layer.w13_scale_2),
        of(layer.w2), of(layer.w2_scale, e4m3), of(layer.w2_scale_2),
    )  # fmt: skip


@pytest.fixture
def layer():
    return Layer()


def inputs(layer, dtype):
    x = torch.from_numpy(layer.x).to(dtype)
    return x, torch.from_numpy(layer.weights), torch.from_numpy(layer.ids)


def test_tensors_of_torch_give_the_bits_of_numpys(layer):
    experts = moe4.Experts.from_tensors(*tensors(layer), top_k=2, num_experts=4)
    x, weights, ids = inputs(layer, torch.float32)
    expected = layer.experts()(layer.x, layer.weights, layer.ids)
    assert (experts(x, weights, ids).numpy() == expected).all()
    strided = torch.stack([x, x], 1)[:, 0]
    assert (experts(strided, weights, ids.long()).numpy() == expected).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_operator_passes_opcheck(layer, dtype):
    number = moe4.torch.register(layer.experts())
    x, weights, ids = inputs(layer, dtype)
    torch.library.opcheck(torch.ops.moe4.experts.default, (x, ids, weights, number))
    size = layer.experts().workspace_size(TOKENS, str(dtype).removeprefix("torch."))
    workspace, out = torch.empty(size, dtype=torch.uint8), torch.empty_like(x)
    torch.library.opcheck(
        torch.ops.moe4.experts_out.default,
        (x, ids, weights, number, out),
        {"workspace": workspace},
        # The contents of scratch memory are nobody's.
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )
    torch.ops.moe4.experts_out(x, ids, weights, number, out, workspace=workspace)
    assert torch.equal(out, torch.ops.moe4.experts(x, ids, weights, number))
    moe4.torch.release(number)
    with pytest.raises(KeyError):
        torch.ops.moe4.experts(x, ids, weights, number)


def test_a_module_compiles_as_one_graph(layer):
    module = moe4.torch.ExpertsModule(layer.experts())

    def block(x, weights, ids):
        return x + module(x * 2, weights, ids)

    x, weights, ids = inputs(layer, torch.float32)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager", dynamic=True)
    for tokens in (TOKENS, 3, 1):
        part = x[:tokens], weights[:tokens], ids[:tokens]
        assert torch.equal(compiled(*part), block(*part))
    assert "4 experts of 64 x 32" in repr(module)
    held = len(moe4.torch._layers)
    block = compiled = module = None
    torch._dynamo.reset()
    gc.collect()
    assert len(moe4.torch._layers) == held - 1


def test_the_result_is_the_formulas(layer):
    module = moe4.torch.ExpertsModule(moe4.Experts.from_tensors(*tensors(layer), top_k=2, num_experts=4))
    x, weights, ids = inputs(layer, torch.bfloat16)
    layer.x = x.float().numpy()
    y = module(x, weights, ids)
    assert (y.dtype, y.shape) == (torch.bfloat16, (TOKENS, HIDDEN))
    assert error(y.float().numpy(), layer.expected()) < 4e-3
    assert np.isfinite(y.float().numpy()).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_layer_on_a_gpu_is_captured_and_replayed(layer):
    experts = moe4.Experts.from_tensors(*tensors(layer, "cuda"), top_k=2, num_experts=4)
    module = moe4.torch.ExpertsModule(experts)
    x, weights, ids = (t.cuda() for t in inputs(layer, torch.bfloat16))
    layer.x = x.float().cpu().numpy()
    eager = module(x, weights, ids)
    assert error(eager.float().cpu().numpy(), layer.expected()) < 6e-3
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = module(x, weights, ids)
    graph.replay()
    assert torch.equal(y, eager)
