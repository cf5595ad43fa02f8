"""hcq over the kernel's driver, on the real kernel: Debian's amdgpu drives the mock card, we that driver."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from amdgpu_machine import AmdgpuMachine
from guest import Missing, unavailable

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]

PARTS = ("TOPOLOGY", "MEMORY", "QUEUES", "PROGRAMS", "EVENTS", "COMPILER", "FAULT")
SCRIPT = """
amdgpu_load mes=1 || exit 9
PYTHONPATH=. HCQ_TIMEOUT=120 $PYTHON tests/vm/inside/drive_kfd.py
"""


def test_everything_over_the_kernels_driver(tmp_path: Path,
                                            record_property: Callable[[str, object], None]) -> None:
    try:
        machine = AmdgpuMachine()
    except Missing as missing:
        unavailable(missing)
    with machine:
        result = machine.run(SCRIPT, tmp_path)
        done = [part for part in PARTS if re.search(rf"^{part} ", result.output, re.M)]
        machine.guest.record(record_property, result, "hcq over amdkfd: memory, queues, programs, events, a fault",
                             "none", "KFD, mes=1", "computes" if done == list(PARTS) else "FAILED")
        assert result.status == 0 and done == list(PARTS), result.output[-6000:]
        fault, = re.findall(r"^FAULT (.*)$", result.output, re.M)
        assert re.search(r"KFD:0: page fault at 0x4\w{11}: a store to no page, .*; this is 0x\w+ bytes past", fault)
        counted = machine.board.counters
        assert counted["kernels"] >= 6 and counted["aql_packets"] >= 3 and counted["copied_bytes"] >= 4096, counted
        assert not [note for note in machine.board.log if note.rule in (
            "queue-hang", "engine-failed", "doorbell-range", "doorbell-unattached")]
