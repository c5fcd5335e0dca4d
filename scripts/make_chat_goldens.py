#!/usr/bin/env python3
"""Writes tests/data/text/chat_goldens.json and format_goldens.json: what jinja2, set up as transformers does, renders.

Needs the `jinja2` package. Run from the repository root: python3 scripts/make_chat_goldens.py
The templates in tests/data/text/templates are inputs; one-line templates are below.
"""

import json
import pathlib
import random

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
    "{{ x is defined is true }}", "{% if n < 0 %}{{ n|sparkle }}{% endif %}y", "{% if n %}{{ n|sparkle }}{% endif %}y", "{% if n < 0 %}{{ n is shiny }}{% else %}z{% endif %}", "{{ nothing|map('upper')|list }}{{ none|selectattr('a')|list }}", "{% set true = 1 %}", "{% set 1 = 1 %}", "{{ n.1.x }}", "{{ f(*xs) }}", "{{ dict(**d).b }}", "{{ range(*[1, 4])|list }}", "{{ d.items is callable }}", "{{ xs[0:2:1] }}{{ xs[:] }}{{ s[:2] }}",
    "{{ ns.x }}", "{{ [1,2,3,] }}{{ {'a':1,} }}{{ (1,2,) }}", "{{ n if t }}{{ n if not t }}", "{{ 'a' if t else 'b' if t else 'c' }}", "{{ n|string|length }}", "{{ -n|abs }}{{ (-n)|abs }}", "{{ not n is odd }}", "{{ n is not odd }}", "{{ 1 ~ 2 + 3 }}", "{{ 1 ~ 2 ~ 3 }}",
    "{{ '%s' % n }}", "{{ \"a\\\nb\" }}", "{{ '\\U0001f600' }}", "{{ s[0:5] ~ '\u00e9' }}", "{{ 'caf\u00e9'|length }}", "{{ '\u00e9' == '\\u00e9' }}", "{{ none }}{{ None }}{{ True }}{{ False }}{{ true }}",
    "{{ messages is defined }}{{ tools }}{{ documents }}{{ add_generation_prompt }}",
]

