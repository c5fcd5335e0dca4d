#!/usr/bin/env python3
"""Writes tests/data/moe/routing.bin: random router logits and what numpy routes them to, in float64.

Five variants of 40 tokens each: softmax, softmax renormalised, softmax over the selected, sigmoid with a
correction bias, and the same within the best 3 of 8 groups (DeepSeek-V3), both renormalised and scaled by 2.5.
"""
import pathlib

import numpy as np

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "moe"
EXPERTS, TOP_K, TOKENS = 64, 6, 40


def route(variant: int, logits: np.ndarray, bias: np.ndarray):
    logits = logits.astype(np.float64)
    if variant <= 1:
        scores = np.exp(logits - logits.max())
        scores /= scores.sum()
        choice = scores
    elif variant == 2:
        scores = choice = logits
    else:
        scores = 1 / (1 + np.exp(-logits))
        choice = scores + bias
    if variant == 4:
        groups = np.sort(choice.reshape(8, 8), axis=1)[:, -2:].sum(axis=1)
        keep = np.argsort(-groups, kind="stable")[:3]
        mask = np.isin(np.arange(EXPERTS) // 8, keep)
        choice = np.where(mask, choice, -np.inf)
    ids = np.argsort(-choice, kind="stable")[:TOP_K]
    weights = scores[ids]
    if variant == 2:
        weights = np.exp(weights - weights.max())
    if variant >= 1:
        weights = weights / weights.sum()
    if variant >= 3:
        weights = weights * 2.5
    return ids.astype(np.int32), weights.astype(np.float32)


OUT.mkdir(parents=True, exist_ok=True)
rng = np.random.default_rng(3)
with open(OUT / "routing.bin", "wb") as out:
    for variant in range(5):
        for _ in range(TOKENS):
            logits = (rng.standard_normal(EXPERTS) * 2).astype(np.float32)
            bias = (rng.standard_normal(EXPERTS) * 0.1).astype(np.float32)
            ids, weights = route(variant, logits, bias)
            np.int32(variant).tofile(out)
            for values in (logits, bias, ids, weights):
                values.tofile(out)
