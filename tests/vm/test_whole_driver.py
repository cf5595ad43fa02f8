"""The whole driver in a guest: real vfio-pci, IOMMU page tables and MSI; the mock card comes over vfio-user."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from door import Door, socket_path
from guest import CACHE, Guest, Missing, hal_kernel, unavailable
from modern_qemu import modern_qemu

import mock
import mock.firmware
import mock.vfio_user
from mock.board import Board
from mock.vfio_user import Server

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]

MODES = ("type1", "iommufd")


def test_boots_computes_and_survives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                     record_property: Callable[[str, object], None]) -> None:
    firmware = CACHE / "firmware"           # where the guest sees the host's files, which /tmp is not
    firmware.mkdir(parents=True, exist_ok=True)
    mock.firmware.write(firmware)
    seen: Counter[str] = Counter()          # accesses as they came from QEMU, before anything splits them
    marked: list[Counter[str]] = []
    write = mock.vfio_user._Session._write

    def counting(session: mock.vfio_user._Session, region: int, offset: int, data: bytes) -> None:
        seen[f"BAR{region}:{len(data)}"] += 1
        write(session, region, offset, data)
    monkeypatch.setattr(mock.vfio_user._Session, "_write", counting)
    path = socket_path("card")
    card = f'-device \'{{"driver":"vfio-user-pci","bus":"rp0","socket":{{"type":"unix","path":"{path}"}}}}\''
    with mock.Machine([mock.Gpu("gfx1100", vram="256M")]) as machine, Server(machine, path) as server, \
            Door(machine.gpus[0], socket_path("door"), mark=lambda: marked.append(Counter(seen))) as door:
        server.start()
        try:
            guest = Guest(hal_kernel(), append="intel_iommu=on", machine="kernel-irqchip=split,memory-backend=ram",
                          qemu=modern_qemu(),
                          devices=["-device intel-iommu,intremap=on,caching-mode=on", "-device pcie-root-port,id=rp0",
                                   "-object memory-backend-memfd,id=ram,size=1G,share=on", card, door.device])
        except Missing as missing:
            unavailable(missing)
        result = guest.run(f"$PYTHON tests/vm/inside/drive_card.py {','.join(MODES)}", tmp_path,
                           environment={"AMDRV_FIRMWARE": str(firmware), "PYTHONPATH": "."})
        guest.record(record_property, result, "the whole driver on the mock card; kill -9 in mid-copy; hold", "Intel",
                     ", ".join(MODES), "boots, computes, survives" if not result.status else "FAILED")
        assert result.status == 0, result.output[-6000:]
        for mode in MODES:
            assert f"BOOTED 96 CUs over {mode}" in result.output
            assert f"SURVIVED over {mode}" in result.output
            assert f"HELD over {mode}: cold warm" in result.output     # after the kill; and as that one left it
        assert result.output.count("COPIED") == result.output.count("COMPUTED") == len(MODES)
        check_writes(result.output, marked)
        check_card(machine.gpus[0])


def check_writes(output: str, marked: list[Counter[str]]) -> None:
    """Registers (BAR 5, by 32 bits) and doorbells (BAR 2): each of the driver's writes arrived once, whole."""
    counted: Counter[str] = Counter()
    for line in re.findall(r"^WRITES (.*)$", output, re.M):
        counted.update({name: int(number) for name, number in (word.split("=") for word in line.split())})
    trapped = {name: number for name, number in counted.items() if name[:4] in ("BAR2", "BAR5")}
    assert trapped["BAR5:4"] > 500 and sum(n for name, n in trapped.items() if name.startswith("BAR2")) > 5, trapped
    assert {name: number for name, number in marked[0].items() if name[:4] in ("BAR2", "BAR5")} == trapped


def check_card(board: Board) -> None:
    assert board.counters["kernels"] >= 1 and board.counters["interrupts"] >= 1, board.counters
    broken = {note.rule for note in board.log} - {"flr"}
    assert not broken, list(board.log)[-5:]
