"""Reads include/moe4/moe4.h: its declarations as lines that say all a program is compiled against.

    python3 tests/python/c_header.py include/moe4/moe4.h > tests/capi/abi_2.txt     # after a new MOE4_ABI
"""

import re
import sys
from pathlib import Path


def declarations(header: str) -> list[str]:
    """One line a struct, field, enumerator, function and type; nothing of comments and names of parameters."""
    text = re.sub(r"/\*.*?\*/", " ", header, flags=re.S)
    text = re.sub(r"^#.*$", "", text, flags=re.M)
    text = " ".join(text.replace('extern "C" {', "").split())
    lines = []
    for body in re.findall(r"[^;{}]+(?:\{[^{}]*\}[^;{}]*)?;", text):
        declaration = body.rstrip(";").strip()
        record = re.fullmatch(r"typedef (struct|enum) (\w+) \{(.*)\} \2", declaration)
        if record:
            lines.append(f"{record[1]} {record[2]}")
            lines += [f"  {member}" for member in members(record[1], record[3])]
        else:
            lines.append(re.sub(r"\(([^()]*)\)$", lambda found: f"({parameters(found[1])})", declaration))
    return lines


def members(kind: str, body: str) -> list[str]:
    if kind == "enum":
        return [" ".join(value.split()) for value in body.split(",") if value.strip()]
    found = []
    for field in filter(None, (part.strip() for part in body.split(";"))):
        if "(" in field:
            found.append(field)
            continue
        # Several fields of a type, which may be pointers: "int a, b", "const x *a, *b".
        first, *others = field.split(",")
        words, name = re.fullmatch(r"(.*?)\s*(\*?\s*\w+)", first).groups()
        for each in [name, *others]:
            each = each.strip()
            stars = "*" * each.count("*")
            found.append(f"{words}{stars} {each.strip('* ')}")
    return found


def parameters(text: str) -> str:
    return ", ".join(re.sub(r"(?<=[\s*])\w+$", "", each.strip()).strip() for each in text.split(","))


def functions(lines: list[str]) -> list[str]:
    return sorted(re.search(r"(moe4_\w+)\(", line)[1] for line in lines if re.match(r"(?!typedef|  )\S.*\(", line))


def structs(lines: list[str]) -> dict[str, list[tuple[str, str]]]:
    """Types and names of every struct's fields."""
    found: dict[str, list[tuple[str, str]]] = {}
    current = None
    for line in lines:
        if not line.startswith("  "):
            current = line.removeprefix("struct ") if line.startswith("struct ") else None
        elif current:
            pointer = re.fullmatch(r"  (.*\(\*)(\w+)(\).*)", line)
            kind, name = (pointer[1] + pointer[3], pointer[2]) if pointer else line.strip().rsplit(" ", 1)
            found.setdefault(current, []).append((kind, name))
    return found


if __name__ == "__main__":
    print("\n".join(declarations(Path(sys.argv[1]).read_text())))
