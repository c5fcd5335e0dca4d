#!/usr/bin/env python3
"""Writes tests/data/text/deepseek_goldens.json: a small tokenizer.json with DeepSeek-V3's three
splits and what tokenizers makes of some texts; a chat template with the constructs of DeepSeek's
and what transformers renders.

Needs tokenizers, transformers 5.

    python scripts/make_deepseek_text_goldens.py
"""

import json
import pathlib

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/data/text/deepseek_goldens.json"
# Digits by threes, runs of Chinese and kana, everything else.
SPLITS = [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
          "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|"
          "[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|"
          "\\s*[\r\n]+|\\s+(?!\\S)|\\s+"]
SPECIAL = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"]
PLAIN = ["<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"]
CORPUS = ["The year 1984 and the number 1234567890.", "你好，世界。ひらがなとカタカナ", "don't stop!!",
          "  two spaces\n\n  and lines\r\n", "a_b.c(d) + e-f", "über naïve café", "你好你好 123 abc"]
TEXTS = ["", "1234567 12 3.14 ४५६७", "你好，世界 ひらがなカタカナ・ー 漢字とkana", "don't _stop_ $var #tag @me a-b",
         "  two spaces\n\n  and\r\n\r\nlines \t x", "é e\u0301 ü ñ über", "f(x)=[1,2];\n\n\n", "…«quotes» “x” €5 ½",
         "🙂🙃 x", "<｜User｜>hi<｜Assistant｜><think>\nhm</think>ok<｜end▁of▁sentence｜>", "한국어 ไทย",
         "\u3000全角\u00a0nbsp", "〆々〇ヶ", "a1b22c333d4444"]
# The first system texts, then turns; tool calls and their results; what an answer thought is dropped.
TEMPLATE = """\
{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}\
{% if not thinking is defined %}{% set thinking = false %}{% endif %}\
{% set ns = namespace(is_first=false, is_tool=false, system='', is_first_system=true, is_last_user=false) %}\
{%- for message in messages %}{%- if message['role'] == 'system' %}\
{%- if ns.is_first_system %}{% set ns.system = ns.system + message['content'] %}\
{% set ns.is_first_system = false %}\
{%- else %}{% set ns.system = ns.system + '\\n\\n' + message['content'] %}{%- endif %}\
{%- endif %}{%- endfor %}\
{{ bos_token }}{{ ns.system }}\
{%- for message in messages %}\
{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{%- set ns.is_first = false -%}\
{%- set ns.is_last_user = true -%}{{'<｜User｜>' + message['content']}}{%- endif %}\
{%- if message['role'] == 'assistant' and message['tool_calls'] is defined \
and message['tool_calls'] is not none %}\
{%- if ns.is_last_user %}{{'<｜Assistant｜></think>'}}{%- endif %}\
{%- set ns.is_last_user = false -%}{%- set ns.is_first = false %}{%- set ns.is_tool = false -%}\
{%- for tool in message['tool_calls'] %}\
{%- if not ns.is_first %}{{(message['content'] or '') + '[calls]' + tool['function']['name'] + '[sep]' \
+ tool['function']['arguments'] + '[end]'}}{%- set ns.is_first = true -%}\
{%- else %}{{'\\n[call]' + tool['function']['name'] + '[sep]' + tool['function']['arguments'] + '[end]'}}\
{%- endif %}{%- endfor %}{{'<｜end▁of▁sentence｜>'}}{%- endif %}\
{%- if message['role'] == 'assistant' and (message['tool_calls'] is not defined \
or message['tool_calls'] is none) %}\
{%- if ns.is_last_user %}{{'<｜Assistant｜>'}}\
{%- if message['prefix'] is defined and message['prefix'] and thinking %}{{'<think>'}}\
{%- else %}{{'</think>'}}{%- endif %}{%- endif %}\
{%- set ns.is_last_user = false -%}\
{%- if ns.is_tool %}{{message['content'] + '<｜end▁of▁sentence｜>'}}{%- set ns.is_tool = false -%}\
{%- else %}{%- set content = message['content'] -%}\
{%- if '</think>' in content %}{%- set content = content.split('</think>', 1)[1] -%}{%- endif %}\
{{content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endif %}\
{%- if message['role'] == 'tool' %}{%- set ns.is_last_user = false -%}{%- set ns.is_tool = true -%}\
{{'[result]' + message['content'] + '[end]'}}{%- endif %}\
{%- endfor -%}\
{%- if add_generation_prompt and ns.is_last_user and not ns.is_tool %}{{'<｜Assistant｜>'}}\
{%- if not thinking %}{{'</think>'}}{%- else %}{{'<think>'}}{%- endif %}{% endif %}"""


def call(name, arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


CONVERSATIONS = [
    ([{"role": "user", "content": "Hi"}], {}),
    ([{"role": "user", "content": "Hi"}], {"thinking": True}),
    ([{"role": "user", "content": "Hi"}], {"add_generation_prompt": False}),
    ([{"role": "system", "content": "Be brief."}, {"role": "system", "content": "Be kind."},
      {"role": "user", "content": "1+1?"},
      {"role": "assistant", "content": "<think>\nhm</think>2"}, {"role": "user", "content": "2+2?"}],
     {"thinking": True}),
    ([{"role": "user", "content": "weather?"},
      {"role": "assistant", "content": None,
       "tool_calls": [call("get", '{"at": "Paris"}'), call("get", '{"at": "Rome"}')]},
      {"role": "tool", "content": "sunny"}, {"role": "tool", "content": "rain"},
      {"role": "assistant", "content": "Sun and rain."}, {"role": "user", "content": "Thanks"}], {}),
]


def make_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in SPLITS]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(CORPUS * 3, trainers.BpeTrainer(
        vocab_size=340, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.add_tokens(PLAIN)
    return tokenizer


def main():
    tokenizer = make_tokenizer()
    encode = [{"text": t, "ids": tokenizer.encode(t, add_special_tokens=False).ids} for t in TEXTS]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=SPECIAL[0],
                                   eos_token=SPECIAL[1], chat_template=TEMPLATE)
    chat = []
    for messages, options in CONVERSATIONS:
        context = {"add_generation_prompt": True} | options
        text = fast.apply_chat_template(messages, tokenize=False, **context)
        context |= {"messages": messages, "bos_token": SPECIAL[0], "eos_token": SPECIAL[1]}
        chat.append({"context": context, "text": text})
    OUT.write_text(json.dumps({"tokenizer": json.loads(tokenizer.to_str()), "encode": encode,
                               "template": TEMPLATE, "chat": chat}, ensure_ascii=True) + "\n")
    print(OUT, OUT.stat().st_size)


if __name__ == "__main__":
    main()
