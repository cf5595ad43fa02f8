"""When something stands still: what it is, at what, and how the process goes on.

    try:
        ...
    except (GpuFault, GpuHang, WaitTimeout):
        done = card.recover()           # queue, then micro engine or copy engine, then the whole card
        print(done)                     # what hung at which packet, what was reset, whose work is lost

Each rung is tried only when the one below did not bring the queue back; a queue is back when it does a store. On the
first two rungs VRAM and everything else on the card stay as they are. The work that the rings held is lost and has
failed: nothing of it will be signalled, and :attr:`Recovery.lost` says how much there was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from amdrv.errors import AmdrvError
from amdrv.waves import Wave, waves

if TYPE_CHECKING:
    from amdrv.device import Device
    from amdrv.ring import Ring

__all__ = ["Diagnosis", "Recovery", "StuckQueue", "Step", "diagnose", "recover"]

LOOKS, LOOK = 10, 10e-3         # a queue stands still when so many looks, so many seconds apart, find it at one place
TOLD = 2                # waves of a queue that a report's text names


@dataclass(frozen=True)
class StuckQueue:
    """A queue with work that is not done."""

    ring: str
    pending: int            # words submitted and not read; in an AQL queue packets that are not complete
    packet: str             # where the read pointer stands that it reported last, as text
    kernel: str             # of a compute queue: the code of the last launch, and the buffer that holds it
    waves: tuple[Wave, ...] = ()        # of a compute queue: those that are on the card, the first of many
    units: str = "words"

    def __str__(self) -> str:
        kernel = f"; its last launch ran {self.kernel}" if self.kernel else ""
        more = f" (and {len(self.waves) - TOLD} more)" if len(self.waves) > TOLD else ""
        waves = "".join(f"; {wave}" for wave in self.waves[:TOLD])
        return f"{self.ring}: {self.pending} {self.units} pending, {self.packet}{kernel}{waves}{more}"


@dataclass(frozen=True)
class Diagnosis:
    """``faults`` are what the card reported and nobody has raised: address, cause and nearest buffer, or the wave."""

    queues: tuple[StuckQueue, ...]
    faults: tuple[str, ...]

    def __str__(self) -> str:
        lines = [*map(str, self.queues), *self.faults]
        return "\n".join(lines) if lines else "every queue is idle, and the card has reported nothing"


@dataclass(frozen=True)
class Step:
    """One rung: what was reset, and why that was not enough ("" when it was)."""

    what: str
    failed: str = ""

    def __str__(self) -> str:
        return f"reset of {self.what}: {self.failed or 'it works again'}"


@dataclass(frozen=True)
class Recovery:
    """:ivar lost: {ring: words that its engine never read}, of every ring whose work was given up."""

    diagnosis: Diagnosis
    steps: tuple[Step, ...]
    lost: dict[str, int] = field(default_factory=dict)
    vram_lost: bool = False

    def __str__(self) -> str:
        lines = [str(self.diagnosis), *map(str, self.steps)]
        if self.lost:
            lines.append("work was lost of " + ", ".join(self.lost))
        if self.vram_lost:
            lines.append("the content of video memory was lost")
        return "\n".join(lines)


def diagnose(device: Device) -> Diagnosis:
    """Look at every queue, and at the faults that the card has reported. Nothing is changed on the card."""
    if not device.registers_answer():
        return Diagnosis((), (f"{device.name}: registers read as all ones; the card has fallen off the bus",))
    faults = tuple(device.interrupts.reported())
    return Diagnosis(tuple(_describe(device, ring) for ring in _stuck(device)), faults)


def _stuck(device: Device) -> list[Ring]:
    """The rings that have work and do not advance. One that has just finished tells of it a moment later."""
    rings = {ring: ring.pending for ring in (*device.compute_rings, *device.sdma_rings) if _busy(device, ring)}
    for _ in range(LOOKS):
        if not rings:
            break
        time.sleep(LOOK)
        rings = {ring: before for ring, before in rings.items() if _busy(device, ring) and ring.pending == before}
    return list(rings)


def _busy(device: Device, ring: Ring) -> bool:
    return bool(ring.pending) or (device.sdma.busy(ring) if ring.kind == "copy" else device.gfx.busy(ring))


def _describe(device: Device, ring: Ring) -> StuckQueue:
    kernel, its_waves = "", tuple[Wave, ...]()
    if ring.kind != "copy":
        place = device.gfx.queues[device.compute_rings.index(ring)]
        its_waves = tuple(wave for wave in waves(device) if wave.place == place)
        if code := device.gfx.program_of(ring):
            kernel = f"the code at {code:#x}, {device.require_memory().nearest(code)}"
    return StuckQueue(ring.name, ring.pending, ring.describe_stuck(), kernel, its_waves, ring.units)


def recover(device: Device, rings: Sequence[Ring] | None = None) -> Recovery:
    """See :meth:`amdrv.device.Device.recover`."""
    found = diagnose(device)
    chosen = list(rings) if rings is not None else _stuck(device)
    lost = {ring.name: ring.pending for ring in chosen}
    steps: list[Step] = []
    compute = [ring for ring in chosen if ring.kind != "copy"]
    revived = device.registers_answer() and not device.interrupts.memory_is_lost
    for ring in chosen if revived else ():
        revived = _attempt(steps, ring.name, lambda ring=ring: _reset_queue(device, ring), [ring])      # type: ignore[misc]
        if revived:
            continue
        if ring.kind == "copy":
            revived = _attempt(steps, f"the engine of {ring.name}", lambda ring=ring: device.sdma.reset_engine(ring),   # type: ignore[misc]
                               [ring])
        else:
            lost |= {each.name: each.pending for each in device.compute_rings if each not in compute}
            revived = _attempt(steps, "the compute micro engine", device.gfx.reset_mec, device.compute_rings)
        if not revived:
            break
    if not revived:
        lost |= {ring.name: ring.pending for ring in (*device.compute_rings, *device.sdma_rings)
                 if ring.pending and ring.name not in lost}
        device.reset()
        for ring in (*device.compute_rings, *device.sdma_rings):
            ring.test()
        steps.append(Step("the whole card"))
    device.interrupts.forget()      # what was reported of the work that is gone
    return Recovery(found, tuple(steps), lost, vram_lost=not revived)


def _reset_queue(device: Device, ring: Ring) -> None:
    if ring.kind == "copy":
        device.sdma.reset_queue(ring)
    else:
        device.gfx.reset_queue(ring)


def _attempt(steps: list[Step], what: str, reset: Callable[[], None], rings: Sequence[Ring]) -> bool:
    """One rung; True when every ring does a store after it."""
    try:
        reset()
        for ring in rings:
            ring.test()
    except AmdrvError as error:
        steps.append(Step(what, str(error)))
        return False
    steps.append(Step(what))
    return True
