# SPDX-License-Identifier: MIT
"""The folder for sockets that nobody named."""

import os
from pathlib import Path

from usrdrv import errors


def path() -> Path:
    """Return the run directory; makes it."""
    named = os.environ.get("USRDRV_RUN_DIR")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if named:
        folder = Path(named)
    elif os.geteuid() == 0:
        folder = Path("/run/usrdrv")
    elif runtime:
        folder = Path(runtime) / "usrdrv"
    else:
        folder = Path(f"/tmp/usrdrv-{os.geteuid()}")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise errors.PermissionDeniedError(f"{folder}: {error.strerror}") from error
    return folder
