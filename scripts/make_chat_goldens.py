#!/usr/bin/env python3
"""Writes tests/data/text/chat_goldens.json: what jinja2, set up as transformers does, renders.

Needs the `jinja2` package. Run from the repository root: python3 scripts/make_chat_goldens.py
The templates in tests/data/text/templates are inputs; one-line templates are below.
"""

import json
import pathlib

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/data/text"

CONTEXT = {
    "n": 7, "f": 2.5, "s": "Hello, W\u00f6rld \U0001f600", "empty": "", "t": True, "nothing": None, "xs": [3, 1, 2],
    "words": ["beta", "Alpha", "gamma"], "d": {"b": 1, "a": [1, {"k": "v"}], "c": None},
    "people": [{"name": "Ann", "age": 30, "tags": ["x"]}, {"name": "Bob", "age": 25}, {"name": "cid", "age": 30}],
    "pad": "  x y  ", "lines": "one\ntwo\n\nthree", "html": "<a href='x'>&\"</a>",
    "tree": [{"v": 1, "kids": [{"v": 2, "kids": []}, {"v": 3, "kids": [{"v": 4, "kids": []}]}]}],
    "nums": [0, -0.0, 1.0, 1e16, 1e-5, 0.1, 123456789.123, 1e300, -2], "method_names": {"items": 1, "get": 2},
}