# One a line: constructs of formatting, texts, integers and stateful functions.
MORE = r"""
{{ '{}-{}'.format(1, 'b') }}
{{ '{1}{0}{1}'.format('a', 'b') }}
{{ '{x} {y.name} {y[age]} {z[0]} {z[1]:>4}'.format(x=n, y=people[0], z=xs) }}
{{ '{0.name}|{0[tags][0]}|{0.nope}|{0[nope]}'.format(people[0]) }}
{{ '{{}} {{{}}}'.format(n) }}
{{ '{!r} {!s} {!a}'.format('é', 'é', 'é') }}
{{ '{:{}}|{:{w}.{p}}'.format('ab', 5, f, w=8, p=3) }}
{{ '{:{}{}}'.format('x', '*^', 7) }}
{{ '{0:{1}} {1}'.format(n, 4) }}
{{ '{}'.format() }}
{{ '{a}'.format() }}
{{ '{'.format(1) }}
{{ '}'.format(1) }}
{{ '{0'.format(1) }}
{{ '{!x}'.format(1) }}
{{ '{!r'.format(1) }}
{{ '{!rq}'.format(1) }}
{{ '{} {0}'.format(1) }}
{{ '{0} {}'.format(1, 2) }}
{{ '{:{:{}}}'.format(1, 2, 3) }}
{{ '{:{:{:{}}}}'.format(1, 2, 3, 4) }}
{{ '{0[}'.format(xs) }}
{{ '{0[]}'.format(xs) }}
{{ '{0[0]x}'.format(xs) }}
{{ '{0.}'.format(d) }}
{{ '{0[9]}'.format(xs) }}
{{ '{a[b]}'.format(a={'b': 'c'}) }}
{{ '{a[:]}{a[!]}'.format(a={':': 1, '!': 2}) }}
{{ '{} {} {} {}'.format(none, true, zz, [1, 'a']) }}
{{ '{:5}'.format(none) }}
{{ '{:5}'.format(xs) }}
{{ '{:>6}|{:<6}|{:^6}|{:=6}'.format(true, false, true, n) }}
{{ '{:é^9}'.format('ü') }}
{{ '{a} {b}'.format_map({'a': 1, 'b': xs}) }}
{{ '{a}'.format(**{'a': 5}) }}
{{ '{} {}'.format(*xs[:2]) }}
{{ '{self}'.format(self=1) }}
{{ '%s %s' % (1, 'b') }}
{{ '%s' % n }}
{{ '%s' % (xs,) }}
{{ '%s' % xs }}
{{ '%s %s' % xs }}
{{ '%(a)s %(b)05.1f %(a)r' % {'a': 'x', 'b': 2.25} }}
{{ '%(a)s' % xs }}
{{ '%(a)s' % {} }}
{{ '%(a(b)c)s' % {'a(b)c': 1} }}
{{ '%(a' % {'a': 1} }}
{{ '%s %s' % 1 }}
{{ '%s' % (1, 2) }}
{{ 'x' % 1 }}
{{ 'x' % {} }}
{{ 'x' % [] }}
{{ 'x' % () }}
{{ 'x' % zz }}
{{ '%s|%r' % (zz, zz) }}
{{ '100%% %d%%' % 5 }}
{{ '%' % 1 }}
{{ '%5' % 1 }}
{{ '%q' % 1 }}
{{ '%d' % '1' }}
{{ '%d %i %u' % (1.9, -1.9, true) }}
{{ '%x' % 1.5 }}
{{ '%x %X %o %#x %#X %#o %#d' % (255, 255, 8, 255, 255, 8, 8) }}
{{ '%c%c%c' % (65, 'é', 8364) }}
{{ '%c' % 'ab' }}
{{ '%c' % 1114112 }}
{{ '%5c|%-5c|' % ('a', 98) }}
{{ '%*d|%-*d|%*.*f' % (5, 42, 5, 42, 8, 2, 3.14159) }}
{{ '%*d' % ('a', 1) }}
{{ '%*s|' % (-6, 'ab') }}
{{ '%.3s|%10.2s|%-10.2s|%.0s|%.s' % ('abcdef', 'abc', 'abc', 'x', 'y') }}
{{ '%+d % d %+d % d %05d %-5d| %+05d %x' % (1, 1, -1, -1, -42, 42, 42, -255) }}
{{ '%.5d|%8.5d|%-8.5d|%08.5d|%.0d' % (42, 42, -42, 42, 0) }}
{{ '%e %E %f %F %g %G' % (1234.5, 1234.5, 1234.5, 1e300, 1e-5, 1e20) }}
{{ '%.0f %.1f %5.1f|%-8.2f|%+.3e|%#.0f %#g' % (2.5, 0.25, 3.14159, 2.5, 12345.678, 3.0, 1.0) }}
{{ '%f' % 'x' }}
{{ '%f %d' % (n, n) }}
{{ '%ld %hd %Lf' % (1, 2, 3) }}
{{ '%r %a %s' % ('é', 'é', 'é') }}
{{ '%10r|%-10r|' % ('a', 'b') }}
{{ '%s' % (1,) ~ '%' }}
{{ '%s has %d' | format('x', 3) }}
{{ '%(a)s %(b)s' | format(a=1, b=2) }}
{{ '%s' | format(1, a=2) }}
{{ '%s' | format }}
{{ 5 | format }}
{{ 'abc'.startswith('b', 1), 'abc'.startswith('a', 1), 'abc'.startswith(('x', 'c'), 2), 'abc'.startswith('', 3), 'abc'.startswith('', 4) }}
{{ 'abc'.endswith('b', 0, 2), 'abc'.endswith('c', 0, -1), 'abc'.endswith('c', -1), 'abc'.startswith('ab', 0, 1), 'abc'.endswith(['c']) }}
{{ 'abcb'.find('b', 2), 'abcb'.find('b', -1), 'abcb'.find('b', 0, 1), 'abcb'.rfind('b', 0, 3), 'a</x>b'.rfind('<', 0, 3), 'abc'.find('', 3), 'abc'.find('', 4), 'abc'.rfind('', 1, 2) }}
{{ 'éaéa'.find('a', 2), 'éaéa'.rfind('é', 0, 2), 'éaéa'.index('é', 1), 'éaéa'.rindex('é'), 'banana'.count('a', 2), 'banana'.count('an', 0, 4), 'abc'.count('', 1), 'abc'.count('', 4) }}
{{ 'abc'.index('z') }}
{{ 'abc'.rindex('z') }}
{{ 'abc'.find('b', none, none), 'abcb'.find('b', 2, none), 'abc'.startswith('b', none) }}
{{ '42'.zfill(5), '-42'.zfill(5), '+4'.zfill(4), 'abc'.zfill(2), ''.zfill(2), '--1'.zfill(5) }}
{{ 'a\tbc\td'.expandtabs(), 'a\tb'.expandtabs(4), 'ab\n\tc'.expandtabs(2), '\t'.expandtabs(0) }}
{{ 'aBc DeF'.swapcase(), 'Straße'.casefold(), 'ΑΣ'.casefold(), 'ﬁ'.swapcase() }}
{{ 'abc'.isascii(), 'é'.isascii(), ''.isascii(), '12'.isdecimal(), '²'.isdecimal(), '²'.isdigit(), '½'.isnumeric(), '五'.isnumeric(), '五'.isdigit(), '²'.isalnum() }}
{{ 'a b'.isprintable(), 'a\n'.isprintable(), ''.isprintable(), 'Ab Cd'.istitle(), 'AB'.istitle(), 'Ab cd'.istitle(), ''.istitle(), 'ⅳ'.islower(), 'Ⅳ'.isupper(), 'ª'.islower() }}
{{ 'ΟΔΟΣ'.lower(), 'ΟΔΟΣ ΟΔΟΣ.'.lower(), 'Σ'.lower(), 'ΑΣΑ'.lower(), "ΑΣ'Α".lower(), "Α'Σ".lower(), 'ΑΣ\u0301'.lower(), '\u0345Σ'.lower(), 'ΟΔΟΣ'.title(), 'ΟΔΟΣ'|lower, 'ΟΔΟΣ'|title, 'ΟΔΟΣ'|capitalize }}
{{ 'straße'.capitalize(), 'ßx'.capitalize(), 'ßx'.title(), 'ßx'|title, 'ßx'|capitalize, 'ǆx'.capitalize(), 'ǆx'.upper(), 'ǅ'.lower(), 'ﬁx'.title(), 'ŉ'.title(), 'ᾳ'.upper(), 'ᾳ'.title(), 'ᾲ'.title(), 'ΐ'.upper(), 'İ'.lower() }}
{{ "it's o'neil x-y (ab) [cd] {ef} <gh>"|title, "it's o'neil x-y".title(), 'a\u00a0b\u2003c'|title }}
{% set sep = joiner(', ') %}{% for x in xs %}{{ sep() }}{{ x }}{% endfor %}
{% set sep = joiner() %}{{ sep() }}a{{ sep() }}b{{ sep() }}
{% set sep = joiner(sep='|') %}{{ sep() }}{{ sep() }}
{% set c = cycler('a', 'b', 'c') %}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.reset() }}{{ c.current }}
{{ cycler() }}
{% for x in [1, 1, 2, 2, 1] %}{% if loop.changed(x) %}{{ x }}{% endif %}{% endfor %}
{% for x in [1, 1, 2] %}{{ loop.changed(x, 'k') }}{{ loop.changed() }}{% endfor %}
{{ lipsum is defined }}
{{ people|groupby('age')|list }}
{% for g in people|groupby('age') %}{{ g.grouper }}:{{ g.list|length }}{{ g[0] }};{% endfor %}
{% for age, who in people|groupby('age') %}{{ age }}={{ who|map(attribute='name')|join('+') }};{% endfor %}
{{ people|groupby('tags', default='none')|length }}
{{ [{'k': 'a'}, {'k': 'B'}, {'k': 'A'}]|groupby('k'), [{'k': 'a'}, {'k': 'B'}, {'k': 'A'}]|groupby('k', case_sensitive=true) }}
{{ [1, 2, 3, 4, 5, 6, 7]|slice(3)|list, [1, 2]|slice(3, 'x')|list, []|slice(2)|list }}
{{ xs|slice(0)|list }}
{{ 'one two three four'|truncate(12), 'one two three four'|truncate(12, true), 'one two three four'|truncate(12, false, '!', 0), 'short'|truncate(3), 'short'|truncate(3, leeway=0), 'éééééééééééé'|truncate(5, true, '') }}
{{ 'abc'|truncate(2) }}
{{ 'a b/c?é&d=~'|urlencode, {'a b': 'c/d', 'e': 1}|urlencode, [['x', 'y z']]|urlencode, n|urlencode }}
{{ 0|filesizeformat, 1|filesizeformat, 999|filesizeformat, 1000|filesizeformat, 1234567|filesizeformat, 1234567|filesizeformat(true), '2000'|filesizeformat, 1e30|filesizeformat, 13.7|filesizeformat }}
{{ {'class': 'a b', 'id': none, 'x': '<"&'}|xmlattr, {'a': 1}|xmlattr(false), {}|xmlattr }}
{{ {'a b': 1}|xmlattr }}
{{ ('<b>'|safe)|forceescape, '<b>'|forceescape, ('<b>'|safe)|escape }}
{{ 9223372036854775807 + 1, -9223372036854775808 - 1, 9223372036854775807 * 9223372036854775807, 2 ** 64, 2 ** 200, -(2 ** 63), -(2 ** 64) }}
{{ 12345678901234567890123, 0xFFFFFFFFFFFFFFFFFFFF, 0b1111111111111111111111111111111111111111111111111111111111111111111, 0o7777777777777777777777777, 1_000_000_000_000_000_000_000 }}
{{ 12345678901234567890123|tojson, [2 ** 64]|tojson, {'a': 2 ** 64}, {2 ** 64: 1}[2 ** 64], {2 ** 64: 1}[2.0 ** 64], {2.0 ** 64: 1}[2 ** 64] }}
{{ 2 ** 64 == 2.0 ** 64, 2 ** 64 + 1 == 2.0 ** 64, 2 ** 53 + 1 == 2.0 ** 53, 2 ** 53 + 1 > 2.0 ** 53, 2 ** 64 < 2 ** 65, 2 ** 64 > 1e300, -(2 ** 64) < 0.5, 2 ** 64 in [2 ** 64], 2 ** 64 is sameas 1 }}
{{ '123456789012345678901234567890'|int, '-99999999999999999999'|int + 1, 1e20|int, '1e25'|int, 'ffffffffffffffffffff'|int(base=16), (2 ** 70)|int, (2 ** 70)|float, (2 ** 70)|abs, -(2 ** 70)|abs, (2 ** 70)|round, (2 ** 70)|string }}
{{ (2 ** 70) is integer, (2 ** 70) is number, (2 ** 70) is odd, (2 ** 70 + 1) is odd, (2 ** 70) is divisibleby(1024), 2 ** 70 is float, (2 ** 70) and 'yes' }}
{{ 'y' if []|map('upper') else 'n' }}{{ 'y' if []|select else 'n' }}{{ 'y' if {}.items() else 'n' }}{{ 'y' if range(0) else 'n' }}{{ 'y' if none|reject else 'n' }}
{% set g = words|map('upper') %}{{ g|list }}{{ g|list }}{{ g|first is defined }}
{% set g = xs|select %}{{ g|first }}{{ g|first }}{{ g|list }}
{% set g = xs|select %}{{ 1 in g }}{{ g|list }}{{ 5 in g }}
{% set g = d.items() %}{{ g|list }}{{ g|list }}{{ g|length }}
{{ xs|map('string')|length }}
{{ xs|reverse|length }}
{{ xs|unique|last }}
{{ (xs|map('string'))[0] is defined }}{{ d.keys()[0] is defined }}{{ range(3)[1] }}{{ range(5)[-1] }}
{{ (xs|map('string'))[1:] }}
{{ d.items()[:1] }}
{{ xs|map('string')|tojson }}
{{ d.keys()|tojson }}
{{ range(2)|tojson }}
{{ d.keys() }}{{ d.values() }}{{ d.items() }}{{ range(3) }}{{ range(1, 9, 2) }}{{ range(3)|list }}
{{ d.keys() + [1] }}
{{ range(2) + [1] }}
{{ range(2) * 2 }}
{{ [1] + (xs|select|list) }}
{{ range(3) == [0, 1, 2], range(3) == range(3), xs == xs|select, d.keys() == d.keys() }}
{{ (xs|select) is sequence, d.keys() is sequence, range(2) is sequence, (xs|select) is iterable, d.items() is iterable, range(2) is iterable }}
{% for x in xs|reverse %}{{ loop.index }}{{ loop.length }}{{ loop.last }}{{ x }}{% endfor %}
{% for k, v in d|items %}{{ k }}{{ v }}{% endfor %}{% for x in xs|batch(2) %}{{ x }}{% endfor %}
{{ dict([('a', 1), ['b', 2]]), dict(d.items()) == d, dict([(1, 2, 3)]) if false }}
{{ dict([1]) }}
{{ range(3)|reverse|list, range(3)|sum, range(3)|join(','), range(10)[2:4]|list, d.keys()|sort, d|reverse|list }}
{{ xs|map('string')|reverse, xs|map('string')|join, xs|unique|sort, xs|select|max }}
{{ self.nothing }}x{{ self is defined }}
{{ 2 ** -1, 10 ** -2, 0 ** 0, (-2) ** 3, 2 ** 0.5, 2.0 ** 3, (-8) ** 2 }}
{{ 0 ** -1 }}
{{ 0.0 ** -1 }}
{{ 10.0 ** 400 }}
{{ (2 ** 70) ~ '', '%s' % 2 ** 2 if false else '%d' % (2 ** 70), '%x' % (2 ** 70), '{:,}'.format(2 ** 70), '{:#x}'.format(-(2 ** 70)) }}
{{ 10 ** 4299 > 0, (10 ** 4299)|string|length }}
{{ 10 ** 4300 }}
{{ (2 ** 2000) * 1.0 }}
{{ 2 ** 2000 / 2 ** 1990, 2 ** 70 / 3, 7 / 2 ** 70, 9007199254740993 / 1, 2 ** 1023 * 1.0 }}
{{ 2 ** 3000 / 3 }}
{{ 'a' * 2 ** 70 }}
{{ "\u007f\u0080\u00e9\ud83d\ude00"|tojson(ensure_ascii=true) }}
{{ xs[2 ** 70] is defined }}
{{ range(2 ** 70) }}
{{ 7 // 0.5, 1 // 0.1, -7 // 2.0, 7 % -2.5, -7 % 2.5, 6.0 % 3, -6.0 % 3, 5.5 // -2, 0.3 % 0.1 }}
{{ 007 }}
{{ 00, 0_0, 0 }}
{{ -9223372036854775808, - 9223372036854775808 // -1, -7 // 2, 7 // -2, -7 % 3 }}
""".strip().splitlines()

