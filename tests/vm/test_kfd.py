"""hcq over the kernel's driver, on the real kernel: Debian's amdgpu drives the mock card, we that driver."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from amdgpu_machine import AmdgpuMachine
from guest import Missing, required, unavailable

from tools.ioctl_sniff.build import recorder

pytestmark = [pytest.mark.vm, pytest.mark.amdgpu, pytest.mark.timeout(1800)]

PARTS = ("TOPOLOGY", "MEMORY", "QUEUES", "PROGRAMS", "EVENTS", "COMPILER", "FAULT")
CALLS = {f"AMDKFD_IOC_{name}" for name in (
    "GET_VERSION", "ACQUIRE_VM", "GET_PROCESS_APERTURES_NEW", "ALLOC_MEMORY_OF_GPU", "MAP_MEMORY_TO_GPU",
    "CREATE_EVENT", "CREATE_QUEUE", "UPDATE_QUEUE", "DESTROY_QUEUE", "WAIT_EVENTS", "UNMAP_MEMORY_FROM_GPU",
    "FREE_MEMORY_OF_GPU", "EXPORT_DMABUF", "IMPORT_DMABUF", "GET_DMABUF_INFO",
    "AVAILABLE_MEMORY")} | {"DRM_IOCTL_AMDGPU_INFO"}
SCRIPT = """
amdgpu_load mes=1 || exit 9
export PYTHONPATH=. HCQ_TIMEOUT=120
$PYTHON -m tools.ioctl_sniff -q --calls --json -o /tmp/sniffed $PYTHON tests/vm/inside/drive_kfd.py || exit 8
$PYTHON tests/vm/inside/drive_kfd.py --read /tmp/sniffed
"""
TESTS = """
amdgpu_load mes=1 || exit 9
KFD_TEST_KERNEL=real HCQ_TIMEOUT=120 $PYTHON -m pytest -q -p no:cacheprovider -p no:xdist tests/kfd/test_kfd_hcq.py \\
    --timeout 600 -k "bytes or fill or both_copy or llvmlite or waits_for_nothing or words or several_signals"
"""


def machine() -> AmdgpuMachine:
    try:
        return AmdgpuMachine()
    except Missing as missing:
        unavailable(missing)


def test_everything_over_the_kernels_driver(tmp_path: Path,
                                            record_property: Callable[[str, object], None]) -> None:
    if shutil.which("cc") is None and not required():
        pytest.skip("ioctl-sniff's recorder needs a C compiler")
    recorder()                              # the guest sees the host's files, and cannot write them
    with machine() as card:
        result = card.run(SCRIPT, tmp_path)
        done = [part for part in PARTS if re.search(rf"^{part} ", result.output, re.M)]
        card.guest.record(record_property, result, "hcq over amdkfd: memory, queues, programs, events, a fault",
                             "none", "KFD, mes=1", "computes" if done == list(PARTS) else "FAILED")
        assert result.status == 0 and done == list(PARTS), result.output[-6000:]
        fault, = re.findall(r"^FAULT (.*)$", result.output, re.M)
        assert re.search(r"KFD:0: page fault at 0x4\w{11}: a store to no page, .*; this is 0x\w+ bytes past", fault)
        counted = card.board.counters
        assert counted["kernels"] >= 6 and counted["aql_packets"] >= 3 and counted["copied_bytes"] >= 4096, counted
        assert not [note for note in card.board.log if note.rule in (
            "queue-hang", "engine-failed", "doorbell-range", "doorbell-unattached")]
        sniffed = json.loads(*re.findall(r"^SNIFFED (.*)$", result.output, re.M))
        assert set(sniffed["names"]) >= CALLS and sniffed["unknown"] == [], sniffed
        assert {"KFD_IOC_QUEUE_TYPE_COMPUTE", "KFD_IOC_QUEUE_TYPE_COMPUTE_AQL",
                "KFD_IOC_QUEUE_TYPE_SDMA_BY_ENG_ID"} <= set(sniffed["queues"])


def test_hcqs_tests_on_the_real_kernel(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Functions that tests/kfd runs on the simulated kernel, those that take no C compiler and not long."""
    with machine() as card:
        result = card.run(TESTS, tmp_path)
        card.guest.record(record_property, result, "hcq's tests of copies, queues, launches and AQL over amdkfd",
                          "none", "KFD, mes=1", f"{result.passed} tests pass" if not result.status else "FAILED")
        assert result.status == 0 and result.passed >= 10, result.output[-6000:]
