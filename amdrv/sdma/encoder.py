"""hcq's copy commands as SDMA 6 packets.

Packets that a copy queue is made of are templates, changed in a few words; the rarer ones are built from their
description each time. Whatever is larger than a packet can say is divided (:data:`COPY_LARGEST`, :data:`BOX`,
:data:`WRITE_WORDS`). Sources: Linux 6.1, sdma_v6_0.c; Mesa 25.0, radv_sdma.c (boxes: sizes and pitches less one,
addresses and pitches at multiples of four bytes).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from amdrv import sdma
from amdrv.errors import PacketError
from amdrv.facts import pm4 as pm4_facts
from amdrv.facts import sdma6 as facts

__all__ = ["BOX", "COPY_LARGEST", "CopyEncoder", "IB_ALIGN", "WRITE_WORDS"]

COPY_LARGEST = 0x400000                 # bytes a packet copies or fills: Linux 6.1, sdma_v6_0_buffer_funcs
BOX = 1 << 14, 1 << 14, 1 << 13         # elements of a box in x, y, z: RECT_X, RECT_Y, RECT_Z
PITCH, SLICE = 1 << 19, 1 << 28         # elements: SRC_PITCH and SRC_SLICE_PITCH of COPY_LINEAR_SUBWIN
TILED_PITCH = 1 << 14                   # LINEAR_PITCH of COPY_TILED_SUBWIN
SURFACE = 1 << 14, 1 << 14, 1 << 13     # WIDTH, HEIGHT, DEPTH of a tiled surface
WRITE_WORDS = 1024                      # of a WRITE_UNTILED, so that it finds room in a ring
POLL_INTERVAL = 4                       # Linux 6.1, sdma_v6_0_ring_emit_pipeline_sync
RETRY_FOREVER = 0xFFF
IB_ALIGN = 8                            # words: where an INDIRECT packet ends (Linux 6.1, sdma_v6_0_ring_emit_ib)
NOP = facts.PACKETS["NOP"].opcode       # without data: one word
LOW_WORD = 0xFFFFFFFF

Place = tuple[int, int, int]
"""x, y, z in elements."""


def _word(name: str, field: str) -> int:
    """Where a field stands in an SDMA packet, its header counted."""
    return next(number for number, word in enumerate(facts.PACKETS[name].words) if field in word.fields)


COPY_BYTES, COPY_SOURCE, COPY_DESTINATION = (_word("COPY_LINEAR", field) for field in (
    "COUNT", "SRC_ADDR_31_0", "DST_ADDR_31_0"))
FILL_ADDRESS, FILL_DATA, FILL_BYTES = (_word("CONSTANT_FILL", field) for field in (
    "DST_ADDR_31_0", "SRC_DATA_31_0", "COUNT"))
FENCE_ADDRESS, FENCE_DATA = (_word("FENCE", field) for field in ("ADDR_31_0", "DATA"))
POLL_ADDRESS, POLL_VALUE = (_word("POLL_REGMEM", field) for field in ("ADDR_31_0", "VALUE"))


class CopyEncoder:
    """hcq's copy commands as SDMA 6 packets."""

    def __init__(self) -> None:
        self._wait = sdma.build("POLL_REGMEM", FUNC="GREATER_EQUAL", MEM_POLL="MEMORY", ADDR=0, VALUE=0, MASK=LOW_WORD,
                                INTERVAL=POLL_INTERVAL, RETRY_COUNT=RETRY_FOREVER)
        self._fence = sdma.build("FENCE", MTYPE="UC", ADDR=0, DATA=0)
        self._trap = sdma.build("TRAP", INT_CONTEXT=0)
        self._copy = sdma.build("COPY_LINEAR", COUNT=0, SRC_ADDR=0, DST_ADDR=0)
        self._fill = sdma.build("CONSTANT_FILL", FILLSIZE="DWORD", DST_ADDR=0, SRC_DATA_31_0=0, COUNT=0)

    def wait(self, words: list[int], address: int, value: int) -> None:
        if value > LOW_WORD:
            raise PacketError(f"signals hold 32 bits here; a queue cannot wait for {value:#x}")
        start = len(words)
        words += self._wait
        words[start + POLL_ADDRESS], words[start + POLL_ADDRESS + 1] = address & LOW_WORD, address >> 32
        words[start + POLL_VALUE] = value

    def signal(self, words: list[int], address: int, value: int, *, interrupt: bool = True) -> None:
        # Linux 6.1, sdma_v6_0_ring_emit_fence, but the high word first: it is what it was (0) unless the word held
        # a timestamp, and the low word is what a wait compares.
        for place, half in ((address + 4, value >> 32), (address, value & LOW_WORD)):
            start = len(words)
            words += self._fence
            words[start + FENCE_ADDRESS], words[start + FENCE_ADDRESS + 1] = place & LOW_WORD, place >> 32
            words[start + FENCE_DATA] = half
        if interrupt:
            words += self._trap

    def timestamp(self, words: list[int], address: int) -> None:
        words += sdma.build("TIMESTAMP_GET_GLOBAL", WRITE_ADDR=address)

    def copy(self, words: list[int], dst: int, src: int, nbytes: int) -> None:
        for offset in range(0, nbytes, COPY_LARGEST):
            start, to, origin = len(words), dst + offset, src + offset
            words += self._copy
            words[start + COPY_BYTES] = min(COPY_LARGEST, nbytes - offset) - 1
            words[start + COPY_SOURCE], words[start + COPY_SOURCE + 1] = origin & LOW_WORD, origin >> 32
            words[start + COPY_DESTINATION], words[start + COPY_DESTINATION + 1] = to & LOW_WORD, to >> 32

    def fill(self, words: list[int], dst: int, value: int, nbytes: int) -> None:
        for offset in range(0, nbytes, COPY_LARGEST):
            start, to = len(words), dst + offset
            words += self._fill
            words[start + FILL_ADDRESS], words[start + FILL_ADDRESS + 1] = to & LOW_WORD, to >> 32
            words[start + FILL_DATA] = value
            words[start + FILL_BYTES] = min(COPY_LARGEST, nbytes - offset) - 1

    # --- beyond linear copies

    def write(self, words: list[int], dst: int, data: Sequence[int]) -> None:
        """Store 32-bit words."""
        for start in range(0, len(data), WRITE_WORDS):
            words += sdma.build("WRITE_UNTILED", DST_ADDR=dst + 4 * start, DATA=list(data[start:start + WRITE_WORDS]))

    def poll(self, words: list[int], address: int, value: int, mask: int, compare: str) -> None:
        """Stall until ``word & mask`` compares with ``value`` as :data:`facts.ENUMS` ``COMPARE`` names it."""
        words += sdma.build("POLL_REGMEM", FUNC=compare, MEM_POLL="MEMORY", ADDR=address, VALUE=value, MASK=mask,
                            INTERVAL=POLL_INTERVAL, RETRY_COUNT=RETRY_FOREVER)

    def atomic(self, words: list[int], address: int, operation: str, operand: int, compare: int, loop: bool) -> None:
        """:param operation: as ``ATOMIC_OP`` names it, without what is said of the old value: "ADD_32"."""
        number = pm4_facts.ENUMS["ATOMIC_OP"][f"ATOMIC_{operation}"]
        words += sdma.build("ATOMIC", ATOMIC_OP=number, LOOP=loop, ADDR=address, SRC_DATA=operand, CMP_DATA=compare,
                            LOOP_INTERVAL=POLL_INTERVAL)

    def interrupt(self, words: list[int]) -> None:
        words += self._trap

    def window(self, words: list[int], dst: int, src: int, size: Place, element_bytes: int, dst_pitch: tuple[int, int],
               src_pitch: tuple[int, int]) -> None:
        """Copy a box of elements; pitches in bytes: of a row, of a slice."""
        element = _log2(element_bytes)
        _check_linear(dst, dst_pitch, element_bytes, PITCH)
        _check_linear(src, src_pitch, element_bytes, PITCH)
        for (x, y, z), (width, height, depth) in _boxes(size, BOX):
            to, origin = (address + z * slice_ + y * row + x * element_bytes
                          for address, (row, slice_) in ((dst, dst_pitch), (src, src_pitch)))
            words += sdma.build(
                "COPY_LINEAR_SUBWIN", ELEMENTSIZE=element, SRC_ADDR=origin, DST_ADDR=to,
                SRC_PITCH=src_pitch[0] // element_bytes - 1, SRC_SLICE_PITCH=src_pitch[1] // element_bytes - 1,
                DST_PITCH=dst_pitch[0] // element_bytes - 1, DST_SLICE_PITCH=dst_pitch[1] // element_bytes - 1,
                RECT_X=width - 1, RECT_Y=height - 1, RECT_Z=depth - 1)

    def tiled(self, words: list[int], tiled: int, linear: int, surface: Place, at: Place, size: Place,
              element_bytes: int, swizzle: int, dimensions: int, pitch: tuple[int, int], detile: bool) -> None:
        """Copy a box between a tiled surface and linear memory.

        :param surface: its size in elements. :param at: where the box is in it. :param pitch: of the linear side.

        The last three words are about compression. Mesa leaves them out where there is none, the kernel's header has
        them; as zeros they are NOPs to whoever does not expect them.
        """
        for what, value, limit in zip(("width", "height", "depth"), surface, SURFACE, strict=True):
            if not 1 <= value <= limit:
                raise PacketError(f"a tiled surface of {what} {value}; a copy engine can say 1 to {limit}")
        _check_linear(linear, pitch, element_bytes, TILED_PITCH)
        for (x, y, z), (width, height, depth) in _boxes(size, BOX):
            words += sdma.build(
                "COPY_TILED_SUBWIN", DETILE=detile, TILED_ADDR=tiled, TILED_X=at[0] + x, TILED_Y=at[1] + y,
                TILED_Z=at[2] + z, WIDTH=surface[0] - 1, HEIGHT=surface[1] - 1, DEPTH=surface[2] - 1,
                ELEMENT_SIZE=_log2(element_bytes), SWIZZLE_MODE=swizzle, DIMENSION=dimensions - 1,
                LINEAR_ADDR=linear + z * pitch[1] + y * pitch[0] + x * element_bytes,
                LINEAR_PITCH=pitch[0] // element_bytes - 1, LINEAR_SLICE_PITCH=pitch[1] // element_bytes - 1,
                RECT_X=width - 1, RECT_Y=height - 1, RECT_Z=depth - 1, META_ADDR=0)

    def indirect(self, words: list[int], address: int, count: int) -> None:
        packet = sdma.build("INDIRECT", IB_BASE=address, IB_SIZE=count, CSA_ADDR=0)
        words += [NOP] * (-(len(words) + len(packet)) % IB_ALIGN) + packet

    def describe(self, words: Sequence[int]) -> list[str]:
        return sdma.dump(words).splitlines()


