"""One card: booted when opened, and given back clean when closed.

    with Device.open() as card:                         # the HAL that AMDRV_HAL names
        buffer = card.alloc(1 << 20)
        card.sdma_rings[0].submit(words)

Stages run in boot order, each a block of ``amdrv.ip``; a stage that fails takes the earlier ones down again, so that
the next boot finds the card as this one did.
"""

from __future__ import annotations

import atexit
import os
import time
import weakref
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import numpy as np

from amdrv import hal as hal_package
from amdrv import recovery
from amdrv.aql.ring import AqlRing
from amdrv.errors import (
    AmdrvError,
    BootError,
    CardLostError,
    FirmwareError,
    GpuFault,
    NoCardError,
    UnknownIpError,
    WaitTimeout,
)
from amdrv.facts import navi31
from amdrv.facts.ih import SOC21_IH_CLIENTID_GRBM_CP as GRBM_CP
from amdrv.firmware import FirmwareSet, load_set, search_path
from amdrv.hal import AMD_VENDOR_ID, DmaMapping, Hal, PciDevice, PciFunction, Region
from amdrv.interrupts import Interrupts
from amdrv.ip import discovery as ip_discovery
from amdrv.ip.gfx import PRIVATE_APERTURE, SHARED_APERTURE, Gfx
from amdrv.ip.gmc import Gmc
from amdrv.ip.hdp import Hdp
from amdrv.ip.ih import Entry, Ih
from amdrv.ip.nbio import CAP_EXPRESS, Mmio, Nbio, disable_bus_master
from amdrv.ip.psp import Psp
from amdrv.ip.sdma import Sdma
from amdrv.ip.smu import Smu
from amdrv.memory import Allocation, Kind, Memory
from amdrv.mmu.tables import PAGE_SHIFT
from amdrv.power import Metrics, Power
from amdrv.recovery import Diagnosis, Recovery
from amdrv.registration import Registration, register
from amdrv.regs import RegisterFile, table_for
from amdrv.ring import Ring, RingKind
from amdrv.wait import wait_until

__all__ = ["Device", "Stage", "opened"]

VRAM_BAR, DOORBELL_BAR, REGISTER_BAR = 0, 2, 5
GFX_TARGETS = {(11, 0, 0): "gfx1100", (11, 0, 3): "gfx1101"}    # Linux 6.1, kfd_device.c, kgd2kfd_probe
# Linux 6.1, soc21.c, soc21_get_xclk: the reference clock, which the VBIOS of these cards sets to 100 MHz
GOLDEN_CLOCK_HZ = 100_000_000
BLOCKS = ("GC", "MMHUB", "OSSSYS", "HDP", "NBIF", "MP0", "MP1", "SMUIO")
SETTLING_TIME = 50e-3                    # seconds for the queues to tell that they are empty, at the end
WARM_LAYOUT = 1                         # of the boot region and of what a warm boot expects; counts up with changes
DEVICE_CONTROL, DEVICE_CONTROL_2, LINK_CONTROL = 0x08, 0x28, 0x10       # of the PCI Express capability


_devices: weakref.WeakSet[Device] = weakref.WeakSet()


def _close_at_exit(reference: weakref.ref[Device]) -> None:
    device = reference()
    if device is not None:
        device.close()


def opened() -> list[Device]:
    """The cards that this process has open, those that boot just now included."""
    return [device for device in list(_devices) if not device._closed]


@dataclass(frozen=True)
class Stage:
    """One stage of a boot, and how long it took."""

    name: str
    seconds: float


