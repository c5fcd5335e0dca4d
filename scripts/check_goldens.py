#!/usr/bin/env python3
"""Drives the moe4 program over trained checkpoints and compares every result with their golden files.

usage: check_goldens.py MODELS_DIR [--moe4 build/release/bin/moe4] [--only forward,experts,eval,greedy] [--gpu]

MODELS_DIR holds <model>/<format>/ checkpoints, <model>/golden/<format>.<mode>.safetensors and heldout_tokens.safetensors.
Needs numpy only. Prints one line a check and exits 1 if any fails, or if a kind of check that was asked for compared nothing. --gpu runs whole models on the GPU of this
machine, with every backend of experts that takes them (experts in BF16 run on the CPU), instead of reference and cpu.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

DTYPES = {"F32": np.float32, "I32": np.int32, "I64": np.int64, "F64": np.float64, "U8": np.uint8}
# mode of a golden file -> flags of moe4
MODES = {
    "bf16": ["--activations", "bf16"],
    "w4a16": ["--activations", "bf16"],
    "w4a4-static": ["--activations", "fp4-static"],
    "w4a4-unit": ["--activations", "fp4"],
    "w4a16-fp8act": ["--activations", "bf16", "--fp8-activations"],
}
# GPU backends take BF16 hidden states: rounding the golden's costs 4e-3, and up to 1e-1 where that tips FP4 codes.
GPU_BACKENDS = ["marlin", "hopper", "b12x"]
# Their BF16 inputs tip FP4 codes, which moves whole perplexities by up to 0.33 %: the cpu backend's by as much, and to
# the same value (15.512, b12x 15.511, golden 15.460), when its experts are given BF16 (tiny-qwen3-moe, w4a4-static).
GPU_FP4_PERPLEXITY = 5e-3
# A rounding to BF16 is off by 2^-9 at most. A layer has about eight on its way from the residual and back, so four layers
# are off by about sqrt(4 * 8) * 2^-9 / sqrt(3) = 6e-3; the bound is the CPU's. Where rounding tips a router, a token has
# another expert's output and is another token from there on, and tokens behind it see that: then the last token is held
# less tightly, the median token as before, and it may only happen to few, where two experts were as good as equal: the
# gap of their logits, in units of the token's largest, is held too.
GPU_FORWARD = {"last": 2e-2, "last_with_flips": 1e-1, "median": 2e-2, "flips": 2e-2, "gap": 5e-2}
CHECKS = {"forward", "experts", "eval", "greedy"}
failures = 0
counts = dict.fromkeys(sorted(CHECKS), 0)


def read_safetensors(path):
    data = pathlib.Path(path).read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    tensors = {}
    for name, info in header.items():
        if name == "__metadata__" or info["dtype"] not in DTYPES:
            continue
        begin, end = (8 + size + o for o in info["data_offsets"])
        tensors[name] = np.frombuffer(data[begin:end], DTYPES[info["dtype"]]).reshape(info["shape"])
    return tensors


def write_safetensors(path, tensors):
    names = {np.dtype(v): k for k, v in DTYPES.items()}
    header, blobs, offset = {}, [], 0
    for name, array in tensors.items():
        array = np.ascontiguousarray(array)
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape),
                        "data_offsets": [offset, offset + array.nbytes]}
        blobs.append(array.tobytes())
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))


def relative(ours, golden):
    """Relative Frobenius error; NaN, which no bound admits, for arrays of different or no size."""
    if ours.size != golden.size or golden.size == 0:
        return float("nan")
    golden = golden.astype(np.float64)
    return float(np.linalg.norm(ours.astype(np.float64) - golden) / np.linalg.norm(golden))


def report(ok, *words):
    global failures
    failures += not ok
    counts[words[0].strip()] += 1
    print("ok  " if ok else "FAIL", *words, flush=True)


def report_nothing(check, models):
    global failures
    failures += 1
    print(f"FAIL {check}: nothing to compare under {models}", flush=True)


class Checker:
    def __init__(self, moe4, folder):
        self.moe4, self.folder = moe4, pathlib.Path(folder)
        self.of_cpu = {}

    def run(self, *args):
        done = subprocess.run([self.moe4, *map(str, args)], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(map(str, args))} exited {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def forward(self, model, golden, label, flags, bound_logits, bound_hidden, exact_argmax):
        for i in range(4):
            ids = golden[f"prompt{i}.input_ids"].ravel()
            (self.folder / "ids.txt").write_text(" ".join(map(str, ids)))
            out = self.folder / "out.safetensors"
            self.run("forward", model, "--ids", self.folder / "ids.txt", "--out", out, "--hidden", *flags)
            ours = read_safetensors(out)
            error = relative(ours["logits"][-1], golden[f"prompt{i}.last_logits"].ravel())
            words = [f"{label} prompt{i}: last logits {error:.2e} (at most {bound_logits:g})"]
            ok = error <= bound_logits
            if exact_argmax:
                same = ours["logits"].argmax(-1) == golden[f"prompt{i}.argmax"].ravel()
                words.append(f"argmax {same.sum()}/{same.size}")
                ok = ok and bool(same.all())
            if i == 0 and bound_hidden is not None:
                worst = max(relative(ours[k], v.reshape(ours[k].shape)) for k, v in golden.items()
                            if k.startswith("hidden.") or k == "router.layer0.logits")
                words.append(f"worst hidden {worst:.2e} (at most {bound_hidden:g})")
                ok = ok and worst <= bound_hidden
            report(ok, "forward", *words)

    def logits_and_routes(self, model, ids, flags):
        (self.folder / "ids.txt").write_text(" ".join(map(str, ids)))
        out = self.folder / "out.safetensors"
        self.run("forward", model, "--ids", self.folder / "ids.txt", "--out", out, "--hidden", *flags)
        return {k: v for k, v in read_safetensors(out).items() if k == "logits" or k.startswith("router.")}

    def forward_on_gpu(self, model, golden, label, flags, on_cpu):
        """GPU_FORWARD of a model whose ops hand BF16 to each other, against the golden and, token by token, the CPU."""
        config = json.loads((model / "config.json").read_text())
        top_k = config.get("text_config", config)["num_experts_per_tok"]
        for i in range(4):
            ids = golden[f"prompt{i}.input_ids"].ravel()
            key = (model, i, *on_cpu)
            if key not in self.of_cpu:
                self.of_cpu[key] = self.logits_and_routes(model, ids, on_cpu)
            exact, ours = self.of_cpu[key], self.logits_and_routes(model, ids, flags)
            rows = np.linalg.norm(ours["logits"] - exact["logits"], axis=1) / np.linalg.norm(exact["logits"], axis=1)
            flips, pairs, gap = 0, 0, 0.0
            flipped = np.zeros(len(ids), bool)
            routers = [name for name in exact if name.startswith("router.")]
            for name in sorted(routers, key=lambda name: int(name.split(".")[1].removeprefix("layer"))):
                a, b = exact[name], ours[name]
                chosen_a, chosen_b = (np.argsort(-x, axis=1, kind="stable")[:, :top_k] for x in (a, b))
                for t in range(len(ids)):
                    left, came = set(chosen_a[t]) - set(chosen_b[t]), set(chosen_b[t]) - set(chosen_a[t])
                    pairs += 1
                    if not left:
                        continue
                    flips += 1
                    # Later layers of such a token are of another token.
                    if not flipped[t]:
                        gap = max(gap, float(max(a[t][list(left)]) - min(a[t][list(came)])) / float(np.abs(a[t]).max()))
                    flipped[t] = True
            last = relative(ours["logits"][-1], golden[f"prompt{i}.last_logits"].ravel())
            bound = GPU_FORWARD["last"] if flips == 0 else GPU_FORWARD["last_with_flips"]
            most = 2 + GPU_FORWARD["flips"] * pairs
            ok = (last <= bound and float(np.median(rows)) <= GPU_FORWARD["median"] and flips <= most and
                  gap <= GPU_FORWARD["gap"])
            report(ok, "forward", f"{label} prompt{i}: last logits {last:.2e} (at most {bound:g}), median of tokens "
                   f"{np.median(rows):.2e} (at most {GPU_FORWARD['median']:g}), {flips} of {pairs} routes differ (at most {most:.1f}) "
                   f"at gaps up to {gap:.1e} (at most {GPU_FORWARD['gap']:g})")

    def greedy(self, model, golden, label, flags):
        """Feeds the golden continuation and compares our choice wherever the golden's lead is clear."""
        for i in range(4):
            prompt, greedy = golden[f"prompt{i}.input_ids"].ravel(), golden[f"prompt{i}.greedy"].ravel()
            margin = golden[f"prompt{i}.greedy_margin"].ravel()
            (self.folder / "ids.txt").write_text(" ".join(map(str, [*prompt, *greedy[:-1]])))
            out = self.folder / "out.safetensors"
            self.run("forward", model, "--ids", self.folder / "ids.txt", "--out", out, *flags)
            chosen = read_safetensors(out)["logits"][len(prompt) - 1:].argmax(-1)
            clear = margin > 0.1
            same = (chosen == greedy)[clear]
            report(same.size > 0 and bool(same.all()), "greedy ", f"{label} prompt{i}: {same.sum()}/{same.size} clear choices equal")

    def experts(self, model, golden, label, flags, bound):
        cases = sorted({k.rsplit(".", 1)[0] for k in golden if k.startswith("moe.") and k.endswith(".input")})
        if not cases:
            report(False, "experts", f"{label}: the golden file has no moe.* tensors")
        for case in cases:
            layer = case.split(".")[1].removeprefix("layer")
            x = golden[case + ".input"]
            x = x.reshape(-1, x.shape[-1])
            source, out = self.folder / "in.safetensors", self.folder / "out.safetensors"
            k = golden[case + ".topk_ids"].shape[-1]
            golden_ids = golden[case + ".topk_ids"].reshape(-1, k)
            golden_y = golden[case + ".experts_output"].reshape(x.shape)
            for given in (False, True):
                tensors = {"x": x.astype(np.float32)}
                if given:
                    tensors["topk_ids"] = golden_ids.astype(np.int32)
                    tensors["topk_weights"] = golden[case + ".topk_weights"].reshape(-1, k).astype(np.float32)
                write_safetensors(source, tensors)
                self.run("experts", model, "--layer", layer, "--in", source, "--out", out, *flags)
                ours = read_safetensors(out)
                error = relative(ours["y"], golden_y)
                rows = np.linalg.norm(ours["y"] - golden_y, axis=1) / np.linalg.norm(golden_y, axis=1)
                same_ids = bool((ours["topk_ids"] == golden_ids).all())
                good_rows = int((rows <= bound).sum())
                # An FP4 value on a rounding boundary may fall to the other side: it moves single rows, visibly.
                flips = "w4a4" in label and error > bound and good_rows >= 0.9 * len(rows) and error < 2e-2
                note = f" rounding-boundary flips in {len(rows) - good_rows} of {len(rows)} rows" if flips else ""
                report((error <= bound or flips) and same_ids, "experts",
                       f"{label} {case}{' given ids' if given else ''}: {error:.2e} (at most {bound:g}), "
                       f"ids {'equal' if same_ids else 'DIFFER'}{note}")

    def perplexity(self, model, tokens, label, flags, expected, bound=3e-3):
        result = json.loads(self.run("eval", model, "--tokens", tokens, "--json", *flags))
        off = result["perplexity"] / expected - 1
        report(abs(off) <= bound, "eval   ",
               f"{label}: {result['perplexity']:.3f}, golden {expected:.3f} ({off:+.3%}, at most {bound:.1%})")