EXPRESSIONS = r"""
1 + 2 * 3 - 4 | 7 // 2 ~ '' ~ -7 // 2 | 7 % 3, -7 % 3, 7 % -3, 7.5 % 2 | 2 ** 3 ** 2 | -2 ** 2 | 7 / 2, 6 / 3
1_000 + 0x1F + 0b101 + 0o17 | 1.5e3, 1e-7, .5 if false else 2.50 | (1, 2, 3) | () | (1,) | [1, 'a', none, true, 1.0]
{'a': 1, 'b': [1, {'c': none}], 3: 'x'} | 'a' 'b' "c" | "tab\tnl\\n \u00e9 \x41 \101 \' \q" | true and 'x' or 'y'
not true or not false | not not n | 1 < 2 < 3, 1 < 3 < 2 | 1 == 1.0 == true | 'a' < 'b', [1, 2] < [1, 3] | n in xs, 3 in xs, 'lo' in s
'b' in d, 'z' not in d | n if n > 5 else 'small' | ('x' if false) ~ '!' | n is defined, zz is defined, zz is undefined, d.zz is defined
zz | zz.a | zz + 1 | zz ~ 'x' | zz is none, nothing is none | 'x' in zz | zz == zz, zz == none | zz < 1 | nothing.foo | nothing.foo.bar | d.zz | d.zz.y | d.zz is undefined
s is string, n is number, t is number, t is integer, f is float, t is boolean, 1 is boolean | d is mapping, xs is mapping, xs is sequence, s is sequence, d is sequence, d is iterable, n is iterable, zz is iterable, zz is sequence
n is odd, n is even, n is divisibleby 7, n is divisibleby(2) | t is true, 1 is true, false is false | 'abc' is lower, 'ABC' is upper, n is eq 7, n is gt(6), 3 is in xs | range is callable, n is callable | none is none, nothing is sameas none
s|length, s|upper, s|lower, s|title, s|capitalize | s[0], s[-1], s[7:], s[::-1], s[1:8:2], s[20:], s[5] | xs[0], xs[-1], xs[5] is defined, xs[1:], xs[::-1], xs[-2:], xs[:0:-1] | d['b'], d.b, d['zz'] is defined, d.a[1].k, d.a.1.k
pad|trim, pad.strip(), pad.lstrip() ~ '|', pad.rstrip(), 'xxaxx'.strip('x'), 'abcba'|trim('ab') | lines.split('\n'), lines.splitlines(), 'a b  c'.split(), 'a,b,c'.split(',', 1), 'a,b,c'.rsplit(',', 1), ' a b '.split(none, 1), 'a b c'.rsplit(none, 1) | ''.split(','), ''.split(), 'ab'.split('ab')
'a-b-c'.replace('-', '+'), 'aaa'.replace('a', 'b', 2), 'ab'.replace('', '.'), 'aaa'|replace('a', 'bb'), 12|replace(1, 3) | s.startswith('Hello'), s.startswith(('x', 'He')), s.endswith('d'), s.find('W'), s.find('zz'), s.rfind('l'), 'banana'.count('an'), s.index('W') | '-'.join(['a', 'b']), ''.join([]), words|join(', '), xs|join, people|join(', ', attribute='name')
'abc'.upper(), 'ABC'.lower(), 'hello world'.title(), 'hELLO'.capitalize(), '\u00df\ufb01'|upper, '\u00c9\u0130'|lower | '12'.isdigit(), 'a1'.isalnum(), 'ab'.isalpha(), ' '.isspace(), 'x'.islower(), 'X'.isupper(), ''.isdigit() | 'abc'.removeprefix('a'), 'abc'.removesuffix('c'), 'a=b=c'.partition('='), 'a=b=c'.rpartition('='), 'abc'.partition('=') | 'x'.ljust(3) ~ '|', 'x'.rjust(3, '-'), 'x'.center(4) ~ '|', 'ab'.center(5, '*')
d|tojson | d|tojson(indent=2) | people|tojson(indent=4, sort_keys=true) | d|tojson(separators=(',', ':')) | s|tojson, s|tojson(ensure_ascii=true), html|tojson, "\u007f\u0001\n\t\\\"\b\f"|tojson | nums|tojson, nums | [[], {}, [[]]]|tojson(indent=1) | {'1': {2: true, none: 1.5}}|tojson | zz|tojson | range|tojson | (1, 2)|tojson | []|tojson(indent=0) ~ [1]|tojson(indent=0)
xs|sort, xs|sort(reverse=true), words|sort, words|sort(case_sensitive=true), people|sort(attribute='age')|map(attribute='name')|list | xs|first, xs|last, []|first is defined, s|first, s|last, d|first | xs|min, xs|max, words|min, words|max, people|max(attribute='age') | xs|sum, people|sum(attribute='age'), xs|sum(start=10) | [1, 1, 2, 'a', 'A']|unique|list, xs|reverse|list, s|reverse, xs|list, s[:3]|list, d|list
people|map(attribute='name')|list, people|map(attribute='tags', default='-')|list, people|map(attribute='tags.0')|list, words|map('upper')|list, xs|map('string')|join('+'), words|map('replace', 'a', '_')|list | people|selectattr('age', 'equalto', 30)|map(attribute='name')|join(','), people|selectattr('tags', 'defined')|list|length, people|rejectattr('age', 'gt', 26)|map(attribute='name')|list, [0, 1, '', 'x']|select|list, xs|select('odd')|list, xs|reject('odd')|list, xs|select('gt', 1)|list, people|selectattr('tags')|list|length
d|dictsort, d|dictsort(reverse=true), {'B': 1, 'a': 2}|dictsort, {'B': 1, 'a': 2}|dictsort(case_sensitive=true), {'x': 2, 'y': 1}|dictsort(by='value') | d.items()|list, d.keys()|list, d.values()|list, d|items|list, d.get('b'), d.get('zz'), d.get('zz', 5), zz|items|list | method_names.items is defined, method_names['items'], method_names.get('get'), method_names['get'] | [1, 2, 3, 4, 5]|batch(2)|list, [1, 2, 3]|batch(2, 0)|list | xs.index(1), xs.count(3), xs.copy(), d.copy()
zz|default('x'), empty|default('x'), empty|default('x', true), nothing|default('x'), nothing|default('x', boolean=true), zz|d, d.zz|default(d.b) | '42'|int, '4.9'|int, 'x'|int, 'x'|int(5), '0x1f'|int(base=16), f|int, none|int, '  7 '|int, true|int, '1_0'|int(9) | '1.5'|float, 'x'|float, n|float, 'x'|float(2.5) | 2.567|round(2), 2.5|round, 3.5|round, 7|round, 2.1|round(method='ceil'), 2.19|round(1, 'floor'), -1.5|abs, -3|abs
lines|indent, lines|indent(2, true), lines|indent(2, blank=true), lines|indent('> ', first=true) | html|e, html|safe, (html|safe) + '<b>', '<b>' + (html|safe), (html|e)|e, html|escape|upper | 'one two_three 4'|wordcount, 'foo-bar (baz) [q]'|title | n|string + 'x', 1.0|string, true|string, none|string, xs|string, d|string, 'a\'b"c\n'|string, ['a\'b', "\x07\u00e9\u200b"]|string
range(3)|list, range(1, 4)|list, range(5, 0, -2)|list, range(0)|list, range(100001)|length | dict(a=1, b=2), dict({'x': 1}, y=2) | raise_exception('stop'), 1 | namespace(a=1).a, namespace({'b': 2}).b, namespace().c is defined | 'a' * 3, 3 * [0], 'a' * 0, 'a' * -1, [1] + [2], (1,) + (2,), 1 + 'a' | 'a' + 1 | [1] + (2,) | 1 / 0 | 5 % 0 | 'x' - 1 | -'x' | +5, +t
xs.append(4) | d.update({'q': 1}) | xs|nofilter | xs is notest | s.nomethod() | n.foo | n.foo.bar | n() | zz() | d.b() | s[1:2].upper() | (s|upper)[0] | xs|map('upper')|list|length | {'a': {'b': {'c': 5}}}.a.b.c | [[1, 2], [3]][0][1] | d|length, zz|length, n|length
""".strip()

