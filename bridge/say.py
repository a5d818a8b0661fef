# SPDX-License-Identifier: MIT
"""How commands speak while they run: a line on standard error."""

import sys


def say(text: str) -> None:
    print(f"usrdrv: {text}", file=sys.stderr, flush=True)
