# SPDX-License-Identifier: MIT
"""What is in service here, and its counters: `usrdrv block stats` and `usrdrv net stats`.

Who serves answers at a socket in the run directory, `disks-PID.sock` or `net-PID.sock`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from usrdrv import names
from usrdrv.base import errors
from usrdrv.base.lines import LineServer, call
from usrdrv.base.sockets import sweep
from usrdrv.bridge.say import say
from usrdrv.claim import run_directory


def answer(
    kind: str, who: Callable[[], dict[str, Any]], stats: Callable[[], dict[str, Any]]
) -> AbstractContextManager[object]:
    """Answer who we are and what is counted, in the context. That we cannot is not fatal. kind: what is served."""

    def do(request: dict[str, Any]) -> dict[str, Any]:
        match request.get("op"):
            case "who":
                return who()
            case "stats":
                return stats()
            case other:
                raise errors.UsageError(f"unknown request {other!r}")

    try:
        return LineServer(run_directory() / f"{kind}-{os.getpid()}.sock", do)
    except errors.UsrdrvError as error:
        say(f"nobody will be told of what is counted: {error}")
        return nullcontext()


def served(kind: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the sockets of all who serve that kind, and who they are."""
    sweep(run_directory())
    for path in sorted(run_directory().glob(f"{kind}-*.sock")):
        try:
            yield path, call(path, {"op": "who"})
        except errors.UsrdrvError:
            continue  # it has just ended


def show(path: Path, *, as_json: bool) -> None:
    """Print the counters of who answers at `path`."""
    found = call(path, {"op": "stats"})
    if as_json:
        print(json.dumps(found, indent=2))
        return
    width = max(len(name) for name in found)
    for name, value in found.items():
        print(f"{name:{width}}  {value}")


def find_disk(text: str) -> Path:
    """Return the socket of who serves a disk, named by its device or by where it is attached."""
    for path, who in served("disks"):
        if _is(text, who["device"], who["disks"]):
            return path
    raise errors.NoSuchDeviceError(f"{text}: no disk of that name is served here")


def _is(text: str, device: str, disks: Sequence[str]) -> bool:
    if text in disks or os.path.realpath(text) in disks:
        return True
    try:
        return names.parse(text) == names.parse(device)
    except errors.UsageError:
        return False
