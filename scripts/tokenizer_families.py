"""The tokenizers of the families, for scripts/check_tokenizers.py: what their publishers write into
tokenizer.json besides the vocabulary, and small vocabularies to put in.
"""

import json

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It's 1984, isn't it? We'll see, they've said.",
    "def f(x):\n    return x ** 2  # square\n\n\nclass A:\n\tpass\n", "for (int i = 0; i < n; ++i) { a[i] += b[i]; }",
    "Der schnelle braune Fuchs springt über den faulen Hund; größer, schöner, süßer.", "naïve café déjà vu, où ça?",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.", "Γαζέες καὶ μυρτιὲς δὲν θὰ βρῶ πιὰ στὸ χρυσαφὶ ξέφωτο",
    "你好，世界！今天天气很好。我们去公园散步吧。", "東京タワーは高いです。ひらがなとカタカナ", "안녕하세요 세계 한국어 텍스트",
    "مرحبا بالعالم كيف حالك", "नमस्ते दुनिया कैसे हो", "สวัสดีชาวโลก", "Xin chào thế giới, Việt Nam", "שלום עולם",
    "https://example.com/a_b?c=d&e=%20#f {\"key\": [1, 2.5, null, true]}", "1234567 3.14159 1,000,000 10^6 0xFF",
    "HTTPServer McDonald camelCase PascalCase UPPER snake_case /usr/bin a/b//c", "the then there other another theother " * 3,
]

N3 = r"\p{N}{1,3}"
TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
BEFORE = r"[^\r\n\p{L}\p{N}]?"


def cased(endings, digits, punctuation, upper=UPPER, lower=LOWER):
    return (f"{BEFORE}{upper}*{lower}+{endings}|{BEFORE}{upper}+{lower}*{endings}|{digits}"
            f"| ?[^\\s\\p{{L}}\\p{{N}}]+{punctuation}|{TAIL}")


LLAMA3 = ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|" + N3 + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL
QWEN2 = LLAMA3.replace(N3, r"\p{N}")
QWEN35 = (ENDINGS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + TAIL)
O200K = cased(ENDINGS + "?", N3, r"[\r\n/]*")
TEKKEN = cased("", r"\p{N}", r"[\r\n/]*")
DEEPSEEK = [N3, "[一-龥぀-ゟ゠-ヿ]+",
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|"
            "[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|" + TAIL]
# Intersections of classes, as in Kimi's Python code and in conversions of it.
NOT_HAN = r"&&[^\p{Han}]]"
KIMI = r"[\p{Han}]+|" + cased(ENDINGS + "?", N3, r"[\r\n]*", UPPER[:-1] + NOT_HAN, LOWER[:-1] + NOT_HAN)

# Byte-level families: name -> (split patterns, normalizer, ignore_merges).
BYTE_LEVEL = {
    "Llama-3": ([LLAMA3], None, True),
    "o200k: gpt-oss, GPT-4o, Llama-4, MiniMax": ([O200K], None, False),
    "DeepSeek-V3, Step": (DEEPSEEK, None, False),
    "Kimi": ([KIMI], None, True),
    "Qwen2, Qwen3, Hy3": ([QWEN2], {"type": "NFC"}, False),
    "Qwen3.5": ([QWEN35], {"type": "NFC"}, False),
    "GLM": ([LLAMA3], None, False),
    "Nemotron, Mistral: tekken": ([TEKKEN], None, True),
    "Laguna: lines first": ([r"[\r\n]+", QWEN2], None, False),
}

SPACE = "▁"
PREPEND = {"type": "Prepend", "prepend": SPACE}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
UNREPLACE = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}


def sequence(key, *parts):
    return {"type": "Sequence", key: list(parts)}


def metaspace(scheme, split):
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": split}


def spelled(*behind):
    return sequence("decoders", UNREPLACE, {"type": "ByteFallback"}, {"type": "Fuse"}, *behind)


STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
GEMMA_SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}

