"""A card behind raw register pokes, with page tables, a compute queue, and a watch on interrupts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from compute_rig import Interrupts, Rig
from mes_rig import Kernel
from raw_board import RawBoard, Tables

from mock.machine import Gpu, Machine


@pytest.fixture
def raw() -> Iterator[RawBoard]:
    with Machine([Gpu(vram="64M")]) as machine:
        board = machine.gpus[0]
        board.config.write(4, 2, 6)
        raw = RawBoard(board)
        raw.start_hub("GC")
        raw.load_firmware()
        yield raw


@pytest.fixture
def tables(raw: RawBoard) -> Tables:
    tables = Tables(raw)
    raw.context("GC", 1, tables.root)
    return tables


@pytest.fixture
def rig(raw: RawBoard, tables: Tables) -> Rig:
    return Rig(raw, tables)


@pytest.fixture
def kernel(raw: RawBoard) -> Kernel:
    """The scheduler, started and told what it may use."""
    kernel = Kernel(raw)
    kernel.resources()
    return kernel


@pytest.fixture
def posted(raw: RawBoard, monkeypatch: pytest.MonkeyPatch) -> Interrupts:
    """What blocks told the interrupt handler, which keeps silent."""
    seen: Interrupts = []

    def post(client: int, source: int, *, ring_id: int = 0, vmid: int = 0, data: tuple[int, ...] = (),
             **_: int) -> bool:
        seen.append((client, source, ring_id, vmid, data))
        return True
    monkeypatch.setattr(raw.board.ih, "post", post)
    return seen