FORMAT_VALUES = ["0", "7", "-42", "255", "1234567", "2 ** 70", "-(2 ** 64)", "true", "0.0", "-0.0", "2.5", "-1234.5678", "1e16",
                 "123456789.125", "1e-7", "0.1", "'h\u00e9llo'", "''", "none"]
FORMAT_SPECS = ["", "d", "5", "<5", ">8", "^9", "=9", "*^12", "05", "012,", "<08", "+", " ", "-", "+d", ",", "_", ",d", "_x", "x", "X", "#x", "#X", "b",
                "#b", "o", "#o", "c", "n", "e", ".2e", "E", "f", ".0f", "#.0f", ".2f", "+.1f", "012.3f", "015,.2f", ",.3f", "_.1f", "F", "g", ".3g", "#g", "G",
                ".10g", "%", ".1%", ".3", ".0", ".1", "10.3", ".30f", ".1100e", "s", ".2s", ">10s", "=5s", "+s", "z.1f", "z", "zd", "#s", ",s", "y", "5.", "{", ",_",
                "0=+10", "x<10", "<<5", "\u00e9>7", ".5d", "+c", ",x", ",c"]
PERCENT_SPECS = ["d", "5d", "-5d|", "05d", "+d", " d", "-05d|", "+05d", ".3d", "8.3d", "08.3d", "x", "X", "#x", "#X", "o", "#o", "#010x", "i", "u", "e", ".2e", "E", "f",
                 ".0f", "#.0f", ".2f", "+.1f", "010.3f", "-10.3f|", " .1f", "F", "g", ".3g", "#g", "G", "10g", "s", "10s", "-10s|", ".2s", "010s", "r", "a", "c", "5c",
                 "ld", "y", ".", "5", ".30f"]


