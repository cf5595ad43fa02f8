"""One card: the plain interface that the outside sees, and the frame that the blocks stand in.

Outside: :meth:`Board.read_config`, :meth:`~Board.write_config`, :meth:`~Board.read_bar`, :meth:`~Board.write_bar`,
:meth:`~Board.bar_size`, :meth:`~Board.bar_memory`, :meth:`~Board.on_msi`, :meth:`~Board.fence`,
:meth:`~Board.reset`. Nothing else is needed to drive the card, by any driver. A read gives way to the engines, so
that a driver may poll in a bare loop.

Inside: ``regs``, ``vram``, ``memory`` (the GMC), ``ih``, ``counters``, ``note``, ``clock``, ``engine`` and
``dma``. A block is made in the order of ``BLOCKS`` and reset in that order.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mock.actor import current
from mock.arch import arch_of
from mock.block import Block
from mock.bus import BusError, HostBus
from mock.clock import CLOCK_HZ, make_clock
from mock.config_space import BAR_DOORBELLS, BAR_REGISTERS, BAR_VRAM, ConfigSpace
from mock.engine import Engine, Engines
from mock.faults import Faults
from mock.log import Log
from mock.registers import Registers
from mock.vram import Vram

if TYPE_CHECKING:
    from mock.gmc import Gmc
    from mock.ih import Ih
    from mock.machine import Gpu
    from mock.trace.record import Trace

__all__ = ["Board", "CLOCK_HZ"]

BLOCKS = (("nbio", "mock.nbio", "Nbio"), ("grbm", "mock.grbm", "Grbm"), ("smuio", "mock.grbm", "Smuio"),
          ("psp", "mock.psp", "Psp"), ("smu", "mock.smu", "Smu"), ("memory", "mock.gmc", "Gmc"),
          ("ih", "mock.ih", "Ih"), ("ras", "mock.ras", "Ras"), ("gfx", "mock.gfx", "Gfx"), ("mec", "mock.mec", "Mec"),
          ("gfxring", "mock.gfxring", "GfxRing"), ("mes", "mock.mes", "Mes"), ("sdma", "mock.sdma", "Sdma"),
          ("sq", "mock.sq", "Sq"), ("perf", "mock.perfcounters", "PerfCounters"))
"""(attribute of the board, module, class), in the order of making and of reset."""

ALL_ONES = 0xFFFFFFFF
LATE_SECONDS = 0.05     # of a late interrupt, where the fault does not say
FB_READ_EN, FB_WRITE_EN = 1, 2       # fields of BIF_FB_EN


class Board:
    """Made by :class:`mock.Machine`. ``address`` is its PCI address ("0000:03:00.0")."""

    memory: Gmc
    ih: Ih
    nbio: Any
    psp: Any
    smu: Any
    ras: Any
    sq: Any
    gfx: Any
    mec: Any
    gfxring: Any
    mes: Any
    sdma: Any
    perf: Any

    def __init__(self, gpu: Gpu, bus: HostBus, address: str, *, blocks: tuple[tuple[str, str, str], ...] = BLOCKS,
                 ) -> None:
        self.gpu, self.bus, self.address = gpu, bus, address
        self.arch = arch_of(gpu.arch)
        self.log = Log()
        self.counters: Counter[str] = Counter()
        self.vram = Vram(gpu.vram_bytes, strict=gpu.is_strict("hdp"), poison=gpu.is_strict("poison"))
        self.engines = Engines(address, self.note)
        self.faults = Faults(self)
        self.time = make_clock(gpu.clock)
        self.engines.on_job = self.time.begin
        self._lock = threading.RLock()
        self._msi: dict[object, Callable[..., Any]] = {}
        self.trace: Trace | None = None
        """What records this board (AMDRV_MOCK_TRACE, or a test); None while nobody watches."""
        self.lost = False
        """True after a surprise removal: every read returns all ones, writes go nowhere."""
        self.resetting = False
        """True while the card is being reset: its firmware cannot be ready yet."""
        self._host = threading.local()      # of each of the host's threads: was its last access a fence?
        self._weak = False
        self.config = ConfigSpace(self)
        geometry = (self.arch.shader_engines, self.arch.arrays_per_engine, 2 * self.arch.wgps_per_array)
        self.regs = Registers(gpu.arch, self.config.bar_bytes(BAR_REGISTERS) // 4, geometry, self.note)
        self.after_flush: list[Callable[[], None]] = []
        """Called at the end of every HDP flush."""
        self.blocks: list[Block] = []
        for attribute, module, name in blocks:
            block = getattr(importlib.import_module(module), name)(self)
            setattr(self, attribute, block)
            self.blocks.append(block)
        for block in self.blocks:
            self.regs.add_block(block)
        self.regs.reset()
        for block in self.blocks:
            block.reset()

    def __repr__(self) -> str:
        return f"<Board {self.gpu.arch} at {self.address}, {self.vram.size >> 20} MiB, {len(self.log)} notes>"

    # ---- the plain interface

    def read_config(self, offset: int, width: int) -> int:
        """PCI configuration space, 4096 bytes; ``width`` 1, 2 or 4, aligned."""
        if self.lost:
            return (1 << 8 * width) - 1
        return self.config.read(offset, width)

    def write_config(self, offset: int, width: int, value: int) -> None:
        """Store 1, 2 or 4 bytes in configuration space; a card that dropped off the bus takes nothing."""
        if not self.lost:
            self.config.write(offset, width, value)

    def bar_size(self, index: int) -> int:
        """Bytes of a BAR; 0 where there is none. BAR0: VRAM (as the resizable BAR is set), 2: doorbells,
        4: I/O ports, 5: registers."""
        return self.config.bar_bytes(index)

    def bar_memory(self, index: int, offset: int = 0, size: int | None = None) -> memoryview:
        """The CPU's window on a BAR that is plain memory (BAR0), for loads and stores without a call.

        Engines see stores after the HDP flush. The window lives as long as any view of it; pages outside of live
        windows cost nothing.

        :raises ValueError: the BAR is not memory, the card does not decode it, or the range does not fit.
        """
        if index != BAR_VRAM:
            raise ValueError(f"BAR{index} is not memory: its accesses have effects; use read_bar and write_bar")
        limit = min(self.bar_size(index), self.vram.size)
        size = limit - offset if size is None else size
        if offset < 0 or size < 0 or offset + size > limit:
            raise ValueError(f"bar_memory(0) of {size:#x} bytes at {offset:#x}: the BAR has {limit:#x} bytes of memory")
        return self.vram.window(offset, size)

    def read_bar(self, index: int, offset: int, width: int) -> int:
        """One read. BAR5 takes aligned 4 bytes, BAR2 4 or 8, BAR0 1 to 8. Anything else: a note, and all ones."""
        if self.engines.busy:
            time.sleep(0)       # a bare polling loop lets the engines move
        self._host.fenced = False
        if index == BAR_REGISTERS and width == 4 and not offset & 3 and 0 <= offset < 4 * self.regs.count:
            if self.faults.any:
                self.faults.event("register-read", dword=offset >> 2)
            if self.lost or not self.config.memory_enabled:
                return ALL_ONES
            if self.smu.gfxoff_allowed and self.gc_unpowered(offset >> 2, "read"):
                return 0
            return self.regs.read(offset >> 2)
        if not self._decodes(index, offset, width, "read"):
            return (1 << 8 * width) - 1
        if index == BAR_VRAM:
            return self.vram.cpu_read(offset, width) if self.nbio.frame_buffer_on(FB_READ_EN) else (1 << 8 * width) - 1
        return int(self.nbio.read_doorbell(offset, width))

    def write_bar(self, index: int, offset: int, width: int, value: int) -> None:
        """One posted write of exactly ``width`` bytes; see :meth:`read_bar` for the widths."""
        try:
            self._write_bar(index, offset, width, value & (1 << 8 * width) - 1)
        finally:
            self._host.fenced = False

    def _write_bar(self, index: int, offset: int, width: int, value: int) -> None:
        if index == BAR_REGISTERS and width == 4 and not offset & 3 and 0 <= offset < 4 * self.regs.count:
            if self.faults.any:
                self.faults.event("register-write", dword=offset >> 2)
            if self.smu.gfxoff_allowed and self.gc_unpowered(offset >> 2, "write"):
                return
            if not self.lost and self.config.memory_enabled:
                with self._lock:
                    self.regs.write(offset >> 2, value)
            return
        if not self._decodes(index, offset, width, "write"):
            return
        if index == BAR_VRAM:
            if self.nbio.frame_buffer_on(FB_WRITE_EN):
                self.vram.cpu_write(offset, width, value)
        else:
            if self._weak and not self._fenced and self.nbio.doorbell_client(offset >> 2) in ("cp", "sdma"):
                self.note("wc", f"doorbell {offset >> 2:#x} (now {value:#x}) without a fence before it: what the CPU "
                                f"stored for the queue {self._unfenced()}may come later than the doorbell")
            self.nbio.write_doorbell(offset, width, value)

    def _unfenced(self) -> str:
        """Where the CPU's stores through BAR 0 may still be on their way."""
        pages = self.vram.pending_pages()
        return "" if not pages else "(to video memory " + ", ".join(f"{page << 12:#x}" for page in pages) + ") "

    @property
    def _fenced(self) -> bool:
        """Was this thread's last access a fence? Engines' own requests find nothing in the CPU's buffers."""
        return getattr(self._host, "fenced", True)

    def _decodes(self, index: int, offset: int, width: int, what: str) -> bool:
        size = self.bar_size(index)
        widths = {BAR_VRAM: (1, 2, 4, 8), BAR_DOORBELLS: (4, 8), BAR_REGISTERS: (4,)}.get(index, ())
        if not size or not widths:
            self.note("bar-access", f"{what} of BAR{index}, which this card does not decode")
        elif width not in widths or offset % width:
            self.note("bar-access", f"{what} of {width} bytes at {offset:#x} of BAR{index}: it takes aligned accesses "
                                    f"of {' or '.join(map(str, widths))} bytes")
        elif not 0 <= offset <= size - width:
            self.note("bar-access", f"{what} at {offset:#x} of BAR{index}, beyond its {size:#x} bytes")
        elif index == BAR_VRAM and offset + width > self.vram.size:
            self.note("bar-access", f"{what} at {offset:#x} of BAR0: the card has {self.vram.size:#x} bytes of memory")
        else:
            return not self.lost and self.config.memory_enabled
        return False

    def gc_unpowered(self, dword: int, what: str) -> bool:
        """Is this one of GC's registers, and GC without power (GFXOFF)? With a note when it is."""
        if dword not in self.regs.names.gc_dwords or not self.smu.gfx_off:
            return False
        self.note("gfxoff", f"{what} of {self.regs.names.describe(dword)} while GC has no power: GFXOFF is allowed and "
                            "nothing runs; DisallowGfxOff comes first")
        return True

    def on_msi(self, callback: Callable[..., Any]) -> Callable[[], None]:
        """Call ``callback(vector)`` for every MSI, on the thread that raised it. Returns what removes it again."""
        token = object()
        self._msi[token] = callback
        return lambda: self._msi.pop(token, None) and None

    def fence(self) -> None:
        """Earlier stores of the CPU through BAR0 before later ones, write-combining drained."""
        self._host.fenced = True

    def order_by_fences(self) -> None:
        """From here on the host is one whose stores only :meth:`fence` orders, as a portable driver must take it;
        otherwise a register access drains the write-combining buffers, as on x86 (rule ``wc`` of :mod:`mock.rules`)."""
        self._weak = self.gpu.is_strict("wc")

    def reset(self) -> None:
        """Secondary bus reset, as a host does it: configuration space starts anew but for the BARs, which the host
        puts back; blocks start anew, posted stores are lost; VRAM keeps its bytes."""
        self.config.reset(keep_bars=True)
        self.reset_blocks()

    # ---- for the blocks

    def reset_blocks(self, keep: tuple[str, ...] = ()) -> None:
        """Everything behind the registers back to power-on; engines drop their work."""
        self.resetting = True           # a driver that polls meanwhile must not find the card ready halfway
        self.engines.abort()
        with self._lock:
            self.vram.drop_posted()
            self.regs.reset(keep)
            for block in self.blocks:
                block.reset()
        self.resetting = False

    def mode1_reset(self) -> None:
        """The whole chip starts anew (SMU message, or PSP mailbox): video memory is lost, configuration space is
        not. The SMU's mailbox keeps its last answer until its firmware starts again."""
        self.resetting = True
        self.vram.lose()
        self.reset_blocks(keep=tuple(f"MP1_SMN_C2PMSG_{n}" for n in (53, 54, 66, 75, 82, 90)))

    def note(self, rule: str, text: str) -> None:
        """The mock's own log: which rule was broken, and how."""
        self.log.add(rule, text)

    @property
    def bus_master(self) -> bool:
        """May the card make accesses of its own to the host bus?"""
        return self.config.bus_master and not self.lost

    def hdp_flush(self) -> None:
        """The CPU's posted stores through BAR0 reach memory."""
        before = self.vram.lingering
        self.vram.flush(drained=not self._weak or self._fenced)
        if self.vram.lingering != before:
            self.note("wc", f"an HDP flush without a fence before it, by {current()}: what the CPU stored to "
                            f"{self.vram.lingering - before} pages of video memory ({self.vram.lingering_at()}) is "
                            "still in its write-combining buffers")
        self.memory.tables.count()
        for hook in self.after_flush:
            hook()

    @cached_property
    def rom(self) -> bytes:
        """What the expansion ROM holds: the VBIOS."""
        from mock import vbios
        return vbios.image(self.gpu)

    @property
    def notes(self) -> Log:
        """The mock's own log: which rule was broken, by whom, and what would have been right."""
        return self.log

    def clock(self) -> int:
        """The golden timestamp counter: 100 MHz since the card was made, of the host's time or of modelled time."""
        return self.time.ticks()

    def engine(self, name: str) -> Engine:
        """The engine of that name; its thread starts with its first job."""
        return self.engines[name]

    def read_register(self, name: str) -> int:
        """As a read of the register BAR, by name, from inside (an engine, the SMU): no power gating of the access."""
        return self.regs.read(self.regs.dword(name))

    def write_register(self, name: str, value: int) -> None:
        """Store a register by name, as the card's own hardware would; no handler of the bus runs."""
        with self._lock:
            self.regs.write(self.regs.dword(name), value)

    def write_dword(self, dword: int, value: int) -> None:
        """A register write that an engine makes (PM4 WRITE_DATA, SDMA SRBM_WRITE), by dword index."""
        with self._lock:
            self.regs.write(dword, value)

    def read_dword(self, dword: int) -> int:
        """A register's value by its dword index in BAR 5, without side effects of a read through the bus."""
        return self.regs.read(dword)

    def dma(self, bus_address: int, size: int, *, write: bool) -> int:
        """Host pointer for one of the card's own accesses to the host bus.

        :raises BusError: bus mastering is off, or nothing answers; a note says so.
        """
        if self.lost or not self.config.bus_master:
            self.note("bus-master", f"{'write' if write else 'read'} of {size} bytes at bus address {bus_address:#x} "
                                    "while bus mastering is off in the PCI command register")
            raise BusError(bus_address, size, "the card is not a bus master")
        try:
            return self.bus.translate(bus_address, size)
        except BusError as error:
            self.note("bus-error", f"{'write' if write else 'read'} of {error}")
            raise

    def dma_many(self, bus_addresses: np.ndarray, size: int, *, write: bool) -> np.ndarray:
        """:meth:`dma` for uint64[n] addresses of ``size`` bytes each -> uint64[n]."""
        if not len(bus_addresses):
            return bus_addresses
        if self.lost or not self.config.bus_master:
            self.dma(int(bus_addresses[0]), size, write=write)
        try:
            return self.bus.translate_many(bus_addresses, size)
        except BusError as error:
            self.note("bus-error", f"{'write' if write else 'read'} of {error}")
            raise

    def raise_msi(self, vector: int = 0) -> bool:
        """Send an MSI message; False when the function may not (MSI disabled, masked, or no bus master)."""
        number = self.config.msi_message(vector)
        if number is None or self.lost:
            return False
        if self.faults.lose_interrupt():
            return False
        if late := self.faults.strike("late-interrupt"):
            self.engine("late interrupts").post(self._deliver_late, number, late.settings.get("seconds", LATE_SECONDS))
            return True
        self._deliver(number)
        return True

    def _deliver(self, number: int) -> None:
        for callback in list(self._msi.values()):
            callback(number)

    def _deliver_late(self, number: int, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.engine("late interrupts").check()
            time.sleep(min(left, 1e-3))
        if not self.lost:
            self._deliver(number)

    def decoded_bars(self) -> Iterator[tuple[int, int, int]]:
        """(index, bus address, bytes that answer) of the BARs that are decoded now."""
        if self.config.memory_enabled and not self.lost:
            for index in (BAR_VRAM, BAR_DOORBELLS, BAR_REGISTERS):
                size = self.bar_size(index)
                yield index, self.config.bar_address(index), min(size, self.vram.size) if index == BAR_VRAM else size

    def close(self) -> None:
        """End the threads and give the memory back."""
        ended = self.engines.stop()
        self._msi.clear()
        if ended:
            for block in self.blocks:
                block.stop()
            self.vram.close()
        else:       # its memory must stay while a thread still works on it
            self.note("engine-failed", "the board was closed, but a job of an engine does not end")
