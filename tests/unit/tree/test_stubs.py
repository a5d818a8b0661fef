# SPDX-License-Identifier: MIT
"""What mypy is told of a C extension (scripts/stubs.py)."""

import ast

from cffi import FFI
from stubs import extensions, stub

SOURCE = """
#define LIMIT 4
#define WORKED_OUT ...
enum colour { RED, BLUE };
struct inner { int8_t small; };
struct card {
    uint32_t ids[2];
    struct inner one, many[3];
    struct { uint64_t reads; } count;
    union { uint32_t word; uint8_t byte; };
    struct card *next;
    bool on;
    double ratio;
};
struct opaque;
int card_open(const char *name, struct card *card, struct opaque **out);
void card_close(struct card *card);
"""


def classes(text: str) -> dict[str, dict[str, str]]:
    """Return each class of a stub with its members, and their types or parameters."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef):
            members = found[node.name] = {}
            for item in node.body:
                if isinstance(item, ast.AnnAssign):
                    members[ast.unparse(item.target)] = ast.unparse(item.annotation)
                elif isinstance(item, ast.FunctionDef):
                    words = f"({ast.unparse(item.args)}) -> {ast.unparse(item.returns or item)}"
                    members[item.name] = words
    return found


def test_what_is_declared_has_its_types() -> None:
    ffi = FFI()
    ffi.cdef(SOURCE)
    found = classes(stub(ffi))
    assert found["card"] == {
        "ids": "Any",
        "one": "inner",
        "many": "inner",
        "count": found_name(found, "reads"),
        "word": "int",
        "byte": "int",
        "next": "card",
        "on": "bool",
        "ratio": "float",
    }
    assert found["_Lib"] == {
        "LIMIT": "Final[int]",
        "WORKED_OUT": "Final[int]",
        "RED": "Final[int]",
        "BLUE": "Final[int]",
        "card_open": "(self, a0: Any, a1: card, a2: _Pointers[opaque], /) -> int",
        "card_close": "(self, a0: card, /) -> None",
    }
    assert found["opaque"] == {}


def found_name(found: dict[str, dict[str, str]], field: str) -> str:
    """The class that has a field: the one of a struct without a name."""
    (name,) = (name for name, members in found.items() if field in members)
    return name


def test_every_extension_has_its_stub() -> None:
    for path, ffi in extensions():
        assert path.read_text() == stub(ffi), f"{path}: make setup writes it"
        assert len(classes(path.read_text())["_Lib"]) > 10, path