class Device:
    """A booted card. See docs/architecture.md, "The driver's low-level interface"."""

    registers: Region
    doorbells: Region
    discovery: ip_discovery.Discovery
    vram_size: int
    arch: str
    regs: RegisterFile
    mmio: Mmio
    firmware: FirmwareSet
    nbio: Nbio
    hdp: Hdp
    gmc: Gmc
    ih: Ih
    psp: Psp
    smu: Smu
    gfx: Gfx
    sdma: Sdma
    interrupts: Interrupts

    def __init__(self, pci: PciDevice, function: PciFunction, *, firmware: list[str] | None = None,
                 name: str = "AM:0", warm: bool = True) -> None:
        """Boot the card that ``pci`` is; it is closed with the device, and also when the boot fails.

        :param warm: take over a card that this driver left in order, with its firmware running; False: always reset it.
        """
        self.pci, self.function, self.name = pci, function, name
        self.boot_stages: list[Stage] = []
        self.added_queues: list[tuple[str, bool]] = []   # compute queues beyond those of the boot: priority, is it AQL?
        self.statistics: Counter[str] = Counter()
        self.memory: Memory | None = None
        self._undo: list[tuple[str, Callable[[], None]]] = []
        self.shutdown_errors: list[AmdrvError] = []      # what a hanging card refused on the way out
        self.warm = False                                # the card was as we left it: no reset, no firmware loaded
        self.suspect = False                             # it has faulted or hung: its state is not to be built upon
        self._booted = False
        self.power = Power(self)
        self._rings: dict[str, Ring] = {}
        self._closed, self._process, self._may_be_warm = False, os.getpid(), warm
        _devices.add(self)
        # Before the end of whatever was set up earlier, a HAL for one, and after that of whatever is built upon it.
        self._at_exit = partial(_close_at_exit, weakref.ref(self))
        atexit.register(self._at_exit)
        try:
            try:
                self._boot(firmware or [])
            except FirmwareError:
                if not self._refused_at_once():
                    raise
                # the boot loader stands where an earlier boot was killed; only from a reset on does it begin anew
                self._stop()
                self._boot(firmware or [])
        except BaseException:
            self._take_down()
            raise

    @classmethod
    def open(cls, hal: Hal | None = None, address: str | None = None, index: int = 0, *, warm: bool = True) -> Device:
        """Find, open and boot a card.

        :param hal: default: what ``AMDRV_HAL`` asks for.
        :param address: a PCI address such as "0000:03:00.0"; default: the card of number ``index``.
        :param warm: False resets a card even when this driver left it in order.
        :raises NoCardError: none, or not so many.
        :raises CardBusyError: another process has it.
        :raises AmdrvError: the boot failed; the message names the stage, and the card can be booted again.
        """
        hal = hal if hal is not None else hal_package.select()
        cards = [function for function in hal.functions(AMD_VENDOR_ID) if function.is_display]
        if address is not None:
            chosen = [function for function in cards if function.address == address]
        else:
            chosen = cards[index:index + 1] if index >= 0 else []
        if not chosen:
            wanted = f"at {address}" if address is not None else f"of number {index}"
            seen = ", ".join(function.address for function in cards) or "none"
            more = (f'AMDRV_MOCK="gfx1100:count={index + 1}" gives so many' if hal.name == "mock" and address is None
                    else "AMDRV_HAL=mock gives a software card")
            raise NoCardError(f"HAL {hal.name}: no AMD GPU {wanted}; there are: {seen}. {more}")
        function = chosen[0]
        number = cards.index(function)
        return cls(hal.open(function.address), function, firmware=[str(path) for path in search_path(hal.firmware)],
                   name=f"AM:{number}", warm=warm)

    # -- boot -----------------------------------------------------------------------------------------------------

    def _boot(self, firmware_path: list[str]) -> None:
        self.registers = self.pci.bar(REGISTER_BAR)
        self.doorbells = self.pci.bar(DOORBELL_BAR)
        with self._stage("discovery"):
            self.discovery, self.vram_size = ip_discovery.read(self.registers, self.pci.bar(VRAM_BAR))
            self._resolve_registers()
            self.firmware = load_set(
                self.arch, {ip.name: ip.version for ip in self.discovery.ips}, firmware_path)
        self.nbio, self.hdp, self.psp, self.smu = Nbio(self), Hdp(self), Psp(self), Smu(self)
        self.warm = self._may_be_warm and self._left_in_order()
        if not self.warm and (self.psp.alive or self.psp.stuck or self.psp.silent()):
            with self._stage("reset"):
                self.smu.reset_card()
        self._bring_up()

    def _bring_up(self) -> None:
        """Every block in boot order, on a card whose registers are known."""
        self.gmc = Gmc(self)
        with self._stage("nbio", self.nbio.shutdown):
            self.nbio.boot()
        with self._stage("gmc", self.gmc.shutdown):
            if self.memory is None:
                self.memory = Memory(self.pci, self.pci.bar(VRAM_BAR), self.vram_size, flush_hdp=self.hdp.flush,
                                     flush_tlb=lambda: self.gmc.flush_tlb(), statistics=self.statistics,
                                     table_base=self.gmc.fb_offset)
            else:
                self.memory.card_was_reset()
            self.gmc.boot()
        self.ih = Ih(self)
        if not hasattr(self, "interrupts"):
            self.interrupts = Interrupts(self)
        with self._stage("ih", self.ih.shutdown):
            self.ih.boot()
        with self._stage("psp", self.psp.shutdown):
            if self.warm:
                self.psp.adopt(self.regs.SCRATCH_REG6.read() << PAGE_SHIFT)
            else:
                self.psp.boot()
        with self._stage("smu", self.smu.shutdown):
            self.smu.boot()
        self.gfx, self.sdma = Gfx(self), Sdma(self)
        with self._stage("gfx", self.gfx.shutdown):
            self.gfx.boot()
        if self.warm:
            self.regs.SCRATCH_REG7.write(0)     # until it is left in order again
        with self._stage("sdma", self.sdma.shutdown):
            self.sdma.boot()
        self.memory.of_the_driver = False
        self.interrupts.drain()
        self._booted = True

    def make_ring(self, name: str, kind: RingKind, *, words: int, unit: int, doorbell: int) -> Ring:
        """For the blocks: the ring of that name. One that there was before a reset of the card begins anew.

        :param words: of an AQL ring, packets.
        """
        ring = self._rings.get(name)
        if ring is None:
            ring = self._rings[name] = AqlRing(self, name, slots=words, doorbell=doorbell) if kind == "aql" else \
                Ring(self, name, kind, words=words, unit=unit, doorbell=doorbell)
        else:
            ring.place()
        return ring

    # -- warm boots: what the last owner leaves behind ------------------------------------------------------------

    @property
    def _mark(self) -> int:
        """Stands in a scratch register while the card is closed with this driver's firmware set running in it."""
        files = [(file.name, file.ucode_version, file.kind) for file in self.firmware.files.values()]
        return zlib.crc32(repr((WARM_LAYOUT, files)).encode()) or 1

    def _left_in_order(self) -> bool:
        """Did a driver of this kind shut the card down, and has nobody been at it since?"""
        if not self.psp.alive or self.psp.stuck or not self.smu.running:
            return False
        try:
            self.smu.allow_gfxoff(False)        # without power, the graphics core's registers cannot be asked
        except BootError:
            return False
        return int(self.regs.SCRATCH_REG7.read()) == self._mark and int(self.regs.SCRATCH_REG6.read()) != 0

    def _everything_is_read(self) -> bool:
        """A queue tells how far it has read a moment after the last packet's store."""
        with suppress(WaitTimeout):
            wait_until(lambda: not any(ring.pending for ring in self._rings.values()), SETTLING_TIME, "empty rings")
            return True
        return False

    def _leave_mark(self) -> None:
        if self.psp.tmr is not None and not self.suspect and not self.shutdown_errors:
            self.regs.SCRATCH_REG6.write(self.psp.tmr[1] >> PAGE_SHIFT)
            self.regs.SCRATCH_REG7.write(self._mark)

    @contextmanager
    def _stage(self, name: str, undo: Callable[[], None] | None = None) -> Iterator[None]:
        start = time.perf_counter()
        if undo is not None:
            self._undo.append((name, undo))
        try:
            yield
        except (BootError, WaitTimeout) as error:
            raise BootError(f"{self.function.address} does not boot, stage {name}: {error}") from error
        except AmdrvError as error:
            error.add_note(f"while booting {self.function.address}, stage {name}")
            raise
        self.boot_stages.append(Stage(name, time.perf_counter() - start))

    def _resolve_registers(self) -> None:
        """Names of registers become addresses, by the versions and bases of the discovery table."""
        gc = self.discovery.require("GC").version
        if gc not in GFX_TARGETS:
            known = ", ".join(".".join(map(str, version)) for version in GFX_TARGETS)
            raise UnknownIpError(f"the card has GC {'.'.join(map(str, gc))}; this driver knows {known}")
        self.arch = GFX_TARGETS[gc]
        blocks = [self.discovery.require(name) for name in BLOCKS]
        self.mmio = Mmio(self.registers, self.discovery)
        self.regs = RegisterFile(self.mmio.read32, self.mmio.write32,
                                 [(table_for(ip.name, ip.version), ip.bases) for ip in blocks])

    def save_config(self) -> dict[tuple[int, int], int]:
        """Configuration that a reset may lose: {(offset, width): value}."""
        config = self.pci.config
        places = [(0x04, 2), (0x0C, 1), (0x3C, 1), *((offset, 4) for offset in range(0x10, 0x28, 4))]
        express = config.capability(CAP_EXPRESS)
        if express is not None:
            places += [(express + offset, 2) for offset in (DEVICE_CONTROL, LINK_CONTROL, DEVICE_CONTROL_2)]
        return {(offset, width): config.read(offset, width) for offset, width in places}

    def restore_config(self, state: dict[tuple[int, int], int]) -> None:
        """Write back what differs, the command register last."""
        config = self.pci.config
        for (offset, width), value in sorted(state.items(), reverse=True):
            if config.read(offset, width) != value:
                config.write(offset, width, value)

    # -- what the card is -----------------------------------------------------------------------------------------

    @property
    def marketing_name(self) -> str:
        """The product's name, such as "AMD Radeon RX 7900 XTX"; for a card that is not known by name, its PCI ids."""
        if (self.function.vendor, self.function.device) == (navi31.VENDOR_ID, navi31.DEVICE_ID):
            return navi31.MARKETING_NAME
        return f"AMD GPU {self.function.vendor:04x}:{self.function.device:04x}"

    @property
    def shader_engines(self) -> int:
        """Shader engines, as the discovery table counts them (gc_info)."""
        return self.discovery.gc.shader_engines

    @property
    def compute_units(self) -> int:
        """Active ones: two a WGP."""
        return 2 * sum(mask.bit_count() for mask in self.gfx.wgp_masks.values())

    @property
    def clock_hz(self) -> int:
        """Rate of the counter that packets store as a timestamp."""
        return GOLDEN_CLOCK_HZ

    @property
    def shared_aperture(self) -> int:
        """Where flat addresses mean a workgroup's LDS: the aperture's first address (SH_MEM_BASES)."""
        return SHARED_APERTURE

    @property
    def private_aperture(self) -> int:
        """Where flat addresses mean a lane's own scratch memory: the aperture's first address (SH_MEM_BASES)."""
        return PRIVATE_APERTURE

    @property
    def compute_rings(self) -> list[Ring]:
        """The compute queues' rings, in the order of their numbers; :meth:`Ring.submit` takes PM4 words (uint32[n])."""
        return self.gfx.rings

    @property
    def sdma_rings(self) -> list[Ring]:
        """The copy engines' rings; :meth:`Ring.submit` takes SDMA words (uint32[n])."""
        return self.sdma.rings

    def clock(self) -> int:
        """The golden counter now (gfx_v11_0_get_gpu_clock_counter: the high half twice, against a carry)."""
        high = self.regs.GOLDEN_TSC_COUNT_UPPER
        while True:
            before = int(high.read())
            low = int(self.regs.GOLDEN_TSC_COUNT_LOWER.read())
            if int(high.read()) == before:
                return before << 32 | low

    # -- memory ---------------------------------------------------------------------------------------------------

    @property
    def fence(self) -> Callable[[], None]:
        """Earlier stores are in memory before later ones."""
        return self.pci.fence

    def require_memory(self) -> Memory:
        """The card's memory. :raises AmdrvError: the device is closed, or its boot has not come to memory yet."""
        if self.memory is None:
            raise AmdrvError(f"{self.name} is closed: its memory is gone" if self._closed
                             else f"{self.name} has no memory before the stage gmc")
        return self.memory

    def alloc(self, nbytes: int, *, kind: Kind = "vram", contiguous: bool = False, name: str = "") -> Allocation:
        """See :meth:`amdrv.memory.Memory.alloc`."""
        return self.require_memory().alloc(nbytes, kind=kind, contiguous=contiguous, name=name)

    def map(self, memory: DmaMapping) -> Allocation:
        """Give host memory that the HAL has mapped (its segments) an address on the GPU; it is cleared by
        :meth:`free`."""
        return self.require_memory().map(memory)

    def register(self, array: np.ndarray, *, name: str = "") -> Registration:
        """Any NumPy array, reachable for the card where it is. See :func:`amdrv.registration.register`."""
        return register(self.require_memory(), array, name=name)

    def free(self, *allocations: Allocation) -> None:
        """Unmap and give back; several at once cost one flush of the TLBs. The engines must be done with them."""
        memory = self.require_memory()
        with memory.batch():
            for allocation in allocations:
                memory.free(allocation)

    def flush_hdp(self) -> None:
        """What the CPU stored to VRAM is visible to the engines."""
        self.hdp.flush()

    def flush_tlb(self) -> None:
        """Both hubs forget their translations; acknowledged on return."""
        self.gmc.flush_tlb()

    # -- health ---------------------------------------------------------------------------------------------------

    def ring_of(self, entry: Entry) -> Ring | None:
        """The ring whose engine raised an interrupt, where the entry says so."""
        return self.gfx.ring_of(entry) if entry.client == GRBM_CP else self.sdma.ring_of(entry)

    def check(self) -> None:
        """Raise what went wrong on the card since the last call, if anything.

        :raises GpuFault: the card reported faults.
        :raises CardLostError: it does not answer any more.
        """
        told = self._told()
        try:
            self.interrupts.check()
        except GpuFault as error:
            self.suspect = True
            if told := told or self._told():        # the interrupt may come first
                error.add_note(told)
            raise
        if told:
            self.suspect = True
            raise GpuFault(f"{self.name}: {told}")
        if not self.registers_answer():
            self.suspect = True
            raise CardLostError(f"{self.name}: registers read as all ones; the card has fallen off the bus")

    def _told(self) -> str:
        """Errors that engines told through the queues' own memory."""
        return "\n".join(text for ring in self.gfx.rings if (text := ring.told()))

    def registers_answer(self) -> bool:
        """A card that is off the bus reads as all ones."""
        return self.registers.read32(4 * ip_discovery.RCC_CONFIG_MEMSIZE) != 0xFFFF_FFFF

    def diagnose(self) -> Diagnosis:
        """What stands still, and at what: see :mod:`amdrv.recovery`."""
        return recovery.diagnose(self)

    def recover(self, rings: Sequence[Ring] | None = None) -> Recovery:
        """Reset what stands still, and no more than is needed: the queue, its micro engine or copy engine, the card.

        :param rings: those whose work is given up; default: all that are not idle.
        :returns: what was found, what was done, whose work is lost, and whether VRAM kept its content.
        :raises BootError, HalError: the card cannot be brought back; the device is closed then.
        """
        return recovery.recover(self, rings)

    def reset(self) -> None:
        """Reset the whole card and boot it again. Buffers keep their addresses, those in host memory their content.
        What was in VRAM is lost, and so is all work that was submitted.

        :raises BootError, HalError: the card does not come back; the device is closed then.
        """
        self.suspect = True
        try:
            self._undo.clear()
            self.boot_stages = []
            self._booted = False
            disable_bus_master(self.pci)
            self.gmc.close()
            with self._stage("reset"):
                self.smu.reset_card()
            self.interrupts.renew()
            self.warm, self.psp = False, Psp(self)
            self._bring_up()
            self.power.apply_again()
        except BaseException:
            self._take_down()
            raise
        self.suspect = False

    def metrics(self) -> Metrics:
        """Clocks, temperatures, power, fan and load, as the SMU measures them. :raises PowerError: it refuses."""
        self.require_memory()
        return self.power.metrics()

    # -- the end --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop the engines in reverse boot order and give the card back. Idempotent.

        In a child process after a fork nothing is done: the card is the parent's. At the end of the process every
        card that is still open is closed.
        """
        if not self._closed and os.getpid() == self._process:
            self._take_down()

    def _refused_at_once(self) -> bool:
        return hasattr(self, "psp") and self.psp.stuck and not self.psp.loaded

    def _take_down(self) -> None:
        """Every step gets its turn, also after one that failed: what must not survive is the card's DMA."""
        self._closed = True
        atexit.unregister(self._at_exit)
        last: list[Callable[[], object]] = [self.pci.close]
        if hasattr(self, "interrupts"):
            last.insert(0, self.interrupts.close)
        self._stop(last)

    def _stop(self, last: Sequence[Callable[[], object]] = ()) -> None:
        """Undo the stages that were booted, forget the memory, then do ``last``."""
        steps: list[Callable[[], object]] = [undo for _, undo in reversed(self._undo)]
        if hasattr(self, "interrupts"):
            steps.insert(0, self.interrupts.drain)
        if self._booted and self._everything_is_read():
            steps.append(self._leave_mark)
        self._booted = False
        steps.append(lambda: disable_bus_master(self.pci))
        if hasattr(self, "gmc"):
            steps.append(self.gmc.close)
        if self.memory is not None:
            steps.append(self.memory.close)
        self._undo.clear()
        surprise: Exception | None = None
        for step in [*steps, *last]:
            try:
                step()
            except AmdrvError as error:         # a card that hangs cannot be asked to stop; the next boot resets it
                self.shutdown_errors.append(error)
            except Exception as error:
                surprise = surprise or error
        self.memory = None
        self.boot_stages = self.boot_stages if self._closed else []
        if surprise is not None:
            raise surprise

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self.compute_units} CUs, {self.vram_size >> 20} MiB"
        return f"<Device {self.name} {self.function.address} {getattr(self, 'arch', '?')}: {state}>"
