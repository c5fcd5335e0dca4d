#!/usr/bin/env python3
"""Writes tests/data/text/tiktoken_goldens.json: a small tiktoken.model with Kimi-K2's split pattern and
special tokens, and what the tiktoken package makes of some texts. Also a seed for the fuzzer.

Needs tiktoken and tokenizers (which trains the vocabulary).

    python scripts/make_tiktoken_goldens.py
"""

import base64
import json
import pathlib

import tiktoken
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "tests/data/text/tiktoken_goldens.json"
SEED = ROOT / "fuzz/corpus/tiktoken/small"
# tokenization_kimi.py: [a&&[^b]] is an intersection of classes.
PATTERN = "|".join([
    r"[\p{Han}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
NAMED = {0: "[BOS]", 1: "[EOS]", 2: "<|im_end|>", 3: "<|im_user|>", 4: "<|im_assistant|>",
         10: "<|im_system|>", 17: "<|im_middle|>", 11: "<|tool_calls_section_begin|>",
         254: "[UNK]", 255: "[PAD]"}
ORDINARY = {11}  # tokens that are not special: decoded even when special ones are not
TEXTS = [
    "", "Hello, world! It's DON'T we'll I'M you'Re", "你好，世界。", "汉字and漢字混ぜて書く mixed文text",
    "ひらがなカタカナ々〆ヶ", "1234567 12 3 4567 ४५६७", "  leading and  double   spaces ", "\n\n \n a\r\nb\t\tc",
    "a_b.c(d)+e==f;{}\n\n", "Ünïcödé ÀÉÎ ßtraße ǅ", "한국어 텍스트", "ไทย ภาษา", "汉\u0301字\u0302 e\u0301",
    "🙂🙃 emoji👩‍👩‍👧", "x²y³ ½ Ⅷ", "'s 't 'LL", "ALLCAPS lowerUPPER CamelCaseWord", "aaaaaaaaaaaaaaaaaaaa",
    "<|im_user|>user<|im_middle|>hi<|im_end|>", "[BOS]text[EOS]", "<|reserved_token_{r}|> and not <|x|>",
    "<|tool_calls_section_begin|>call", "\u3000全角\u00a0nbsp\u2028line", "〇〡々漢",
    "the the then there other another theother " * 4, "你好你好你好世界世界世界" * 3,
]
CORPUS = ["the then there other another world hello DON'T it's we'll", "你好，世界。你好世界 汉字 漢字",
          "ひらがなカタカナ text mixed 1234567 123 456", "def f(x):\n    return x\n\n", "aaaa aaaaaaaa"]


def ranks(size):
    """Bytes first, then what a BPE trainer merged, as tiktoken's own files have them."""
    trainer = Tokenizer(models.BPE())
    trainer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\p{N}{1,3}|[^\s\p{N}]+|\s+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trainer.train_from_iterator(CORPUS * 4, trainers.BpeTrainer(
        vocab_size=size, show_progress=False, min_frequency=1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    visible = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255]
    hidden = [b for b in range(256) if b not in visible]
    byte_of = {chr(b): b for b in visible} | {chr(256 + i): b for i, b in enumerate(hidden)}
    tokens = sorted(trainer.get_vocab().items(), key=lambda item: item[1])
    words = [bytes(byte_of[c] for c in token) for token, _ in tokens]
    words.sort(key=lambda w: len(w) > 1)  # stable: bytes, then merges by rank
    return {w: i for i, w in enumerate(words)}


def main():
    mergeable = ranks(500)
    first = len(mergeable)
    special = {f"<|reserved_token_{first + i}|>": first + i for i in range(256) if i not in NAMED}
    special |= {name: first + i for i, name in NAMED.items()}
    encoding = tiktoken.Encoding("small", pat_str=PATTERN, mergeable_ranks=mergeable,
                                 special_tokens=special)
    texts = [t.replace("{r}", str(first + 5)) for t in TEXTS]
    cases = [{"text": t, "ids": encoding.encode(t, allowed_special="all")} for t in texts]
    for case in cases:
        assert encoding.decode(case["ids"]) == case["text"]
    config = {"tokenizer_class": "TikTokenTokenizer", "added_tokens_decoder": {
        str(first + i): {"content": name, "special": i not in ORDINARY, "lstrip": False,
                         "normalized": False, "rstrip": False, "single_word": False}
        for i, name in NAMED.items()}}
    model = "".join(f"{base64.b64encode(w).decode()} {i}\n" for w, i in mergeable.items())
    OUT.write_text(json.dumps({"model": model, "config": config, "cases": cases},
                              ensure_ascii=True, indent=0) + "\n")
    SEED.parent.mkdir(parents=True, exist_ok=True)
    SEED.write_text("\0".join([model, json.dumps(config), TEXTS[3]]))
    print(OUT, OUT.stat().st_size)


if __name__ == "__main__":
    main()
