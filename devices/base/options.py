# SPDX-License-Identifier: MIT
"""Options of models, `name=value`: read in one way by all of them."""

from typing import Any

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


def split_options(options: Any) -> dict[str, str]:
    """Options of a `model:` name, or a mapping with lists of values, each given once."""
    from urllib.parse import parse_qs

    if isinstance(options, str):
        try:
            options = parse_qs(options, keep_blank_values=True, strict_parsing=bool(options))
        except ValueError:
            raise UsageError(
                f"bad model options {options!r}: expected name=value&name=value"
            ) from None
    for key, texts in options.items():
        if len(texts) != 1:
            raise UsageError(f"option {key} is given {len(texts)} times")
    return {key: texts[0] for key, texts in options.items()}
