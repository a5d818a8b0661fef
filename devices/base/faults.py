# SPDX-License-Identifier: MIT
"""What the faults of all models have in common: their form in JSON and on a command line."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from typing import Any, ClassVar, Self

from usrdrv.base.errors import UsageError


class FaultJson:
    """For a dataclass of a fault with a field `kind`: what the control socket carries."""

    TEXT: ClassVar[tuple[str, ...]] = ("kind",)
    """Fields that are words."""
    FLOAT: ClassVar[tuple[str, ...]] = ()
    """Fields that need not be integers."""

    def to_json(self) -> dict[str, Any]:
        """Return everything that is not at its default."""
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)  # type: ignore[arg-type]
            if f.name == "kind" or getattr(self, f.name) != f.default
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Build from a decoded JSON object; anything odd in it is a UsageError."""
        if not isinstance(data, dict):
            raise UsageError("a fault is an object")
        known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        for key, value in data.items():
            if key not in known:
                raise UsageError(f"unknown fault parameter {key!r}")
            text = key in cls.TEXT
            if isinstance(value, bool) or not isinstance(value, str if text else (int, float)):
                raise UsageError(f"fault parameter {key}: bad value {value!r}")
            if not text and key not in cls.FLOAT and not isinstance(value, int):
                raise UsageError(f"fault parameter {key}: {value!r} is not an integer")
        if "kind" not in data:
            raise UsageError("fault parameter kind is missing")
        return cls(**data)


def check_words(kind: str, kinds: Collection[str], on: str, places: Collection[str]) -> None:
    """Raise UsageError unless there is such a kind of fault, and such a place for it."""
    if kind not in kinds:
        raise UsageError(f"unknown fault {kind!r}: one of {', '.join(kinds)}")
    if on not in places:
        raise UsageError(f"{kind}: on={on}: one of {', '.join(places)}")


def check_range(kind: str, name: str, value: float | None, low: float, high: float) -> None:
    """Raise UsageError unless the value is absent or within its limits."""
    if value is not None and not low <= value <= high:
        raise UsageError(f"{kind}: {name}={value} is not between {low:g} and {high:g}")


def split_words(
    words: Sequence[str], kinds: Collection[str], allowed: Callable[[str], Collection[str]]
) -> tuple[str, dict[str, str]]:
    """Split `KIND KEY=VALUE...`; allowed: which keys a kind has."""
    if not words:
        raise UsageError(f"no fault given: one of {', '.join(kinds)}")
    kind, *pairs = words
    if kind not in kinds:
        raise UsageError(f"unknown fault {kind!r}: one of {', '.join(kinds)}")
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        key = key.replace("-", "_")
        if not equals or key not in allowed(kind):
            known = ", ".join(sorted(allowed(kind)))
            raise UsageError(f"{kind}: unknown parameter {pair!r}: one of {known}")
        found[key] = text
    return kind, found
