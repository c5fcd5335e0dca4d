"""What programs are compiled against stays: header, library and this package's ctypes say the same of one ABI."""

import ctypes
import os
import re
import shutil
import subprocess
from pathlib import Path

import c_header
import moe4
import pytest
from moe4 import _library

ROOT = Path(__file__).resolve().parents[2]
HEADER = (ROOT / "include/moe4/moe4.h").read_text()
DECLARATIONS = c_header.declarations(HEADER)
ABI = int(re.search(r"#define MOE4_ABI (\d+)", HEADER)[1])
STRUCTS = {
    "moe4_stacked_linear": _library.StackedLinear,
    "moe4_layer_desc": _library.LayerDesc,
    "moe4_apply_args": _library.ApplyArgs,
    "moe4_candidate": _library.Candidate,
    "moe4_model_options": _library.ModelOptions,
}


def test_declarations_are_those_of_the_abi():
    recorded = (ROOT / f"tests/capi/abi_{ABI}.txt").read_text().splitlines()
    assert recorded == DECLARATIONS, (
        f"moe4.h differs from tests/capi/abi_{ABI}.txt, on which programs rely. A new function may be added there; for "
        "anything else raise MOE4_ABI, in moe4/_library.py too, and write the next file with tests/python/c_header.py."
    )


def test_declarations_say_what_a_compiler_sees():
    """Every kind of change shows in the text."""
    for before, after in (
        ("int64_t top_k;", "int32_t top_k;"),  # a type
        ("int64_t top_k;", "int64_t top_n;"),  # a name
        ("int batch_invariant;     /*", "int batch_invariant; int more; /*"),  # a field in the padding at the end
        ("float alpha, beta; ", "float beta, alpha; "),  # an order
        ("MOE4_F32 = 2", "MOE4_F32 = 3"),  # a value
        ("int moe4_abi(void)", "long moe4_abi(void)"),  # a result
        ("void moe4_free(void* p);", ""),  # a function
        ("char** json);", "char** json, int flags);"),  # a parameter
    ):
        assert before in HEADER, before
        assert c_header.declarations(HEADER.replace(before, after)) != DECLARATIONS, after
    assert c_header.declarations(HEADER.replace("max_tokens", "most_tokens")) == DECLARATIONS  # no name of a parameter


@pytest.mark.skipif(shutil.which("nm") is None, reason="binutils read what a library exports")
def test_the_library_exports_what_is_declared_and_nothing_else():
    path = os.environ.get("MOE4_LIBRARY") or Path(moe4.__file__).with_name("libmoe4.so")
    listing = subprocess.run(["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True).stdout
    exported = sorted(line.split()[-1] for line in listing.splitlines())
    assert exported == c_header.functions(DECLARATIONS)


def test_ctypes_know_every_function():
    assert sorted(_library._FUNCTIONS) == c_header.functions(DECLARATIONS)


@pytest.mark.parametrize("name", STRUCTS)
def test_ctypes_structures_are_the_headers(name):
    numbers = {"size_t": "Q", "int64_t": "q", "int": "i", "float": "f", "double": "d"}

    def kind(declared):
        """How ctypes calls a type: a pointer, or a number's format; enumerations are ints."""
        return "P" if "*" in declared else numbers.get(declared, "i")

    def kind_of(found):
        if issubclass(found, ctypes._SimpleCData):
            code = found._type_
            return "P" if code in "Pz" else {"L": "Q", "l": "q"}.get(code, code)
        return "P"

    expected = [(field, kind(declared)) for declared, field in c_header.structs(DECLARATIONS)[name]]
    assert [(field, kind_of(found)) for field, found in STRUCTS[name]._fields_] == expected


def test_the_package_and_the_library_have_one_abi():
    assert _library.library().moe4_abi() == _library.ABI == ABI