def _log2(element_bytes: int) -> int:
    if element_bytes not in (1, 2, 4, 8, 16):
        raise PacketError(f"elements have 1, 2, 4, 8 or 16 bytes, not {element_bytes}")
    return element_bytes.bit_length() - 1


def _boxes(size: Place, limit: Place) -> Iterator[tuple[Place, Place]]:
    """(place, size) of the boxes of at most ``limit`` that make up one of ``size``."""
    for z in range(0, size[2], limit[2]):
        for y in range(0, size[1], limit[1]):
            for x in range(0, size[0], limit[0]):
                yield (x, y, z), (min(limit[0], size[0] - x), min(limit[1], size[1] - y), min(limit[2], size[2] - z))


def _check_linear(address: int, pitch: tuple[int, int], element_bytes: int, largest: int) -> None:
    for what, value, limit in (("row", pitch[0], largest), ("slice", pitch[1], SLICE)):
        if value % element_bytes or value % 4 or not 0 < value // element_bytes <= limit:
            raise PacketError(f"a {what} pitch of {value} bytes; a copy engine takes multiples of 4 and of the element "
                              f"({element_bytes}), up to {limit} elements")
    if address % 4:
        raise PacketError(f"a box at {address:#x}; a copy engine takes addresses at multiples of 4")