# SentencePiece families: what they put around a model of texts.
SENTENCE_PIECE = {
    "Mixtral, Llama-2": {"normalizer": sequence("normalizers", PREPEND, REPLACE), "decoder": spelled(STRIP)},
    "Mixtral, later files": {"pre_tokenizer": metaspace("first", False), "decoder": spelled(STRIP)},
    "Gemma": {"normalizer": REPLACE, "pre_tokenizer": GEMMA_SPLIT, "decoder": spelled()},
    "Ernie-4.5": {"normalizer": sequence("normalizers", REPLACE), "decoder": spelled()},
    "Metaspace always": {"pre_tokenizer": metaspace("always", True), "decoder": metaspace("always", True)},
    "Metaspace first": {"pre_tokenizer": metaspace("first", True), "decoder": metaspace("first", True)},
    "Metaspace never": {"pre_tokenizer": metaspace("never", True),
                        "decoder": sequence("decoders", {"type": "ByteFallback"}, metaspace("never", True))},
    "Metaspace before prepend_scheme": {
        "pre_tokenizer": {"type": "Metaspace", "replacement": SPACE, "add_prefix_space": True},
        "decoder": {"type": "Metaspace", "replacement": SPACE, "add_prefix_space": True}},
    "Strip on both sides": {"normalizer": REPLACE, "decoder": spelled({**STRIP, "start": 3, "stop": 2})},
    "Strip of each token": {"normalizer": REPLACE,
                            "decoder": sequence("decoders", UNREPLACE, {**STRIP, "stop": 0}, {"type": "ByteFallback"})},
    "Replace by a pattern": {
        "normalizer": sequence("normalizers", {"type": "NFC"},
                               {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": SPACE * 2}, REPLACE),
        "decoder": spelled()},
    "bytes missing, unk fused": {"normalizer": REPLACE, "decoder": spelled(), "model": {"fuse_unk": True, "vocab": "FEW"}},
    "bytes missing, unk alone": {"normalizer": REPLACE, "decoder": spelled(), "model": {"fuse_unk": False, "vocab": "FEW"}},
    "no byte_fallback": {"normalizer": REPLACE, "decoder": spelled(), "model": {"byte_fallback": False}},
    "nothing for the unknown": {"normalizer": REPLACE, "decoder": spelled(),
                                "model": {"byte_fallback": False, "unk_token": None}},
    "ignore_merges": {"normalizer": REPLACE, "pre_tokenizer": metaspace("never", True), "decoder": spelled(),
                      "model": {"ignore_merges": True, "vocab": {SPACE + "qzx": 0, "qzx": 1}}},
    "all behaviors": {
        "normalizer": None, "decoder": spelled(),
        "pre_tokenizer": sequence("pretokenizers", *(
            {"type": "Split", "pattern": {"Regex": p}, "behavior": b, "invert": i} for p, b, i in [
                (r"[,;]", "MergedWithNext", False), (r"\p{N}", "Contiguous", False), (r"[A-Z]", "MergedWithPrevious", False),
                (r"\p{L}+", "MergedWithPrevious", True), (r"[aeiou]", "MergedWithNext", True),
                (r"[^ -~]", "Contiguous", True), (r"-|(?=x)", "MergedWithNext", False)]))},
}

ADDED = [("<bos>", True, False), ("<eos>", True, False), ("<|im_end|>", True, False), ("<tool>", False, False),
         ("foo bar", False, True), ("\u0001\u0002", False, True)]


def train(tokenizer, size, alphabet, special):
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False, min_frequency=2,
                                  initial_alphabet=alphabet, limit_alphabet=260)
    tokenizer.train_from_iterator(CORPUS * 2, trainer)
    base = json.loads(tokenizer.to_str())
    base["added_tokens"] = []
    return base


def added(base):
    known = dict(base["model"]["vocab"])
    for content, _, _ in ADDED:  # upstream numbers them like this, whatever a file says
        known.setdefault(content, len(known))
    return [{"id": known[content], "content": content, "special": special, "normalized": normalized,
             "single_word": False, "lstrip": False, "rstrip": False}
            for content, special, normalized in ADDED]


def sentence_piece_base(size=700):
    """Special tokens, <0xNN>, merges over text with its spaces replaced."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(SPACE, "merged_with_next")
    tokenizer.decoder = decoders.Fuse()
    special = ["<pad>", "<eos>", "<bos>", "<unk>"] + [f"<0x{b:02X}>" for b in range(256)]
    base = train(tokenizer, size, [], special)
    base["pre_tokenizer"] = base["normalizer"] = None
    base["added_tokens"] = added(base)
    return base


def byte_level_base(size=600):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(O200K), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    base = train(tokenizer, size, sorted(pre_tokenizers.ByteLevel.alphabet()), [])
    base["added_tokens"] = added(base)
    return base


def byte_level_patch(patterns, normalizer, ignore_merges):
    splits = [{"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False} for p in patterns]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"pre_tokenizer": sequence("pretokenizers", *splits, byte_level), "normalizer": normalizer,
            "model": {"ignore_merges": ignore_merges}}


def sentence_piece_patch(base, patch):
    """Fills in which bytes lack a token, and the ids of added tokens behind another vocabulary."""
    patch = {"pre_tokenizer": None, "normalizer": None} | json.loads(json.dumps(patch))
    model = patch.get("model", {})
    if model.get("vocab") == "FEW":
        lost = [b for b in range(0x80, 0x100) if b % 3] + list(range(1, 0x20, 4))
        model["vocab"] = {f"<0x{b:02X}>": None for b in lost}
        model["vocab"] |= {f"<lost {b}>": base["model"]["vocab"][f"<0x{b:02X}>"] for b in lost}
    elif "vocab" in model:
        size = len(base["model"]["vocab"])
        model["vocab"] = {token: size + i for i, token in enumerate(model["vocab"])}
        patch["added_tokens"] = added(merge_patch(base, patch))
    return patch


def merge_patch(target, patch):
    """RFC 7396; null removes."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def families():
    """(group, name, base, patch) of every kind."""
    base = sentence_piece_base()
    for name, patch in SENTENCE_PIECE.items():
        yield "sentence_piece", name, base, sentence_piece_patch(base, patch)
    base = byte_level_base()
    for name, (patterns, normalizer, ignore_merges) in BYTE_LEVEL.items():
        yield "byte_level", name, base, byte_level_patch(patterns, normalizer, ignore_merges)
