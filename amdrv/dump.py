"""A card's state read from a text, and its page tables walked offline.

    dump = amdrv.dump.load("card.txt")
    dump.registers["GCVM_CONTEXT8_CNTL"].describe()
    dump.walk("gc", 8, 0x7F0000001000)              # [(level, table, entry), ...] as the live tables give it
    python -m amdrv.dump card.txt vm gc 8 0x7F0000001000

The form is that of the test vectors of umr, AMD's register debugger (a fact of its test harness): remarks after ``;``,
``MMIO@BYTE_ADDRESS={value,...}``, ``VRAM@OFFSET={hex bytes}``, ``SYSRAM@BUS_ADDRESS={hex bytes}``,
``DISCOVERY={hex bytes}``, ``RINGDATA={read, write, write pointer, words}``. Dumps come from the mock card
(``mock.dump``), from umr, or by hand. How tables are walked: Linux 6.1, amdgpu_vm.h (entries), gfxhub_v3_0.c
(PAGE_TABLE_DEPTH, PAGE_TABLE_BLOCK_SIZE, start and base of a context).
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from amdrv import pm4
from amdrv.errors import AmdrvError, PageTableError, RegisterError
from amdrv.facts import navi31, vm
from amdrv.mmu.pte import HUGE, SYSTEM, Entry
from amdrv.packets import Decoded
from amdrv.regs import Table, Value, table_for

__all__ = ["Dump", "DumpError", "Step", "load", "main", "parse"]

HUBS = {"gc": "GC", "mm": "MMHUB"}
FB_OFFSET_SHIFT = 24            # FB_OFFSET counts 16 MiB
INDEX_BITS = 9
TABLE_ADDRESS = (1 << vm.FIELDS["PDE_ADDRESS"][0] + 1) - (1 << vm.FIELDS["PDE_ADDRESS"][1])


class DumpError(AmdrvError):
    """A text that is no dump, or one without what was asked of it."""


class Step(NamedTuple):
    """One level of a walk: "PDB2", physical address of the table, number of the entry in it, entry."""

    level: str
    table: int
    number: int
    entry: Entry

    def __str__(self) -> str:
        return f"{self.level}[{self.number:#05x}] at {self.table:#014x}: {self.entry!r}"


class Dump:
    """``memory["VRAM"]`` and ``memory["SYSRAM"]`` are {address: bytes}; ``values`` is {byte address of a register: what
    its reads return in turn}."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.values: dict[int, list[int]] = {}
        self.memory: dict[str, dict[int, bytes]] = {"VRAM": {}, "SYSRAM": {}}
        self.discovery = b""
        self.ring: list[int] = []           # read pointer, write pointer twice, then all the words
        self.vram_size = 0                  # bytes; 0 where nobody said
        self.owners: list[tuple[str, int, int, str]] | None = None
        """Buffers: (name, address, bytes, kind); None where nobody knew them."""
        self._places: dict[str, tuple[Table, int]] | None = None

    # ---- registers

    def _named(self) -> dict[str, tuple[Table, int]]:
        """{register: (its table, byte address)}, at the base addresses of Navi 31."""
        if self._places is None:
            self._places = {}
            for ip, _instance, version, bases in navi31.IPS:
                try:
                    table = table_for(ip, version)
                except AmdrvError:
                    continue
                for register in table:
                    if register.base_idx is not None and register.base_idx < len(bases):
                        self._places.setdefault(register.name,
                                                (table, 4 * (bases[register.base_idx] + register.offset)))
        return self._places

    def register(self, name: str) -> Value:
        """A register's value, that of its last read; 0 where the dump has none. :raises RegisterError: no such name."""
        if name not in self._named():
            raise RegisterError(f"no register {name!r} in the tables of Navi 31")
        table, address = self._named()[name]
        return Value(table[name], self.values.get(address, [0])[-1])

    def names(self, pattern: str = "*") -> list[str]:
        """Registers that the dump has values of, by shell pattern."""
        return [name for name, (_, address) in self._named().items()
                if address in self.values and fnmatch.fnmatchcase(name, pattern)]

    # ---- memory

    def read(self, space: str, address: int, nbytes: int) -> bytes:
        """Bytes of "VRAM" or "SYSRAM". :raises DumpError: the dump does not have them."""
        for start, data in self.memory[space].items():
            if start <= address and address + nbytes <= start + len(data):
                return data[address - start:address - start + nbytes]
        raise DumpError(f"{self.name} has no {space}@{address:#x} of {nbytes} bytes")

    def _entry(self, hub: str, table: int, index: int, system: bool) -> Entry:
        offset = 0 if system else int(self.register(f"{hub.upper()}MC_VM_FB_OFFSET")) << FB_OFFSET_SHIFT
        return Entry(int.from_bytes(self.read("SYSRAM" if system else "VRAM", table - offset + 8 * index, 8), "little"))

    def packets(self, *, all_of_it: bool = False) -> list[Decoded]:
        """What the ring holds between its pointers, or all of it, as PM4.

        :raises DumpError: the dump has no ring. :raises PacketError: the words are no packets.
        """
        if len(self.ring) < 4:
            raise DumpError(f"{self.name} has no RINGDATA")
        (first, end, _), words = self.ring[:3], self.ring[3:]
        if all_of_it:
            return pm4.decode(words[:end])
        count = (end - first) % len(words)
        return pm4.decode([words[(first + i) % len(words)] for i in range(count)])

    # ---- page tables

    def walk(self, hub: str, vmid: int, address: int) -> list[Step]:
        """Every step of a VMID's walk to ``address``, to the entry that maps it or is not valid.

        :param hub: "gc" (shaders, command processors, copy engines) or "mm" (PSP, SMU, interrupt handler).
        :raises PageTableError: the VMID is off, or its tables do not cover the address.
        :raises DumpError: a table that the walk needs is not in the dump.
        """
        if hub not in HUBS or not 0 <= vmid < 16:
            raise PageTableError(f"no VMID {vmid} of hub {hub!r}: hubs are gc and mm, VMIDs 0 to 15")
        context = f"{hub.upper()}VM_CONTEXT{vmid}_"
        cntl = self.register(context + "CNTL")
        first, last, base = (self.register(f"{context}PAGE_TABLE_{what}_ADDR_LO32")
                             | self.register(f"{context}PAGE_TABLE_{what}_ADDR_HI32") << 32
                             for what in ("START", "END", "BASE"))
        page = address >> 12
        if not cntl.enable_context:
            raise PageTableError(f"VMID {vmid} of the {hub} hub is off: {context}CNTL is {int(cntl):#x}")
        if not first <= page <= last:
            raise PageTableError(f"{address:#x} is outside of VMID {vmid}'s "
                                 f"{first << 12:#x}..{(last << 12) + 0xFFF:#x}")
        return list(self._steps(hub, page - first, Entry(base), int(cntl.page_table_depth),
                                INDEX_BITS + int(cntl.page_table_block_size)))

    def _steps(self, hub: str, page: int, entry: Entry, depth: int, block: int) -> Iterator[Step]:
        for level in reversed(range(depth)):
            index = page >> (block + INDEX_BITS * level)
            page &= (1 << (block + INDEX_BITS * level)) - 1
            table = entry & TABLE_ADDRESS
            entry = self._entry(hub, table, index, bool(entry & SYSTEM))
            yield Step(f"PDB{level}", table, index, entry)
            if not entry.valid or entry & HUGE:
                return
        granule = int(entry) >> vm.PDE_BFS_SHIFT if depth else 0        # log2 of the pages that one PTB entry covers
        table, index = entry & TABLE_ADDRESS, page >> granule
        entry = self._entry(hub, table, index, bool(entry & SYSTEM))
        yield Step("PTB", table, index, entry)
        if granule and entry.valid and entry & vm.PTE_TF:
            table, index = entry & TABLE_ADDRESS, page & (1 << granule) - 1
            yield Step("PTF", table, index, self._entry(hub, table, index, bool(entry & SYSTEM)))


