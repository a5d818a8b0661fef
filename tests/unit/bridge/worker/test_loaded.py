# SPDX-License-Identifier: MIT
"""Whether a process is what its files say."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from usrdrv.bridge.worker.loaded import Loaded

NAME = "usrdrv.loaded_for_a_test"


@pytest.fixture
def module(tmp_path: Path) -> Iterator[Path]:
    """One more module of ours, from a file that may be edited."""
    path = tmp_path / "module.py"
    path.write_text("VALUE = 1\n")
    os.utime(
        path, ns=(0, 0)
    )  # an edit within the clock tick of a file's time would leave that as it is
    spec = importlib.util.spec_from_file_location(NAME, path)
    assert spec is not None and spec.loader is not None
    sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[NAME])
    yield path
    del sys.modules[NAME]


def test_nothing_was_edited(module: Path) -> None:
    assert not Loaded(time.time_ns()).changed()


def test_an_edit_is_seen(module: Path) -> None:
    loaded = Loaded(time.time_ns())
    module.write_text("VALUE = 2\n")
    assert loaded.changed()


def test_so_is_one_of_the_same_length_at_the_same_time(module: Path, tmp_path: Path) -> None:
    """An editor that writes another file and renames it."""
    loaded = Loaded(time.time_ns())
    status = module.stat()
    other = tmp_path / "other.py"
    other.write_text("VALUE = 2\n")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(module)
    assert loaded.changed()


def test_so_is_a_file_that_goes(module: Path) -> None:
    loaded = Loaded(time.time_ns())
    module.unlink()
    assert loaded.changed()


def test_what_was_written_while_it_was_loaded_counts_as_an_edit(module: Path) -> None:
    assert Loaded(module.stat().st_mtime_ns - 1).changed()


def test_c_parts_are_looked_at_as_well() -> None:
    from usrdrv.loop import _loop

    assert _loop.__file__ in Loaded(time.time_ns())._stamps
