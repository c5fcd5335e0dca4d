#!/usr/bin/env python3
"""Writes tests/data/numerics/: E4M3 casts by torch and NVFP4 activation blocks by plain numpy.

Needs torch and numpy. The C++ tests compare against these files; nothing here imports moe4.
"""
import pathlib

import numpy as np
import torch

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "numerics"


def e4m3_bytes(x: torch.Tensor) -> np.ndarray:
    """torch turns overflow into NaN; NVFP4 saturates, so finite and infinite values are clamped first."""
    return x.clamp(-448.0, 448.0).to(torch.float8_e4m3fn).view(torch.uint8).numpy()


def bf16_to_e4m3() -> None:
    """65,536 bytes: byte i is the E4M3 of the BF16 with bits i. NaN is written as 0x7f or 0xff."""
    bits = torch.arange(65536, dtype=torch.int32).to(torch.uint16)
    e4m3_bytes(bits.view(torch.bfloat16).float()).tofile(OUT / "bf16_to_e4m3.bin")


def f32_to_e4m3() -> None:
    """4,096 records of f32 value and u8 E4M3 code: random values and the floats around every tie."""
    rng = np.random.default_rng(1)
    codes = torch.arange(0, 127, dtype=torch.int32).to(torch.uint8).view(torch.float8_e4m3fn)
    grid = codes.float().numpy()
    ties = ((grid[1:] + grid[:-1]) / 2).astype(np.float32)
    around = np.concatenate([ties, np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(1e9))])
    values = np.concatenate([around, -around])
    random = rng.standard_normal(4096 - values.size) * 10 ** rng.uniform(-4, 3, 4096 - values.size)
    values = np.concatenate([values, random]).astype(np.float32)
    record = np.zeros(values.size, dtype=[("value", "<f4"), ("code", "u1")])
    record["value"] = values
    record["code"] = e4m3_bytes(torch.from_numpy(values))
    record.tofile(OUT / "f32_to_e4m3.bin")


def e2m1(x: np.ndarray) -> np.ndarray:
    """Nearest of the eight magnitudes, ties to the even code, in float64."""
    table = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    distance = np.abs(np.abs(x.astype(np.float64))[:, None] - table[None, :])
    nearest = distance.min(axis=1, keepdims=True)
    ranked = np.where(distance == nearest, np.arange(8) % 2 * 8 + np.arange(8), 99)
    return (ranked.argmin(axis=1) + np.where(np.signbit(x), 8, 0)).astype(np.uint8)


def nvfp4_blocks() -> None:
    """256 blocks: f32 global scale, 16 f32 values, u8 scale, 16 u8 codes, as DESIGN.md section 4 says."""
    rng = np.random.default_rng(2)
    record = np.zeros(256, dtype=[("g", "<f4"), ("x", "<f4", 16), ("scale", "u1"), ("codes", "u1", 16)])
    for i, row in enumerate(record):
        g = np.float32(1.0 if i % 2 == 0 else 10 ** rng.uniform(-4, 0))
        x = (rng.standard_normal(16) * 10 ** rng.uniform(-5, 4)).astype(np.float32)
        if i == 0:
            x[:] = 0
        if i == 2:
            x[:] = 1e-6  # the scale rounds to zero
        if i == 4:
            x[:] = 1e6  # the scale saturates
        if i == 6:
            x[:] = 0.006  # a subnormal scale
        amax = np.float32(np.abs(x).max())
        ratio = np.float32(amax / np.float32(np.float32(6) * g))
        scale = e4m3_bytes(torch.tensor([min(ratio, np.float32(448))]))[0]
        step = np.float32(torch.tensor([scale]).view(torch.float8_e4m3fn).float().item()) * g
        codes = e2m1(x / step) if step > 0 else np.zeros(16, np.uint8)
        record[i] = (g, x, scale, codes)
    record.tofile(OUT / "nvfp4_blocks.bin")


OUT.mkdir(parents=True, exist_ok=True)
bf16_to_e4m3()
f32_to_e4m3()
nvfp4_blocks()
