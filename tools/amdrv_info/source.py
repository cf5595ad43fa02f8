"""What the commands look at: a card as it is, one that was booted for them, or a report of one.

All three answer alike: registers by name, memory by address, page tables (:class:`amdrv.dump.Dump`). What a source
cannot show is one error that says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amdrv.dump import INDEX_BITS, Dump, DumpError, Step
from amdrv.errors import HalError, NoCardError
from amdrv.facts import vm
from amdrv.hal import AMD_VENDOR_ID, Hal, PciFunction, select
from amdrv.hal.looking import Reader, look
from amdrv.mmu.pte import SYSTEM
from amdrv.regs import RegisterFile, Value

if TYPE_CHECKING:
    from amdrv.device import Device
    from amdrv.hal.debugfs import AmdgpuFiles
    from amdrv.ip.discovery import Discovery

__all__ = ["Buffer", "Live", "PAGE", "buffers_of", "covers", "live", "looking_hal", "of_device", "owner_of", "place",
           "powered", "table_registers", "virtual"]

PAGE = 4096
FB_UNIT = 24                    # FB_LOCATION and FB_OFFSET count 16 MiB


@dataclass(frozen=True)
class Buffer:
    """An allocation that this process made: what owns an address."""

    name: str
    address: int
    size: int
    kind: str

    def __str__(self) -> str:
        return f"{self.name or self.kind + ' buffer'} {self.address:#x}..{self.address + self.size:#x} ({self.kind})"


def looking_hal(name: str | None) -> Hal:
    """:func:`amdrv.hal.select`, but a card that a kernel driver holds may be looked at, so ``auto`` takes it, too."""
    try:
        return select(name)
    except NoCardError:
        from amdrv.hal.sysfs import SysfsHal
        try:
            hal = SysfsHal()
            held = [f for f in hal.functions(AMD_VENDOR_ID) if f.is_display]
        except (HalError, OSError, ImportError):
            raise
        if not held:
            raise
        return hal


class Live(Dump):
    """A card in the place of a dump: registers are read, VRAM is looked at through BAR 0, host memory where it can be.

    :param buffers: what owns which addresses, where this process knows.
    """

    def __init__(self, name: str, registers: RegisterFile, vram: Any, system: Reader, table: Discovery, *,
                 writable: bool, vram_size: int = 0, register_bytes: int = 1 << 20, device: Device | None = None,
                 function: PciFunction | None = None, files: AmdgpuFiles | None = None) -> None:
        super().__init__(name)
        self.registers, self._vram, self._system = registers, vram, system
        self.table, self.writable, self.device, self.function = table, writable, device, function
        self.vram_size, self.register_bytes, self.files = vram_size, register_bytes, files

    def register(self, name: str) -> Value:
        return self.registers[name].read()

    def read(self, space: str, address: int, nbytes: int) -> bytes:
        if space != "VRAM":
            return self._system(address, nbytes)
        if not 0 <= address <= address + nbytes <= self._vram.size:
            raise DumpError(f"{self.name}: VRAM {address:#x} is outside of BAR 0's {self._vram.size:#x} bytes")
        return bytes(self._vram.view(address, nbytes).tobytes())

    def discovery_bytes(self) -> bytes:
        """The discovery table's binary. :raises DumpError: it is out of this window's reach."""
        from amdrv.facts import discovery as facts
        data = self.read("VRAM", self.vram_size - facts.DISCOVERY_TMR_OFFSET, facts.DISCOVERY_TMR_OFFSET)
        size = facts.binary_header.from_buffer_copy(data).binary_size
        return data[:size]

    @property
    def buffers(self) -> list[Buffer] | None:
        """None where another process, or nobody, knows."""
        if self.device is None or self.device.memory is None:
            return None
        return [Buffer(a.name, a.address, a.size, a.kind) for a in self.device.memory.alive]

    @contextmanager
    def selected(self, me: int = 0, pipe: int = 0, queue: int = 0) -> Iterator[None]:
        """Registers that exist once a queue mean this one (soc21_grbm_select); the selector is put back.

        :raises HalError: this card is only looked at.
        """
        if self.files is not None and self.files.can_select:
            with self.files.selected(me, pipe, queue):
                yield
            return
        if not self.writable:
            raise HalError(f"{self.name}: the registers of one queue are behind a selector that must be written "
                           "(GRBM_GFX_CNTL); on a card that somebody drives, allow it with --select")
        selector = self.registers.GRBM_GFX_CNTL
        before = int(selector.read())
        try:
            selector.write(meid=me, pipeid=pipe, queueid=queue)
            yield
        finally:
            selector.write(before)


def table_registers(hal_bar: Any, vram: Any) -> tuple[RegisterFile, int, Discovery]:
    """Names of registers by the card's discovery table, the bytes of VRAM, the table; nothing is initialised."""
    import amdrv.regs
    from amdrv.errors import UnknownIpError
    from amdrv.ip import discovery

    found, size = discovery.read(hal_bar, vram)
    tables: dict[str, tuple[amdrv.regs.Table, tuple[int, ...]]] = {}
    for ip in found.ips:
        if ip.instance or ip.harvested:
            continue
        try:
            known = amdrv.regs.table_for(ip.name, ip.version)
        except UnknownIpError:
            continue
        tables.setdefault(known.name, (known, ip.bases))        # GC before SDMA0, which shares its table
    return RegisterFile(lambda at: hal_bar.read32(4 * at), lambda at, value: hal_bar.write32(4 * at, value),
                        tables.values()), size, found


