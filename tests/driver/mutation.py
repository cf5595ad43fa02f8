"""One register write of a boot left out, and everything tried that the card should be able to do afterwards.

:class:`ForgetfulHal` drops one write to the register BAR; :func:`everything` boots through it and works. What goes
wrong (an error, a wrong result, a note in the mock's log) shows that the write was needed. Each is tried twice: on a
card fresh from reset, and with the opposite of what was to be written in the register, as someone else may have left
it there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, cast

import numpy as np

import amdrv.wait
import hcq
import mock
from amdrv import pm4, sdma
from amdrv.backend import AmBackend
from amdrv.device import Device
from amdrv.errors import AmdrvError, GpuFault
from amdrv.hal import Hal
from amdrv.hal.mock import MockHal
from amdrv.wait import wait_until
from tools.boot_diff.record import REGISTER_BAR, RecordingHal
from tools.boot_diff.trace import Event, fold, name_at

Write = tuple[int, int]
"""(byte offset in the register BAR, which of the boot's writes to it, from 0)"""

SPEED = 10                  # waits of the driver expire so many times sooner; the mock answers within milliseconds

HARVEST = {(engine, array): 2 * engine + array + 1 for engine in range(6) for array in range(2)}
"""(shader engine, array) -> WGPs that are fused off; every array another set"""

LLVM_IR = """
target triple = "amdgcn-amd-amdhsa"
@lds = internal addrspace(3) global [64 x i32] poison
declare i32 @llvm.amdgcn.workitem.id.x()
define amdgpu_kernel void @mixed(ptr addrspace(1) %out, ptr addrspace(1) %pointers, i32 %k) {
  %item = call i32 @llvm.amdgcn.workitem.id.x()
  %mine = getelementptr ptr, ptr addrspace(1) %pointers, i32 %item
  %stack = alloca [64 x i32], addrspace(5)
  %slot = getelementptr i32, ptr addrspace(5) %stack, i32 %item
  %product = mul i32 %item, %k
  store volatile i32 %product, ptr addrspace(5) %slot
  %flat_slot = addrspacecast ptr addrspace(5) %slot to ptr
  store volatile ptr %flat_slot, ptr addrspace(1) %mine
  %known_slot = load volatile ptr, ptr addrspace(1) %mine
  %p = load volatile i32, ptr %known_slot
  %cell = getelementptr i32, ptr addrspace(3) @lds, i32 %item
  store volatile i32 %p, ptr addrspace(3) %cell
  %flat_cell = addrspacecast ptr addrspace(3) %cell to ptr
  store volatile ptr %flat_cell, ptr addrspace(1) %mine
  %known_cell = load volatile ptr, ptr addrspace(1) %mine
  %q = load volatile i32, ptr %known_cell
  %result = add i32 %q, 1
  %to = getelementptr i32, ptr addrspace(1) %out, i32 %item
  store i32 %result, ptr addrspace(1) %to
  ret void
}
"""


class Wrong(Exception):
    """The card did not do what it was asked."""


@cache
def kernel() -> bytes:
    """LDS and scratch, both read by flat addresses, which come from memory so that no compiler sees through them."""
    from llvmlite import binding
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    machine = binding.Target.from_triple("amdgcn-amd-amdhsa").create_target_machine(cpu="gfx1100", opt=2)
    code: bytes = machine.emit_object(binding.parse_assembly(LLVM_IR))
    return code


class _ForgetfulRegion:
    def __init__(self, inner: Any, hal: ForgetfulHal) -> None:
        self._inner, self._hal = inner, hal
        self._known: set[int] = set()       # offsets that the driver has read or written

    def read32(self, offset: int) -> int:
        self._known.add(offset)
        value: int = self._inner.read32(offset)
        return value

    def write32(self, offset: int, value: int) -> None:
        if not self._hal.forgets(offset):
            self._inner.write32(offset, value)
        elif offset not in self._known:
            self._hal.spoil(name_at(offset // 4), value)
        self._known.add(offset)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _ForgetfulDevice:
    def __init__(self, inner: Any, hal: ForgetfulHal) -> None:
        self._inner, self._hal = inner, hal

    def bar(self, index: int) -> Any:
        region = self._inner.bar(index)
        return _ForgetfulRegion(region, self._hal) if index == REGISTER_BAR else region

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class ForgetfulHal:
    """A HAL that loses one write of the first boot through it."""

    def __init__(self, machine: mock.Machine, lost: Write | None = None, *, dirty: bool = False) -> None:
        self._inner, self._machine, self._lost, self._dirty = MockHal(machine), machine, lost, dirty
        self._seen: Counter[int] = Counter()
        self.booting = True
        self.spoilable = False
        self.writes: list[Write] = []

    def forgets(self, offset: int) -> bool:
        if not self.booting:
            return False
        write = offset, self._seen[offset]
        self._seen[offset] += 1
        self.writes.append(write)
        return write == self._lost

    def spoil(self, name: str, value: int) -> None:
        """The register was never read or written: whatever is in it is someone else's."""
        self.spoilable = True
        if not self._dirty:
            return
        registers = self._machine.gpus[0].regs
        known = 0
        for field in registers.register(name).fields:
            known |= field.mask
        registers[name] = value ^ (known or 0xFFFF_FFFF)

    def open(self, address: str, *, dma_bits: int = 44) -> Any:
        device = self._inner.open(address, dma_bits=dma_bits)
        return _ForgetfulDevice(device, self) if self.booting else device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _FastClock:
    """``time`` for ``amdrv.wait``, with a clock that runs faster."""

    def __init__(self, time: Any) -> None:
        self._time = time

    def monotonic(self) -> float:
        return float(SPEED * self._time.monotonic())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._time, name)


@contextmanager
def fast_waits() -> Iterator[None]:
    time = amdrv.wait.time
    amdrv.wait.time = _FastClock(time)      # type: ignore[assignment]
    try:
        yield
    finally:
        amdrv.wait.time = time


# What a card should do -----------------------------------------------------------------------------------

def _shape(device: Device) -> None:
    """The WGPs that are there, array by array: no two arrays of this board are alike."""
    for array, gone in HARVEST.items():
        if device.gfx.wgp_masks[array] != 0b1111 & ~gone:
            raise Wrong(f"array {array} has WGPs {device.gfx.wgp_masks[array]:#06b}")


def _copies(device: Device) -> None:
    """Each copy engine, system memory to VRAM and back."""
    content = np.random.default_rng(1).integers(0, 256, 70_000, dtype=np.uint8)
    source, vram, back = (device.alloc(70_000, kind=kind)       # type: ignore[arg-type]
                          for kind in ("system", "vram", "system"))
    fence = device.alloc(4096, kind="system")
    assert source.view is not None and back.view is not None and fence.view is not None
    source.view[:] = content
    word = fence.view[:4].view(np.uint32)
    word[:] = 0
    for number, ring in enumerate(device.sdma_rings, 1):
        back.view[:] = 0
        packets = [*sdma.build("COPY_LINEAR", COUNT=69_999, SRC_ADDR=source.address, DST_ADDR=vram.address),
                   *sdma.build("COPY_LINEAR", COUNT=69_999, SRC_ADDR=vram.address, DST_ADDR=back.address),
                   *sdma.build("FENCE", MTYPE="UC", ADDR=fence.address, DATA=number),
                   *sdma.build("TRAP", INT_CONTEXT=0)]
        ring.submit(np.array(packets, np.uint32))
        wait_until(lambda number=number: int(word[0]) == number, 5, f"fence of {ring.name}")    # type: ignore[misc]
        if not (back.view == content).all():
            raise Wrong(f"{ring.name} copied wrong bytes")
    for buffer in (source, vram, back, fence):
        device.free(buffer)


def _interrupts(device: Device) -> None:
    """The fences' interrupts have arrived, by the MSI, and nobody had to poll."""
    counts = device.interrupts.counts
    before = sum(counts.values())
    fence = device.alloc(4096, kind="system")
    assert fence.view is not None
    done = fence.view[:12].view(np.uint32)
    done[:] = 0
    for i, ring in enumerate(device.sdma_rings):
        ring.submit(np.array([*sdma.build("FENCE", MTYPE="UC", ADDR=fence.address + 4 * i, DATA=1),
                              *sdma.build("TRAP", INT_CONTEXT=0)], np.uint32))
    device.compute_rings[0].submit(np.array(pm4.build(
        "RELEASE_MEM", EVENT_TYPE="BOTTOM_OF_PIPE_TS", EVENT_INDEX=5, GL2_WB=1, DST_SEL=0, DATA_SEL=1, INT_SEL=2,
        ADDRESS=fence.address + 8, DATA=1, INT_CTXID=0), np.uint32))
    wait_until(lambda: bool(done.all()), 5, "three fences", seen=lambda: done.tolist())
    wait_until(lambda: device.interrupts.wait(0.005) * 0 + sum(counts.values()) - before >= len(done), 5,
               f"{len(done)} interrupts", seen=lambda: dict(counts))
    device.free(fence)


def _remapping(device: Device) -> None:
    """Both kinds of engine see what is mapped now."""
    fence, back = device.alloc(4096, kind="system"), device.alloc(4096, kind="system")
    assert back.view is not None and fence.view is not None
    word = fence.view[:4].view(np.uint32)
    word[:] = 0
    for number in range(1, 4):
        held = device.alloc(4096, kind="system")
        assert held.view is not None
        held.view[:] = number
        device.sdma_rings[0].submit(np.array(
            [*sdma.build("COPY_LINEAR", COUNT=4095, SRC_ADDR=held.address, DST_ADDR=back.address),
             *sdma.build("FENCE", MTYPE="UC", ADDR=fence.address, DATA=number)], np.uint32))
        wait_until(lambda number=number: int(word[0]) == number, 5, "a copy after remapping")   # type: ignore[misc]
        if not (back.view == number).all():
            raise Wrong("a copy read what was mapped before")
        device.free(held)


def _kernels(device: Device) -> None:
    dev = hcq.Device(AmBackend(device))
    dev.timeout = 1.0
    program = dev.program(kernel(), "mixed")
    out, pointers = dev.alloc(256), dev.alloc(512)
    for k in (3, 5):
        program(out, pointers, np.int32(k), grid=1, block=64)
        if not np.array_equal(out.copyout().view(np.int32), np.arange(64) * k + 1):
            raise Wrong("a kernel computed wrong values")
    dev.synchronize()


def _fault(device: Device, kind: str) -> None:
    """A wrong address is found and said, with the address, on either kind of engine."""
    victim = device.alloc(4096)
    bad = victim.end + 0x1000
    if kind == "compute":
        device.compute_rings[0].submit(np.array(pm4.build("WRITE_DATA", DST_SEL="MEM", WR_CONFIRM=1, DST_ADDR=bad,
                                                          DATA=[1]), np.uint32))
    else:
        device.sdma_rings[0].submit(np.array(sdma.build("COPY_LINEAR", COUNT=15, SRC_ADDR=victim.address,
                                                        DST_ADDR=bad), np.uint32))

    def reported() -> bool:
        device.check()
        return False
    try:
        wait_until(reported, 5, f"the fault of {kind} to be reported")
    except GpuFault as fault:
        if f"page fault at {bad:#x}" not in str(fault) or "write" not in str(fault):
            raise Wrong(f"a fault is reported wrongly: {fault}") from None
    if not device.interrupts.counts["page fault"]:
        raise Wrong("a page fault raised no interrupt")


def _bad_packet(device: Device) -> None:
    """An opcode that is none stops the queue with an interrupt that says so."""
    unknown = 0xC000_FF00
    device.compute_rings[0].submit(np.array([unknown, 0], np.uint32))

    def reported() -> bool:
        device.check()
        return False
    with suppress(GpuFault):
        wait_until(reported, 5, "a bad packet to be reported")


def everything(lost: Write | None = None, *, dirty: bool = False) -> bool:
    """Boot with one write lost, and try everything; whether a dirty register would have made a difference.

    :raises Exception: what went wrong.
    """
    spoilable = False
    for ending in ("compute", "sdma", "packet"):
        with mock.Machine(gpus=[mock.Gpu("gfx1100", vram="128M", harvest=HARVEST)]) as machine:
            board = machine.gpus[0]
            hal = ForgetfulHal(machine, lost, dirty=dirty)
            with Device.open(cast(Hal, hal)) as device:
                hal.booting = False
                spoilable = hal.spoilable
                if ending == "compute":
                    _shape(device)
                    _copies(device)
                    _interrupts(device)
                    _remapping(device)
                    _kernels(device)
                    device.check()
                    for note in board.notes:
                        raise Wrong(f"the card's log: {note.rule}: {note.text}")
                if ending == "packet":
                    _bad_packet(device)
                else:
                    _fault(device, ending)
    return spoilable


def lost_writes() -> list[tuple[Write, str]]:
    """Every write of a boot, with the name that ``tools.boot_diff`` has for it."""
    with mock.Machine(gpus=[mock.Gpu("gfx1100", vram="128M")]) as machine:
        forgetful = ForgetfulHal(machine)
        with Device.open(cast(Hal, forgetful)):
            forgetful.booting = False
    return [(write, name_at(write[0] // 4)) for write in forgetful.writes]


def recorded() -> list[Event]:
    """A boot as ``tools.boot_diff`` records it."""
    with mock.Machine(gpus=[mock.Gpu("gfx1100", vram="128M")]) as machine:
        recording = RecordingHal(MockHal(machine))
        with Device.open(cast(Hal, recording)):
            return fold(recording.events)


def survives(lost: Write | None) -> str:
    """What was noticed when this write was lost; empty when nothing was."""
    try:
        with fast_waits():
            if everything(lost):
                everything(lost, dirty=True)
    except (AmdrvError, hcq.HcqError, Wrong, MemoryError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


__all__ = ["ForgetfulHal", "Write", "everything", "lost_writes", "recorded", "survives"]
