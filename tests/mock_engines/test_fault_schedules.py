"""Schedules of faults against the whole driver: whatever breaks and whenever, work ends with the right bytes or with a
clear error, never with a hang; and when the faults are over, the next owner finds a card that works."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, currently_in_test_context, given, note, settings
from hypothesis import strategies as st

import hcq
import mock
from amdrv import ring
from amdrv.backend import open_backend
from amdrv.device import Device
from amdrv.errors import AmdrvError, GpuFault
from amdrv.hal.mock import MockHal
from amdrv.ip import discovery, gfx, gmc, psp, smu
from mock.faults import Moment
from mock.gmc import Client, Fault

ITEMS = 256
PATIENCE = 60.0             # seconds; beyond it something hangs
QUIET = {"psp-silent", "smu-silent"}
MOMENTS = (("access", {"client": 13}), ("access", {}), ("dispatch", {}), ("pm4-packet", {}), ("sdma-packet", {}),
           ("interrupt", {}), ("doorbell", {}), ("register-read", {}), ("register-write", {}))
# kind -> settings; those that a running card can meet, one with a space behind it in a worse form
RUNNING: dict[str, dict[str, Any]] = {
    "page-fault": {}, "bad-packet": {}, "queue-hang": {}, "privileged-access": {}, "illegal-instruction": {},
    "memory-violation": {}, "hung-wave": {}, "lost-interrupt": {}, "late-interrupt": {"seconds": 0.002},
    "spurious-interrupt": {}, "interrupt-storm": {"entries": 40}, "doorbell-lost": {"client": "sdma"},
    "card-lost": {}, "interrupt-storm ": {"entries": 9000}, "ecc-error ": {"address": 0x4000, "fatal": True},
    "clock-drop": {"mhz": 500, "celsius": 120}, "ecc-error": {"address": 0x100}}
BOOTING = {"firmware-refused": {}, "psp-status": {"status": 0xFFFF000A}, "psp-silent": {}, "psp-never-ready": {},
           "smu-silent": {}, "smu-busy": {}, "smu-wrong": {"result": 0xFE}, "page-fault": {"hub": "mm"},
           "lost-interrupt": {}, "spurious-interrupt": {}, "card-lost": {}}
Plan = tuple[str, tuple[str, dict[str, Any]], int, int]


def plans(kinds: dict[str, Any], moments: tuple[tuple[str, dict[str, Any]], ...]) -> st.SearchStrategy[list[Plan]]:
    return st.lists(st.tuples(st.sampled_from(sorted(kinds)), st.sampled_from(moments), st.integers(1, 40),
                              st.integers(1, 3)), min_size=1, max_size=3)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smu, "RESET_TIME", 0)
    monkeypatch.setattr(psp, "HANDSHAKE_DELAY", 0)


@contextmanager
def hurried() -> Iterator[None]:
    """While the card is broken nothing is waited for long; a whole card gets its time, however busy this machine is."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (discovery, gfx, gmc, psp, smu, ring):
            for name, value in list(vars(module).items()):
                if name.endswith("_TIMEOUT") and isinstance(value, float):
                    patch.setattr(module, name, 0.3)
        yield


@pytest.fixture
def machine() -> Iterator[mock.Machine]:
    with mock.Machine([mock.Gpu(vram="256M")]) as machine:
        yield machine


