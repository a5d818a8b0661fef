# SPDX-License-Identifier: MIT
"""A vfio-user server with a client."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.devices.vfio_user.vfio_user_peer import Peer, serving


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "s"
    with serving(path) as thread:
        thread.start()
        yield path
    assert not path.exists()


@pytest.fixture
def peer(served: Path) -> Iterator[Peer]:
    peer = Peer(served)
    yield peer
    peer.close()
