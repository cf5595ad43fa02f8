"""What a driver did to a card, as a list of events, and the two forms it is read from.

:func:`parse_recording` reads what the mock recorded of amdgpu's boot, :func:`parse_log` a log of its accesses in text,
:func:`load` and :func:`dump` our own compact form:

    W IH_RB_CNTL 0xc0310120         a register written
    R IH_RB_CNTL 0x0                a register read
    PSP LOAD_IP_FW 0x12             a command in the PSP's ring, with the firmware type where it has one
    SMU GetSmuVersion 0x0           a message to the SMU, with its argument
    HDP                             the flush of the host data path
    * 12 23                         the twelve lines before, 23 times more

:func:`fold` makes the middle three out of register accesses, and gives index/data pairs and banked registers
names of their own: ``S2A_DOORBELL_ENTRY_1_CTRL``, ``SMN[0x3b10024]``, ``SH_MEM_CONFIG[vmid 3]``,
``CP_HQD_ACTIVE[queue #1]`` (the first queue that a driver sets up by registers; which that is, is its own choice).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import amdrv.regs
from amdrv.errors import AmdrvError, UnknownIpError
from amdrv.facts import navi31, psp, smu13
from amdrv.regs import RegisterFile

__all__ = ["Event", "TraceError", "block_of", "command_name", "dump", "firmware_type", "fold", "load",
           "message_name", "name_at", "parse_log",
           "parse_recording"]


class TraceError(Exception):
    """A file that is no trace; the message names the line."""


class Event(NamedTuple):
    """One thing done to the card. ``kind`` is R, W, PSP, SMU or HDP."""

    kind: str
    name: str = ""
    value: int = 0

    def __str__(self) -> str:
        return " ".join([self.kind] + [self.name] * bool(self.name) + [f"{self.value:#x}"] * (self.kind != "HDP"))


# Names of registers ------------------------------------------------------------------------------------

@cache
def _registers() -> RegisterFile:
    """Every register of the reference board, by the base addresses of its discovery table."""
    tables: dict[str, tuple[amdrv.regs.Table, tuple[int, ...]]] = {}
    for ip, _instance, version, bases in navi31.IPS:
        try:
            table = amdrv.regs.table_for(ip, version)
        except UnknownIpError:
            continue            # IPs that neither driver programs by register: DF, UMC, CLKA, LSDMA
        tables.setdefault(table.name, (table, bases))

    def unreachable(*_: int) -> int:
        raise AmdrvError("names only; there is no card behind this register file")

    return RegisterFile(unreachable, unreachable, tables.values())      # type: ignore[arg-type]


@cache
def name_at(dword: int) -> str:
    """The register at a dword of the register BAR; of aliases (one per virtual function) the shortest name."""
    names = [register.name for register in _registers().at(dword)]
    return min(names, key=lambda name: ("_VF" in name, len(name))) if names else f"dw_{dword:#x}"


@cache
def block_of(name: str) -> str:
    """The hardware block that an event's name belongs to, as the reports are sorted."""
    if name.startswith("SMN["):
        return "NBIO"
    plain = name.partition("[")[0]
    for table, _ in _registers().tables:
        register = table.find(plain)
        if register is None:
            continue
        if table.name.startswith("gc_"):
            for prefix, block in (("gc_sdma", "SDMA"), ("gc_gcvm", "GC hub")):
                if register.block.startswith(prefix):
                    return block
            return "GFX"
        if table.name.startswith("mp_"):
            return "PSP" if plain.startswith("MP0") else "SMU"
        return {"nbio": "NBIO", "hdp": "HDP", "mmhub": "MM hub", "athub": "ATHUB", "osssys": "IH", "smuio": "SMUIO",
                "thm": "THM"}[table.name.split("_")[0]]
    return "unnamed"


# amdgpu's log ------------------------------------------------------------------------------------------

_ACCESS = re.compile(r"\s*([\d.]+) ([RW]) (0x[0-9a-f]+) \S+\s+(0x[0-9a-f]+)$")
_VRAM_WINDOW = {"BIF_BX_PF0_MM_INDEX", "BIF_BX_PF0_MM_INDEX_HI", "BIF_BX_PF0_MM_DATA"}
FIRMWARE_TYPE = 3       # the word of LOAD_IP_FW's arguments that names it
_REPEATED = re.compile(r"\s*\.\.\. repeated (\d+) times")
_COMMAND = re.compile(r"\s*[\d.]+ PSP (\w+) args ((?:0x[0-9a-f]+ ?)+)")


