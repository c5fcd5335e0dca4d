#!/usr/bin/env python3
"""Runs the commands of a folder of field cases and says which behave.

    check_field.py FOLDER [--templates templates.json] --program build/release/bin/moe4 [--verbose]

FOLDER is what the cases' own script wrote: one folder a case and cases.json with `id`, `commands` and `right`. What
`right` says in words stands below as an exit status and patterns, so that a case without an entry here is a failure. In a
command, {} is the case's folder, IDS a file of token ids, TEXT a text, OUT a file. templates.json has chat templates, each
with a context and the text that must come of it. Exits with 1 unless every case is right.
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile

# id -> a list of (exit status, patterns that output and errors together must have, patterns they must not), one a command.
EXPECTED = {
    "transform-online": [(3, ["transform_config", r"\binput\b", "q_proj|k_proj|down_proj|gate_proj|experts|Linear"], []),
                         (0, ["transform_config"], []), (0, [r"error \[unsupported-transform\].*transform_config.*input"], [])],
    "transform-folded": [(0, [], ["transform"])],
    "bias-one-by-one": [(0, [], [])],
    "bias-fused": [(0, [], [])],  # and the same bytes as bias-one-by-one: main() compares
    "sliding-window": [(3, ["unsupported sliding_window"], [])],
    "reciprocal-scale-2": [(0, ["reciprocal"], [r"error:"])],
    "unknown-in-layer": [(0, ["unexpected-tensor.*self_attn.sinks|self_attn.sinks.*unexpected-tensor"], ["k_scale", "v_scale"]),
                         (3, ["self_attn.sinks.*does not read"], ["k_scale", "v_scale"])],  # a note would leave them out
    "nan-eval": [(3, ["not a number|nan|NaN|finite"], []), (3, ["not a number|nan|NaN|finite"], ["perplexity *-?nan"]),
                 (3, ["not a number|nan|NaN|finite"], ["null"])],
    "stop-tokenizer-eos": [(0, [r"^ok$"], ["u!"])],
    "stop-base-eos": [(0, [r"^ok$"], ["u!"])],
    "chat-crlf": [(0, [r"\bok\b"], ["u!"])],
    "gen-trailing-comma": [(0, ["generation_config.json"], []), (0, [], ["generation_config"]), (0, [], ["generation_config"])],
    "gen-top-k-minus-1": [(0, [], ["top_k"]), (0, [], ["top_k"])],
    "plan-gemma4-names": [(0, ["W4A4"], [r"\bBF16 experts"])],
    "plan-expert-dtype-fp4": [(0, ["layers 0-1: .*mxfp4"], ["W8A8"])],
    "plan-hash-moe": [(0, [r"layers 0-1: W4A4 \(nvfp4.*b12x"], []), (0, [], ["dense, width 0"])],
    "plan-expert-size-key": [(0, [r"\b32\b"], ["missing"])],
    "plan-layer-count-from-list": [(0, ["layers 1, 3: W4A4"], [])],
    "plan-thinker-nesting": [(0, ["layers 0-1: W4A4", "experts +4 of 64 -> 32"], ["missing"])],
    "plan-dense-says-so": [(0, ["no .*experts|nothing to plan"], [])],
    "names-moe-experts": [(0, [], []), (0, ["NVFP4"], [])],
    "names-fused-packed": [(0, [], []), (0, ["NVFP4"], [])],
    "files-no-index": [(0, ["note:.*header|note:.*index"], []), (0, ["note:.*header|note:.*index"], [])],
    "files-lfs-pointer": [(3, ["Git LFS pointer", "git lfs pull"], [])],
    "files-stray-single": [(0, ["model.safetensors", "index"], []), (0, ["model.safetensors", "index"], [])],
    "meta-weight-only-groups": [(0, ["W4A16"], ["W4A4"])],
    "meta-lower-case-pb-wo": [(0, ["W8A16|FP8"], ["not supported: fp8_pb_wo"]), (3, ["no safetensors files"], ["fp8_pb_wo"])],
    "meta-group-32": [(3, ["NVFP4 in groups of 32 is not supported.*weight_scale"], ["do not fit"])] * 2,
    "json-two-nans": [(0, [], ["syntax"])],
    "message-u8-scale": [(3, ["block scales are stored as U8|U8"], ["MXFP4 weights"])],
    "message-mlx": [(3, ["MLX"], ["experts are missing"]), (3, ["MLX"], ["experts are missing"])],
    "message-kv-cache": [(0, ["F16"], ["BF16.*cache|cache.*BF16"])],
    "message-mamba": [(0, ["Mamba|mamba"], ["delta net", "dense"])],
    "template-json-file": [(0, [r"^ok$"], [])],
}

TEXT = "the quick brown fox jumps over the lazy dog. " * 8
IDS = " ".join(str(byte) for byte in b"abcdefgh")


def run(program, command, folder, work):
    """(exit status, what a user sees) of one command of a case."""
    words = {"{}": str(folder), "IDS": str(work / "ids.txt"), "TEXT": str(work / "text.txt"), "OUT": str(work / "out.safetensors")}
    piped = re.fullmatch(r"printf '(.*)' \| moe4 (.*)", command)
    given = piped[1].encode().decode("unicode_escape") if piped else ""
    arguments = [words.get(word, word) for word in (piped[2] if piped else command).split()]
    done = subprocess.run([program, *arguments], input=given, capture_output=True, text=True, errors="replace", timeout=300)
    return done.returncode, done.stdout + done.stderr


def faults(status, text, expected):
    code, wanted, unwanted = expected
    found = [f"exit status {status}, expected {code}"] if status != code else []
    found += [f"nothing like {pattern}" for pattern in wanted if not re.search(pattern, text, re.MULTILINE | re.IGNORECASE)]
    return found + [f"has {pattern}" for pattern in unwanted if re.search(pattern, text, re.MULTILINE | re.IGNORECASE)]


def check_template(program, case):
    """What is wrong with the rendering of one template, or nothing."""
    with tempfile.TemporaryDirectory(prefix="moe4-field-") as folder:
        pathlib.Path(folder, "chat_template.jinja").write_text(case["template"], encoding="utf-8", newline="")
        pathlib.Path(folder, "tokenizer_config.json").write_text("{}")
        messages = pathlib.Path(folder, "messages.json")
        messages.write_text(json.dumps({"messages": [], **case["context"]}))
        done = subprocess.run([program, "template", folder, "--messages", messages, "--no-generation-prompt"],
                              capture_output=True, encoding="utf-8", timeout=60)
    if done.returncode != 0:
        return [f"exit status {done.returncode}: {done.stderr.strip()}"]
    return [] if done.stdout == case["right"] else [f"expected {case['right']!r}, got {done.stdout!r}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--program", default="build/release/bin/moe4")
    parser.add_argument("--templates", type=pathlib.Path)
    parser.add_argument("--verbose", action="store_true", help="what each command printed, too")
    arguments = parser.parse_args()
    cases = json.loads((arguments.folder / "cases.json").read_text())
    wrong, commands, logits = 0, 0, {}
    with tempfile.TemporaryDirectory(prefix="moe4-field-") as folder:
        work = pathlib.Path(folder)
        (work / "ids.txt").write_text(IDS)
        (work / "text.txt").write_text(TEXT)
        for case in cases:
            expected = EXPECTED.get(case["id"], [])
            found = [] if len(expected) == len(case["commands"]) else ["no or another number of commands expected here"]
            for command, wanted in zip(case["commands"], expected):
                (work / "out.safetensors").unlink(missing_ok=True)
                status, text = run(arguments.program, command, arguments.folder / case["id"], work)
                commands += 1
                new = faults(status, text, wanted)
                found += [f"{command}: {fault}" for fault in new]
                if arguments.verbose or new:
                    print(f"--- {case['id']}: moe4 {command} -> {status}\n{text.rstrip()}")
                if case["id"].startswith("bias-"):
                    logits[case["id"]] = (work / "out.safetensors").read_bytes() if status == 0 else b""
            if case["id"] == "bias-fused" and logits["bias-fused"] != logits.get("bias-one-by-one"):
                found.append("other logits than bias-one-by-one")
            wrong += bool(found)
            print(f"{'wrong' if found else 'right':5} {case['id']}", *found, sep="  ")
    print(f"{len(cases)} cases, {commands} commands: {len(cases) - wrong} right, {wrong} wrong")
    templates = json.loads(arguments.templates.read_text()) if arguments.templates else []
    for case in templates:
        found = check_template(arguments.program, case)
        wrong += bool(found)
        print(f"{'wrong' if found else 'right':5} template {case['name']}", *found, sep="  ")
    if templates:
        print(f"{len(templates)} templates")
    return 1 if wrong or not cases else 0


if __name__ == "__main__":
    sys.exit(main())
