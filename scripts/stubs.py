# SPDX-License-Identifier: MIT
"""Write a .pyi beside each extension of C, from what cffi reads, so that mypy checks what Python calls.

A struct is a class with its fields, the same for the struct, a pointer to it and an array of it: cffi lets them
be used alike. Pointers to anything else are Any, so a pointer that Python passes on needs no cast.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cffi import model

ROOT = Path(__file__).resolve().parents[1]
HEAD = '''# Made by scripts/stubs.py from what cffi read of the C headers.
from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, Literal, Self, TypeVar, overload

_T = TypeVar("_T")

class _Pointers(Generic[_T]):
    """Pointers to structs, as a function stores them."""

    def __getitem__(self, index: int) -> _T: ...

class _Struct:
    """A struct, a pointer to one, or an array of them."""

    def __getitem__(self, index: int) -> Self: ...
    def __iter__(self) -> Iterator[Self]: ...
    def __len__(self) -> int: ...
'''
FLOATS = ("float", "double")


def type_of(c: model.BaseTypeByIdentity, *, given: bool = False) -> str:
    """Return the Python type of a value of C. given: it is one that Python passes, which may be more."""
    match c:
        case model.VoidType():
            return "None"
        case model.PrimitiveType():
            if c.name == "char":
                return "bytes"
            if c.name == "_Bool":
                return "bool"
            return "float" if c.name in FLOATS else "int"
        case model.StructOrUnion():
            return name_of(c)
        case model.PointerType(totype=model.StructOrUnion() as struct):
            return name_of(struct)
        case model.ArrayType(item=model.StructOrUnion() as struct):
            return name_of(struct)
        case model.PointerType(totype=model.PointerType(totype=model.StructOrUnion() as struct)):
            return f"_Pointers[{name_of(struct)}]"
        case model.EnumType() | model.UnknownIntegerType():
            return "int"
        case model.BaseFunctionType() if not given:
            parameters = ", ".join(type_of(arg) for arg in c.args)
            return f"Callable[[{parameters}], {type_of(c.result)}]"
    return "Any"


def name_of(struct: model.StructOrUnion) -> str:
    return str(struct.name or struct.forcename).replace("$", "_")


def fields(struct: model.StructOrUnion) -> Iterator[tuple[str, model.BaseTypeByIdentity]]:
    """Yield a struct's fields; those of a nameless member are its own."""
    for name, c in zip(struct.fldnames or (), struct.fldtypes or (), strict=True):
        if name:
            yield name, c
        else:
            yield from fields(c)


def structs(declarations: dict[str, model.BaseTypeByIdentity]) -> dict[str, model.StructOrUnion]:
    """Return all structs that are declared or are in one that is."""
    found: dict[str, model.StructOrUnion] = {}

    def add(c: object) -> None:
        match c:
            case model.PointerType():
                add(c.totype)
            case model.ArrayType():
                add(c.item)
            case model.BaseFunctionType():
                for part in (*c.args, c.result):
                    add(part)
            case model.StructOrUnion() if name_of(c) not in found:
                found[name_of(c)] = c
                for _, part in fields(c):
                    add(part)

    for c in declarations.values():
        add(c)
    return found


def overloads(function: str, value: str, name: str, struct: Any) -> Iterator[str]:
    """Yield what ffi.new() and ffi.cast() return for a struct's name."""
    spelled = struct.get_official_name()
    ways = ", ".join(f'"{spelled} {way}"' for way in ("*", "[]", "[1]"))
    for cdecl, made in ((ways, name), (f'"{spelled} **"', f"_Pointers[{name}]")):
        yield "    @overload"
        yield f"    def {function}(self, cdecl: Literal[{cdecl}], {value}) -> {made}: ..."


def stub(ffi: Any) -> str:
    """Return the text of an extension's .pyi."""
    declared = {key: c for key, (c, _) in ffi._parser._declarations.items()}
    known = structs(declared)
    lines = [HEAD]
    for name, struct in known.items():
        lines.append(f"class {name}(_Struct):")
        body = [f"    {field}: {type_of(c)}" for field, c in fields(struct)]
        lines += [*(body or ["    pass"]), ""]
    lines.append("class _Lib:")
    for key, c in declared.items():
        kind, _, name = key.partition(" ")
        if kind in ("macro", "constant"):
            lines.append(f"    {name}: Final[int]")
        elif kind == "function":
            arguments = [f", a{n}: {type_of(arg, given=True)}" for n, arg in enumerate(c.args)]
            slash = ", /" if arguments else ""
            lines.append(
                f"    def {name}(self{''.join(arguments)}{slash}) -> {type_of(c.result)}: ..."
            )
        elif kind == "variable":
            lines.append(f"    {name}: {type_of(c)}")
        elif isinstance(c, model.EnumType):
            lines += [f"    {value}: Final[int]" for value in c.enumerators]
    lines += ["", "class _Ffi:", "    NULL: Final[Any]"]
    for function in ("new", "cast"):
        value = "init: Any = None" if function == "new" else "value: Any"
        for name, struct in known.items():
            if struct.name and not struct.name.startswith("$"):
                lines += overloads(function, value, name, struct)
        lines.append("    @overload")
        lines.append(f"    def {function}(self, cdecl: str, {value}) -> Any: ...")
    lines += [
        "    def __getattr__(self, name: str) -> Any: ...",
        "",
        "ffi: _Ffi",
        "lib: _Lib",
        "",
    ]
    return "\n".join(lines)


def extensions() -> Iterator[tuple[Path, Any]]:
    """Yield where each extension's stub goes, and its FFI."""
    package = ROOT / "usrdrv"
    for builder in sorted((*package.glob("*/_build.py"), *package.glob("drivers/*/_build.py"))):
        name = ".".join(builder.relative_to(ROOT).with_suffix("").parts)
        ffi = importlib.import_module(name).ffibuilder
        module = str(ffi._assigned_source[0])
        yield ROOT / (module.replace(".", "/") + ".pyi"), ffi


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    for path, ffi in extensions():
        path.write_text(stub(ffi))