def parse_log(lines: Iterable[str], until: float = float("inf")) -> list[Event]:
    """Register accesses and PSP commands of the log's form ``seconds R|W byte-address name value``.

    :param until: seconds in the log at which the boot is over.
    :raises TraceError: there is not one access in it.
    """
    events: list[Event] = []
    for line in lines:
        if match := _ACCESS.match(line):
            if float(match[1]) > until:
                break
            events.append(Event(match[2], name_at(int(match[3], 16) // 4), int(match[4], 16)))
        elif match := _REPEATED.match(line):
            latest = next((event for event in reversed(events) if event.kind in "RW"), None)
            events += [latest] * int(match[1]) if latest else []
        elif match := _COMMAND.match(line):
            arguments = [int(word, 16) for word in match[2].split()]
            events.append(Event("PSP", match[1], arguments[FIRMWARE_TYPE] if match[1] == "LOAD_IP_FW" else 0))
    if not any(event.kind in "RW" for event in events):
        raise TraceError("no register access in it: lines look like '30.003 W 0x069eac NAME 0x0fe00001'")
    return events


def parse_recording(path: Path, until: float = float("inf")) -> list[Event]:
    """The same from a recording of the mock (:mod:`mock.trace`) that a driver booted: its register accesses and the
    PSP's commands. Of reads that polled, the first and the last are kept; the window on video memory by which Linux
    reads the discovery table is no register's business, and left out.

    :raises TraceError: there is not one access in it.
    """
    from mock.trace import events as recording
    events: list[Event] = []
    for event in recording.read(str(path)).events:
        detail = event.detail
        if event.time > until * 1e9:
            break
        if event.kind in ("read", "write"):
            access = Event(event.kind[0].upper(), name_at(detail["dword"]), detail["value"])
            if access.name not in _VRAM_WINDOW:
                events += [access] * min(detail.get("count", 1), 2)
        elif event.kind == "packet" and detail["engine"] == "psp":
            name = detail["name"].removeprefix("PSP_")
            events.append(Event("PSP", name, detail["tail"][FIRMWARE_TYPE] if name == "LOAD_IP_FW" else 0))
    if not any(event.kind in "RW" for event in events):
        raise TraceError(f"{path}: no register access in it")
    return events


# Folding -----------------------------------------------------------------------------------------------

_PAIRS = {      # data register -> index register (Linux 6.1, nbio_v4_3.c, nbio_v4_3_get_pcie_index_offset)
    "BIF_BX_PF0_RSMU_DATA": "BIF_BX_PF0_RSMU_INDEX",
    "BIF_BX0_PCIE_DATA": "BIF_BX0_PCIE_INDEX",
    "BIF_BX0_PCIE_DATA2": "BIF_BX0_PCIE_INDEX2",
}
_INDEXES = set(_PAIRS.values())
# The mailbox that Linux 6.1's smu_cmn.c talks through: response cleared, argument, message.
_SMU_MESSAGE, _SMU_ARGUMENT, _SMU_RESPONSE = (f"MP1_SMN_C2PMSG_{n}" for n in (66, 82, 90))
_PSP_WPTR = "MP0_SMN_C2PMSG_67"     # Linux 6.1, psp_v13_0.c, psp_v13_0_ring_set_wptr
_HDP_FLUSH = "REMAP_HDP_MEM_FLUSH"
_MEMSIZE = "RCC_DEV0_EPF0_RCC_CONFIG_MEMSIZE"       # read back after each flush, so that it has happened
_SELECT = "GRBM_GFX_CNTL"
_BY_VMID = ("SH_MEM_",)
_BY_QUEUE = ("CP_HQD_", "CP_MQD_")


def fold(events: Iterable[Event]) -> list[Event]:
    """Mailboxes to messages, flushes to one event, index/data pairs and banked registers to names of their own.

    An instance select (GRBM_GFX_CNTL) and an index are dropped: they stand in the names of what they select.
    Already folded events pass through.
    """
    folded: list[Event] = []
    latest: dict[str, int] = {}
    select = _bank(0)
    queues: dict[str, str] = {}
    for event in events:
        kind, name, value = event
        if kind in "RW":
            latest[name] = value
        if kind not in "RW" or "[" in name:
            folded.append(event)
        elif name == _SELECT:
            select = _bank(value) if kind == "W" else select
        elif name in _INDEXES or name in (_SMU_ARGUMENT, _SMU_RESPONSE, _PSP_WPTR):
            continue
        elif name in _PAIRS:
            folded.append(Event(kind, _behind(latest.get(_PAIRS[name], 0)), value))
        elif name == _SMU_MESSAGE:
            if kind == "W":
                folded.append(Event("SMU", message_name(value), latest.get(_SMU_ARGUMENT, 0)))
        elif name == _HDP_FLUSH:
            folded.append(Event("HDP"))
        elif name == _MEMSIZE and folded and folded[-1].kind == "HDP":
            continue
        elif name.startswith(_BY_VMID):
            folded.append(Event(kind, f"{name}[{select[0]}]", value))
        elif name.startswith(_BY_QUEUE):
            queue = queues.setdefault(select[1], f"queue #{len(queues) + 1}")
            folded.append(Event(kind, f"{name}[{queue}]", value))
        else:
            folded.append(event)
    return folded


def _behind(address: int) -> str:
    """The register at a byte address of the index: a table's name, or ``SMN[address]``."""
    name = name_at(address // 4)
    return f"SMN[{address:#x}]" if name.startswith("dw_") else name


def _bank(value: int) -> tuple[str, str]:
    fields = amdrv.regs.table("gc_11_0_0")[_SELECT].unpack(value)
    return f"vmid {fields['VMID']}", f"me {fields['MEID']} pipe {fields['PIPEID']} queue {fields['QUEUEID']}"


# Our own form ------------------------------------------------------------------------------------------

_LONGEST = 24


def dump(events: Iterable[Event], about: Iterable[str] = ()) -> str:
    """The compact form; ``about`` becomes comment lines."""
    lines = [str(event).replace(" [", "[") for event in events]
    out = [f"# {line}" for line in about]
    at = 0
    while at < len(lines):
        length, times = _repetition(lines, at)
        if times:
            out.append(f"* {length} {times}")
            at += length * times
        else:
            out.append(lines[at])
            at += 1
    return "\n".join(out) + "\n"


def _repetition(lines: list[str], at: int) -> tuple[int, int]:
    """(length, times) of the repetition at ``at`` of the lines before it that saves the most lines."""
    best = 0, 0
    for length in range(1, min(_LONGEST, at) + 1):
        times = 0
        group = lines[at - length:at]
        while lines[at + times * length:at + (times + 1) * length] == group:
            times += 1
        if times * length > max(1, best[0] * best[1]):
            best = length, times
    return best


def load(source: Path) -> list[Event]:
    """:func:`dump` undone. :raises TraceError: a line that is none of the forms."""
    events: list[Event] = []
    for number, line in enumerate(source.read_text(encoding="ascii").splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        try:
            events.extend(_repeat(events, line) if line[0] == "*" else [_event(line)])
        except (ValueError, IndexError):
            raise TraceError(f"{source}:{number}: {line!r} is no event") from None
    return events


def _repeat(events: list[Event], line: str) -> Iterator[Event]:
    length, times = (int(word) for word in line.split()[1:])
    if not 0 < length <= len(events):
        raise ValueError(line)
    return iter(events[-length:] * times)


def _event(line: str) -> Event:
    kind, _, rest = line.partition(" ")
    if kind == "HDP" and not rest:
        return Event("HDP")
    name, _, value = rest.rpartition(" ")
    if kind not in ("R", "W", "PSP", "SMU") or not name:
        raise ValueError(line)
    return Event(kind, name, int(value, 16))


# Names of commands -------------------------------------------------------------------------------------

@cache
def _names(facts: ModuleType, prefix: str) -> dict[int, str]:
    return {value: name.removeprefix(prefix) for name, value in vars(facts).items() if name.startswith(prefix)}


def firmware_type(number: int) -> str:
    """``RLC_G`` of 8: the name of a PSP firmware type."""
    return _names(psp, "GFX_FW_TYPE_").get(number, f"{number:#x}")


def command_name(number: int) -> str:
    """``LOAD_TOC`` of 0x20: the name of a command in the PSP's ring."""
    return _names(psp, "GFX_CMD_ID_").get(number, f"{number:#x}")


def message_name(number: int) -> str:
    """``GetSmuVersion`` of 2: the name of a message to the SMU."""
    return _names(smu13, "PPSMC_MSG_").get(number, f"{number:#x}")
