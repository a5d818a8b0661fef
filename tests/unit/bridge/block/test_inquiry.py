# SPDX-License-Identifier: MIT
"""Asking a driver in service about its drives."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from usrdrv.base import errors, lines
from usrdrv.bridge.block import inquiry


class Controller:
    drives = (None,) * 4
    asked = 0

    def ask_health(self) -> None:
        self.asked += 1


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("USRDRV_RUN_DIR", str(tmp_path))
    return Controller()


def test_a_driver_answers_while_it_is_in_service(controller: Any, tmp_path: Path) -> None:
    assert inquiry.ask(os.getppid()) is None
    with inquiry.answer(controller):
        assert inquiry.ask(os.getppid()) == []
        assert controller.asked == 1
        with pytest.raises(errors.UsageError, match="the only op is identify"):
            lines.call(tmp_path / f"driver-{os.getppid()}.sock", {"op": "eject"})
    assert inquiry.ask(os.getppid()) is None
    assert not list(tmp_path.iterdir())


def test_one_that_cannot_answer_serves_all_the_same(
    controller: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / f"driver-{os.getppid()}.sock").write_text("no socket")
    with inquiry.answer(controller):
        assert "nobody will be told" in caplog.text


def test_what_a_killed_driver_left_is_removed(controller: Any, tmp_path: Path) -> None:
    inquiry.forget()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / f"driver-{os.getpid()}.sock"))
    inquiry.forget()
    assert not list(tmp_path.iterdir())


def test_a_driver_that_lives_is_not_forgotten(controller: Any, tmp_path: Path) -> None:
    """It may be one of another container, whose supervisor has the same pid."""
    with lines.LineServer(tmp_path / f"driver-{os.getpid()}.sock", lambda request: []):
        inquiry.forget()
        assert inquiry.ask(os.getpid()) == []