@contextmanager
def powered(name: str, files: AmdgpuFiles, *, wake: bool) -> Iterator[None]:
    """The graphics core of a card that amdgpu drives, while it has power.

    :raises HalError: it may have none, and is not to be woken.
    """
    if not files.core_may_sleep():
        yield
    elif wake:
        with files.awake():
            yield
    else:
        raise HalError(f"{name}: amdgpu lets the graphics core lose its power when it is idle (GFXOFF), and then its "
                       "registers, page tables and waves say nothing; --wake keeps it powered while it is looked at")


@contextmanager
def live(hal: Hal, function: PciFunction, *, boot: bool = False, writable: bool = False, wake: bool = False,
         core: bool = True, debugfs: Path | None = None) -> Iterator[Live]:
    """A card at a PCI address; with ``boot`` it is brought up first (and down after), otherwise taken as it is.

    :param debugfs: amdgpu's folder, where amdgpu drives the card. :param core: the graphics core is looked at.
    :param wake: keep the core powered meanwhile.
    :raises HalError: the core may have no power, so that what it says means nothing.
    """
    if boot:
        from amdrv.device import Device
        with Device.open(hal=hal, address=function.address) as device:
            yield of_device(device)
        return
    with look(hal, function.address, writable=writable, debugfs=debugfs) as opened, ExitStack() as stack:
        files = opened.files
        if files is not None and core:
            stack.enter_context(powered(function.address, files, wake=wake))
        vram = opened.bar(0)
        registers, size, table = table_registers(opened.bar(5), vram)
        yield Live(function.address, registers, vram, opened.system, table, writable=writable, vram_size=size,
                   register_bytes=opened.bar(5).size, function=function, files=None if writable else files)


def of_device(device: Device) -> Live:
    """A card that this process drives: its host memory and the names of its buffers are known."""
    def system(address: int, nbytes: int) -> bytes:
        for allocation in device.require_memory().alive:
            if allocation.kind != "system" or allocation.view is None:
                continue
            at = 0
            for start, size in allocation.segments:
                if start <= address and address + nbytes <= start + size:
                    begin = at + address - start
                    piece = allocation.mapping.view if allocation.mapping is not None else allocation.view
                    assert piece is not None
                    return bytes(piece[begin:begin + nbytes].tobytes())
                at += size
        raise HalError(f"{device.name}: host memory at {address:#x} is no buffer of this card")

    return Live(device.name, device.regs, device.pci.bar(0), system, device.discovery, writable=True,
                vram_size=device.vram_size, register_bytes=device.registers.size, device=device,
                function=device.function)


# ---- what a walk's end means

def covers(source: Dump, hub: str, vmid: int, steps: Sequence[Step]) -> int:
    """Bytes that the last entry of a walk maps."""
    last = steps[-1]
    block = INDEX_BITS + int(source.register(f"{hub.upper()}VM_CONTEXT{vmid}_CNTL").page_table_block_size)
    if last.level == "PTF":
        return PAGE
    if last.level == "PTB":
        granule = int(steps[-2].entry) >> vm.PDE_BFS_SHIFT if len(steps) > 1 else 0
        return PAGE << granule
    return PAGE << block + INDEX_BITS * int(last.level.removeprefix("PDB"))


def place(source: Dump, hub: str, vmid: int, address: int) -> tuple[str, int, int]:
    """Where a GPU virtual address lies: ("VRAM", offset, bytes to the end of its page) or ("SYSRAM", bus address, ...).

    VMID 0 also sees VRAM through the system aperture (Linux 6.1, gmc_v11_0.c, gmc_v11_0_vram_gtt_location).
    :raises DumpError: nothing is mapped there. :raises PageTableError: the VMID's tables do not reach it.
    """
    prefix = f"{hub.upper()}MC_VM_"
    if not vmid:
        base, top = (int(source.register(f"{prefix}FB_LOCATION_{end}")) << FB_UNIT for end in ("BASE", "TOP"))
        if base <= address < top + (1 << FB_UNIT) and base:
            return "VRAM", address - base, PAGE - address % PAGE
    steps = source.walk(hub, vmid, address)
    last = steps[-1].entry
    if not last.valid:
        raise DumpError(f"{source.name}: nothing is mapped at {address:#x} of VMID {vmid} ({hub} hub)")
    size = covers(source, hub, vmid, steps)
    inside = address % size
    physical = (last.address & -size) + inside
    if last & SYSTEM:
        return "SYSRAM", physical, size - inside
    return "VRAM", physical - (int(source.register(f"{prefix}FB_OFFSET")) << FB_UNIT), size - inside


def virtual(source: Dump, hub: str, vmid: int, address: int, nbytes: int) -> bytes:
    """Memory by GPU virtual address. :raises AmdrvError: a part is not mapped, or not to be looked at from here."""
    parts = []
    while nbytes > 0:
        space, at, left = place(source, hub, vmid, address)
        count = min(nbytes, left, PAGE - address % PAGE)
        parts.append(source.read(space, at, count))
        address, nbytes = address + count, nbytes - count
    return b"".join(parts)


def buffers_of(source: Dump) -> list[Buffer] | None:
    """Who owns which addresses: of a card that this process drives, or of a report of such; None: nobody here knows."""
    if isinstance(source, Live):
        return source.buffers
    return None if source.owners is None else [Buffer(*each) for each in source.owners]


def owner_of(source: Dump, address: int) -> str | None:
    """The buffer that an address belongs to, in words; None where nobody here knows."""
    buffers = buffers_of(source)
    if buffers is None:
        return None
    for buffer in buffers:
        if buffer.address <= address < buffer.address + buffer.size:
            return str(buffer)
    return "no buffer of the process that drives the card"
