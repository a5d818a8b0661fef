# SPDX-License-Identifier: MIT
"""The ways from a driver to its users: each is a class in a module of its own, found by its name."""

from __future__ import annotations

import importlib
from abc import ABC
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

from usrdrv.base import errors
from usrdrv.base.options import Option, declared, flag, made


class Export(ABC):
    """One of them: a frozen dataclass, whose fields are the options that others need not have."""

    name: ClassVar[str]

    @property
    def why(self) -> str:
        """Why `--export auto` takes it, where it does."""
        return ""

    def available(self) -> bool:
        """Whether `--export auto` can take it here."""
        return False

    def check(self) -> None:  # noqa: B027 (nothing, as a rule)
        """Raise now, before the device is touched, if it cannot work here."""


E = TypeVar("E", bound=Export)


class Exports(Generic[E]):
    """The exports of one kind of device.

    names: the best first. NAME is the class EXPORT of the module `export_NAME` in `package`. shared: the class of
    the options that each of them is given.
    """

    def __init__(self, package: str, names: tuple[str, ...], shared: type) -> None:
        self.names = names
        self._modules = f"{package}.export_"
        self._shared = declared(shared)

    def get(self, name: str) -> type[E]:
        """Return one; its module is imported now."""
        export: type[E] = importlib.import_module(self._modules + name).EXPORT
        return export

    def options(self) -> dict[str, Option]:
        """Return the options of all of them."""
        own = [declared(self.get(name)) for name in self.names]
        return {name: option for found in (*own, self._shared) for name, option in found.items()}

    def choose(self, wanted: str | None, given: Mapping[str, Any]) -> E:
        """Return the export that is wanted, with its own options.

        wanted: `auto` is the best that can be had here; None is that, or the one that alone has what is given.
        given: options by name, those that are not as they are by default. UsageError: it does not have one of them.
        """
        own = {name for name in given if name not in self._shared}
        own -= {name for name, option in self.options().items() if option.hint}
        able = [export for export in map(self.get, self.names) if own <= declared(export).keys()]
        if wanted not in (None, "auto"):
            able = [self.get(str(wanted))]
        elif wanted or len(able) > 1:  # else what is given has chosen
            able = [export for export in able if export().available()]
        if not able:
            raise errors.UsageError(f"{flag(min(own))} does not go with --export auto")
        export = able[0]
        for name in given:
            only = self._shared[name].only if name in self._shared else ()
            if name in own - declared(export).keys() or (only and export.name not in only):
                raise errors.UsageError(f"{flag(name)} does not go with --export {export.name}")
        return made(export, given)
