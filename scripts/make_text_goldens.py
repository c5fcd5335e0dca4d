#!/usr/bin/env python3
"""Writes tests/data/text/tokenizer_goldens.json: what Hugging Face tokenizers makes of hard texts.

Needs the `tokenizers` package. Run from the repository root: python3 scripts/make_text_goldens.py
"""

import json
import pathlib
import random

import tokenizers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

ROOT = pathlib.Path(__file__).resolve().parent.parent
EMBEDDED = ROOT / "models/tiny-qwen3_5-moe-nvfp4/tokenizer.json"
OUT = ROOT / "tests/data/text"

TEXTS = [
    "", " ", "  ", "\n", "\r\n", "\t", " \n", "\n ", "\n\n\n", "a", " a", "a ", "  a  b   c    ",
    "Hello, world!", "I'm you're he'll we've I'd it's don't CAN'T I'LL", "'s 'S 't'T'RE",
    "it\u2019s", "'\u017f 'K \u212a", "don''t '' '", "3.14159 1,000,000 2nd 10^6 0xFF 1e-5",
    "12345678901234567890", "x1y2z3", "\u0661\u0662\u0663 \u0967\u0968 \u216b \u00bd \u00b2 \u2460",
    "line one\r\nline two\rline three\nline four\r\n\r\n", "tab\tseparated\t\tvalues", "trailing  \n",
    "a\u00a0b\u2003c\u3000d\u200be\u2028f\u2029g\u0085h\u180ei\ufeffj\u1680k\u205fl",
    " \u00a0 \u3000\n \u0085 x", "na\u00efve caf\u00e9", "na\u0131\u0308ve cafe\u0301", "A\u030a\u0327 \u212b \u1e9b\u0323",
    "q\u0307\u0323 q\u0323\u0307", "\u0301 alone", "a\u0300\u0301\u0302\u0303\u0304\u0305",
    "\u1112\u1161\u11ab \u1100\u1161\u11a8 \ud55c\uae00", "\u0958 \u0915\u093c \u09cb \u09c7\u09be",
    "\ufb01 \ufb03 \u01c6", "\u4f60\u597d\uff0c\u4e16\u754c\uff01\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002",
    "\u6771\u4eac\u30bf\u30ef\u30fc \u3072\u3089\u304c\u306a \u30ab\u30bf\u30ab\u30ca", "\uf900 \ufa0e \U0002f800",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0439 \u0438\u0306", "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 \u0651\u064e\u064b",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd \ufb2c", "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01", "Xin ch\u00e0o th\u1ebf gi\u1edbi, Vi\u1ec7t Nam \u1ec7 e\u0323\u0302",
    "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 family", "\U0001f1e9\U0001f1ea\U0001f3f3\ufe0f\u200d\U0001f308",
    "\U0001f44b\U0001f3fd wave \u270c\ufe0f \u2764\ufe0f\u200d\U0001f525", "\U0001d4d7\U0001d4ee\U0001d4f5 \U0001d7d8\U0001d7d9",
    "\u0000 nul \u0001\u007f\u0080", "\ufffd \ufffe \uffff \U0010ffff \U000e0001",
    "def f(x):\n    return x ** 2  # square\n\n\nclass A:\n\tpass\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i]; }", "<html><body class=\"x\">&amp;</body></html>",
    "{\"key\": [1, 2.5, null, true], \"nested\": {\"a\": \"b\\n\"}}", "https://example.com/a_b?c=d&e=%20#f",
    "...!!!???", "\u2026\u2014\u2013\u201cquoted\u201d \u2018x\u2019", "$100 \u20ac50 \u00a330", "snake_case camelCase PascalCase kebab-case",
    "UPPER lower MiXeD \u00c9\u00c8 \u0130i\u0307", "a" * 200, "ab" * 100, " " * 100, "\n" * 50, " \n" * 40, "=" * 80,
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "<|im_start|><|im_start|>", "x<|endoftext|>y",
    " <|im_end|> ", "<|im_end", "<|im_start|", "<|IM_END|>", "a<|im_end|>\u0301b", "<|endoftext|>" * 3,
    "In the beginning God created the heaven and the earth.\n\nAnd the earth was without form, and void;",
]

# Characters that sit on the borders of the classes that pre-tokenizers use.
POOL = (list("abzAZ019 '.,-_<|>\t\n\r") + ["  ", "\r\n", "'s", "'ll", "'S", " the", "ing"]
        + [chr(c) for c in (0x85, 0xa0, 0xad, 0xe9, 0x130, 0x17f, 0x2b0, 0x300, 0x301, 0x308, 0x323, 0x345,
                            0x3c3, 0x430, 0x5d0, 0x5b8, 0x627, 0x64b, 0x660, 0x915, 0x93c, 0x94d, 0x967, 0x9be,
                            0x9c7, 0xe01, 0xe31, 0x1100, 0x1161, 0x11a8, 0xac00, 0x1680, 0x180e, 0x1e9b, 0x2003,
                            0x200b, 0x200d, 0x2028, 0x202f, 0x20dd, 0x2126, 0x212a, 0x2160, 0x2460, 0x3000, 0x3042,
                            0x3099, 0x304b, 0x4e00, 0xf900, 0xfb01, 0xfe0f, 0xfeff, 0xff11, 0xff21, 0xffff, 0x1d15e,
                            0x1f600, 0x1f3fd, 0x20000, 0xe0100)])


