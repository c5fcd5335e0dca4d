"""A layer of random NVFP4 experts, and what it answers in float64: for tests of engines' layers."""

import torch

EXPERTS, HIDDEN, WIDTH, TOP_K, TOKENS = 6, 128, 64, 3, 11
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=torch.float64)


class RandomExperts:
    """Linears of all experts, hidden states and routes."""

    def __init__(self, projections=("gate_proj", "up_proj", "down_proj"), seed=5):
        random = torch.Generator().manual_seed(seed)
        self.linears = {}
        for expert in range(EXPERTS):
            for name in projections:
                n, k = (HIDDEN, WIDTH) if name == "down_proj" else (WIDTH, HIDDEN)
                codes = torch.randint(0, 256, (n, k // 2), generator=random, dtype=torch.uint8)
                scales = torch.randint(40, 60, (n, k // 16), generator=random, dtype=torch.uint8)
                both = torch.rand(2, generator=random) * 0.09 + 0.01  # of gate and up apart
                self.linears[expert, name] = (codes, scales.view(torch.float8_e4m3fn), both[0], both[1])
        self.x = torch.randn(TOKENS, HIDDEN, generator=random).bfloat16()
        self.ids = torch.stack([torch.randperm(EXPERTS, generator=random)[:TOP_K] for _ in range(TOKENS)]).int()
        self.weights = torch.rand(TOKENS, TOP_K, generator=random)

    def modelopt(self, activations):
        """Names and tensors below the experts' module as ModelOpt's files have them."""
        for (expert, projection), (codes, scales, weight_scale, input_scale) in self.linears.items():
            found = {"weight": codes, "weight_scale": scales, "weight_scale_2": weight_scale}
            if activations:
                found["input_scale"] = input_scale
            for suffix, tensor in found.items():
                yield f"{expert}.{projection}.{suffix}", tensor

    def matrix(self, expert, projection):
        codes, scales, weight_scale, _ = self.linears[expert, projection]
        values = torch.stack([E2M1[(codes & 15).long()], E2M1[(codes >> 4).long()]], -1).flatten(-2)
        return values * scales.double().repeat_interleave(16, -1) * weight_scale.double()

    def expected(self, weights_on_input=False):
        y = torch.zeros(TOKENS, HIDDEN, dtype=torch.float64)
        for t in range(TOKENS):
            for expert, weight in zip(self.ids[t].tolist(), self.weights[t].double()):
                x = self.x[t].double() * (weight if weights_on_input else 1)
                up = self.matrix(expert, "up_proj") @ x
                if (expert, "gate_proj") in self.linears:
                    inner = torch.nn.functional.silu(self.matrix(expert, "gate_proj") @ x) * up
                else:
                    inner = up.relu() ** 2
                y[t] += self.matrix(expert, "down_proj") @ inner * (1 if weights_on_input else weight)
        return y
