# SPDX-License-Identifier: MIT
"""System calls of a server process per request, as strace counts them."""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import fio
from bench.servers import Server
from usrdrv.base import errors
from usrdrv.base.process import find_tool

ROW = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", re.MULTILINE)


@contextmanager
def counted(pid: int) -> Iterator[dict[str, int]]:
    """Count the calls of all threads of a process; the counts are there afterwards."""
    counts: dict[str, int] = {}
    with tempfile.NamedTemporaryFile() as output:
        tracer = subprocess.Popen(
            [find_tool("strace", "strace"), *("-f", "-c", "-o", output.name, "-p", str(pid))],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert tracer.stderr is not None
        try:
            line = tracer.stderr.readline()
            if "attached" not in line:
                raise errors.PermissionDeniedError(line.strip() or "strace did not attach")
            yield counts
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.communicate(timeout=20)
        text = Path(output.name).read_text()
    counts.update({name: int(calls) for calls, name in ROW.findall(text) if name != "total"})


def per_request(server: Server, job: fio.Job, requests: int = 4000) -> dict[str, float]:
    """Return the calls per request by name, without those that happen once for a connection."""
    with counted(server.pid) as few:
        small = fio.run(server.uri, job, total=requests // 10 * job.block).requests
    with counted(server.pid) as many:
        large = fio.run(server.uri, job, total=requests * job.block).requests
    names = sorted(many, key=lambda name: -many[name])
    slope = {name: (many[name] - few.get(name, 0)) / (large - small) for name in names}
    return {name: value for name, value in slope.items() if value >= 0.005}