# ---- the form

def parse(text: str, name: str = "dump") -> Dump:
    """:raises DumpError: with the line that is not understood."""
    dump, line = Dump(name), 1
    pieces = "\n".join(part.partition(";")[0] for part in text.split("\n"))
    while pieces.strip():
        stripped = pieces.lstrip()
        line += pieces[:len(pieces) - len(stripped)].count("\n")
        head, brace, rest = stripped.partition("{")
        body, closing, pieces = rest.partition("}")
        what, at, where = head.partition("=")[0].strip().partition("@")
        if not brace or not closing or "=" not in head or not _put(dump, what, at + where, body):
            raise DumpError(f"{name}, line {line}: {stripped.splitlines()[0][:50]!r} is no MMIO@ADDRESS={{...}}, "
                            "VRAM@ADDRESS={...}, SYSRAM@ADDRESS={...} or DISCOVERY={...}")
        line += (head + body).count("\n")
    return dump


def _put(dump: Dump, what: str, where: str, body: str) -> bool:
    try:
        if what in ("DISCOVERY", "GCACONFIG", "RINGDATA") and not where:
            if what == "DISCOVERY":
                dump.discovery = bytes.fromhex("".join(body.split()))
            elif what == "RINGDATA":
                dump.ring = [int(word, 16) for word in body.split(",")]
            return True
        if not where.startswith("@"):
            return False
        address = int(where[1:], 16)
        if what in dump.memory:
            dump.memory[what][address] = bytes.fromhex("".join(body.replace("_", " ").split()))
        elif what == "MMIO":
            dump.values.setdefault(address, []).extend(int(word, 16) for word in body.split(","))
        else:
            return what in ("SQ", "VGPR", "SGPR", "WAVESTATUS")
    except ValueError:
        return False
    return True


