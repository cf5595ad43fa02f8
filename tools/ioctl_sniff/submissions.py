"""Command buffers of DRM_IOCTL_AMDGPU_CS as the ptrace backend finds them: the same as ``submits.h``, from outside.

A buffer object is known by its handle; GEM_MMAP gives the offset by which it is mapped, GEM_VA its place in the GPU's
address space, GEM_USERPTR makes one of the program's own memory. Layouts: linux/amdgpu_drm.h.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

__all__ = ["IP_NAMES", "Submission", "Submissions"]

GEM_MMAP, CS, GEM_VA, GEM_USERPTR = 0x6441, 0x6444, 0x6448, 0x6451
VA_OP_MAP, VA_OP_REPLACE = 1, 4
CHUNK_ID_IB = 1
IP_NAMES = {0: "gfx", 1: "compute", 2: "dma", 3: "uvd", 4: "vce", 5: "uvd_enc", 6: "vcn_dec", 7: "vcn_enc",
            8: "vcn_jpeg", 9: "vpe"}
"""AMDGPU_HW_IP_*"""
DMA = 2
INDIRECT_BUFFER = 0x3F
LARGEST_IB, NESTING, MOST_CHUNKS, MOST_PIECES = 1 << 20, 3, 64, 60

Peek = Callable[[int, int], bytes]
"""(address in the program, bytes) -> what of it could be read"""


@dataclass
class Submission:
    """One indirect buffer of a submit: for what engine, and the memory that its packets are in, by GPU address."""

    ip: int
    instance: int
    ring: int
    flags: int
    va: int
    nbytes: int
    pieces: list[tuple[int, bytes]] = field(default_factory=list)


class Submissions:
    """Of one program (by its process number): its buffer objects, and where they are."""

    def __init__(self) -> None:
        self._objects: dict[int, tuple[int, int]] = {}          # handle -> (mmap offset, own address or 0)
        self._mappings: list[tuple[int, int, int]] = []         # (address, bytes, offset), the newest last
        self._places: list[tuple[int, int, int, int]] = []      # (GPU address, bytes, offset in the object, handle)

    def mapped(self, address: int, length: int, offset: int) -> None:
        self._mappings.append((address, length, offset))

    def done(self, request: int, argument: int, handle_before: int, peek: Peek) -> list[Submission]:
        """An ioctl that succeeded.

        :param handle_before: the argument's first word before it, where GEM_MMAP has the handle.
        """
        what = request & 0xFFFF
        if what == GEM_MMAP and len(data := peek(argument, 8)) == 8:
            self._objects[handle_before] = int.from_bytes(data, "little"), 0
        elif what == GEM_USERPTR and len(data := peek(argument, 24)) == 24:
            address, _, _, handle = struct.unpack("<QQII", data)
            self._objects[handle] = 0, address
        elif what == GEM_VA and len(data := peek(argument, 40)) == 40:
            handle, _, operation, _, va, offset, size = struct.unpack("<IIIIQQQ", data)
            if operation in (VA_OP_MAP, VA_OP_REPLACE):
                self._places.append((va, size, offset, handle))
        elif what == CS:
            return list(self._submit(argument, peek))
        return []

    def _submit(self, argument: int, peek: Peek) -> Iterator[Submission]:
        head = peek(argument, 24)
        if len(head) < 24:
            return
        _, _, chunks, _, pointers = struct.unpack("<IIIIQ", head)
        for index in range(min(chunks, MOST_CHUNKS)):
            place = peek(pointers + 8 * index, 8)
            chunk = peek(int.from_bytes(place, "little"), 16) if len(place) == 8 else b""
            if len(chunk) < 16:
                return
            number, _, data = struct.unpack("<IIQ", chunk)
            ib = peek(data, 32) if number == CHUNK_ID_IB else b""
            if len(ib) < 32:
                continue
            _, flags, va, nbytes, ip, instance, ring = struct.unpack("<IIQIIII", ib)
            found = Submission(ip, instance, ring, flags, va, nbytes)
            self._gather(found, va, nbytes, peek, 0)
            yield found

    def _gather(self, into: Submission, va: int, nbytes: int, peek: Peek, depth: int) -> None:
        if not 0 < nbytes <= LARGEST_IB or len(into.pieces) >= MOST_PIECES:
            return
        at, left = self._host(va)
        content = peek(at, min(nbytes, left)) if at else b""
        if not content:
            return
        into.pieces.append((va, content))
        words = struct.unpack(f"<{len(content) // 4}I", content[:len(content) & ~3])
        index = 0
        while into.ip < DMA and depth < NESTING and index + 3 < len(words):
            header = words[index]
            if header >> 30 != 3:
                index += 1
                continue
            if header >> 8 & 0xFF == INDIRECT_BUFFER:
                self._gather(into, words[index + 1] | (words[index + 2] & 0xFFFF) << 32,
                             4 * (words[index + 3] & 0xFFFFF), peek, depth + 1)
            index += 2 + (header >> 16 & 0x3FFF)

    def _host(self, va: int) -> tuple[int, int]:
        """(address in the program or 0, bytes to the end of the GPU's mapping)"""
        for start, size, offset, handle in reversed(self._places):
            if not start <= va < start + size:
                continue
            mmap_offset, own = self._objects.get(handle, (-1, 0))
            inside = offset + va - start
            if own:
                return own + inside, size - (va - start)
            for address, length, at in reversed(self._mappings):
                if mmap_offset >= 0 and at <= mmap_offset + inside < at + length:
                    return address + mmap_offset + inside - at, size - (va - start)
            return 0, 0
        return 0, 0