class Code(bytes):
    """Does not fill the screen when a test fails."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes of code>"


@pytest.fixture(scope="module")
def code() -> bytes:
    """A kernel that adds."""
    from code_objects import compile_opencl
    return Code(compile_opencl("""__kernel void add(__global int* out, __global const int* a, int k) {
        int i = __builtin_amdgcn_workgroup_id_x() * 64 + __builtin_amdgcn_workitem_id_x(); out[i] = a[i] + k; }"""))


class Outcome:
    """What a piece of work in a thread of its own came to."""

    def __init__(self, work: Any) -> None:
        self.error: BaseException | None = None
        self._work = work
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        assert not thread.is_alive(), "it hangs"

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self.error = error

    def check(self) -> None:
        """The right bytes, or an error of ours that says something."""
        if self.error is not None:
            text = "".join(traceback.format_exception(self.error))
            assert isinstance(self.error, (AmdrvError, hcq.HcqError)), text
            assert len(str(self.error)) > 20, text


def use(device: hcq.Device, code: bytes, rounds: int, seed: int, *, timeout: float = 0.5) -> None:
    """Bytes to the card, through a kernel, and back. :raises AssertionError: other bytes than the right ones."""
    device.timeout = timeout
    program = device.program(code, "add")
    a, b = device.alloc(4 * ITEMS), device.alloc(4 * ITEMS)
    rng = np.random.default_rng(seed)
    for k in range(rounds):
        values = rng.integers(-1000, 1000, ITEMS).astype(np.int32)
        a.copyin(values)
        program(b, a, np.int32(k), grid=(ITEMS // 64,), block=(64,))
        result = np.zeros(ITEMS, np.int32)
        b.copyout(result)
        assert np.array_equal(result, values + k), "wrong bytes, and nobody said so"


def arm(machine: mock.Machine, plan: list[Plan], kinds: dict[str, Any]) -> None:
    for kind, (event, where), nth, count in plan:
        machine.gpus[0].faults.inject(kind.strip(), count=None if kind in QUIET else count,
                                      at=Moment(event, nth, **where), **kinds[kind])


def session(machine: mock.Machine, code: bytes, *, rounds: int = 4, seed: int = 1, timeout: float = 0.5) -> Outcome:
    def work() -> None:
        device = hcq.Device(open_backend(hal=MockHal(machine)))
        try:
            use(device, code, rounds, seed, timeout=timeout)
        finally:
            device.close()
    return Outcome(work)


def recover(machine: mock.Machine, code: bytes) -> None:
    """The faults are over: the next owner boots the card and it works."""
    board = machine.gpus[0]
    board.faults.clear()
    after = session(machine, code, rounds=1, timeout=PATIENCE / 2)
    assert after.error is None, "".join(traceback.format_exception(after.error)) + f"\nnotes:\n{board.notes}"


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(plans(RUNNING, MOMENTS))
def test_a_card_that_breaks_while_it_works(code: bytes, plan: list[Plan]) -> None:
    with mock.Machine([mock.Gpu(vram="256M")]) as machine:
        run(machine, code, plan)


def run(machine: mock.Machine, code: bytes, plan: list[Plan]) -> None:
    """Boot whole, then let the plan strike while there is work."""
    device = hcq.Device(open_backend(hal=MockHal(machine)))
    with hurried():
        try:
            arm(machine, plan, RUNNING)
            outcome = Outcome(lambda: use(device, code, 4, 1))
            if currently_in_test_context():
                note(f"{plan}: {outcome.error!r}")
            outcome.check()
        finally:
            machine.gpus[0].faults.clear()
            Outcome(device.close).check()
    recover(machine, code)


@pytest.mark.parametrize("kind", sorted(RUNNING))
def test_each_kind_once(machine: mock.Machine, code: bytes, kind: str) -> None:
    """Every kind in the middle of the work: a small fixed schedule for every day."""
    event = "sdma-packet" if kind in ("page-fault", "doorbell-lost") else "pm4-packet"
    run(machine, code, [(kind, (event, {}), 6, 1)])


def test_a_boot_loader_that_was_left_silent(machine: mock.Machine, code: bytes) -> None:
    """It refused an image, was reset while it could not start, and says neither that it is ready nor what is wrong."""
    first: tuple[str, dict[str, Any]] = ("register-write", {})
    arm(machine, [("firmware-refused", first, 1, 1), ("psp-never-ready", first, 1, 1)], BOOTING)
    with hurried():
        assert "the boot loader does not answer" in str(session(machine, code, rounds=1).error)
        recover(machine, code)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(plans(BOOTING, (("register-write", {}), ("register-read", {}), ("psp-command", {}), ("smu-message", {}))))
def test_a_card_that_breaks_while_it_boots(code: bytes, plan: list[Plan]) -> None:
    with mock.Machine([mock.Gpu(vram="256M")]) as machine:
        arm(machine, plan, BOOTING)
        with hurried():
            outcome = session(machine, code, rounds=1)
        note(f"{plan}: {outcome.error!r}")
        outcome.check()
        recover(machine, code)


def test_a_fault_that_is_lost_in_a_storm(machine: mock.Machine) -> None:
    """The page fault's entry is overwritten before anybody looks; the hub's register still has it."""
    with Device.open(MockHal(machine)) as device:
        board = machine.gpus[0]
        board.memory.write("gc", 8, 0x6EAD_0000_0000, b"1234", client=Client.SDMA1)     # goes to the dummy page
        board.faults.inject("interrupt-storm", entries=9000)
        with pytest.raises(GpuFault, match=r"page fault at 0x6ead00000000: write by SDMA1.*interrupt ring overflowed"):
            device.check()
        assert device.ih.overflows == 1
        board.faults.inject("interrupt-storm", entries=9000)
        device.check()                                  # nothing was lost that matters
        assert device.interrupts.counts["overflow"] == 2


def test_a_fault_whose_interrupt_faults_too(machine: mock.Machine) -> None:
    """The interrupt's entry goes through the MM hub, which finds no page for it: nothing but the registers tells."""
    with Device.open(MockHal(machine)) as device:
        board = machine.gpus[0]
        board.faults.inject("page-fault", hub="mm", count=4)
        board.memory.write("gc", 8, 0x6EAD_0000_0000, b"1234", client=Client.SDMA1)
        with pytest.raises(GpuFault, match=r"0x6ead00000000: write by SDMA1.*gc hub.*that never came(.|\n)*mm hub"):
            device.check()
        board.faults.clear()
        device.check()


def test_a_fault_of_the_owner_before(machine: mock.Machine) -> None:
    """An engine that finishes while its owner takes the card down; nobody was there for the interrupt."""
    board = machine.gpus[0]
    Device.open(MockHal(machine)).close()
    with pytest.raises(Fault):
        board.memory.write("gc", 0, 0x2000_0000_0000, b"1234", client=Client.SDMA1)
    assert board.regs["GCVM_L2_PROTECTION_FAULT_STATUS"]
    with Device.open(MockHal(machine)) as device:
        device.check()


def test_lost_memory_is_an_error(machine: mock.Machine, code: bytes) -> None:
    device = hcq.Device(open_backend(hal=MockHal(machine)))
    try:
        machine.gpus[0].faults.inject("ecc-error", address=0x8000, at=Moment("sdma-packet", 3))
        assert Outcome(lambda: use(device, code, 2, 1, timeout=PATIENCE / 4)).error is None           # corrected
        machine.gpus[0].faults.inject("ecc-error", address=0x8000, fatal=True, at=Moment("sdma-packet", 3))
        outcome = Outcome(lambda: use(device, code, 4, 1, timeout=PATIENCE / 4))
        assert "uncorrectable error of the card's memory" in str(outcome.error)
    finally:
        machine.gpus[0].faults.clear()
        Outcome(device.close).check()
