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


Ran = tuple[Result, dict[str, dict[str, radv.Outcome]], dict[str, radv.Outcome], list[str]]
"""What the guest printed; RADV's results by variant; lavapipe's; the card's notes."""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """One guest for all."""
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
    files = radv.unpack(result.output)
    yield result, {name: radv.outcomes(result.output, files, name) for name in radv.VARIANTS}, theirs, notes


def test_vulkaninfo_and_the_runner_end_well(ran: Ran) -> None:
    result = ran[0]
    assert "deviceName         = AMD Radeon Graphics (RADV NAVI31)" in result.output and result.status == 0


def test_the_kernel_saw_no_error(ran: Ran) -> None:
    lines = [line.removeprefix("KERNEL ") for line in ran[0].output.splitlines() if line.startswith("KERNEL ")]
    assert len(lines) > 100
    assert [line for line in errors("\n".join(lines)) if "amdgpu" in line or "drm" in line] == []


def test_no_queue_hung(ran: Ran) -> None:
    assert [note for note in ran[3] if note.startswith(("queue-hang", "page-fault", "engine-failed"))] == []


@pytest.mark.parametrize("variant", radv.VARIANTS)
@pytest.mark.parametrize("name", radv.PROGRAMS)
def test_equal_to_lavapipe(ran: Ran, name: str, variant: str) -> None:
    _result, ours, theirs, notes = ran
    assert name in ours[variant], f"no result; notes of the card: {notes[-5:]}"
    assert radv.compare(radv.PROGRAMS[name], ours[variant][name], theirs[name]) == ""
