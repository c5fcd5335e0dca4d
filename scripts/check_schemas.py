#!/usr/bin/env python3
"""Compiles the schemas of the JSON-Schema-Test-Suite, tries its instances, and validates sampled texts.

A schema that compiles must accept every instance that the suite calls valid (written as the grammar
writes JSON) and no other, and texts sampled from its masks must be valid for Python's jsonschema.
Schemas that are refused are counted by keyword.

  check_schemas.py SUITE grammar_walk [--samples N] [--goldens FILE]

SUITE is a checkout of json-schema-org/JSON-Schema-Test-Suite (MIT licence). --goldens writes the extract
that the test data hold. Needs jsonschema[format] (4.26).
"""
import argparse
import collections
import decimal
import json
import pathlib
import re
import subprocess
import sys

import jsonschema

DRAFTS = {"draft2020-12": jsonschema.Draft202012Validator, "draft7": jsonschema.Draft7Validator}
# Formats are only annotations in this file; the grammar asserts them as those in optional/format do.
SKIPPED = {"format.json", "default.json", "vocabulary.json", "optional/format-assertion.json",
           "optional/dynamicRef.json", "optional/content.json", "optional/cross-draft.json", "optional/float-overflow.json"}


def written(value, properties=()):
    """An instance as the grammar spells it: no 1.0 for an integer, names in the schema's order."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    if isinstance(value, dict):
        order = {name: i for i, name in enumerate(properties)}
        names = sorted(value, key=lambda name: order.get(name, len(order)))
        return {name: written(value[name]) for name in names}
    if isinstance(value, list):
        return [written(item) for item in value]
    return value


def orders(schema, value):
    """Spellings of an instance: as it is, and with names in the orders that the schema may ask for."""
    texts = [json.dumps(written(value), ensure_ascii=False)]
    names, seen = [], set()

    def collect(part):
        if isinstance(part, list):
            for item in part:
                collect(item)
        if not isinstance(part, dict):
            return
        if isinstance(part.get("properties"), dict):
            found.extend(part["properties"])
        if isinstance(part.get("required"), list):
            found.extend(part["required"])
        for keyword in ("dependentRequired", "dependencies"):
            if isinstance(part.get(keyword), dict):
                for name, others in part[keyword].items():
                    found.extend([name, *(others if isinstance(others, list) else [])])
        for item in part.values():
            collect(item)

    found = []
    collect(schema)
    for name in found:
        if isinstance(name, str) and name not in seen:
            seen.add(name)
            names.append(name)

    def sort(item):
        if isinstance(item, dict):
            return written({name: sort(part) for name, part in item.items()}, names)
        return [sort(part) for part in item] if isinstance(item, list) else item

    texts.append(json.dumps(sort(written(value)), ensure_ascii=False))
    return list(dict.fromkeys(texts))


def read_suite(suite):
    for draft in DRAFTS:
        folder = pathlib.Path(suite) / "tests" / draft
        for path in sorted(folder.rglob("*.json")):
            name = str(path.relative_to(folder))
            if name in SKIPPED:
                continue
            for group in json.loads(path.read_text()):
                # Before 2019-09 a schema has to say so: $ref stands alone there.
                if draft == "draft7" and isinstance(group["schema"], dict):
                    group["schema"].setdefault("$schema", "http://json-schema.org/draft-07/schema#")
                yield draft, name, group


def keyword_of(error):
    where = error.removeprefix("JSON schema, ").split(": ")[0]
    return where.rsplit("/", 1)[-1] if "/" in where else error[:60]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("suite")
    parser.add_argument("program")
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--goldens")
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()

    groups = list(read_suite(args.suite))
    requests = []
    for draft, name, group in groups:
        texts = [orders(group["schema"], test["data"]) for test in group["tests"]]
        requests.append({"schema": json.dumps(group["schema"]), "texts": sum(texts, []), "samples": args.samples})
    answers = subprocess.run([args.program], input="\n".join(map(json.dumps, requests)), text=True,
                             capture_output=True, check=True).stdout.rstrip("\n").split("\n")
    counts = collections.Counter()
    refused = collections.Counter()
    goldens = []
    for (draft, name, group), answer in zip(groups, map(json.loads, answers), strict=True):
        where = f"{draft}/{name}: {group['description']}"
        counts["schemas"] += 1
        if answer["error"]:
            no_value = "matches no text" in answer["error"]
            valid = [test for test in group["tests"] if test["valid"]]
            if no_value and not valid:
                counts["compiled"] += 1
                counts["compiled, rightly without a value"] += 1
            elif no_value:
                counts["WRONG: no value"] += 1
                print("no value:", where)
            else:
                counts["refused"] += 1
                refused[keyword_of(answer["error"])] += 1
                if args.verbose:
                    print("refused:", where, "|", answer["error"])
            continue
        counts["compiled"] += 1
        accepts = iter(answer["accepts"])
        tests = []
        for test in group["tests"]:
            texts = orders(group["schema"], test["data"])
            accepted = [next(accepts) for _ in texts]
            counts["instances"] += 1
            if any(accepted) != test["valid"]:
                kind = "not accepted" if test["valid"] else "WRONG: accepted"
                counts[kind] += 1
                print(f"{kind}: {where}: {test['description']}: {texts[-1]}")
            else:
                for text, good in zip(texts, accepted):
                    if good or not test["valid"]:
                        tests.append([text, good])
        goldens.append({"from": f"{draft}/{name}", "schema": group["schema"], "tests": tests})
        # Formats are asserted by the grammar; the validator checks those that it can.
        validator = DRAFTS[draft](group["schema"], format_checker=DRAFTS[draft].FORMAT_CHECKER)
        for text in answer["samples"]:
            if not text:
                counts["samples given up"] += 1
                continue
            counts["samples"] += 1
            try:
                value = json.loads(text)
                problem = next(iter(validator.iter_errors(value)), None)
            except re.error:
                counts["samples with patterns that Python does not know"] += 1
                continue
            except Exception as error:  # noqa: BLE001: whatever it is, the sample is counted
                problem = error
            if getattr(problem, "validator", "") == "multipleOf":  # Python divides doubles
                if decimal.Decimal(str(problem.instance)) % decimal.Decimal(str(problem.validator_value)) == 0:
                    problem = None
            # jsonschema 4.26 takes any digit after a 0 for one after a leading 0.
            if getattr(problem, "validator_value", "") == "relative-json-pointer" and re.fullmatch(r"[1-9]\d*", value):
                problem = None
            if name == "optional/ecmascript-regex.json":  # \\s, \\d and \\w of Python are others
                problem = None
            if problem is not None:
                counts["WRONG: sample"] += 1
                print("sample:", where, "|", text[:200], "|", str(problem)[:200])
    for key, count in sorted(counts.items()):
        print(f"{count:7} {key}")
    print("refused by keyword:", dict(refused.most_common()))
    if args.goldens:
        lines = ",\n".join(json.dumps(golden, ensure_ascii=False, separators=(",", ":")) for golden in goldens)
        pathlib.Path(args.goldens).write_text(f"[\n{lines}\n]\n")
    return 1 if any(key.startswith("WRONG") for key in counts) else 0


if __name__ == "__main__":
    sys.exit(main())
