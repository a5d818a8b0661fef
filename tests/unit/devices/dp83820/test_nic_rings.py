# SPDX-License-Identifier: MIT
"""Rings of any shape against the state machines of sections 5.1 and 5.2, round after round.

Software gives and takes descriptors as it likes while the chip is idle: OWN bits are random, so
frames end in the middle and go on in a later round, and positions wrap.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.devices.dp83820.nic_host import RX, RX_DATA, RXCFG, STRIDE, TX, TX_DATA, Chip, frame
from tests.waiting import until
from usrdrv.devices._models import lib

OWN, MORE, INTR, OK, SIZE = (
    getattr(lib, f"DP83820_{n}") for n in ("OWN", "MORE", "INTR", "OK", "SIZE")
)
TXE, RXE = lib.DP83820_CR_TXE, lib.DP83820_CR_RXE
EVERYTHING = RXCFG | lib.DP83820_RXCFG_ALP | lib.DP83820_RXCFG_AIRL
SMALL = 512
"""Bytes of the largest fragment or buffer, and between two of them."""


@dataclass
class Descriptor:
    """As software wrote it, then as the chip leaves it."""

    cmdsts: int = 0
    data: bytes = b""


@dataclass
class Transmitter:
    """The reference: fragments up to one without MORE are a frame; the first one without OWN ends a run."""

    ring: list[Descriptor]
    at: int = 0
    begun: bytes = b""
    events: int = 0

    def run(self) -> list[bytes]:
        frames = []
        self.events = lib.DP83820_ISR_TXIDLE
        while (d := self.ring[self.at]).cmdsts & OWN:
            self.begun += d.data
            last = not d.cmdsts & MORE
            d.cmdsts = d.cmdsts & (MORE | INTR | SIZE) | (OK if last else 0)
            if d.cmdsts & INTR:
                self.events |= lib.DP83820_ISR_TXDESC
            if last:
                frames.append(self.begun.ljust(60, b"\0"))
                self.begun = b""
                self.events |= lib.DP83820_ISR_TXOK
            self.at = (self.at + 1) % len(self.ring)
        return frames


@given(st.integers(2, 10), st.integers(1, 8), st.booleans(), st.integers(0, 1 << 32))
@settings(max_examples=500, deadline=None)
def test_transmit(count: int, rounds: int, wide: bool, seed: int) -> None:
    any_ = random.Random(seed)
    reference = Transmitter([Descriptor() for _ in range(count)])
    with Chip(wide=wide) as chip:
        chip.enable(rxcfg=EVERYTHING, txcfg=lib.DP83820_TXCFG_MLB | lib.DP83820_TXCFG_ATP)

        def put(i: int) -> None:
            d = reference.ring[i]
            chip.put(TX_DATA + i * SMALL, d.data)
            link = TX + (i + 1) % count * STRIDE
            chip.descriptor(TX + i * STRIDE, TX_DATA + i * SMALL, d.cmdsts, link)

        for i in range(count):
            put(i)
        chip.w("TXDP", chip.base + TX)
        for _ in range(rounds):
            for i, d in enumerate(reference.ring):
                if any_.random() < 0.7:
                    d.data = any_.randbytes(any_.randrange(SMALL + 1) if any_.random() < 0.8 else 0)
                    flags = (OWN if any_.random() < 0.8 else 0) | any_.choice((0, INTR))
                    d.cmdsts = flags | (MORE if any_.random() < 0.4 else 0) | len(d.data)
                    put(i)
            if all(
                d.cmdsts & OWN for d in reference.ring
            ):  # would go round and send all of it twice
                last = (reference.at - 1) % count
                reference.ring[last].cmdsts &= ~OWN
                put(last)
            chip.w("CR", lib.DP83820_CR_RXR)
            chip.w("RXDP_HI", chip.base >> 32)
            chip.receive_into(16)
            chip.r("ISR")
            chip.w("CR", TXE)
            frames = reference.run()
            status = [chip.status(TX + i * STRIDE)[0] for i in range(count)]
            assert status == [d.cmdsts for d in reference.ring]
            at = chip.base + TX + reference.at * STRIDE
            assert chip.r("TXDP") == at & 0xFFFFFFFF
            sent = lib.DP83820_ISR_TXIDLE | lib.DP83820_ISR_TXDESC | lib.DP83820_ISR_TXOK
            assert chip.r("ISR") & sent == reference.events
            assert [chip.received(i).data for i in range(len(frames))] == frames
            assert not chip.filled(len(frames))


@dataclass
class Receiver:
    """The reference: frames fill buffers in order; one that is not free ends it until the next RXE."""

    ring: list[Descriptor]
    sizes: list[int]
    at: int = 0
    active: bool = False
    waiting: list[bytes] = field(default_factory=list)

    def start(self) -> None:
        self.active = not self.ring[self.at].cmdsts & OWN
        self.run()

    def run(self) -> None:
        while self.active and self.waiting:
            d = self.ring[self.at]
            if d.cmdsts & OWN:
                self.active = False
                return
            left = self.waiting[0]
            d.data, left = left[: self.sizes[self.at]], left[self.sizes[self.at] :]
            d.cmdsts = OWN | len(d.data) | (MORE if left else OK)
            self.waiting[:1] = [left] if left else []
            self.at = (self.at + 1) % len(self.ring)


@given(
    st.lists(st.integers(1, SMALL // 8), min_size=2, max_size=12),
    st.integers(1, 8),
    st.booleans(),
    st.integers(0, 1 << 32),
)
@settings(max_examples=500, deadline=None)
def test_receive(eights: list[int], rounds: int, wide: bool, seed: int) -> None:
    any_ = random.Random(seed)
    count = len(eights)
    reference = Receiver([Descriptor() for _ in eights], [8 * n for n in eights])
    with Chip(wide=wide) as chip:
        chip.enable(rxcfg=EVERYTHING, txcfg=lib.DP83820_TXCFG_MLB)

        def put(i: int, cmdsts: int) -> None:
            reference.ring[i] = Descriptor(cmdsts)
            link = RX + (i + 1) % count * STRIDE
            chip.descriptor(RX + i * STRIDE, RX_DATA + i * SMALL, cmdsts, link)

        def settled() -> bool:
            return all(
                chip.status(RX + i * STRIDE)[0] & (OWN | MORE | OK | SIZE) == d.cmdsts
                for i, d in enumerate(reference.ring)
            )

        for i, size in enumerate(reference.sizes):
            put(i, size)
        chip.w("RXDP", chip.base + RX)
        chip.w("CR", RXE)
        reference.start()
        for _ in range(rounds):
            for i, size in enumerate(reference.sizes):
                if any_.random() < 0.7:
                    put(i, size | (OWN if any_.random() < 0.2 else 0))
            if any_.random() < 0.8:
                chip.w("CR", RXE)
                reference.start()
            for _ in range(any_.randrange(4)):
                sent = frame(length=any_.randrange(60, 1000), fill=any_.randrange(256))
                chip.send(sent)
                reference.waiting.append(sent)
                reference.run()
            until(settled)
            for i, d in enumerate(reference.ring):
                assert chip.get(RX_DATA + i * SMALL, len(d.data)) == d.data
            assert chip.r("RXDP") == (chip.base + RX + reference.at * STRIDE) & 0xFFFFFFFF
        assert chip.counter("rx_overruns") == 0
