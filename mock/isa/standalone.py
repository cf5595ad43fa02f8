"""Code without a board: raw machine code or a code object, run on this process's memory.

A code object is loaded the way a runtime would: segments (or, for a relocatable file, sections with their
relocations) go to memory, and the kernel descriptor gives the registers (LLVM, User Guide for AMDGPU Backend,
"Kernel Descriptor").
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mock.isa.access import HostMemory
from mock.isa.dispatch import Counts, Dispatch, IsaError, Memory, Rsrc2, SqInterrupt

__all__ = ["CodeObject", "KernelDescriptor", "run"]

_ELF_MAGIC, _EM_AMDGPU = b"\x7fELF", 224
_PT_LOAD, _SHT_SYMTAB, _SHT_RELA, _SHT_NOBITS, _SHT_DYNSYM, _SHT_REL, _SHF_ALLOC, _ET_REL = 1, 2, 4, 8, 11, 9, 2, 1
_R_ABS32_LO, _R_ABS32_HI, _R_ABS64, _R_REL32, _R_REL64, _R_ABS32, _R_REL32_LO, _R_REL32_HI, _R_RELATIVE64 = \
    1, 2, 3, 4, 5, 6, 10, 11, 13
# Kernel code properties: bit, SGPRs, what the SGPRs hold.
_PRIVATE_BUFFER, _DISPATCH_PTR, _QUEUE_PTR, _KERNARG_PTR, _DISPATCH_ID, _FLAT_SCRATCH, _PRIVATE_SIZE = range(7)
_SGPRS = (4, 2, 2, 2, 2, 2, 1)
_WAVE32 = 10
_LARGEST = 1 << 29              # bytes of an image
_MOST_USER_SGPRS = 16           # of compute (LLVM, User Guide for AMDGPU Backend, "SGPR register set up order")
LDS_LIMIT = 1 << 16


@dataclass(frozen=True)
class KernelDescriptor:
    """The 64 bytes behind the symbol ``NAME.kd``."""

    name: str
    address: int                # of the descriptor, in the loaded image
    entry: int                  # of the first instruction
    group_bytes: int
    private_bytes: int
    kernarg_bytes: int
    rsrc1: int
    rsrc2: int
    rsrc3: int
    properties: int

    @property
    def wave_size(self) -> int:
        return 32 if self.properties >> _WAVE32 & 1 else 64


class CodeObject:
    """An ELF for amdgcn in memory; ``image`` owns the bytes and ``kernels`` are found by name: their addresses hold as
    long as the object does."""

    def __init__(self, data: bytes) -> None:
        if data[:4] != _ELF_MAGIC or len(data) < 64 or struct.unpack_from("<H", data, 18)[0] != _EM_AMDGPU:
            raise IsaError("not a code object: no 64-bit ELF for AMDGPU; "
                           "compile with -target amdgcn-amd-amdhsa -mcpu=gfx1100")
        self.data = data
        self.places: dict[int, int] = {}
        try:
            self._load()
        except (struct.error, ValueError, IndexError, OverflowError) as error:
            raise IsaError(f"the code object is damaged or cut short: {error}") from None

    def _load(self) -> None:
        data = self.data
        kind, = struct.unpack_from("<H", data, 16)
        program, sections = struct.unpack_from("<QQ", data, 32)
        _, program_count, section_size, section_count, _ = struct.unpack_from("<HHHHH", data, 54)
        self.sections = [struct.unpack_from("<IIQQQQIIQQ", data, sections + i * section_size)
                         for i in range(section_count)]
        if kind == _ET_REL:
            self._load_sections()
        else:
            self._load_segments(program, program_count)
        self.symbols = self._read_symbols()
        self._relocate()
        self.kernels = {name[:-3]: self._descriptor(name[:-3], value) for name, value in self.symbols.items()
                        if name.endswith(".kd")}

    @property
    def base(self) -> int:
        return int(self.image.ctypes.data)

    def _reserve(self, nbytes: int) -> None:
        if not 0 <= nbytes <= _LARGEST:
            raise ValueError(f"it would take {nbytes} bytes of memory")
        # Code is fetched in pages, and instruction prefetch reads ahead of it: whole pages and one more.
        raw = np.zeros(nbytes + 3 * 4096, np.uint8)
        skip = -int(raw.ctypes.data) % 4096
        self._owner, self.image = raw, raw[skip:skip + -(-nbytes // 4096) * 4096 + 4096]

    def _load_segments(self, program: int, count: int) -> None:
        headers = [struct.unpack_from("<IIQQQQQQ", self.data, program + i * 56) for i in range(count)]
        loads = [h for h in headers if h[0] == _PT_LOAD]
        self._reserve(max((h[3] + h[6] for h in loads), default=-1))
        for _, _, offset, address, _, size, _, _ in loads:
            self.image[address:address + size] = np.frombuffer(self.data, np.uint8, size, offset)

    def _load_sections(self) -> None:
        position = 0
        for i, (_, _, flags, _, _, size, _, _, align, _) in enumerate(self.sections):
            if flags & _SHF_ALLOC:
                position = -(-position // max(align, 256)) * max(align, 256)
                self.places[i], position = position, position + size
        self._reserve(position)
        for i, place in self.places.items():
            _, kind, _, _, offset, size, *_ = self.sections[i]
            if kind != _SHT_NOBITS:
                self.image[place:place + size] = np.frombuffer(self.data, np.uint8, size, offset)

    def _read_symbols(self) -> dict[str, int]:
        """Name -> offset in the image."""
        result: dict[str, int] = {}
        for section in self.sections:
            if section[1] in (_SHT_SYMTAB, _SHT_DYNSYM):
                for name, value in self._symbol_values(section):
                    if name:
                        result[name] = value
        return result

    def _symbol_values(self, section: Any) -> list[tuple[str, int]]:
        strings = self.sections[section[6]][4]
        values = []
        for at in range(section[4], section[4] + section[5], 24):
            name, _, _, index, value, _ = struct.unpack_from("<IBBHQQ", self.data, at)
            end = self.data.index(b"\0", strings + name)
            values.append((self.data[strings + name:end].decode(), self.places.get(index, 0) + value))
        return values

    def _relocate(self) -> None:
        for section in self.sections:
            if section[1] not in (_SHT_RELA, _SHT_REL) or (self.places and section[7] not in self.places):
                continue
            place = self.places.get(section[7], 0)
            symbols = self._symbol_values(self.sections[section[6]]) if section[6] else []
            entry = 24 if section[1] == _SHT_RELA else 16
            for at in range(section[4], section[4] + section[5], entry):
                where, info = struct.unpack_from("<QQ", self.data, at)
                where += place
                kind, symbol = info & 0xffffffff, info >> 32
                value = self.base + (symbols[symbol][1] if symbol else 0)
                if entry == 24:
                    addend, = struct.unpack_from("<q", self.data, at + 16)
                else:
                    addend, = struct.unpack_from("<q" if kind in (_R_ABS64, _R_REL64) else "<i", self.image.data, where)
                self._apply(kind, where, value + addend)

    def _apply(self, kind: int, where: int, value: int) -> None:
        relative = value - (self.base + where)
        result = {_R_ABS32_LO: (4, value), _R_ABS32: (4, value), _R_ABS32_HI: (4, value >> 32), _R_ABS64: (8, value),
                  _R_RELATIVE64: (8, value), _R_REL32: (4, relative), _R_REL32_LO: (4, relative),
                  _R_REL32_HI: (4, relative >> 32), _R_REL64: (8, relative)}.get(kind)
        if result is None:
            raise IsaError(f"relocation type {kind} is not known; link the object with ld.lld first")
        size, bits = result
        if where + size > len(self.image):
            raise ValueError(f"a relocation at {where:#x} is outside of the image")
        self.image[where:where + size] = np.frombuffer((bits & (1 << 8 * size) - 1).to_bytes(size, "little"), np.uint8)

    def _descriptor(self, name: str, at: int) -> KernelDescriptor:
        group, private, kernarg, _, offset = struct.unpack_from("<IIIIq", self.image.data, at)
        rsrc3, rsrc1, rsrc2, properties = struct.unpack_from("<IIIH", self.image.data, at + 44)
        if not 0 <= at + offset < len(self.image):
            raise ValueError(f"kernel {name} begins at {at + offset:#x}, outside of the image")
        return KernelDescriptor(name, self.base + at, self.base + at + offset, group, private, kernarg, rsrc1, rsrc2,
                                rsrc3, properties)


def run(code: bytes | np.ndarray | CodeObject, *, grid: Sequence[int], block: Sequence[int], kernel: str | None = None,
        kernarg: bytes | np.ndarray | int = b"", rsrc1: int | None = None, rsrc2: int | None = None,
        rsrc3: int | None = None, user_sgprs: Sequence[int] | None = None, scratch_bytes_per_lane: int | None = None,
        lds_bytes: int | None = None, memory: Memory | str = "host", wave_size: int | None = None,
        executor: str = "auto", tba: int = 0, tma: int = 0,
        interrupt: Callable[[SqInterrupt], None] | None = None, **options: Any) -> Counts:
    """Run a kernel to its end.

    :param code: machine code, or a code object's bytes (then what is left out comes from its kernel descriptor).
    :param grid: workgroups, up to three axes; ``block``: work-items of one.
    :param kernel: which kernel of a code object; may be left out when there is one.
    :param kernarg: the kernarg segment's bytes, or its address. The hidden arguments of code object v5 are appended
        when the bytes are shorter than the descriptor's segment. Raw code gets the address in s[0:1], unless
        ``user_sgprs`` are given.
    :param rsrc1: COMPUTE_PGM_RSRC1, and so ``rsrc2``, ``rsrc3``: registers, modes, which SGPRs and VGPRs are set up.
    :param scratch_bytes_per_lane: private memory; ``lds_bytes``: of a workgroup, if not by rsrc2.
    :param memory: an address space, or "host": addresses are this process's own pointers.
    :param executor: "jit", "interpreter", or "auto": whichever ends first.
    :param tba: address of a trap handler, ``tma`` of its memory; ``interrupt`` is called for messages to the host.
    :param options: of :func:`mock.isa.execute`: ``watchdog``, ``threads``, ``trace``, ...
    :raises ValueError: an argument makes no sense.
    :raises IsaError: (or a subclass) what went wrong, with PC and instruction.
    """
    grid3, block3 = _three("grid", grid, 0), _three("block", block, 1)
    space = _space(memory)
    _check_numbers(rsrc1=rsrc1, rsrc2=rsrc2, rsrc3=rsrc3)
    if wave_size not in (None, 32, 64):
        raise ValueError(f"wave_size must be 32 or 64, not {wave_size!r}")
    for what, amount, most in (("scratch_bytes_per_lane", scratch_bytes_per_lane, 1 << 21),
                               ("lds_bytes", lds_bytes, LDS_LIMIT)):
        if amount is not None and not 0 <= amount <= most:
            raise ValueError(f"{what} must be 0 to {most}, not {amount}")
    keep: list[Any] = []
    descriptor = None
    if isinstance(code, CodeObject) or bytes(code[:4]) == _ELF_MAGIC:
        loaded = code if isinstance(code, CodeObject) else CodeObject(bytes(code))
        descriptor = _choose(loaded, kernel)
        entry, wave_size = descriptor.entry, wave_size or descriptor.wave_size
        keep.append(loaded)
    else:
        text = bytes(code)
        if not text or len(text) % 4:
            raise ValueError(f"machine code is a positive number of dwords, not {len(text)} bytes")
        entry = _place(text, keep)
        if rsrc1 is None or rsrc2 is None:
            raise ValueError("raw machine code needs rsrc1 and rsrc2 (COMPUTE_PGM_RSRC1 and 2)")
    wave = wave_size or 32
    if isinstance(kernarg, (int, np.integer)):
        address = int(kernarg)
    else:
        segment = bytes(kernarg)
        if descriptor is not None and len(segment) < descriptor.kernarg_bytes:
            segment = _hidden(segment, descriptor.kernarg_bytes, grid3, block3)
        address = _place(segment, keep)
    private = scratch_bytes_per_lane
    if private is None:
        private = descriptor.private_bytes if descriptor is not None else 0
    if descriptor is not None:
        rsrc1 = descriptor.rsrc1 if rsrc1 is None else rsrc1
        rsrc2 = descriptor.rsrc2 if rsrc2 is None else rsrc2
        rsrc3 = descriptor.rsrc3 if rsrc3 is None else rsrc3
        if lds_bytes is None:
            lds_bytes = max(descriptor.group_bytes, Rsrc2(rsrc2).lds_bytes)
        if user_sgprs is None:
            user_sgprs = _user_sgprs(descriptor, address, grid3, block3, private, keep)
    assert rsrc1 is not None and rsrc2 is not None
    if user_sgprs is None:
        user_sgprs = (address & 0xffffffff, address >> 32)
    elif len(user_sgprs) > _MOST_USER_SGPRS or (descriptor is None and len(user_sgprs) > Rsrc2(rsrc2).user_sgprs):
        raise ValueError(f"{len(user_sgprs)} user_sgprs are given, rsrc2.USER_SGPR asks for {Rsrc2(rsrc2).user_sgprs} "
                         f"(of {_MOST_USER_SGPRS} at most)")
    slots, wave_bytes, scratch = 512, private * wave, 0
    if private:
        buffer = np.full(slots * wave_bytes + 4096, 0xa5, np.uint8)
        keep.append(buffer)
        scratch = -(-int(buffer.ctypes.data) // 4096) * 4096
    dispatch = Dispatch(
        code_address=entry, rsrc1=rsrc1, rsrc2=rsrc2, rsrc3=rsrc3 or 0, grid=grid3, block=block3, wave_size=wave,
        user_sgprs=tuple(user_sgprs), lds_bytes=lds_bytes, scratch_address=scratch, scratch_wave_bytes=wave_bytes,
        scratch_slots=slots if private else 0, tba=tba, tma=tma, interrupt=interrupt)
    from mock.isa import execute
    return execute(dispatch, space, executor=executor, **options)


def _three(what: str, sizes: Sequence[int], least: int) -> tuple[int, int, int]:
    if isinstance(sizes, (int, np.integer)) or not 1 <= len(sizes) <= 3:
        raise ValueError(f"{what} must be one to three sizes, as in (64,), not {sizes!r}")
    x, y, z = (*(operator.index(n) for n in sizes), 1, 1)[:3]
    if min(x, y, z) < least or max(x, y, z) >= 1 << 32:
        raise ValueError(f"{what} must have sizes from {least} to {(1 << 32) - 1}, not {tuple(sizes)}")
    return x, y, z


def _space(memory: Memory | str) -> Memory:
    if memory == "host":
        return HostMemory()
    if isinstance(memory, str) or not callable(getattr(memory, "translate", None)):
        raise ValueError(f"memory must be 'host' or an address space with translate(), not {memory!r}")
    return memory


def _check_numbers(**registers: int | None) -> None:
    for name, value in registers.items():
        if value is not None and not 0 <= operator.index(value) < 1 << 32:
            raise ValueError(f"{name} must be a 32-bit register value, not {value}")


def _choose(code: CodeObject, kernel: str | None) -> KernelDescriptor:
    if kernel is None and len(code.kernels) == 1:
        return next(iter(code.kernels.values()))
    if kernel is None or kernel not in code.kernels:
        raise IsaError(f"the code object has no kernel {kernel!r}; it has {', '.join(sorted(code.kernels)) or 'none'}")
    return code.kernels[kernel]


def _place(data: bytes, keep: list[Any]) -> int:
    """Bytes at a page boundary of this process's memory, with a page of zeros after them."""
    raw = np.zeros(len(data) + 3 * 4096, np.uint8)
    skip = -int(raw.ctypes.data) % 4096
    raw[skip:skip + len(data)] = np.frombuffer(data, np.uint8)
    keep.append(raw)
    return int(raw.ctypes.data) + skip


