# SPDX-License-Identifier: MIT
"""Random register accesses never crash the model: property test, and a fuzzer under ASan and UBSan."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sanitized import build, counts, seconds
from tests.unit.devices.cmd680.model_host import MEM_BASE, MEM_SIZE, Machine
from tests.waiting import enough
from usrdrv.devices.cmd680.model import DriveSpec

SECONDS = seconds(3)

accesses = st.tuples(
    st.sampled_from([0, 1, 2, 3, 4, 5, 5, 5, 6, 7, 9]),
    st.integers(0, 0x101),
    st.sampled_from([1, 2, 4]),
    st.one_of(st.none(), st.integers(0, 0xFFFFFFFF), st.integers(MEM_BASE, MEM_BASE + MEM_SIZE)),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(accesses, max_size=60))
def test_any_sequence(sequence: list[tuple[int, int, int, int | None]]) -> None:
    """Afterwards a reset gives back a working disk."""
    with Machine(DriveSpec(ram=1 << 20), DriveSpec(ram=1 << 20)) as m:
        for region, offset, width, value in sequence:
            if value is None:
                assert 0 <= m.r(offset, width, region) < 1 << (8 * width)
            else:
                m.w(offset, value & ((1 << (8 * width)) - 1), width, region)
        m.c.ops.reset(m.c)
        m.cfg_w(4, 7, 2)
        assert m.level == 0 and m.dma(0xC8, 0, 4)[:2] == (4, 0x50)


@pytest.mark.timeout(SECONDS + 600)
def test_fuzz_with_sanitizers() -> None:
    sources = ["devices/cmd680/*.c", "devices/base/faults.c", "devices/base/testhost.c"]
    program = build("fuzz_model", sources, ("devices",), "-DFUZZ_MAIN")
    enough(lambda: counts(program, SECONDS, seed=42)[:1], [10], "runs")
