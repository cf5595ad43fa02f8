"""A card's state as text, in the form of the test vectors of AMD's register debugger umr, and read back.

    mock.dump.write(board, "card.txt")
    mock.dump.load("card.txt").walk("gc", 8, 0x7F0000000000)

The form (umr, src/test harness; a fact, the text is ours), so that umr's own offline mode takes these files::

    ; a remark to the end of the line
    MMIO@0xA600={0x8000}            ; byte address of a register, and what its reads return in turn
    VRAM@0x1000={0001 0203 ...}     ; offset in video memory, bytes in hexadecimal
    SYSRAM@0x100000000={...}        ; bus address
    DISCOVERY={...}                 ; the IP discovery table
    RINGDATA={0x40,0x60,0x60,...}   ; read, write and driver's pointer of a ring, and its words

A bank of a register that GRBM_GFX_CNTL or GRBM_GFX_INDEX chooses has no place in that form: it stands in a remark of
ours, ``;BANK@0x3670:1.0.0={0x1} CP_HQD_ACTIVE``, which :func:`load` reads and umr passes over.

What goes in: every register that is not zero, all of both hubs' translation registers, and of memory the page tables of
every enabled VMID, compute, SDMA, IH and PSP rings (of one larger than :data:`RING_WHOLE` only the part around its
pointers), queue descriptors and the places where pointers are reported. Nothing is stopped for it, and nothing that a
read of a register would change is read.
"""

from __future__ import annotations

import ctypes
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from amdrv.facts import vm
from mock import discovery
from mock.pagetable import ENTRY_BYTES, LEVEL_BITS, PAGE_SHIFT, PDE_ADDRESS, PTE_ADDRESS, Context, describe_entry
from mock.registers import names_of

if TYPE_CHECKING:
    from mock.board import Board
    from mock.hub import Hub

__all__ = ["Dump", "DumpError", "Step", "dumps", "load", "loads", "walk", "write"]

PAGE = 1 << PAGE_SHIFT
RING_WHOLE = 256 << 10
ROW = 64                        # bytes of memory a line
SIDE_EFFECTS = re.compile(r"(_SEM|_DATA2?|MP0_SMN_C2PMSG_33)$")
"""Registers whose reads change something, or read elsewhere: their stored value is taken."""

Reader = Callable[[int, bool, int], bytes]
"""(physical address, system memory?, bytes) -> bytes. :raises LookupError: not there"""


class DumpError(ValueError):
    """A text that is no dump; the line is named."""


class Step(NamedTuple):
    """One level of a walk."""

    level: str              # PDB2, PDB1, PDB0, PTB; PTF where PDB0 translated further
    table: int              # physical address of the entry's table: video memory, or the bus
    system: bool
    number: int             # of the entry in its table
    entry: int

    def __str__(self) -> str:
        return f"{self.level}[{self.number:#x}] at {self.table:#x}{' (system)' if self.system else ''}: " \
               f"{describe_entry(self.entry)}"


def walk(read: Reader, context: Context, address: int) -> list[Step]:
    """Every entry that a walker looks at on its way to ``address``, to the one that maps it or ends the walk."""
    page = address >> PAGE_SHIFT
    if not context.enabled or not context.start <= page <= context.end or not context.base & vm.PTE_VALID:
        return []
    relative, steps, entry = page - context.start, [], context.base

    def look(level: str, index: int) -> int:
        table, system = entry & PDE_ADDRESS, bool(entry & vm.PTE_SYSTEM)
        found = int.from_bytes(read(table + ENTRY_BYTES * index, system, ENTRY_BYTES), "little")
        steps.append(Step(level, table, system, index, found))
        return found

    for level in range(context.depth - 1, -1, -1):
        index = relative >> context.block + LEVEL_BITS * level
        if level != context.depth - 1:
            index &= (1 << LEVEL_BITS) - 1
        entry = look(f"PDB{level}", index)
        if not entry & vm.PTE_VALID or entry & vm.PDE_PTE:
            return steps
    fragment = entry >> vm.PDE_BFS_SHIFT if context.depth else 0
    within = relative & (1 << context.block) - 1 if context.depth else relative
    entry = look("PTB", within >> fragment)
    if fragment and entry & vm.PTE_TF and entry & vm.PTE_VALID:
        look("PTF", within & (1 << fragment) - 1)
    return steps


# ---- writing

