# SPDX-License-Identifier: MIT
"""Options of a command: each is declared once, as a field of a frozen dataclass.

What was given travels as one value of that class: through all layers, and into other processes.

See docs/design/options.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, TypeVar

KEY: Final = "option"

T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """What a command line has to know of a field; one that is True or False by default is a switch.

    help: as argparse takes it. kind: makes the value of a text. bounds: of a number, the lowest and the highest.
    unit: what stands for the value in the usage line. only: the exports that take it, the others refuse it; empty:
    all take it. hint: where it means nothing it is of no effect, rather than refused.
    """

    default: Any
    help: str
    kind: Callable[[str], Any] = str
    bounds: tuple[int, int] | None = None
    unit: str | None = None
    only: tuple[str, ...] = ()
    hint: bool = False


def option(default: T, help: str, **how: Any) -> T:
    """Declare a field; how: more of Option."""
    return field(default=default, metadata={KEY: Option(default, help, **how)})


def declared(kind: type) -> dict[str, Option]:
    """Return the options of a class, by the names of its fields."""
    return {each.name: each.metadata[KEY] for each in fields(kind) if KEY in each.metadata}


def made(kind: type[T], given: Mapping[str, Any], **more: Any) -> T:
    """Return a value of a class with those options of it that are given. more: its other fields."""
    return kind(**{name: given[name] for name in declared(kind) if name in given}, **more)


def flag(name: str) -> str:
    """Return what an option is called on a command line."""
    return "--" + name.replace("_", "-")
