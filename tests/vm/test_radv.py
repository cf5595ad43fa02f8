"""Mesa's RADV computes on the mock, under Debian's own amdgpu: the same shaders give what lavapipe gives.

ACO, its compiler, is not LLVM: a second compiler against the mock's instruction set.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import radv
from amdgpu_machine import AmdgpuMachine, errors
from guest import Missing, Result, unavailable

pytestmark = pytest.mark.vm

VULKANINFO = """{start} {root}/usr/bin/vulkaninfo --summary
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Result, dict[str, radv.Outcome],
                                                                    dict[str, radv.Outcome], list[str]]]:
    """One guest for all: (what it printed, RADV's results, lavapipe's, the card's notes)."""
    folder: Path = tmp_path_factory.mktemp("radv")
    chosen = list(radv.PROGRAMS.values())
    try:
        with radv.Vulkan() as vulkan, AmdgpuMachine() as machine:
            theirs = vulkan.lavapipe(chosen)
            script = vulkan.guest_script(chosen)
            exports, run = script.split("mkdir /tmp/out", 1)
            info = VULKANINFO.format(start=" ".join(vulkan.start), root=vulkan.root)
            result = machine.run(f"{radv.LOAD}{exports}{info}\ndmesg -r > /tmp/before\nmkdir /tmp/out{run}".replace(
                "exit $code", "dmesg -r | sed 's/^/KERNEL /'; exit $code"), folder)
            notes = [f"{note.rule}: {note.text}" for note in machine.board.log]
    except Missing as missing:
        unavailable(missing)
    yield result, radv.outcomes(result.output, radv.unpack(result.output)), theirs, notes


def test_vulkaninfo_and_the_runner_end_well(ran: tuple[Result, object, object, list[str]]) -> None:
    result = ran[0]
    assert "deviceName         = AMD Radeon Graphics (RADV NAVI31)" in result.output and result.status == 0


def test_the_kernel_saw_no_error(ran: tuple[Result, object, object, list[str]]) -> None:
    lines = [line.removeprefix("KERNEL ") for line in ran[0].output.splitlines() if line.startswith("KERNEL ")]
    assert len(lines) > 100
    assert [line for line in errors("\n".join(lines)) if "amdgpu" in line or "drm" in line] == []


def test_no_queue_hung(ran: tuple[Result, object, object, list[str]]) -> None:
    assert [note for note in ran[3] if note.startswith(("queue-hang", "page-fault", "engine-failed"))] == []


@pytest.mark.parametrize("name", radv.PROGRAMS)
def test_equal_to_lavapipe(ran: tuple[Result, dict[str, radv.Outcome], dict[str, radv.Outcome], list[str]],
                           name: str) -> None:
    _result, ours, theirs, notes = ran
    assert name in ours, f"no result; notes of the card: {notes[-5:]}"
    assert radv.compare(radv.PROGRAMS[name], ours[name], theirs[name]) == ""