def _hidden(segment: bytes, size: int, grid: tuple[int, ...], block: tuple[int, ...]) -> bytes:
    """Block counts, group sizes, remainders, offsets, dimensions (LLVM, "Code Object V5 metadata", hidden_*)."""
    segment += bytes(-len(segment) % 8)
    dimensions = 3 if grid[2] * block[2] > 1 else 2 if grid[1] * block[1] > 1 else 1
    hidden = struct.pack("<3I3H3H", *grid, *block, 0, 0, 0)
    hidden = hidden.ljust(40, b"\0") + struct.pack("<3QH", 0, 0, 0, dimensions)
    # hidden_private_base and hidden_shared_base: the apertures' high halves (see Dispatch).
    hidden = hidden.ljust(192, b"\0") + struct.pack("<II", 0x0002_0000, 0x0001_0000)
    return (segment + hidden).ljust(size, b"\0")[:size]


def _user_sgprs(d: KernelDescriptor, kernarg: int, grid: tuple[int, ...], block: tuple[int, ...], private: int,
                keep: list[Any]) -> list[int]:
    values: list[int] = []
    for bit, count in enumerate(_SGPRS):
        if not d.properties >> bit & 1:
            continue
        value = 0
        if bit == _KERNARG_PTR:
            value = kernarg
        elif bit == _DISPATCH_PTR:
            # hsa_kernel_dispatch_packet_t: header, setup, workgroup size, grid size in work-items, segments.
            items = [g * b for g, b in zip(grid, block, strict=True)]
            value = _place(struct.pack("<HH3HH3IIIQQQQ", 0, 3, *block, 0, *items, private, d.group_bytes, d.address,
                                       kernarg, 0, 0), keep)
        elif bit == _PRIVATE_SIZE:
            value = private
        elif bit == _QUEUE_PTR:
            value = _place(bytes(256), keep)
        values += [value >> 32 * i & 0xffffffff for i in range(count)]
    return values