class _Source:
    """A live card, by physical addresses."""

    def __init__(self, board: Board) -> None:
        self.board = board

    def read(self, address: int, system: bool, nbytes: int) -> bytes:
        """:raises LookupError: nothing is there."""
        if system:
            from mock.bus import BusError
            try:
                return ctypes.string_at(self.board.bus.translate(address, nbytes), nbytes)
            except BusError as error:
                raise LookupError(str(error)) from None
        offset = address - self.board.memory.hubs["gc"].current().fb_offset
        if not 0 <= offset <= self.board.vram.size - nbytes:
            raise LookupError(f"{address:#x} is beyond the card's video memory")
        return self.board.vram.view[offset:offset + nbytes].tobytes()

    def place(self, hub: Hub, vmid: int, address: int) -> tuple[int, bool] | None:
        """(physical address, system?) of a GPU address's page; None where nothing is mapped."""
        config, page = hub.current(), address >> PAGE_SHIFT
        if vmid == 0 and config.fb[0] <= page <= config.fb[1] and config.aperture[0] <= page <= config.aperture[1]:
            return (page - config.fb[0] << PAGE_SHIFT) + config.fb_offset, False
        try:
            steps = walk(self.read, config.contexts[vmid], address)
        except LookupError:
            return None
        if not steps or not steps[-1].entry & vm.PTE_VALID:
            return None
        last, context = steps[-1], config.contexts[vmid]
        span = {"PTB": 0, "PTF": 0}.get(last.level)
        if span is None:
            span = context.block + LEVEL_BITS * int(last.level[3:])
        elif last.level == "PTB" and len(steps) > 1:
            span = steps[-2].entry >> vm.PDE_BFS_SHIFT
        inside = page - context.start & (1 << span) - 1
        return (last.entry & PTE_ADDRESS) + (inside << PAGE_SHIFT), bool(last.entry & vm.PTE_SYSTEM)


def _tables(source: _Source, context: Context) -> Iterator[tuple[int, bool, int]]:
    """(physical address, system?, bytes) of every table of a context."""
    if not context.enabled or not context.base & vm.PTE_VALID:
        return
    todo = [(context.base & PDE_ADDRESS, bool(context.base & vm.PTE_SYSTEM), context.depth - 1,
             max(context.tables_at_root(), 1), 0)]
    seen: set[tuple[int, bool]] = set()
    while todo:
        address, system, level, count, fragment = todo.pop()
        if (address, system) in seen:
            continue
        seen.add((address, system))
        try:
            data = source.read(address, system, count * ENTRY_BYTES)
        except LookupError:
            continue
        yield address, system, len(data)
        entries = np.frombuffer(data, np.uint64)
        below = entries[entries & np.uint64(vm.PTE_VALID) != 0]
        if level < 0:
            below = below[below & np.uint64(vm.PTE_TF) != 0] if fragment else below[:0]
        else:
            below = below[below & np.uint64(vm.PDE_PTE) == 0]
        for entry in map(int, below):
            if level < 0:
                todo.append((entry & PDE_ADDRESS, bool(entry & vm.PTE_SYSTEM), -1, 1 << fragment, 0))
            else:
                size = LEVEL_BITS if level else context.block - (entry >> vm.PDE_BFS_SHIFT)
                todo.append((entry & PDE_ADDRESS, bool(entry & vm.PTE_SYSTEM), level - 1, 1 << size,
                             entry >> vm.PDE_BFS_SHIFT if not level else 0))