def load(path: Path | str) -> Dump:
    """A file in the form above. :raises DumpError: it cannot be read, is none, or is empty."""
    try:
        dump = parse(Path(path).read_text(encoding="utf-8", errors="replace"), str(path))
    except OSError as error:
        raise DumpError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not (dump.ring or dump.discovery or dump.values or any(dump.memory.values())):
        raise DumpError(f"{path}: is empty: no register, no memory and no ring is in it")
    return dump


# ---- the command

def main(argv: Sequence[str] | None = None) -> int:
    """``python -m amdrv.dump FILE vm|ring|reg``. Exit status: 0, or 1 when the file or the address says nothing."""
    parser = argparse.ArgumentParser(prog="python -m amdrv.dump", description="Look into a dump of a card's state.")
    parser.add_argument("file", help="umr test vectors: what mock.dump writes")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    commands = parser.add_subparsers(dest="command", required=True)
    walk = commands.add_parser("vm", help="walk a VMID's page tables to an address")
    walk.add_argument("hub", choices=sorted(HUBS))
    walk.add_argument("vmid", type=int)
    walk.add_argument("address", type=lambda text: int(text, 0))
    ring = commands.add_parser("ring", help="what the ring holds that was not processed, as PM4")
    ring.add_argument("--all", action="store_true", help="from the ring's beginning to the write pointer")
    registers = commands.add_parser("reg", help="registers by shell pattern")
    registers.add_argument("pattern")
    options = parser.parse_args(argv)
    try:
        dump = load(options.file)
        if options.command == "vm":
            steps = dump.walk(options.hub, options.vmid, options.address)
            if options.json:
                print(json.dumps({"steps": [{"level": step.level, "table": step.table, "index": step.number,
                                             "entry": int(step.entry)} for step in steps]}, indent=2))
            else:
                print(*steps, sep="\n")
            return int(not steps or not steps[-1].entry.valid)
        if options.command == "ring":
            packets = dump.packets(all_of_it=options.all)
            if options.json:
                print(json.dumps({"packets": [str(packet) for packet in packets]}, indent=2))
            else:
                print(*packets, sep="\n")
            return 0
        found = {name: dump.register(name) for name in dump.names(options.pattern)}
        if not found:
            raise DumpError(f"{options.file} has no register {options.pattern!r}")
        if options.json:
            print(json.dumps({"registers": {name: int(value) for name, value in found.items()}}, indent=2))
        else:
            print(*map(repr, found.values()), sep="\n")
    except AmdrvError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    from tools.piped import piped
    sys.exit(piped(main)())