def results(golden):
    return json.loads((golden.parent / "results.json").read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=pathlib.Path)
    parser.add_argument("--moe4", default="build/release/bin/moe4")
    parser.add_argument("--only", default="forward,experts,eval,greedy")
    parser.add_argument("--gpu", action="store_true")
    args = parser.parse_args()
    only = set(args.only.split(","))
    if not only <= CHECKS:
        parser.error(f"--only: unknown {', '.join(sorted(only - CHECKS))}; known: {', '.join(sorted(CHECKS))}")
    with tempfile.TemporaryDirectory() as folder:
        check = Checker(args.moe4, folder)
        for path in sorted(args.models.glob("*/golden/*.safetensors")):
            format_name, mode = path.name.removesuffix(".safetensors").rsplit(".", 1)
            model = path.parent.parent / format_name
            label = f"{model.parent.name}/{format_name} {mode}"
            golden, flags = read_safetensors(path), MODES[mode]
            exact = ["--moe-backend", "reference", "--dtype", "float32"]
            fp4 = mode.startswith("w4a4")
            if args.gpu:
                for backend in ["auto"] if format_name == "bf16" else GPU_BACKENDS:
                    if fp4 and backend != "b12x":
                        continue
                    on_gpu = ["--device", "cuda", "--moe-backend", backend] + flags
                    if "forward" in only and not fp4:
                        check.forward_on_gpu(model, golden, f"{label} {backend}", on_gpu, ["--moe-backend", "cpu"] + flags)
                    if "greedy" in only and not fp4:
                        check.greedy(model, golden, f"{label} {backend}", on_gpu)
                    if "experts" in only:
                        check.experts(model, golden, f"{label} {backend}", on_gpu, 1.2e-1 if fp4 else 5e-3)
                    if "eval" in only:
                        check.perplexity(model, args.models / "heldout_tokens.safetensors", f"{label} {backend}", on_gpu,
                                         results(path)[format_name][mode]["heldout_perplexity"],
                                         GPU_FP4_PERPLEXITY if fp4 else 3e-3)
                continue
            if "forward" in only and not fp4:
                check.forward(model, golden, label + " reference/float32", exact + flags, 1e-4, 1e-4, True)
                check.forward(model, golden, label + " cpu/bfloat16", ["--moe-backend", "cpu"] + flags, 2e-2, None, False)
            if "greedy" in only and not fp4:
                check.greedy(model, golden, label + " cpu/bfloat16", ["--moe-backend", "cpu"] + flags)
            if "experts" in only:
                check.experts(model, golden, label + " reference", exact + flags, 1e-5)
                check.experts(model, golden, label + " cpu", ["--moe-backend", "cpu"] + flags, 4e-3)
            if "eval" in only:
                check.perplexity(model, args.models / "heldout_tokens.safetensors", label + " cpu",
                                 ["--moe-backend", "cpu"] + flags,
                                 results(path)[format_name][mode]["heldout_perplexity"])
    for check in sorted(only):
        if counts[check] == 0:
            report_nothing(check, args.models)
    print(f"{sum(counts.values())} checked, {failures} failed")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
