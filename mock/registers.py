"""The register BAR: names, storage, banks and dispatch.

Names are resolved once for an architecture (:func:`names_of`) and shared by its boards; a board keeps one array of
dwords, and two dictionaries of handlers keyed by dword, so that an access costs one look-up.

Some registers stand for many: which one is chosen by GRBM_GFX_CNTL (micro engine, pipe, queue, VMID) or
GRBM_GFX_INDEX (shader engine, shader array, instance). A block says which (``Block.banked``), by one of the
:data:`BANKS`. A write through a broadcast GRBM_GFX_INDEX goes to every bank it covers; a read takes the first.
"""

from __future__ import annotations

import inspect
from array import array
from collections.abc import Callable, Hashable, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from amdrv import regs
from amdrv.regs import Register, Table
from mock.arch import Arch, arch_of

if TYPE_CHECKING:
    from mock.block import Block

__all__ = ["BANKS", "Names", "Registers", "Selection", "names_of"]

ALL_ONES = 0xFFFFFFFF
Reader = Callable[[], int]
Writer = Callable[[int], None]


class Names:
    """Every register of an architecture by name and by dword index of the register BAR."""

    def __init__(self, arch: Arch) -> None:
        self._tables: list[tuple[str, Table, Sequence[int]]] = []
        seen: set[tuple[str, tuple[int, ...]]] = set()
        for ip in arch.ips:
            if ip.table and (ip.table, tuple(ip.bases)) not in seen:
                seen.add((ip.table, tuple(ip.bases)))
                self._tables.append((ip.name, regs.table(ip.table), ip.bases))
        self._found: dict[str, tuple[Register, int]] = {}
        self._searched: dict[str, list[str]] = {}

    def find(self, name: str) -> tuple[Register, int]:
        """(register, dword index). :raises KeyError: no IP of the architecture has a register of that name."""
        found = self._found.get(name)
        if found is None:
            for _ip, table, bases in self._tables:
                register = table.find(name)
                if register is not None and register.base_idx is not None and register.base_idx < len(bases):
                    found = self._found[name] = (register, bases[register.base_idx] + register.offset)
                    break
            else:
                raise KeyError(f"no IP of this architecture has a register named {name!r}")
        return found

    def search(self, pattern: str) -> list[str]:
        """Names by shell pattern, over all IPs."""
        found = self._searched.get(pattern)
        if found is None:
            found = self._searched[pattern] = self._search(pattern)
        return found

    def _search(self, pattern: str) -> list[str]:
        return [r.name for _ip, table, bases in self._tables for r in table.search(pattern)
                if r.base_idx is not None and r.base_idx < len(bases)]

    @cached_property
    def by_dword(self) -> dict[int, tuple[str, Register]]:
        """{dword index: (IP, register)}; where several IPs claim a place, the first in the discovery table has it."""
        found: dict[int, tuple[str, Register]] = {}
        for ip, table, bases in self._tables:
            for register in table:
                if register.base_idx is not None and register.base_idx < len(bases):
                    found.setdefault(bases[register.base_idx] + register.offset, (ip, register))
        return found

    @cached_property
    def gc_dwords(self) -> frozenset[int]:
        """The dwords that belong to GC, for what happens to them when GC has no power."""
        return frozenset(dword for dword, (ip, _r) in self.by_dword.items() if ip == "GC")

    @cached_property
    def defaults(self) -> dict[int, int]:
        """{dword: value after reset} where AMD published one that is not zero."""
        return {bases[register.base_idx] + register.offset: register.default for _ip, table, bases in self._tables
                for register in table
                if register.default and register.base_idx is not None and register.base_idx < len(bases)}

    def describe(self, dword: int) -> str:
        known = self.by_dword.get(dword)
        return known[1].name if known else f"dword {dword:#x}"


@cache
def names_of(arch: str) -> Names:
    return Names(arch_of(arch))


class Selection(NamedTuple):
    """What GRBM_GFX_CNTL and GRBM_GFX_INDEX select. None in se, sa, instance is a broadcast."""

    me: int = 0
    pipe: int = 0
    queue: int = 0
    vmid: int = 0
    se: int | None = None
    sa: int | None = None
    instance: int | None = None


class _Geometry(NamedTuple):
    se: int
    sa: int
    instances: int


def _each(chosen: int | None, count: int) -> Sequence[int]:
    return range(count) if chosen is None else (chosen,)