def integers():
    """Expressions with integers of all sizes."""
    rng = random.Random(7)
    some = [0, 1, -1, 2**31, 2**32, 2**63 - 1, 2**63, -2**63, 2**64, 2**96 - 1, 10**18, 10**19, 10**40]
    some += [rng.choice((1, -1)) * rng.getrandbits(rng.choice((20, 62, 64, 65, 96, 128, 200, 500))) for _ in range(40)]
    some += [(1 << 128) - (1 << 96), (1 << 160) - 1, (1 << 95) + 1]
    pairs = [(a, b) for a in some for b in some]
    rng.shuffle(pairs)
    return ["{{ (%d) %s (%d) }}" % (a, op, b) for op in ("+", "-", "*", "//", "%", "/", "<", "==") for a, b in rng.sample(pairs, 90)]


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
    one_line = [{"template": t, "expected": render(t, CONTEXT)} for t in expressions() + TEMPLATES + MORE]
    whole = []
    for path in sorted((OUT / "templates").glob("*.jinja")):
        source = path.read_text()
        whole += [{"file": path.name, "context": c, "expected": render(source, c)} for c in CONVERSATIONS]
    goldens = {"made_with": f"jinja2 {jinja2.__version__}", "context": CONTEXT, "one_line": one_line, "templates": whole}
    (OUT / "chat_goldens.json").write_text(json.dumps(goldens, ensure_ascii=True, indent=0) + "\n")

    def grid(specs, template):
        return [{"spec": s, "expected": [render("{{ " + template.format(spec=s, value=v) + " }}", {}) for v in FORMAT_VALUES]} for s in specs]

    formats = {"values": FORMAT_VALUES, "braces": grid(FORMAT_SPECS, "'{{:{spec}}}'.format({value})"), "percent": grid(PERCENT_SPECS, "'%{spec}' % ({value},)"),
               "integers": [{"template": t, "expected": render(t, {})} for t in integers()]}
    (OUT / "format_goldens.json").write_text(json.dumps(formats, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
