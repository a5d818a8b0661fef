# SPDX-License-Identifier: MIT
"""What is slow to build is built once: folders under ~/.cache/usrdrv, named by a hash of their inputs."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from usrdrv.base import errors

Report = Callable[[str, float], None]
"""Told what is being done, and which part of all is done (0 to 1)."""

KEEP: Final = 14 * 24 * 3600
"""Seconds that a folder which nobody asked for is kept."""


def silent(what: str, done: float) -> None:
    """Report nothing."""


def folder() -> Path:
    """Return the cache. USRDRV_CACHE_DIR overrides; else $XDG_CACHE_HOME/usrdrv, ~/.cache/usrdrv."""
    if given := os.environ.get("USRDRV_CACHE_DIR"):
        path = Path(given)
    elif base := os.environ.get("XDG_CACHE_HOME"):
        path = Path(base) / "usrdrv"
    else:
        path = Path.home() / ".cache" / "usrdrv"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.PermissionDeniedError(f"{path}: {error.strerror}") from error
    return path


def digest(parts: Iterable[str | bytes]) -> str:
    """Return a short hash of all inputs in their order."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()[:16]


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Have something of the cache to ourselves; others wait."""
    with (folder() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def cached(name: str, key: str, build: Callable[[Path], None]) -> Path:
    """Return the folder `name`-`key` of the cache; `build` fills it if it is not there.

    Of several processes that ask at once one builds and the others wait. A build that fails leaves nothing.
    A cache that we may not write, somebody else's, is good for what is in it.
    """
    result = folder() / f"{name}-{key}"
    if not os.access(folder(), os.W_OK):
        if result.exists():
            return result
        raise errors.PermissionDeniedError(
            f"{folder()}: there is no {result.name}, and no right to build it there; "
            "USRDRV_CACHE_DIR names another cache"
        )
    with suppress(FileNotFoundError):
        os.utime(result)
        return result  # without waiting for who builds another one
    with locked(name):
        if not result.exists():
            _drop_old(name)
            partial = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder()))
            try:
                build(partial)
                partial.chmod(0o755)
                partial.rename(result)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
        os.utime(result)
    return result


def _drop_old(name: str) -> None:
    """Remove what other inputs made and nobody used for long, and what a killed build left. Lock held."""
    for path in folder().glob(f"{name}-*"):
        if time.time() - path.stat().st_mtime > KEEP:
            shutil.rmtree(path, ignore_errors=True)
    for path in folder().glob(f".{name}-*"):
        shutil.rmtree(path, ignore_errors=True)