BANKS: dict[str, Callable[[Selection, _Geometry], Sequence[Hashable]]] = {
    "me": lambda s, g: (s.me,),
    "pipe": lambda s, g: ((s.me, s.pipe),),
    "queue": lambda s, g: ((s.me, s.pipe, s.queue),),
    "vmid": lambda s, g: (s.vmid,),
    "se": lambda s, g: tuple(_each(s.se, g.se)),
    "sa": lambda s, g: tuple((se, sa) for se in _each(s.se, g.se) for sa in _each(s.sa, g.sa)),
    "instance": lambda s, g: tuple((se, sa, i) for se in _each(s.se, g.se) for sa in _each(s.sa, g.sa)
                                   for i in _each(s.instance, g.instances)),
}
"""How a selection becomes bank keys: "queue" -> ((me, pipe, queue),), "sa" -> ((se, sa), ...) and so on."""


def _arity(function: Callable[..., Any]) -> int:
    """How many arguments a handler must be given; those with a default are its own."""
    parameters = inspect.signature(function).parameters.values()
    return sum(parameter.default is parameter.empty for parameter in parameters)


class Registers:
    """A board's registers. ``registers["NAME"]`` is the stored value, without handlers; banked registers take
    ``registers["NAME", bank]``, and without a bank the one that is selected now."""

    def __init__(self, arch: str, dwords: int, geometry: tuple[int, int, int],
                 note: Callable[[str, str], None]) -> None:
        self.names = names_of(arch)
        self.count = dwords
        self.store = array("I", bytes(4 * dwords))
        self._far: dict[int, int] = {}      # registers beyond the BAR, reached through index and data registers
        self.selection = Selection()
        self._geometry = _Geometry(*geometry)
        self._note = note
        self._readers: dict[int, Reader] = {}
        self._writers: dict[int, Writer] = {}
        self._banked: dict[int, str] = {}
        self._bank_values: dict[tuple[int, Hashable], int] = {}
        self._unnamed: set[int] = set()
        self._reset_values: dict[int, int] = dict(self.names.defaults)
        self.gate: Callable[[int], int | None] | None = None
        """When set: called with a dword; a value instead of None answers for a register that has no power."""

    # ---- names

    def dword(self, name: str) -> int:
        return self.names.find(name)[1]

    def register(self, name: str) -> Register:
        return self.names.find(name)[0]

    def _slot(self, key: str | tuple[str, Hashable]) -> tuple[int, Hashable]:
        name, bank = key if isinstance(key, tuple) else (key, None)
        dword = self.dword(name)
        kind = self._banked.get(dword)
        if kind is None:
            if bank is not None:
                raise KeyError(f"{name} is not banked")
            return dword, None
        return dword, self._banks_of(kind)[0] if bank is None else bank

    def __getitem__(self, key: str | tuple[str, Hashable]) -> int:
        dword, bank = self._slot(key)
        return self._load(dword) if bank is None else self._bank_values.get((dword, bank),
                                                                            self._reset_values.get(dword, 0))

    def __setitem__(self, key: str | tuple[str, Hashable], value: int) -> None:
        dword, bank = self._slot(key)
        if bank is None:
            self._keep(dword, value)
        else:
            self._bank_values[dword, bank] = value

    def forget(self, pattern: str, bank: Hashable = None) -> None:
        """Registers by shell pattern back to their reset values: of one bank, or of all."""
        dwords = {self.dword(name) for name in self.names.search(pattern)}
        for key in [key for key in self._bank_values if key[0] in dwords and bank in (None, key[1])]:
            del self._bank_values[key]
        for dword in dwords:
            if dword not in self._banked:
                self._keep(dword, self._reset_values.get(dword, 0))

    def _load(self, dword: int) -> int:
        return self.store[dword] if dword < self.count else self._far.get(dword, 0)

    def _keep(self, dword: int, value: int) -> None:
        if dword < self.count:
            self.store[dword] = value
        else:
            self._far[dword] = value

    # ---- for dumps and snapshots

    @property
    def readable(self) -> frozenset[int]:
        """Dwords whose reads a block answers."""
        return frozenset(self._readers)

    def banks(self) -> list[tuple[int, Hashable, int]]:
        """(dword, bank, value) of every bank that was written."""
        return [(dword, bank, value) for (dword, bank), value in self._bank_values.copy().items()]

    def unnamed(self) -> list[tuple[int, int]]:
        """(dword, value) of what was written where no register has a name."""
        return [(dword, self._load(dword)) for dword in sorted(self._unnamed) if dword not in self.names.by_dword
                and self._load(dword)]

    def far(self) -> dict[int, int]:
        """{dword: value} beyond the BAR."""
        return self._far.copy()

    def load_state(self, store: bytes, far: dict[int, int], banks: dict[tuple[int, Hashable], int],
                   selection: Selection) -> None:
        """Storage as a snapshot has it; no handler is called."""
        self.store = array("I", store)
        self._far, self._bank_values, self.selection = dict(far), dict(banks), selection

    def field(self, key: str | tuple[str, Hashable], field: str) -> int:
        """A field of the stored value."""
        name = key[0] if isinstance(key, tuple) else key
        return self.register(name).field(field).get(self[key])

    def set_fields(self, key: str | tuple[str, Hashable], **fields: int) -> None:
        name = key[0] if isinstance(key, tuple) else key
        self[key] = self.register(name).merge(self[key], fields)

    # ---- wiring

    def add_block(self, block: Block) -> None:
        """Put a block's handlers, banks and reset values behind its registers."""
        for kind, patterns in block.banked.items():
            if kind not in BANKS:
                raise ValueError(f"{type(block).__name__}: no bank kind {kind!r}; there are {', '.join(BANKS)}")
            for pattern in patterns:
                names = self.names.search(pattern) if any(c in pattern for c in "*?[") else [pattern]
                for name in names:
                    self._banked[self.dword(name)] = kind
        for name, value in block.reset_values.items():
            self._reset_values[self.dword(name)] = value
        for kind, name, method in block.handlers():
            dword = self.dword(name)
            if kind == "read":
                self._readers[dword] = self._reader(method, name, dword)
            else:
                self._writers[dword] = self._writer(method, name, dword)

    def on_write_dword(self, dword: int, function: Writer | None) -> None:
        """A handler at a place that has no name (a remapped register); None takes it away."""
        if function is None:
            self._writers.pop(dword, None)
        else:
            self._writers[dword] = function
            self._unnamed.add(dword)

    def on_read_dword(self, dword: int, function: Reader | None) -> None:
        if function is None:
            self._readers.pop(dword, None)
        else:
            self._readers[dword] = function
            self._unnamed.add(dword)

    def _reader(self, method: Callable[..., Any], name: str, dword: int) -> Reader:
        count = _arity(method)
        if count == 0:
            return method
        if count == 1:
            return lambda: method(name)
        return lambda: method(name, self._bank_of(dword))

    def _writer(self, method: Callable[..., Any], name: str, dword: int) -> Writer:
        count = _arity(method)
        if count == 1:
            return method
        if count == 2:
            return lambda value: method(value, name)

        def each(value: int) -> None:
            for bank in self._banks_of(self._banked[dword]) if dword in self._banked else (None,):
                method(value, name, bank)
        return each

    def _banks_of(self, kind: str) -> Sequence[Hashable]:
        return BANKS[kind](self.selection, self._geometry)

    def _bank_of(self, dword: int) -> Hashable:
        kind = self._banked.get(dword)
        return None if kind is None else self._banks_of(kind)[0]

    # ---- access, by dword

    def read(self, dword: int) -> int:
        """What a 32-bit read of the register BAR returns."""
        if self.gate is not None and (gated := self.gate(dword)) is not None:
            return gated
        reader = self._readers.get(dword)
        if reader is not None:
            return reader() & ALL_ONES
        kind = self._banked.get(dword)
        if kind is not None:
            return self._bank_values.get((dword, self._banks_of(kind)[0]), self._reset_values.get(dword, 0))
        value = self.store[dword] if dword < self.count else self._far.get(dword, 0)
        if not value and dword not in self._unnamed:
            self._named(dword, "read")
        return value

    def write(self, dword: int, value: int) -> None:
        """A 32-bit write of the register BAR: stored, then handled."""
        value &= ALL_ONES
        if self.gate is not None and self.gate(dword) is not None:
            return
        kind = self._banked.get(dword)
        if kind is not None:
            for bank in self._banks_of(kind):
                self._bank_values[dword, bank] = value
        else:
            self._keep(dword, value)
        writer = self._writers.get(dword)
        if writer is not None:
            writer(value)
        elif dword not in self._unnamed:
            self._named(dword, "write")

    def _named(self, dword: int, what: str) -> None:
        self._unnamed.add(dword)        # looked at once
        if dword not in self.names.by_dword:
            self._note("unnamed-register", f"{what} of dword {dword:#x} (byte {4 * dword:#x}), which no IP of this "
                                           "card has")

    def reset(self, keep: Sequence[str] = ()) -> None:
        """All storage back to its reset values, but for the registers in ``keep``."""
        kept = {self.dword(name): self[name] for name in keep}
        self.store = array("I", bytes(4 * self.count))
        self._far.clear()
        self._bank_values.clear()
        self.selection = Selection()
        for dword, value in self._reset_values.items():
            if dword not in self._banked:
                self._keep(dword, value)
        for dword, value in kept.items():
            self._keep(dword, value)