def _around(base: int, size: int, read: int, write_: int) -> list[tuple[int, int]]:
    """[(address, bytes)] of a ring, or of the part around its pointers (byte offsets)."""
    if size <= RING_WHOLE:
        return [(base, size)]
    first = read % size - PAGE
    length = min((write_ - read) % size + 2 * PAGE, RING_WHOLE)
    parts = []
    for at in range(first // PAGE * PAGE, first + length, PAGE):
        parts.append((base + at % size, PAGE))
    return parts


def _regions(board: Board) -> Iterator[tuple[str, int, int, int]]:
    """(hub, VMID, address, bytes) of rings, descriptors and reports."""
    regs = board.regs
    for queue in (*board.mec.queues.values(), *board.mec.others.values()):
        if not queue.active:
            continue
        vmid = queue.vmid
        behind = (queue.write - queue.read) * (16 if queue.aql else 1)      # AQL counts packets
        at = 4 * queue.ring_offset
        for address, size in _around(queue.base, 4 * queue.words, at, at + 4 * behind):
            yield "gc", vmid, address, size
        yield "gc", regs.field(("CP_MQD_CONTROL", queue.bank), "VMID"), queue.mqd_address, PAGE
        for low, high in (("PQ_RPTR_REPORT_ADDR", "PQ_RPTR_REPORT_ADDR_HI"),
                          ("PQ_WPTR_POLL_ADDR", "PQ_WPTR_POLL_ADDR_HI")):
            yield "gc", vmid, queue.hqd(low) & ~3 | (queue.hqd(high) & 0xFFFF) << 32, 8
        yield "gc", vmid, (queue.hqd("EOP_BASE_ADDR") | (queue.hqd("EOP_BASE_ADDR_HI") & 0xFF) << 32) << 8, PAGE
    for sdma in (queue for queues in board.sdma.queues for queue in queues):
        if sdma.enabled:
            for address, size in _around(sdma.base, sdma.size, sdma.read, sdma.write):
                yield "gc", sdma.vmid, address, size
            for low, high in (("RB_RPTR_ADDR_LO", "RB_RPTR_ADDR_HI"), ("RB_WPTR_POLL_ADDR_LO", "RB_WPTR_POLL_ADDR_HI")):
                yield "gc", sdma.vmid, sdma.wide(low, high) & ~3, 8
    for suffix in ("", "_RING1"):
        if regs.field("IH_RB_CNTL" + suffix, "RB_ENABLE"):
            base = (regs["IH_RB_BASE_HI" + suffix] & 0xFF) << 40 | regs["IH_RB_BASE" + suffix] << 8
            read, write_ = regs["IH_RB_RPTR" + suffix] & 0x3FFFC, regs["IH_RB_WPTR" + suffix] & 0x3FFFC
            space = "bus" if regs.field("IH_RB_CNTL" + suffix, "MC_SPACE") == 2 else "mm"
            for address, size in _around(base, 4 << regs.field("IH_RB_CNTL" + suffix, "RB_SIZE"), read, write_):
                yield space, regs.field("IH_RB_CNTL" + suffix, "MC_VMID"), address, size
    if size := regs["MP0_SMN_C2PMSG_71"]:
        yield "mm", 0, regs["MP0_SMN_C2PMSG_70"] << 32 | regs["MP0_SMN_C2PMSG_69"], size


def _pages(board: Board) -> Iterator[tuple[int, bool, bytes]]:
    """(offset in video memory or bus address, system?, bytes), each place once."""
    source = _Source(board)
    fb_offset = board.memory.hubs["gc"].current().fb_offset
    seen: set[tuple[int, bool]] = set()
    for hub in board.memory.hubs.values():
        for context in hub.current().contexts:
            for address, system, size in _tables(source, context):
                if (address, system) not in seen:
                    seen.add((address, system))
                    yield address - (0 if system else fb_offset), system, source.read(address, system, size)
    for name, vmid, start, size in _regions(board):
        for address in range(start & -PAGE, start + size, PAGE):
            place = (address, True) if name == "bus" else source.place(board.memory.hubs[name], vmid, address)
            if place is None or place in seen:
                continue
            seen.add(place)
            try:
                data = source.read(*place, PAGE)
            except LookupError:
                continue
            yield place[0] - (0 if place[1] else fb_offset), place[1], data


def _register_lines(board: Board) -> Iterator[str]:
    regs = board.regs
    always = frozenset(name for name in regs.names.search("??VM_*") + regs.names.search("??MC_VM_*")
                       if not SIDE_EFFECTS.search(name))
    values: dict[int, tuple[int, str]] = {}
    for dword, (_ip, register) in regs.names.by_dword.items():
        name = register.name
        value = regs[name] if SIDE_EFFECTS.search(name) or dword not in regs.readable else regs.read(dword)
        if value or name in always:
            values[dword] = value, name
    for dword, value in regs.unnamed():
        values.setdefault(dword, (value, "(no name)"))
    for dword, (value, name) in sorted(values.items()):
        yield f"MMIO@{4 * dword:#x}={{{value:#x}}} ; {name}"
    for dword, bank, value in sorted(regs.banks(), key=str):
        places = bank if isinstance(bank, tuple) else (bank,)
        yield f";BANK@{4 * dword:#x}:{'.'.join(map(str, places))}={{{value:#x}}} {regs.names.describe(dword)}"


def _ring(board: Board, name: str | None) -> list[str]:
    """RINGDATA of the queue of that name, or of one that hangs, or of the first that is active; in the form of the
    kernel's files of rings (Linux 6.1, amdgpu_ring.c, amdgpu_debugfs_ring_read)."""
    queues = [queue for queue in board.mec.queues.values() if queue.active and not queue.aql]
    queues.sort(key=lambda queue: queue.hung is None)
    chosen = [queue for queue in queues if name in (None, queue.name)]
    if name is not None and not chosen:
        raise ValueError(f"no queue {name!r} is active; there are {', '.join(q.name for q in queues) or 'none'}")
    if not chosen:
        return []
    queue, source = chosen[0], _Source(board)
    if 4 * queue.words > RING_WHOLE:
        return [f"; {queue.name}: a ring of {4 * queue.words} bytes; what is around its pointers is in memory below"]
    data = b""
    for at in range(0, 4 * queue.words, PAGE):
        place = source.place(board.memory.hubs["gc"], queue.vmid, queue.base + at)
        data += bytes(PAGE) if place is None else source.read(*place, PAGE)
    words = [queue.ring_offset, queue.write % queue.words, queue.write % queue.words,
             *np.frombuffer(data[:4 * queue.words], np.uint32).tolist()]
    return [f"; {queue.name}, VMID {queue.vmid}: {queue.hung or 'runs'}", "RINGDATA={",
            ",\n".join(",".join(f"{word:#x}" for word in words[i:i + 8]) for i in range(0, len(words), 8)), "}"]


def dumps(board: Board, *, ring: str | None = None) -> str:
    """The card's state as text. ``ring`` names the compute queue that RINGDATA is of ("compute 1.0.0").

    :raises ValueError: no such queue is active.
    """
    lines = ["; amdrv mock dump, version 1",
             f"; card {board.address}, {board.gpu.arch}, {board.vram.size >> 20} MiB of video memory, "
             f"clock {board.clock()}"]
    lines += [f"; note {line}" for note in list(board.notes)[-100:] for line in str(note).splitlines()]
    offset = discovery.offset(board.vram.size)
    table = board.vram.view[offset:offset + len(discovery.build(board.gpu))].tobytes()
    lines += ["", "DISCOVERY={", *_rows(table), "}", ""]
    lines += _register_lines(board)
    lines += _ring(board, ring)
    for system in (False, True):
        for address, data in _joined((at, data) for at, sys, data in _pages(board) if sys == system):
            lines += [f"{'SYSRAM' if system else 'VRAM'}@{address:#x}={{", *_rows(data), "}"]
    return "\n".join(lines) + "\n"


def _joined(blocks: Iterable[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Ascending blocks; those that touch or overlap made one."""
    joined: list[tuple[int, bytearray]] = []
    for address, data in sorted(blocks):
        if joined and address <= joined[-1][0] + len(joined[-1][1]):
            start, last = joined[-1]
            last[address - start:address - start + len(data)] = data
        else:
            joined.append((address, bytearray(data)))
    return [(address, bytes(data)) for address, data in joined]


def _rows(data: bytes) -> list[str]:
    return [data[at:at + ROW].hex() for at in range(0, len(data), ROW)]


def write(board: Board, path: Path | str, *, ring: str | None = None) -> Path:
    """:func:`dumps` into a file."""
    path = Path(path)
    path.write_text(dumps(board, ring=ring), encoding="ascii", errors="backslashreplace")
    return path


# ---- reading

_REMARK = re.compile(r";[^\n]*")
_ENTRY = re.compile(r"\s*(?:(MMIO|VRAM|SYSRAM|SQ|VGPR|SGPR|WAVESTATUS)@\s*(?:0[xX])?([0-9a-fA-F]+)"
                    r"|(DISCOVERY|GCACONFIG|RINGDATA))\s*=\s*\{([^}]*)\}")
_BANK = re.compile(r";BANK@0x([0-9a-f]+):([0-9.]+)=\{0x([0-9a-f]+)\}")
_WORDS = ("MMIO", "SQ", "VGPR", "SGPR", "WAVESTATUS", "RINGDATA")


@dataclass
class Dump:
    """What a dump says. Memory is [(address, bytes)], ascending."""

    registers: dict[int, list[int]] = field(default_factory=dict)
    """{byte address: what reads return, in turn; the last from then on}"""
    banks: dict[tuple[int, tuple[int, ...]], int] = field(default_factory=dict)
    """{(byte address, bank): value}"""
    vram: list[tuple[int, bytes]] = field(default_factory=list)
    system: list[tuple[int, bytes]] = field(default_factory=list)
    discovery: bytes = b""
    ring: list[int] = field(default_factory=list)
    """Read, write and driver's pointer of a ring in dwords, and its words."""

    def register(self, name: str, bank: tuple[int, ...] | None = None, arch: str = "gfx1100") -> int:
        """The value of a register; one that the dump leaves out is 0. :raises KeyError: no such register."""
        address = 4 * names_of(arch).find(name)[1]
        if bank is not None:
            return self.banks.get((address, bank), 0)
        return self.registers.get(address, [0])[-1]

    def read(self, address: int, system: bool, nbytes: int) -> bytes:
        """Memory: offsets of video memory, or bus addresses. :raises LookupError: not in the dump."""
        blocks = self.system if system else self.vram
        at = bisect_right(blocks, address, key=lambda block: block[0]) - 1
        if at < 0 or address + nbytes > blocks[at][0] + len(blocks[at][1]):
            raise LookupError(f"{nbytes} bytes at {address:#x} of {'system' if system else 'video'} memory are not in "
                              "the dump")
        start, data = blocks[at]
        return data[address - start:address - start + nbytes]

    def context(self, hub: str, vmid: int) -> Context:
        """A VMID's translation, from the hub's registers."""
        def wide(name: str) -> int:
            return self.register(f"{name}_LO32") | self.register(f"{name}_HI32") << 32
        name = f"{hub.upper()}VM_CONTEXT{vmid}_"
        cntl = self.register(name + "CNTL")
        fields = names_of("gfx1100").find(name + "CNTL")[0].unpack(cntl)
        return Context(enabled=bool(fields["ENABLE_CONTEXT"]), depth=fields["PAGE_TABLE_DEPTH"],
                       block=LEVEL_BITS + fields["PAGE_TABLE_BLOCK_SIZE"], base=wide(name + "PAGE_TABLE_BASE_ADDR"),
                       start=wide(name + "PAGE_TABLE_START_ADDR"), end=wide(name + "PAGE_TABLE_END_ADDR"), cntl=cntl)

    def walk(self, hub: str, vmid: int, address: int) -> list[Step]:
        """:func:`walk` over the dump. :raises LookupError: a table is not in it."""
        fb_offset = self.register(f"{hub.upper()}MC_VM_FB_OFFSET") << 24
        return walk(lambda at, system, n: self.read(at if system else at - fb_offset, system, n),
                    self.context(hub, vmid), address)


def loads(text: str, name: str = "dump") -> Dump:
    """:raises DumpError: the first line that is none of the form."""
    dump = Dump()
    for found in _BANK.finditer(text):
        bank = tuple(int(part) for part in found[2].split("."))
        dump.banks[int(found[1], 16), bank] = int(found[3], 16)
    body = _REMARK.sub(lambda match: " " * len(match[0]), text)
    at = 0
    while at < len(body):
        match = _ENTRY.match(body, at)
        if match is None:
            rest = body[at:].lstrip()
            if not rest:
                break
            raise DumpError(f"{name}, line {_line(body, len(body) - len(rest))}: expected MMIO@, VRAM@, SYSRAM@ or "
                            f"DISCOVERY, then ={{...}}, and found {rest.splitlines()[0][:40]!r}")
        kind, address = match[1] or match[3], int(match[2] or "0", 16)
        try:
            _take(dump, kind, address, match[4])
        except ValueError as error:
            raise DumpError(f"{name}, line {_line(body, match.start(4))}: {kind}: {error}") from None
        at = match.end()
    dump.vram, dump.system = _joined(dump.vram), _joined(dump.system)
    return dump


def _take(dump: Dump, kind: str, address: int, text: str) -> None:
    if kind in _WORDS:
        values = [int(word, 16) for word in text.split(",")]
        if kind == "MMIO":
            dump.registers.setdefault(address, []).extend(values)
        elif kind == "RINGDATA":
            dump.ring = values
        return
    data = bytes.fromhex(re.sub(r"[^0-9a-fA-F]", "", text))
    if kind == "VRAM":
        dump.vram.append((address, data))
    elif kind == "SYSRAM":
        dump.system.append((address, data))
    elif kind == "DISCOVERY":
        dump.discovery = data


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def load(path: Path | str) -> Dump:
    """:func:`loads` of a file. :raises OSError: it cannot be read. :raises DumpError: it is no dump."""
    return loads(Path(path).read_text(encoding="utf-8", errors="replace"), str(path))