TEMPLATES = [
    "a\n{% if t %}\n  b\n{% endif %}\nc\n", "  {% if t %}x{% endif %}  \n  {{ n }}  \n", "a {%- if t -%} b {%- endif -%} c", "a\n  {%+ if t %}\n b{% endif +%}\nc",
    "{# note #}\nx {#- gone -#} y {#+ z +#}\nw", "{% raw %}{{ n }}{% if %}{% endraw %}\nx", "a {%- raw -%} {{ x }} {%- endraw -%} b", "\n\nx\n\n", "x\r\ny\rz\n", "{{ n }}\n{{ n }}\n\n",
    "   {% set a = 1 %}   \n{{ a }}", "\t{#- c #}\n  {# d #}  \n e", "{{ '{{' }}{{ '%}' }}", "{{ {'a': {'b': 1}}['a']['b'] }}", "{{- n -}}  x", "a{{ n }}\n", "{%- set x = 'q' -%}\n\n{{ x }}",
    "{% for x in xs %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }};{% endfor %}",
    "{% for x in [] %}a{% else %}none{% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }},{% endfor %}", "{% for k in d %}{{ k }}{% endfor %}", "{% for c in 'h\u00e9y' %}{{ c }}.{% endfor %}",
    "{% for x in zz %}a{% else %}b{% endfor %}", "{% for x in nothing %}a{% endfor %}", "{% for x in 5 %}a{% endfor %}", "{% for x in xs if x > 1 %}{{ x }}{{ loop.length }}{% endfor %}",
    "{% for x in xs %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "{% for x in xs %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}", "{% for a, (b, c) in [[1, [2, 3]]] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for a, b in [[1, 2, 3]] %}{{ a }}{% endfor %}", "{% for x in xs %}{% for y in xs %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}", "{% for x in xs %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for node in tree recursive %}[{{ node.v }}:{{ loop.depth }}{{ loop(node.kids) }}]{% endfor %}", "{% for x in xs, 4 %}{{ x }}{% endfor %}", "{% for x in xs %}{{ x }}{% endfor %}{{ x }}|{{ loop }}",
    "{% set x = 1 %}{% for i in xs %}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}", "{% set ns = namespace(c=0) %}{% for i in xs %}{% set ns.c = ns.c + i %}{% endfor %}{{ ns.c }}", "{% set d.x = 1 %}", "{% set zz.x = 1 %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set (a, b) = xs[:2] %}{{ a }}{{ b }}", "{% set a = 1, 2 %}{{ a }}", "{% set x %}\n  in {{ n }}\n{% endset %}[{{ x }}]", "{% set x | trim | upper %}  abc {% endset %}[{{ x }}]", "{% set x = zz %}{{ x is defined }}",
    "{% if n > 9 %}a{% elif n > 5 %}b{% else %}c{% endif %}", "{% if t %}{% set q = 5 %}{% endif %}{{ q }}", "{% if false %}{% set q = 5 %}{% endif %}{{ q is defined }}", "{% if zz %}a{% else %}b{% endif %}", "{% if xs and d and s and not empty %}y{% endif %}",
    "{% macro m(a, b=2, c=a) %}{{ a }}-{{ b }}-{{ c }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(b=5, a=4) }} {{ m() }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(z=2) }}", "{% macro m(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, k=4) }}",
    "{% macro m() %}{{ x }}{% endmacro %}{% set x = 1 %}{{ m() }}{% set x = 2 %}{{ m() }}", "{% macro fact(k) %}{{ k if k < 2 else k * (fact(k - 1)|int) }}{% endmacro %}{{ fact(10) }}", "{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}in {{ n }}{% endcall %}",
    "{% macro each(items) %}{% for i in items %}{{ caller(i) }};{% endfor %}{% endmacro %}{% call(i) each(xs) %}{{ i * 2 }}{% endcall %}", "{% macro m(a) %}{% set a = a + 1 %}{{ a }}{% endmacro %}{{ m(1) }}{{ a is defined }}", "{% macro inf(x) %}{{ inf(x) }}{% endmacro %}{{ m is defined }}",
    "{% for x in xs %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% endfor %}", "{% macro a() %}A{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}", "{{ m(1) }}{% macro m(x) %}{{ x }}{% endmacro %}",
    "{% with a = 1, b = n %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}", "{% filter upper %}abc {{ n }} x{% endfilter %}", "{% filter trim | replace('a', 'b') %} aaa {% endfilter %}", "{% generation %}x{{ n }}{% endgeneration %}y", "{% print n, 'x' %}",
    "{% do xs.append(1) %}", "{% include 'x' %}", "{% if %}x{% endif %}", "{% for x xs %}{% endfor %}", "{{ n", "{% if t %}x", "{{ 'abc }}", "{{ n | }}", "{{ (1, 2 }}", "{% endif %}", "{{ 1 + }}", "{# open", "{% raw %}x",
    "{{ x is defined is true }}", "{% if n < 0 %}{{ n|sparkle }}{% endif %}y", "{% if n %}{{ n|sparkle }}{% endif %}y", "{% if n < 0 %}{{ n is shiny }}{% else %}z{% endif %}", "{{ nothing|map('upper')|list }}{{ none|selectattr('a')|list }}", "{% set true = 1 %}", "{% set 1 = 1 %}", "{{ n.1.x }}", "{{ f(*xs) }}", "{{ dict(**d).b }}", "{{ range(*[1, 4])|list }}", "{{ d.items }}" if False else "{{ d.items is callable }}", "{{ xs[0:2:1] }}{{ xs[:] }}{{ s[:2] }}",
    "{{ ns.x }}", "{{ [1,2,3,] }}{{ {'a':1,} }}{{ (1,2,) }}", "{{ n if t }}{{ n if not t }}", "{{ 'a' if t else 'b' if t else 'c' }}", "{{ n|string|length }}", "{{ -n|abs }}{{ (-n)|abs }}", "{{ not n is odd }}", "{{ n is not odd }}", "{{ 1 ~ 2 + 3 }}" if False else "{{ 1 ~ 2 ~ 3 }}",
    "{{ '%s' % n }}" if False else "{{ 'ok' }}", "{{ \"a\\\nb\" }}", "{{ '\\ud83d\\ude00' }}" if False else "{{ '\\U0001f600' }}", "{{ s[0:5] ~ '\u00e9' }}", "{{ 'caf\u00e9'|length }}", "{{ '\u00e9' == '\\u00e9' }}", "{{ none }}{{ None }}{{ True }}{{ False }}{{ true }}",
    "{{ messages is defined }}{{ tools }}{{ documents }}{{ add_generation_prompt }}",
]

TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Weather.\nOf a city.", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "description": "na\u00efve \"name\""}, "days": {"type": ["integer", "null"]},
                                     "units": {"enum": ["C", "F"]}, "at": {"type": "array", "items": {"type": "object", "properties": {
                                         "lat": {"type": "number"}, "lon": {"type": "number"}}, "required": ["lat"]}}},
    "required": ["city"]}}}, {"type": "retrieval"}]
CALLS = [{"role": "user", "content": "Weather in K\u00f6ln & <Bonn>?"},
         {"role": "assistant", "content": "", "reasoning_content": "\nI must look.\n", "tool_calls": [
             {"type": "function", "function": {"name": "weather", "arguments": {"city": "K\u00f6ln", "days": 2, "at": [{"lat": 50.9}], "x": None}}},
             {"name": "weather", "arguments": {"city": "Bonn", "opts": {"a": True}}}]},
         {"role": "tool", "content": "rain"}, {"role": "tool", "content": "sun"},
         {"role": "assistant", "content": "<think>\nhm\n</think>\n\nRain and sun."}]
CONVERSATIONS = [
    {"messages": [{"role": "user", "content": "Hi"}]},
    {"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": True},
    {"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": True, "enable_thinking": False},
    {"messages": [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<think>\nold\n</think>\n\nHello"},
                  {"role": "user", "content": "More"}], "add_generation_prompt": True, "bos_token": "<bos>"},
    {"messages": CALLS, "tools": TOOLS, "add_generation_prompt": True},
    {"messages": [{"role": "system", "content": "S"}] + CALLS + [{"role": "user", "content": "Thanks"}], "tools": TOOLS},
    {"messages": CALLS[:3] + [{"role": "user", "content": "<answer>x</answer>"}], "tools": []},
    {"messages": [{"role": "user", "content": [{"type": "image", "image": "u"}, {"type": "text", "text": "What? "}, {"type": "image_url", "image_url": {"url": "v"}}]}],
     "number_pictures": True, "add_generation_prompt": True},
    {"messages": [{"role": "system", "content": [{"type": "image"}]}, {"role": "user", "content": "x"}]},
    {"messages": [{"role": "user", "content": [{"type": "sound"}]}]}, {"messages": []}, {"messages": [{"role": "judge", "content": "x"}]},
    {"messages": [{"role": "assistant", "content": "x"}]}, {"messages": [{"role": "user", "content": None}]}, {"messages": [{"role": "user", "content": 5}]},
]


class Generation(jinja2.ext.Extension):
    """{% generation %} renders as its body."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda format: ""
    return env


def render(source, context):
    """The text, or None for any exception. Like transformers, passes tools and documents always."""
    context = {"tools": None, "documents": None, "add_generation_prompt": False, **context}
    try:
        return environment().from_string(source).render(**context)
    except Exception:  # what kind of error it is differs between the two by nature
        return None


def expressions():
    """Alternatives are separated by " | " (with spaces); filters are written without them."""
    return ["{{ " + e.strip() + " }}" for line in EXPRESSIONS.splitlines() for e in line.split(" | ")]


def main():
    one_line = [{"template": t, "expected": render(t, CONTEXT)} for t in expressions() + TEMPLATES]
    whole = []
    for path in sorted((OUT / "templates").glob("*.jinja")):
        source = path.read_text()
        whole += [{"file": path.name, "context": c, "expected": render(source, c)} for c in CONVERSATIONS]
    goldens = {"made_with": f"jinja2 {jinja2.__version__}", "context": CONTEXT, "one_line": one_line, "templates": whole}
    (OUT / "chat_goldens.json").write_text(json.dumps(goldens, ensure_ascii=True, indent=0) + "\n")


if __name__ == "__main__":
    main()
