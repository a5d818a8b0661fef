# SPDX-License-Identifier: MIT
"""Options of models, `name=value`: read in one way by all of them."""

from usrdrv.base.errors import UsageError


def flag(key: str, text: str) -> bool:
    """An option that is on or off."""
    if text.lower() in ("1", "yes", "true", "on"):
        return True
    if text.lower() in ("0", "no", "false", "off"):
        return False
    raise UsageError(f"{key}={text}: expected 1 or 0")


def number(key: str, text: str, base: int = 0) -> int:
    """An option that is an integer."""
    try:
        return int(text, base)
    except ValueError:
        raise UsageError(f"{key}={text}: not a number") from None
