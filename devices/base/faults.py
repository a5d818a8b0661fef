# SPDX-License-Identifier: MIT
"""What the faults of all models have in common: words of a command line, JSON, and the form that C takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from usrdrv.base.errors import UsageError
from usrdrv.devices._models import ffi

_BASE = [name for name, _ in ffi.typeof("struct fault").fields]


@dataclass(frozen=True)
class Kind:
    """What a kind of fault takes on a command line."""

    keys: str = ""
    """Names of fields."""
    needs: str = ""
    """At least one of these."""
    count: int = 0
    """Hits, if no count is given; 0: it stays until it is cleared."""


def numbers(chip: str) -> dict[str, int]:
    """Return the kinds of a chip's faults by name, from its enum in C, in the enum's order."""
    prefix = f"{chip.upper()}_FAULT_"
    elements = ffi.typeof(f"enum {chip}_fault_kind").elements
    names = {number: name.removeprefix(prefix) for number, name in sorted(elements.items())}
    return {
        name.lower().replace("_", "-"): number for number, name in names.items() if name != "KINDS"
    }


class ModelFault:
    """For a frozen dataclass of a chip's faults, with fields named as in C; None there is -1 in C."""

    CHIP: ClassVar[str]
    NUMBERS: ClassVar[Mapping[str, int]]
    """The kinds by name, as the enum numbers them."""
    KINDS: ClassVar[Mapping[str, Kind]]
    """The same kinds, on a command line."""
    ON: ClassVar[Mapping[str, int]]
    """Directions, and their masks."""
    RANGES: ClassVar[Mapping[str, tuple[float, float]]]
    """Limits of fields."""
    TYPES: ClassVar[Mapping[str, Any]]
    """Of the fields, by name; `int | None` is an integer."""

    kind: str
    on: str

    def __init_subclass__(cls, *, chip: str) -> None:
        cls.CHIP, cls.NUMBERS, cls.TYPES = chip, numbers(chip), cls.__annotations__
        if odd := set(cls.NUMBERS) ^ set(cls.KINDS):
            raise TypeError(f"{cls.__qualname__}.KINDS is not enum {chip}_fault_kind: {odd}")
        words = {key for kind in cls.KINDS.values() for key in f"{kind.keys} {kind.needs}".split()}
        if odd := (words | set(cls.RANGES)) - set(cls.TYPES):
            raise TypeError(f"{cls.__qualname__} has no fields {odd}")

    def __post_init__(self) -> None:
        self._check_kind(self.kind)
        if self.on not in self.ON:
            raise UsageError(f"{self.kind}: on={self.on}: one of {', '.join(self.ON)}")
        for name, (low, high) in self.RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UsageError(f"{self.kind}: {name}={value} is not between {low:g} and {high:g}")

    @classmethod
    def _check_kind(cls, kind: str) -> None:
        if kind not in cls.NUMBERS:
            raise UsageError(f"unknown fault {kind!r}: one of {', '.join(cls.NUMBERS)}")

    @classmethod
    def parse(cls, words: Sequence[str]) -> Self:
        """Parse `KIND KEY=VALUE...`; UsageError."""
        if not words:
            raise UsageError(f"no fault given: one of {', '.join(cls.NUMBERS)}")
        kind, *pairs = words
        cls._check_kind(kind)
        allowed, needed = cls.KINDS[kind].keys.split(), cls.KINDS[kind].needs.split()
        values: dict[str, Any] = {"kind": kind, "count": cls.KINDS[kind].count}
        for pair in pairs:
            key, equals, text = pair.partition("=")
            key = key.replace("-", "_")
            if not equals or key not in allowed:
                known = ", ".join(sorted(allowed))
                raise UsageError(f"{kind}: unknown parameter {pair!r}: one of {known}")
            try:
                values[key] = cls.read(key, text)
            except ValueError:
                raise UsageError(f"{kind}: {key}={text}: not a number") from None
        if needed and not set(needed) & set(values):
            keys = ", ".join(f"{key}=" for key in needed)
            wanted = f"give {keys} or both" if len(needed) > 1 else f"{keys} is missing"
            raise UsageError(f"{kind}: {wanted}")
        return cls(**values)

    @classmethod
    def read(cls, key: str, text: str) -> str | float:
        """Return the value of a key; ValueError if it is not a number."""
        kind = cls.TYPES[key]
        return kind(text) if kind in (str, float) else int(text, 0)

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
            text, real = cls.TYPES[key] is str, cls.TYPES[key] is float
            if isinstance(value, bool) or not isinstance(value, str if text else (int, float)):
                raise UsageError(f"fault parameter {key}: bad value {value!r}")
            if not text and not real and not isinstance(value, int):
                raise UsageError(f"fault parameter {key}: {value!r} is not an integer")
        if "kind" not in data:
            raise UsageError("fault parameter kind is missing")
        return cls(**data)

    def to_c(self) -> Any:
        """Return a `struct CHIP_fault *`."""
        values = {name: -1 if value is None else value for name, value in vars(self).items()}
        # The last two are C's to give.
        values |= {"kind": self.NUMBERS[self.kind], "on": self.ON[self.on], "id": 0, "hits": 0}
        base = {name: values.pop(name) for name in _BASE}
        return ffi.new(f"struct {self.CHIP}_fault *", {"base": base, **values})

    @classmethod
    def from_c(cls, c: Any) -> Self:
        """The reverse of `to_c`."""
        values = {}
        for f in fields(cls):  # type: ignore[arg-type]
            value = getattr(c.base if f.name in _BASE else c, f.name)
            values[f.name] = None if f.default is None and value < 0 else value
        for name, table in (("kind", cls.NUMBERS), ("on", cls.ON)):
            values[name] = next(word for word, number in table.items() if number == values[name])
        return cls(**values)