def random_texts(count, seed, extra=()):
    rng = random.Random(seed)
    pool = POOL + list(extra)
    return ["".join(rng.choices(pool, k=rng.randint(1, 30))) for _ in range(count)]


def cases(tokenizer, texts):
    return [{"text": t, "ids": tokenizer.encode(t, add_special_tokens=False).ids} for t in texts]


def decode_cases(tokenizer, texts, seed):
    """Whole texts, and random ids that cut characters into pieces."""
    rng = random.Random(seed)
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    lists = [tokenizer.encode(t, add_special_tokens=False).ids for t in texts]
    lists += [[rng.randrange(size) for _ in range(rng.randint(1, 12))] for _ in range(60)]
    lists += [[rng.randrange(min(size, 260)) for _ in range(rng.randint(1, 8))] for _ in range(60)]
    return [{"ids": ids, "skip_special": skip, "text": tokenizer.decode(ids, skip_special_tokens=skip)}
            for i, ids in enumerate(lists) for skip in ((True, False) if i % 4 == 0 else (True,))]


def train_base():
    """A vocabulary of 600 over another pattern than the embedded one; merges as strings."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC()])
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=[], show_progress=False, min_frequency=1,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(TEXTS * 2 + [t.lower() for t in TEXTS], trainer)
    base = json.loads(tokenizer.to_str())
    base["model"]["merges"] = [m if isinstance(m, str) else " ".join(m) for m in base["model"]["merges"]]
    return base


def split(regex=None, string=None, behavior="Isolated", invert=False):
    pattern = {"Regex": regex} if regex is not None else {"String": string}
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def byte_level(prefix=False, use_regex=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": use_regex}


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


def added(first_id, *tokens):
    plain = {"special": False, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
    return [{"id": first_id + i, **plain, **t} for i, t in enumerate(tokens)]


WHOLE_WORDS = ["qzx", " qzx", "qzxq", "a qzx qzxq", "qzxqq", "qzxq qzxq\n", "\u00e9z", " \u00e9z", "x\u00e9z"]

# Not valid: cut off, overlong, surrogates, above U+10FFFF, stray bytes; and the last valid ones beside them.
BYTES = ["f4908080", "f4bfbfbf", "f48fbfbf", "f5808080", "f7bfbfbf", "f888808080", "fc8480808080", "fe", "ff", "c0af", "c080", "c1bf", "c280",
         "e08080", "e09fbf", "e0a080", "f0808080", "f08fbfbf", "f0908080", "eda080", "edafbf", "edb080", "edbfbf", "ed9fbf", "ee8080",
         "eda0bdedb880", "80", "bf", "8080", "c3", "c320", "e4bd", "e4bd20", "e420", "f09f98", "f09f9820", "f09f20", "f020", "f0", "f490", "f4908020", "f0c3a9",
         "61c3e4bda061", "f09f98f09f9880", "e4bde4bda0", "efbfbe", "efbfbf", "f09fbfbf", "00", "61ff7a", "c3c3a9"]


def variants(base):
    size = len(base["model"]["vocab"])
    merged = set("".join(base["model"]["merges"]))
    missing = [c for c in "~`^}{|\\@#%&*+" if c in base["model"]["vocab"] and c not in merged][:3]
    word = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    cased = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
             r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
             r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    # Tekken's: cased words without English endings, digits one by one, "/" after punctuation.
    tekken = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
              r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
              r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    han = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
    flags = added(size, {"content": "<a>", "special": True}, {"content": "<left>", "lstrip": True},
                  {"content": "<right>", "rstrip": True}, {"content": "<both>", "lstrip": True, "rstrip": True},
                  {"content": "word", "single_word": True}, {"content": "caf\u0065\u0301", "normalized": True},
                  {"content": "<ab>", "normalized": True, "special": True}, {"content": "<abc>", "special": True},
                  {"content": " x y", "special": False}, {"content": "\u00e9\u00e9", "special": False},
                  {"content": "\uff5cEnd\u2581of\uff5c", "special": True})
    flag_texts = ["<a><left> <right> <both> <ab> <abc>", "p <left> q", "p <right> q", "p  \n<both>\u3000 q", "<left>  <left>",
                  "<right>  <left>", "word", "words word sword word.", "\u00e9word word\u00e9 _word word_ 1word -word-",
                  "caf\u00e9 cafe\u0301 caf\u00e9s", "<ab><abc><ab", "a x yb", "\u00e9\u00e9", "e\u0301\u00e9", "\uff5cEnd\u2581of\uff5c!",
                  " <right>\n\n<both>word<left>"]
    flag_pool = ["<a>", "<left>", "<right>", "<both>", "word", "caf\u00e9", "cafe\u0301", "<ab>", "<abc>", " x y", "\u00e9\u00e9", " "]
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<a>", "type_id": 0}},
                                                         {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<a>": {"id": "<a>", "ids": [size], "tokens": ["<a>"]}}}
    return [
        ("byte-level regex", {}, TEXTS, ()),
        ("prefix space", {"pre_tokenizer": byte_level(prefix=True, use_regex=True), "normalizer": None}, TEXTS[:40], ()),
        ("words with marks", {"pre_tokenizer": sequence(split(word), byte_level())}, TEXTS, ()),
        ("cased words", {"pre_tokenizer": sequence(split(cased), byte_level()), "model": {"ignore_merges": True}}, TEXTS, ()),
        ("three splits", {"pre_tokenizer": sequence(split(r"\p{N}{1,3}"), split(han), split(word), byte_level())}, TEXTS, ()),
        ("removed", {"pre_tokenizer": sequence(split(r"\s+", behavior="Removed"), byte_level())}, TEXTS[:40], ()),
        ("removed inverted", {"pre_tokenizer": sequence(split(r"\w+|\W", behavior="Removed", invert=True),
                                                        split(r"[^\w\d]+"), byte_level(prefix=True))}, TEXTS, ()),
        ("isolated inverted", {"pre_tokenizer": sequence(split(r"\p{Han}+|\p{Greek}", invert=True), byte_level())}, TEXTS[30:50], ()),
        ("literal", {"pre_tokenizer": sequence(split(string="."), split(string=" ", behavior="Removed"), byte_level())}, TEXTS[:40], ()),
        ("digits", {"pre_tokenizer": sequence({"type": "Digits", "individual_digits": True}, byte_level(use_regex=True))},
         TEXTS[10:30], ()),
        ("digit runs", {"pre_tokenizer": sequence({"type": "Digits", "individual_digits": False}, byte_level())}, TEXTS[10:30], ()),
        # Words that no merge leads to: only ignore_merges finds them.
        ("whole words", {"pre_tokenizer": sequence(split(word), byte_level()),
                         "model": {"ignore_merges": True, "vocab": {"\u0120qzx": size, "qzxq": size + 1, "\u00c3\u00a9z": size + 2}}},
         WHOLE_WORDS, ("qzx", " qzx", "qzxq", "\u00e9z")),
        ("whole words, merged", {"pre_tokenizer": sequence(split(word), byte_level()),
                                 "model": {"vocab": {"\u0120qzx": size, "qzxq": size + 1, "\u00c3\u00a9z": size + 2}}},
         WHOLE_WORDS, ("qzx", " qzx", "qzxq", "\u00e9z")),
        # Bytes that no token stands for are left out.
        ("bytes missing", {"model": {"vocab": dict.fromkeys(missing)}},
         TEXTS[:20] + ["a" + "".join(missing) + "b", missing[0], "x" + missing[1] * 5, "<" + missing[0] + ">" + missing[0]], (*missing, "a")),
        ("added tokens", {"added_tokens": flags, "post_processor": template}, TEXTS[:10] + flag_texts, flag_pool),
        ("added tokens, no normaliser", {"added_tokens": flags, "normalizer": None}, flag_texts, flag_pool),
        ("tekken", {"pre_tokenizer": sequence(split(tekken), byte_level()), "normalizer": None, "model": {"ignore_merges": True}},
         TEXTS + ["a/b//c /x\n/", "HTTPServer McDonald \u01c5x \u02b0H", "x=1;/*y*/\r\n"], ("//", "/\n", "\u01c5")),
    ]


def merge_patch(target, patch):
    """RFC 7396, so that the test can do the same; null removes."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def write(name, value):
    (OUT / name).write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    embedded = Tokenizer.from_file(str(EMBEDDED))
    texts = TEXTS + random_texts(400, 1, ["<|im_start|>", "<|im_end|>"])
    base = train_base()
    tested = []
    for seed, (name, patch, variant_texts, extra) in enumerate(variants(base)):
        tokenizer = Tokenizer.from_str(json.dumps(merge_patch(base, patch)))
        all_texts = variant_texts + random_texts(60, 100 + seed, extra)
        tested.append({"name": name, "patch": patch, "encode": cases(tokenizer, all_texts),
                       "decode": decode_cases(tokenizer, all_texts[-20:], seed) if extra else []})
    write("tokenizer_goldens.json", {
        "made_with": f"tokenizers {tokenizers.__version__}",
        "embedded": {"encode": cases(embedded, texts), "decode": decode_cases(embedded, texts[::5], 2)},
        "base": base, "variants": tested,
        "utf8": [{"bytes": b, "text": bytes.fromhex(b).decode("utf-8", "replace")} for b in BYTES]})


if __name__ == "__main__":
    main()
