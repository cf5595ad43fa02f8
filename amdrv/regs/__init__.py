"""AMD's registers by name and field.

    gc = amdrv.regs.table("gc_11_0_0")
    gc["CP_HQD_ACTIVE"].pack(active=1)                      # 1
    regs = amdrv.regs.RegisterFile(read32, write32, [(gc, gc_bases)])
    regs.GCVM_CONTEXT0_CNTL.update(enable_context=1)

The tables are generated from AMD's headers (``tools/autogen/registers.py``). Importing this package reads
none of them, and looking up one register parses one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from amdrv.errors import RegisterError, UnknownIpError
from amdrv.regs.accessor import BoundRegister, RegisterFile
from amdrv.regs.table import Field, Register, Table, Value

__all__ = ["BoundRegister", "Field", "Register", "RegisterFile", "Table", "Value", "table", "table_for", "tables"]

_TABLES = Path(__file__).parent / "tables"

_TABLE_FOR: dict[tuple[str, tuple[int, int, int]], str] = {
    ("GC", (11, 0, 0)): "gc_11_0_0",
    ("SDMA0", (6, 0, 0)): "gc_11_0_0",          # SDMA 6's registers lie in GC's address space and header
    ("SDMA1", (6, 0, 0)): "gc_11_0_0",
    ("GC", (11, 0, 3)): "gc_11_0_0",            # Navi32: gfx_v11_0.c has one set of registers for both
    ("SDMA0", (6, 0, 3)): "gc_11_0_0",          # and sdma_v6_0.c
    ("SDMA1", (6, 0, 3)): "gc_11_0_0",
    ("MMHUB", (3, 0, 0)): "mmhub_3_0_0",
    ("ATHUB", (3, 0, 0)): "athub_3_0_0",
    ("OSSSYS", (6, 0, 0)): "osssys_6_0_0",
    ("OSSSYS", (6, 0, 1)): "osssys_6_0_0",      # ih_v6_0.c, for all three
    ("OSSSYS", (6, 0, 2)): "osssys_6_0_0",
    ("HDP", (6, 0, 0)): "hdp_6_0_0",
    ("HDP", (6, 0, 1)): "hdp_6_0_0",            # hdp_v6_0.c
    ("NBIF", (4, 3, 0)): "nbio_4_3_0",          # the discovery table says NBIF, the kernel and its headers NBIO
    ("NBIO", (4, 3, 0)): "nbio_4_3_0",
    ("NBIF", (4, 3, 1)): "nbio_4_3_0",          # nbio_v4_3.c
    ("NBIO", (4, 3, 1)): "nbio_4_3_0",
    ("MP0", (13, 0, 0)): "mp_13_0_0",
    ("MP1", (13, 0, 0)): "mp_13_0_0",
    ("MP0", (13, 0, 10)): "mp_13_0_0",          # psp_v13_0.c; smu_v13_0_0_ppt.c is for both, not for 13.0.7
    ("MP1", (13, 0, 10)): "mp_13_0_0",
    ("SMUIO", (13, 0, 6)): "smuio_13_0_6",
    ("SMUIO", (13, 0, 8)): "smuio_13_0_6",      # smuio_v13_0_6.c
    ("THM", (13, 0, 0)): "thm_13_0_2",          # Linux 6.1, smu_v13_0_0_ppt.c includes thm_13_0_2_offset.h
    ("THM", (13, 0, 2)): "thm_13_0_2",
}


def tables() -> list[str]:
    """The names that :func:`table` knows, sorted."""
    return sorted(path.stem for path in _TABLES.glob("*.txt"))


@cache
def table(name: str) -> Table:
    """The table of one IP version, e.g. ``gc_11_0_0``; read once.

    :raises RegisterError: there is no such table.
    """
    found = _TABLES / f"{name}.txt"
    if not found.is_file():
        raise RegisterError(f"no register table {name!r}; there are {', '.join(tables())}")
    return Table(name, found.read_text(encoding="ascii"))


def table_for(ip: str, version: Sequence[int]) -> Table:
    """The table of an entry of the discovery table, by its name ("GC", "MP1", ...) and (major, minor, revision).

    :raises UnknownIpError: no table is known to be right for that version.
    """
    key = ip.upper(), (version[0], version[1], version[2])
    if key not in _TABLE_FOR:
        dotted = ".".join(str(number) for number in version)
        others = sorted(".".join(map(str, known)) for name, known in _TABLE_FOR if name == key[0])
        known = f"the known versions of {key[0]} are {', '.join(others)}" if others else (
            "the known IPs are " + ", ".join(sorted({name for name, _ in _TABLE_FOR})))
        raise UnknownIpError(f"no register table for {ip} {dotted}: {known}")
    return table(_TABLE_FOR[key])
