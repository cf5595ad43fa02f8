"""The driver's boot on the mock against Linux's: each difference has its reason, and docs/boot.md shows them."""

from __future__ import annotations

from collections import Counter

import pytest

import mock
from amdrv.hal.mock import MockHal
from tools.boot_diff import trace
from tools.boot_diff.__main__ import LINUX, main
from tools.boot_diff.compare import BLOCKS
from tools.boot_diff.record import record
from tools.boot_diff.trace import Event


@pytest.fixture(scope="module")
def ours() -> list[Event]:
    machine = mock.Machine()
    patch = pytest.MonkeyPatch()
    patch.setattr(MockHal, "_shared", MockHal(machine))
    try:
        return trace.fold(record("mock"))
    finally:
        patch.undo()
        machine.close()


def test_every_difference_has_a_reason(ours: list[Event], tmp_path_factory: pytest.TempPathFactory,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    recording = tmp_path_factory.mktemp("boot") / "ours.txt"
    recording.write_text(trace.dump(ours))
    status = main(["--check", "--ours", str(recording)])
    assert status == 0, capsys.readouterr().err


def test_firmware_goes_to_the_psp_as_linux_sends_it(ours: list[Event]) -> None:
    """Everything up to the start of the RLC's autoload, in Linux's order."""
    def commands(events: list[Event]) -> list[Event]:
        sent = [event for event in events if event.kind == "PSP"]
        return sent[:[event.name for event in sent].index("AUTOLOAD_RLC") + 1]

    assert commands(ours) == commands(trace.load(LINUX))


def test_the_recording_reaches_every_block(ours: list[Event]) -> None:
    seen = Counter(trace.block_of(event.name) for event in ours if event.kind == "W")
    assert {"NBIO", "MM hub", "IH", "PSP", "GFX", "GC hub", "SDMA"} <= set(seen) <= set(BLOCKS)
    assert "unnamed" not in seen        # the driver writes no register without a name
