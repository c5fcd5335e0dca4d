"""Checkpoints that say what they are told to: after a prompt that ends with a script's key, greedy decoding says the script.

A script is cut into tokens that are in no other script. The layer's outputs are zero, so the logits are those of the last token
alone: 16 for the tokens that follow it in some script, about 0 for all others. Of two that follow the same token the first one
in the scripts' order wins, unless something rules it out. Whoever forbids a script's next token has zeros to choose from: the
lowest id, of the 256 bytes first. Needs `moe4 synth` and Python.
"""
import json
import os
import random
import struct
import subprocess

HIDDEN, VOCAB, FIRST_FREE, EOS = 256, 4096, 259, 257
ENDING = "<|im_end|>"
CUT = "\0"  # in a script: no token goes across


def spelled(text):
    """As byte-level vocabularies write bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return "".join(chr(b) if b in printable else chr(256 + others.index(b)) for b in text.encode())


def cut(script, special, taken):
    """Pieces of some characters, none of them in `taken`, and the special tokens whole."""
    pieces = []
    while script:
        tag = next((tag for tag in special if script.startswith(tag)), None)
        if tag:
            pieces.append(tag)
            script = script[len(tag):]
            continue
        ends = [script.find(tag) for tag in [*special, CUT] if tag in script]
        text = script[:min(ends, default=len(script))]
        script = script[len(text):].removeprefix(CUT)
        begin = len(pieces)
        while text:
            length = next(n for n in range(2, 1000) if n >= len(text) or text[:n] not in taken)
            pieces.append(text[:length])
            text = text[length:]
            while pieces[-1] in taken and len(pieces) > begin + 1:  # the last one: longer, then
                taken.discard(pieces[-2])
                pieces[-2:] = [pieces[-2] + pieces[-1]]
            assert pieces[-1] not in taken, f"{pieces[-1]!r} is in two scripts: change one"
            taken.add(pieces[-1])
    return pieces


def write_scripted_model(program, folder, scripts, special=()):
    """`scripts`: {key: text}; the chat template is the last message, which is a key. `special`: special tokens in them."""
    subprocess.run([program, "synth", folder, "--preset", "tiny", "--layers", "1", "--format", "compressed-tensors"], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    path = os.path.join(folder, "tokenizer.json")
    with open(path) as file:
        tokenizer = json.load(file)
    model = tokenizer["model"]
    model["vocab"] = {token: i for token, i in model["vocab"].items() if i < FIRST_FREE}
    model["merges"] = []
    ids = {}

    def add(token, is_special=False):
        ids[token] = FIRST_FREE + len(ids)
        tokenizer["added_tokens"].append({"id": ids[token], "content": token, "single_word": False, "lstrip": False,
                                          "rstrip": False, "normalized": False, "special": is_special})

    for key in scripts:
        add(key)
    for tag in special:
        add(tag, True)
    follows, taken = [], set(scripts)  # pairs of ids
    for key, script in scripts.items():
        before = ids[key]
        for piece in cut(script, special, taken):
            if piece not in ids:
                ids[piece] = model["vocab"][spelled(piece)] = FIRST_FREE + len(ids)
            follows.append((before, ids[piece]))
            before = ids[piece]
        follows.append((before, EOS))
    with open(path, "w") as file:
        json.dump(tokenizer, file)
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as file:
        json.dump({"eos_token": ENDING, "chat_template": "{{ messages[-1]['content'] }}"}, file)
    write_weights(os.path.join(folder, "model.safetensors"), follows)


def write_weights(path, follows):
    def bf16(values):
        return b"".join(struct.pack("<f", value)[2:] for value in values)

    random_bits = random.Random(1)
    signs = {before: [random_bits.choice((-1, 1)) for _ in range(HIDDEN)] for before, _ in follows}
    heads = {}
    for before, after in dict.fromkeys(follows):
        heads[after] = [h + s / 16 for h, s in zip(heads.get(after, [0] * HIDDEN), signs[before])]
    with open(path, "r+b") as file:
        size, = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            begin, end = (8 + size + offset for offset in tensor["data_offsets"])
            if name.startswith("lm_head.") or name.endswith(("out_proj.weight", "down_proj.weight", "down_proj.weight_packed")):
                file.seek(begin)
                file.write(bytes(end - begin))
            rows = {"lm_head.weight": heads, "model.embed_tokens.weight": signs}.get(name, {})
            for row, values in rows.items():
                file.seek(begin + row * HIDDEN * 2)
                file.write(bf16(values))
