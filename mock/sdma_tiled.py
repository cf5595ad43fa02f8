"""SDMA packets about surfaces: boxes of linear and tiled surfaces, structures, and what verifies memory.

Facts: :mod:`amdrv.facts.sdma6`, :mod:`mock.swizzle`; Mesa 25.0, radv_sdma.c (fields of sub-window packets: sizes and
pitches less one; DIMENSION 0 to 2; the low bits of a tiled address choose pipe and bank).

Where no public source says what a packet does beyond its fields, this is what it does here: COPY_TILED and WRITE_TILED
take elements in raster order from (X, Y, Z) on, as far as COUNT says; COPY_STRUCT moves COUNT structures of STRIDE
bytes, from START_INDEX on; COPY_PHYSICAL_LINEAR and COPY_DIRTY_PAGE (every page counts as dirty) take addresses of the
bus where SYS is set, of video memory elsewhere; POLL_MEM_VERIFY compares two ranges (MODE 0), or one with PATTERN
(MODE 1), and records 1 and the address of the first difference, or 0; POLL_DBIT_WRITE_MEM writes a bitmap of pages, all
dirty. The _BC packets take the linear array modes 0 and 1: gfx11 has no others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from mock.packets import BadPacket, Decoded
from mock.swizzle import Surface, SwizzleError

if TYPE_CHECKING:
    from mock.board import Board

__all__ = ["TiledPackets"]

PAGE_SHIFT = 12
CHUNK = 1 << 18             # elements that are moved at a time
SEGMENTS = 4096             # stretches of memory that are told one by one; beyond, whole pages are
BC_LINEAR = (0, 1)          # ARRAY_MODE: general, aligned
LINEAR_MODES = 3            # DIMENSION has two bits


class TiledPackets:
    """For :class:`mock.sdma_packets.SdmaExecutor`."""

    if TYPE_CHECKING:
        board: Board

        def runs(self, address: int, nbytes: int, *, write: bool) -> list[tuple[int, int]]: ...
        def read(self, address: int, nbytes: int) -> bytes: ...
        def write(self, address: int, data: bytes) -> None: ...
        def word(self, address: int, nbytes: int = 4) -> int: ...
        def _written(self, runs: list[tuple[int, int]]) -> None: ...
        def _copy(self, destination: int, source: int, nbytes: int) -> None: ...
        def _bad(self, packet: Decoded, why: str) -> BadPacket: ...

    # ---- elements anywhere

    def _stretches(self, addresses: np.ndarray, size: int, write: bool) -> Iterator[tuple[int, int, int]]:
        """(first address, bytes, host pointer) of the contiguous memory behind the pages that elements lie in."""
        pages = np.unique(addresses >> np.uint64(PAGE_SHIFT))
        for group in np.split(pages, np.flatnonzero(np.diff(pages) != 1) + 1):
            first = max(int(group[0]) << PAGE_SHIFT, int(addresses.min()))
            end = min(int(group[-1]) + 1 << PAGE_SHIFT, int(addresses.max()) + size)
            for host, nbytes in self.runs(first, end - first, write=write):
                yield first, nbytes, host
                first += nbytes

    def _gather(self, addresses: np.ndarray, size: int) -> np.ndarray:
        """uint64[n] addresses -> uint8[n, size]. :raises Fault:"""
        from mock.sdma_packets import host_view
        out = np.empty((len(addresses), size), np.uint8)
        for first, nbytes, host in self._stretches(addresses, size, False):
            inside = (addresses >= np.uint64(first)) & (addresses < np.uint64(first + nbytes))
            at = (addresses[inside] - np.uint64(first)).astype(np.int64)
            out[inside] = host_view(host, nbytes)[at[:, None] + np.arange(size)]
        return out

    def _scatter(self, addresses: np.ndarray, data: np.ndarray) -> None:
        """uint64[n], uint8[n, size]. :raises Fault: before anything was written."""
        from mock.sdma_packets import host_view
        size = data.shape[1]
        for first, nbytes, host in list(self._stretches(addresses, size, True)):
            inside = (addresses >= np.uint64(first)) & (addresses < np.uint64(first + nbytes))
            at = (addresses[inside] - np.uint64(first)).astype(np.int64)
            host_view(host, nbytes)[at[:, None] + np.arange(size)] = data[inside]
            at = np.unique(at)
            cuts = np.flatnonzero(np.diff(at) != size)
            starts, ends = at[np.concatenate([[0], cuts + 1])], at[np.concatenate([cuts, [len(at) - 1]])] + size
            if len(starts) > SEGMENTS:
                starts, ends = np.array([0]), np.array([nbytes])
            told = zip(starts.tolist(), ends.tolist(), strict=True)
            self._written([(host + start, end - start) for start, end in told])

    def _box(self, packet: Decoded, target: Surface, to: tuple[int, int, int], source: Surface,
             origin: tuple[int, int, int], size: tuple[int, int, int]) -> None:
        """Elements of a box from one surface to another."""
        width, height, depth = size
        nbytes = 1 << source.element_log2
        rows = max(1, CHUNK // width)
        x = np.arange(width, dtype=np.uint64)
        for z in range(depth):
            for first in range(0, height, rows):
                y = np.arange(first, min(first + rows, height), dtype=np.uint64)[:, None]
                data = self._gather(source.at(x + np.uint64(origin[0]), y + np.uint64(origin[1]),
                                              np.uint64(origin[2] + z)).reshape(-1), nbytes)
                self._scatter(target.at(x + np.uint64(to[0]), y + np.uint64(to[1]), np.uint64(to[2] + z)).reshape(-1),
                              data)
        self.board.counters["copied_bytes"] += width * height * depth * nbytes

    def _surface(self, packet: Decoded, address: int, prefix: str = "") -> Surface:
        """The tiled surface that a packet describes. :raises BadPacket: gfx11 has none such."""
        get = lambda name, default=0: packet.fields.get(prefix + name, default)
        if get("MIP_MAX") or get("MIP_ID"):
            raise self._bad(packet, "surfaces with mip levels are not modelled")
        if "ARRAY_MODE" in packet.fields or prefix + "ARRAY_MODE" in packet.fields:
            if get("ARRAY_MODE") not in BC_LINEAR:
                raise self._bad(packet, f"array mode {get('ARRAY_MODE')}: gfx11 has the linear ones only")
            mode, dimension = 0, 1
        else:
            mode, dimension = get("SWIZZLE_MODE"), get("DIMENSION")
        try:
            return Surface(address, get("ELEMENT_SIZE"), get("WIDTH") + 1, get("HEIGHT") + 1, mode, dimension)
        except SwizzleError as error:
            raise self._bad(packet, str(error)) from None

    @staticmethod
    def _place(packet: Decoded, prefix: str) -> tuple[int, int, int]:
        return packet[prefix + "X"], packet[prefix + "Y"], packet[prefix + "Z"]

    @staticmethod
    def _size(packet: Decoded) -> tuple[int, int, int]:
        return packet["RECT_X"] + 1, packet["RECT_Y"] + 1, packet["RECT_Z"] + 1

    # ---- boxes

    def op_copy_linear_subwin(self, packet: Decoded) -> None:
        self._linear_box(packet, packet.fields.get("ELEMENTSIZE", 0))

    op_copy_linear_subwin_bc = op_copy_linear_subwin

    def op_copy_linear_subwin_large(self, packet: Decoded) -> None:
        """Coordinates and pitches in bytes."""
        self._linear_box(packet, 0)

    def _linear_box(self, packet: Decoded, element: int) -> None:
        """Rows go whole."""
        width, height, depth = self._size(packet)
        places = []
        for prefix in ("DST_", "SRC_"):
            x, y, z = self._place(packet, prefix)
            pitch, plane = packet[prefix + "PITCH"] + 1, packet[prefix + "SLICE_PITCH"] + 1
            places.append((packet[prefix + "ADDR"] + (x + y * pitch + z * plane << element), pitch << element,
                           plane << element))
        (to, to_pitch, to_plane), (source, pitch, plane) = places
        for z in range(depth):
            for y in range(height):
                self._copy(to + y * to_pitch + z * to_plane, source + y * pitch + z * plane, width << element)

    def op_copy_tiled_subwin(self, packet: Decoded) -> None:
        if packet.fields.get("DCC"):
            raise self._bad(packet, "compressed surfaces (DCC) are not modelled")
        tiled = self._surface(packet, packet["TILED_ADDR"])
        linear = Surface(packet["LINEAR_ADDR"], packet["ELEMENT_SIZE"], pitch=packet["LINEAR_PITCH"] + 1,
                         slice_pitch=packet["LINEAR_SLICE_PITCH"] + 1)
        ends = ((linear, self._place(packet, "LINEAR_")), (tiled, self._place(packet, "TILED_")))
        to, source = ends if packet["DETILE"] else ends[::-1]
        self._box(packet, *to, *source, self._size(packet))

    op_copy_tiled_subwin_bc = op_copy_tiled_subwin

    def op_copy_t2t(self, packet: Decoded) -> None:
        if packet.fields.get("DCC"):
            raise self._bad(packet, "compressed surfaces (DCC) are not modelled")
        source = self._surface(packet, packet["SRC_ADDR"], "SRC_")
        target = self._surface(packet, packet["DST_ADDR"], "DST_")
        if source.element_log2 != target.element_log2:
            raise self._bad(packet, "the surfaces' elements differ in size")
        self._box(packet, target, self._place(packet, "DST_"), source, self._place(packet, "SRC_"), self._size(packet))

    op_copy_t2t_bc = op_copy_t2t

    # ---- raster order

    def _raster(self, packet: Decoded, surface: Surface, nbytes: int) -> np.ndarray:
        """Addresses of the elements from (X, Y, Z) on that ``nbytes`` fill."""
        if nbytes & (1 << surface.element_log2) - 1:
            raise self._bad(packet, f"{nbytes} bytes are no whole number of elements")
        x, y, z = packet["X"], packet["Y"], packet["Z"]
        n = np.arange(nbytes >> surface.element_log2, dtype=np.uint64) + np.uint64(
            x + (y + z * surface.height) * surface.width)
        width, height = np.uint64(surface.width), np.uint64(surface.height)
        return surface.at(n % width, n // width % height, n // (width * height))

    def op_copy_tiled(self, packet: Decoded) -> None:
        surface = self._surface(packet, packet["TILED_ADDR"])
        nbytes = packet["COUNT"] + 1 if "ARRAY_MODE" not in packet.fields else 4 * (packet["COUNT"] + 1)
        tiled = self._raster(packet, surface, nbytes)
        linear = Surface(packet["LINEAR_ADDR"], surface.element_log2, pitch=packet["LINEAR_PITCH"] + 1,
                         slice_pitch=packet["LINEAR_SLICE_PITCH"] + 1)
        n = np.arange(len(tiled), dtype=np.uint64)
        width, height = np.uint64(surface.width), np.uint64(surface.height)
        flat = linear.at(n % width, n // width % height, n // (width * height))
        to, source = (flat, tiled) if packet.fields.get("DETILE") else (tiled, flat)
        self._scatter(to, self._gather(source, 1 << surface.element_log2))
        self.board.counters["copied_bytes"] += nbytes

    op_copy_tiled_bc = op_copy_tiled

    def op_copy_l2t_broadcast(self, packet: Decoded) -> None:
        """One linear surface into two tiled ones."""
        for name in ("TILED_ADDR0", "TILED_ADDR1"):
            self.op_copy_tiled(Decoded(packet.name, packet.length, {**packet.fields, "TILED_ADDR": packet[name]},
                                       packet.tail, packet.opcode))

    def op_write_tiled(self, packet: Decoded) -> None:
        surface = self._surface(packet, packet["DST_ADDR"])
        data = np.array(packet.tail, np.uint32).view(np.uint8)
        self._scatter(self._raster(packet, surface, len(data)), data.reshape(-1, 1 << surface.element_log2))

    op_write_tiled_bc = op_write_tiled

    # ---- structures, physical memory

    def op_copy_struct(self, packet: Decoded) -> None:
        stride = packet["STRIDE"]
        structures, linear = packet["SB_ADDR"] + packet["START_INDEX"] * stride, packet["LINEAR_ADDR"]
        nbytes = packet["COUNT"] * stride
        if nbytes:
            to, source = (linear, structures) if packet["DETILE"] else (structures, linear)
            self._copy(to, source, nbytes)
            self.board.counters["copied_bytes"] += nbytes

    def op_copy_physical_linear(self, packet: Decoded) -> None:
        if packet.fields.get("ADDR_PAIR_NUM"):
            raise self._bad(packet, "one pair of addresses is modelled (ADDR_PAIR_NUM 0)")
        nbytes = packet["COUNT"] + 1
        from mock.sdma_packets import move
        to = self._physical(packet, "DST", nbytes, write=True)
        move(to, self._physical(packet, "SRC", nbytes, write=False))
        self._written(to)
        self.board.counters["copied_bytes"] += nbytes

    op_copy_dirty_page = op_copy_physical_linear

    def _physical(self, packet: Decoded, prefix: str, nbytes: int, *, write: bool) -> list[tuple[int, int]]:
        address, board = packet[prefix + "_ADDR"], self.board
        if packet.fields.get(prefix + "_LOG"):
            return self.runs(address, nbytes, write=write)
        if packet[prefix + "_SYS"]:
            from mock.bus import BusError
            try:
                return [(board.dma(address, nbytes, write=write), nbytes)]
            except BusError as error:
                raise self._bad(packet, str(error)) from None
        if address + nbytes > board.vram.size:
            raise self._bad(packet, f"{address:#x} is beyond video memory")
        return [(board.vram.base + address, nbytes)]

    # ---- fills and comparisons

    def op_data_fill_multi(self, packet: Decoded) -> None:
        """DMA_COUNT stretches of COUNT bytes each, BYTE_STRIDE apart, are zeroed."""
        for i in range(packet["DMA_COUNT"]):
            self.write(packet["DST_ADDR"] + i * packet["BYTE_STRIDE"], bytes(packet["COUNT"]))

    def op_poll_mem_verify(self, packet: Decoded) -> None:
        start, end = packet["CMP0_START"], packet["CMP0_END"]
        first = np.frombuffer(self.read(start, end - start & ~3), np.uint32)
        second: Any = np.uint32(packet["PATTERN"])
        if not packet["MODE"]:
            other = packet["CMP1_START"]
            second = np.frombuffer(self.read(other, packet["CMP1_END"] - other & ~3), np.uint32)
            if len(second) != len(first):
                raise self._bad(packet, "the two ranges differ in size")
        different = np.flatnonzero(first != second)
        where = start + 4 * int(different[0]) if len(different) else 0
        self.write(packet["REC"] & ~7, int(bool(len(different))).to_bytes(8, "little") + where.to_bytes(8, "little"))

    def op_poll_dbit_write_mem(self, packet: Decoded) -> None:
        pages = packet["PAGE_NUM_31_0"]
        bits = np.zeros(-(-pages // 32) * 4, np.uint8)
        packed = np.packbits(np.ones(pages, np.uint8), bitorder="little")
        bits[:len(packed)] = packed
        self.write(packet["ADDR"] & ~3, bits.tobytes())

    # ---- page-table entries

    def op_ptepde_copy_backwards(self, packet: Decoded) -> None:
        """32 bytes a transfer; the masks choose dwords of the first and the last. DIRECTION 1 goes downwards, which is
        for ranges that overlap; the result is the same here."""
        count = packet["COUNT"] + 1
        data = np.frombuffer(self.read(packet["SRC_ADDR"], 32 * count), np.uint32).copy()
        old = np.frombuffer(self.read(packet["DST_ADDR"], 32 * count), np.uint32)
        for at, mask in ((0, packet["MASK_FIRST_XFER"]), (8 * (count - 1), packet["MASK_LAST_XFER"])):
            for i in range(8):
                if not mask >> i & 1:
                    data[at + i] = old[at + i]
        self.write(packet["DST_ADDR"], data.tobytes())
