"""Memory instructions as steps: where each format's addresses point, and what moves.

Address spaces: global memory through the dispatch's address space; LDS, one allocation a workgroup; scratch, which
lies in global memory and is interleaved by lane (LLVM, User Guide for AMDGPU Backend, "Private (scratch)": dword d of
lane l is at base + d * 4 * lanes + l * 4).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mock.isa import lanes
from mock.isa.access import Accessor
from mock.isa.atomics import perform
from mock.isa.decode import Instruction, Operand
from mock.isa.dispatch import COHERENT_LOAD
from mock.isa.operands import Fetch, fetch
from mock.isa.semantics import Atomic, Load, Store, table
from mock.isa.state import NULL, State
from mock.isa.vocabulary import DTYPES

__all__ = ["Lds", "Space", "Where", "bind_memory"]

Step = Callable[[State], None]
VGPR = 256
U64 = np.uint64


class Lds:
    """The local memory of every workgroup in flight, one after the other. Poison until written."""

    def __init__(self, workgroups: int, nbytes: int, memory: np.ndarray | None = None) -> None:
        self.nbytes = nbytes
        if memory is None:
            memory = np.full(max(workgroups, 1) * self.stride(nbytes), 0xa5, np.uint8)
        self.memory = memory
        self.views = {size: self.memory.view(kind) for size, kind in
                      ((1, np.uint8), (2, np.uint16), (4, np.uint32), (8, np.uint64))}

    @staticmethod
    def stride(nbytes: int) -> int:
        """Bytes from one workgroup's allocation to the next."""
        return -(-nbytes // 16) * 16 + 16

    def _offsets(self, s: State, addresses: np.ndarray, rows: Any, size: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Positions in ``memory``, and which are out of range (None: none). Out of range reads 0 and writes nothing."""
        bad = addresses > self.nbytes - size if self.nbytes >= size else np.ones(addresses.shape, np.bool_)
        offsets = addresses.astype(np.int64) + rows
        return (offsets, bad) if bad.any() else (offsets, None)

    def load(self, s: State, addresses: np.ndarray, base: np.ndarray, kind: type, count: int) -> list[np.ndarray]:
        size = np.dtype(kind).itemsize
        result: list[np.ndarray] = []
        for i in range(count):
            offsets, bad = self._offsets(s, addresses + U64(i * size), base, size)
            if bad is not None:
                offsets = np.where(bad, 0, offsets)
            if not np.bitwise_or.reduce(offsets, initial=0) & (size - 1):
                value = self.views[size][offsets >> (size.bit_length() - 1)].view(kind)
            else:
                parts = np.stack([self.memory[offsets + j] for j in range(size)], axis=-1)
                value = np.ascontiguousarray(parts).view(kind)[..., 0]
            result.append(value if bad is None else np.where(bad, kind(0), value))
        return result

    def store(self, s: State, addresses: np.ndarray, base: np.ndarray, values: list[np.ndarray]) -> None:
        size = values[0].dtype.itemsize
        for i, value in enumerate(values):
            offsets, bad = self._offsets(s, addresses + U64(i * size), base, size)
            if bad is not None:
                offsets, value = offsets[~bad], value[~bad]
            if not np.bitwise_or.reduce(offsets, initial=0) & (size - 1):
                self.views[size][offsets >> (size.bit_length() - 1)] = value.view(self.views[size].dtype)
            else:
                parts = np.ascontiguousarray(value).view(np.uint8).reshape(len(offsets), size)
                for j in range(size):
                    self.memory[offsets + j] = parts[:, j]


class Space:
    """Global memory and LDS behind one interface: flat lists of addresses of active lanes."""

    def __init__(self, accessor: Accessor, lds: Lds) -> None:
        self.accessor, self.lds = accessor, lds

    @property
    def coherent(self) -> Space:
        """The same for loads with glc."""
        return _CoherentSpace(self)

    def load(self, s: State, where: Where, kind: type, count: int) -> list[np.ndarray]:
        """``count`` consecutive elements at each address."""
        if where.lds is None:
            if where.pitch is not None:
                return [self._load_interleaved(where, kind, i * np.dtype(kind).itemsize) for i in range(count)]
            return self.accessor.load(where.addresses, kind, count)
        if where.lds is True:
            return self.lds.load(s, where.addresses, where.base, kind, count)
        # Flat: some lanes go to LDS and some do not.
        result: list[np.ndarray] = [np.empty(len(where.addresses), kind) for _ in range(count)]
        for side in (True, False):
            chosen = where.lds == side
            if chosen.any():
                part = where.only(chosen, side)
                for out, value in zip(result, self.load(s, part, kind, count), strict=True):
                    out[chosen] = value
        return result

    def store(self, s: State, where: Where, values: list[np.ndarray]) -> None:
        if where.lds is None:
            if where.pitch is not None:
                for i, value in enumerate(values):
                    self._store_interleaved(where, value, i * value.dtype.itemsize)
            else:
                self.accessor.store(where.addresses, values)
        elif where.lds is True:
            self.lds.store(s, where.addresses, where.base, values)
        else:
            for side in (True, False):
                chosen = where.lds == side
                if chosen.any():
                    self.store(s, where.only(chosen, side), [v[chosen] for v in values])

    def _load_interleaved(self, where: Where, kind: type, offset: int) -> np.ndarray:
        size = np.dtype(kind).itemsize
        addresses = where.byte(offset)
        if size <= 4 and not np.bitwise_or.reduce(addresses, initial=0) & (size - 1):
            return self.accessor.load(addresses, kind, 1)[0]
        parts = [self.accessor.load(where.byte(offset + i), np.uint8, 1)[0] for i in range(size)]
        return np.ascontiguousarray(np.stack(parts, axis=1)).view(kind)[:, 0]

    def _store_interleaved(self, where: Where, value: np.ndarray, offset: int) -> None:
        size = value.dtype.itemsize
        addresses = where.byte(offset)
        if size <= 4 and not np.bitwise_or.reduce(addresses, initial=0) & (size - 1):
            self.accessor.store(addresses, [value])
            return
        parts = np.ascontiguousarray(value).view(np.uint8).reshape(len(addresses), size)
        for i in range(size):
            self.accessor.store(where.byte(offset + i), [np.ascontiguousarray(parts[:, i])])


class _CoherentSpace(Space):
    def __init__(self, space: Space) -> None:
        self._space, self._accessor = space, Accessor(space.accessor.memory, COHERENT_LOAD)

    @property
    def accessor(self) -> Accessor:     # type: ignore[override]
        self._accessor.memory = self._space.accessor.memory
        return self._accessor

    @property
    def lds(self) -> Lds:               # type: ignore[override]
        return self._space.lds


class Where:
    """Addresses of the active lanes, flat. ``lds``: None global, True LDS, or a bool array (flat instructions).

    ``pitch``: from one dword to the next, in dwords: the wave's lanes in scratch, 1 elsewhere; None where all are 1.
    """

    __slots__ = ("addresses", "base", "lds", "pitch")

    def __init__(self, addresses: np.ndarray, lds: Any = None, base: Any = 0, pitch: Any = None) -> None:
        self.addresses, self.lds, self.base, self.pitch = addresses, lds, base, pitch

    def byte(self, offset: int) -> np.ndarray:
        """The address of the byte ``offset`` bytes on, where dwords are interleaved."""
        position = (self.addresses & U64(3)) + U64(offset)
        return (self.addresses & ~U64(3)) + (position >> U64(2)) * U64(4) * self.pitch + (position & U64(3))

    def only(self, chosen: np.ndarray, side: bool) -> Where:
        part = self.pick(np.flatnonzero(chosen))
        return Where(part.addresses, True if side else None, part.base if side else 0, None if side else part.pitch)

    def pick(self, index: np.ndarray) -> Where:
        lds, base, pitch = (x[index] if isinstance(x, np.ndarray) else x for x in (self.lds, self.base, self.pitch))
        return Where(self.addresses[index], lds, base, pitch)


def _active(s: State, values: Any, mask: Any) -> np.ndarray:
    """The active lanes' values as a flat array."""
    values = np.broadcast_to(values, (s.lanes, s.waves))
    return values.reshape(-1) if mask is None else values[mask]


def _spread(s: State, values: np.ndarray, mask: Any) -> np.ndarray:
    """Flat values back to [lanes, waves]."""
    if mask is None:
        return values.reshape(s.lanes, s.waves)
    out = np.empty((s.lanes, s.waves), values.dtype)
    out[mask] = values
    return out


Locate = Callable[[State, Any], Where]


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> bits - 1 & 1 else value


def _u64(value: int) -> Any:
    return U64(value & 0xffff_ffff_ffff_ffff)


# -- where ----------------------------------------------------------------------------------------------------

def _locate_global(instruction: Instruction) -> Locate:
    f = instruction.fields
    offset = _u64(_signed(f["offset"], 13))
    if f["saddr"] == NULL:
        address: Fetch = fetch(Operand("addr", VGPR + f["addr"], 2), "u64", None)
    else:
        base = fetch(Operand("saddr", f["saddr"], 2), "u64", None)
        index = fetch(Operand("addr", VGPR + f["addr"]), "u32", None)
        address = lambda s: base(s) + index(s)
    if "addtid" in instruction.mnemonic:
        base = fetch(Operand("saddr", f["saddr"], 2), "u64", None)
        address = lambda s: base(s) + s.lane_ids.astype(U64) * U64(4)
    return lambda s, mask: Where(_active(s, address(s) + offset, mask))


def _scratch_address(s: State, offset: Any) -> Any:
    """Lane-interleaved by dword. ``offset`` u64 [lanes, waves], of which 32 bits count."""
    offset = offset & U64(0xffffffff)
    lane = s.lane_ids.astype(U64) * U64(4)
    return s.per_wave["scratch"] + (offset & ~U64(3)) * U64(s.lanes) + lane + (offset & U64(3))


def _locate_scratch(instruction: Instruction) -> Locate:
    f = instruction.fields
    offset = _u64(_signed(f["offset"], 13))
    parts: list[Fetch] = []
    if f["sve"]:
        parts.append(fetch(Operand("addr", VGPR + f["addr"]), "u32", None))
    if f["saddr"] != NULL:
        parts.append(fetch(Operand("saddr", f["saddr"]), "u32", None))

    def address(s: State) -> Any:
        total = offset
        for part in parts:
            total = total + part(s).astype(U64)
        return total
    return lambda s, mask: Where(_active(s, _scratch_address(s, address(s)), mask), pitch=U64(s.lanes))


def _locate_flat(instruction: Instruction) -> Locate:
    f = instruction.fields
    offset = _u64(f["offset"] & 0xfff)      # the sign bit is ignored in this segment
    read = fetch(Operand("addr", VGPR + f["addr"], 2), "u64", None)

    def locate(s: State, mask: Any) -> Where:
        address = read(s) + offset
        top = address >> U64(32)
        private = top == s.per_wave["private_base"] >> U64(32)
        pitch = None
        if private.any():
            address = np.where(private, _scratch_address(s, address), address)
            pitch = _active(s, np.where(private, U64(s.lanes), U64(1)), mask)
        shared = _active(s, top == s.per_wave["shared_base"] >> U64(32), mask)
        addresses = _active(s, address, mask)
        if not shared.any():
            return Where(addresses, pitch=pitch)
        base = _active(s, s.per_wave["lds"], mask)
        addresses = np.where(shared, addresses & U64(0xffffffff), addresses)
        return Where(addresses, True if shared.all() else shared, base, pitch)
    return locate


def _locate_ds(instruction: Instruction, offset: int) -> Locate:
    if "addtid" in instruction.mnemonic:
        return lambda s, mask: Where(_active(s, (s.lane_ids * np.uint32(4) + np.uint32(offset)
                                                  + (s.sgpr[125] & np.uint32(0xffff))).astype(U64), mask), True,
                                      _active(s, s.per_wave["lds"], mask))
    read = fetch(Operand("addr", VGPR + instruction.fields["addr"]), "u32", None)
    # The sum wraps: compilers fold constants into the offset of a negative base (LLVM, hasUsableDSOffset).
    return lambda s, mask: Where(_active(s, read(s) + np.uint32(offset), mask).astype(U64), True,
                                  _active(s, s.per_wave["lds"], mask))


# -- steps ----------------------------------------------------------------------------------------------------

def bind_memory(instruction: Instruction, space: Space) -> Step | None:
    """The step of a DS, FLAT, GLOBAL or SCRATCH instruction, None when it is of another kind."""
    if instruction.encoding == "DS":
        return _bind_ds(instruction, space)
    entry = table().get(instruction.mnemonic)
    find = {"GLOBAL": _locate_global, "SCRATCH": _locate_scratch, "FLAT": _locate_flat}[instruction.encoding]
    locate = find(instruction)
    data = VGPR + instruction.fields["data"]
    if isinstance(entry, Load):
        return _load_step(entry, [locate], VGPR + instruction.fields["vdst"],
                          space.coherent if instruction.fields["glc"] else space)
    if isinstance(entry, Store):
        return _store_step(entry, [locate], [data], space)
    if isinstance(entry, Atomic):
        width = 2 if entry.kind.endswith("64") else 1
        sources = [data, data + width] if entry.compares else [data]
        destination = VGPR + instruction.fields["vdst"] if instruction.fields["glc"] else None
        return _atomic_step(entry, [(locate, sources)], destination, space)
    return None


def _bind_ds(instruction: Instruction, space: Space) -> Step | None:
    f = instruction.fields
    entry = table().get(instruction.mnemonic)
    destination = VGPR + f["vdst"]
    if "2addr" in instruction.mnemonic:
        unit = (8 if instruction.mnemonic.endswith("b64") else 4) * (64 if "stride64" in instruction.mnemonic else 1)
        located = [_locate_ds(instruction, f["offset0"] * unit), _locate_ds(instruction, f["offset1"] * unit)]
        sources = [VGPR + f["data0"], VGPR + f["data1"]]
    else:
        located = [_locate_ds(instruction, f["offset0"] | f["offset1"] << 8)]
        sources = [VGPR + f["data0"]]
    if isinstance(entry, Load):
        return _load_step(entry, located, destination, space)
    if isinstance(entry, Store):
        return _store_step(entry, located, sources, space)
    if isinstance(entry, Atomic):
        if entry.compares:
            accesses = [(located[0], [VGPR + f["data0"], VGPR + f["data1"]])]
        else:
            accesses = [(where, [source]) for where, source in zip(located, sources, strict=True)]
        returns = "_rtn" in instruction.mnemonic
        return _atomic_step(entry, accesses, destination if returns else None, space)
    return _bind_ds_lanes(instruction)


def _bind_ds_lanes(instruction: Instruction) -> Step | None:
    """The DS instructions that use no memory: permutes and swizzles."""
    if instruction.mnemonic == "ds_nop":
        return lambda s: None
    f = instruction.fields
    address = fetch(Operand("addr", VGPR + f["addr"]), "u32", None)
    data = fetch(Operand("data0", VGPR + f["data0"]), "u32", None)
    destination = f["vdst"]
    offset = f["offset0"] | f["offset1"] << 8

    def write(s: State, result: np.ndarray) -> None:
        if s.mask is None:
            s.vgpr[destination] = result
        else:
            np.copyto(s.vgpr[destination], result, where=s.mask)
    if instruction.mnemonic == "ds_swizzle_b32":
        def swizzle(s: State) -> None:
            index = lanes.swizzle_sources(offset, s.lanes)
            result = address(s)[index]
            write(s, result if s.mask is None else np.where(s.mask[index], result, np.uint32(0)))
        return swizzle
    if instruction.mnemonic == "ds_bpermute_b32":
        def bpermute(s: State) -> None:
            index = address(s) + np.uint32(offset) >> np.uint32(2) & np.uint32(s.lanes - 1)
            result = s.v.gather_lanes(data(s), index)
            if s.mask is not None:
                result = np.where(s.v.gather_lanes(s.mask, index), result, np.uint32(0))
            write(s, result)
        return bpermute
    if instruction.mnemonic == "ds_permute_b32":
        def permute(s: State) -> None:
            index = address(s) + np.uint32(offset) >> np.uint32(2) & np.uint32(s.lanes - 1)
            write(s, s.v.scatter_lanes(data(s), index))
        return permute
    return None


def _load_step(entry: Load, located: list[Locate], destination: int, space: Space) -> Step:
    kind = DTYPES[entry.kind]
    register = destination - VGPR
    count = entry.count

    def step(s: State) -> None:
        mask = s.mask
        if mask is not None and not mask.any():
            return
        values: list[np.ndarray] = []
        for locate in located:
            values += space.load(s, locate(s, mask), kind, count)
        for i, value in enumerate(values):
            if entry.half is not None:
                wide = value.astype(np.int16 if entry.kind[0] == "i" else np.uint16).view(np.uint16)
                row = s.vgpr[register].view(np.uint16)[:, entry.half::2]
                if mask is None:
                    row[...] = wide.reshape(s.lanes, s.waves)
                else:
                    row[mask] = wide
                continue
            if entry.kind != "u32":
                value = value.astype(np.int32 if entry.kind[0] == "i" else np.uint32).view(np.uint32)
            if mask is None:
                s.vgpr[register + i] = value.reshape(s.lanes, s.waves)
            else:
                s.vgpr[register + i][mask] = value
    return step


def _store_step(entry: Store, located: list[Locate], sources: list[int], space: Space) -> Step:
    kind = DTYPES[entry.kind]

    def step(s: State) -> None:
        mask = s.mask
        if mask is not None and not mask.any():
            return
        for locate, source in zip(located, sources, strict=True):
            values = []
            for i in range(entry.count):
                value = _active(s, s.vgpr[source - VGPR + i], mask)
                if entry.half:
                    value = value >> np.uint32(16)
                values.append(value.astype(kind, copy=False))
            space.store(s, locate(s, mask), values)
    return step


def _atomic_step(entry: Atomic, accesses: list[tuple[Locate, list[int]]], destination: int | None,
                 space: Space) -> Step:
    width = 2 if entry.kind.endswith("64") else 1
    reads = [[fetch(Operand("data", source, width), entry.kind, None) for source in sources] for _, sources in accesses]

    def step(s: State) -> None:
        mask = s.mask
        if mask is not None and not mask.any():
            return
        results = []
        for (locate, _), fetches in zip(accesses, reads, strict=True):
            operands = [_active(s, read(s), mask) for read in fetches]
            results.append(perform(space, s, locate(s, mask), entry, operands))
        if destination is None:
            return
        register = destination - VGPR
        for old in results:
            bits = old.view(U64) if width == 2 else old.view(np.uint32)
            halves = [bits.astype(np.uint32), (bits >> U64(32)).astype(np.uint32)] if width == 2 else [bits]
            for part in halves:
                if mask is None:
                    s.vgpr[register] = part.reshape(s.lanes, s.waves)
                else:
                    s.vgpr[register][mask] = part
                register += 1
    return step
