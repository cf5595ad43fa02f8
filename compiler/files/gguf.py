"""GGUF: llama.cpp's model files, versions 2 and 3, little-endian (ggml, docs/gguf.md).

    "GGUF" | version u32 | tensors u64 | keys u64 | key, type, value ... | name, axes, sizes, type, offset ... |
    padding to general.alignment | data: each tensor at its offset, itself a multiple of the alignment

Sizes are written innermost axis first; tensors here have them in the usual order. Quantised tensors are sent to the
device as they are and unpacked there (``compiler.files.quants``).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.dtypes import DType
from compiler.files.quants import BLOCKS, Quantized
from compiler.files.source import File, Source, open_source
from compiler.tensor import Tensor

__all__ = ["TYPES", "gguf_load"]

# ggml.h, enum ggml_type
TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K",
         12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
         20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
         29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4"}
PLAIN: dict[str, DType] = {"F32": dtypes.float32, "F16": dtypes.float16, "BF16": dtypes.bfloat16, "F64": dtypes.float64,
                           "I8": dtypes.int8, "I16": dtypes.int16, "I32": dtypes.int32, "I64": dtypes.int64}
# gguf.h, enum gguf_type: what struct calls it
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
MOST_AXES = 4                       # ggml.h, GGML_MAX_DIMS
ALIGNMENT = 32                      # gguf.h, GGUF_DEFAULT_ALIGNMENT
DEEPEST = 4                         # arrays in arrays: the format has no limit, files have none


@dataclass(frozen=True)
class _Info:
    name: str
    shape: tuple[int, ...]
    type: str
    offset: int


def gguf_load(file: File, device: str | None = None,
              keep_quantized: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """(metadata, {name: tensor}). Quantised tensors become float32, unpacked on the device when they are used.

    Metadata values are Python's bool, int, float, str, and lists of them (arrays of numbers: NumPy arrays).

    :param keep_quantized: give those as :class:`Quantized`, for layers that keep them packed.

    :raises FileFormatError: the file breaks a rule of the format, or has a type of quantisation that is not known here.
    """
    source = open_source(file)
    reader = _Reader(source)
    metadata, infos, begin = reader.run()
    return metadata, {info.name: _tensor(source, begin, info, device, keep_quantized) for info in infos}


def _tensor(source: Source, begin: int, info: _Info, device: str | None, keep: bool) -> Tensor | Quantized:
    count = math.prod(info.shape)
    if info.type in PLAIN:
        return source.tensor(begin + info.offset, PLAIN[info.type], info.shape, device)
    per_block, block_bytes = BLOCKS[info.type]
    blocks = source.tensor(begin + info.offset, dtypes.uint8, (count // per_block, block_bytes), device)
    packed = Quantized(blocks, info.type, info.shape)
    return packed if keep else packed.dequantize()


class _Reader:
    """The header, read from front to back in pieces of the file."""

    PIECE = 1 << 20

    def __init__(self, source: Source) -> None:
        self.source, self.at = source, 0
        self._piece, self._first = b"", 0

    def run(self) -> tuple[dict[str, Any], list[_Info], int]:
        source = self.source
        if source.size < 24 or self._take(4) != b"GGUF":
            raise source.error("no GGUF file: it does not begin with 'GGUF'")
        version = self._number("I")
        if version not in (2, 3):
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            why = "it is big-endian" if swapped in (2, 3) else "versions 2 and 3 are known here"
            raise source.error(f"GGUF version {version}: {why}")
        tensors, keys = self._number("Q"), self._number("Q")
        for what, count, least in (("tensors", tensors, 24), ("keys", keys, 13)):
            if count > source.size // least:
                raise source.error(f"{count} {what} cannot be in a file of {source.size} bytes; it is damaged")
        metadata: dict[str, Any] = {}
        for _ in range(keys):
            key = self._string()
            if key in metadata:
                raise source.error(f"the key {key!r} is there twice")
            metadata[key] = self._value(self._number("I"), key)
        alignment = metadata.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or isinstance(alignment, bool) or alignment < 1 or alignment & alignment - 1:
            raise source.error(f"general.alignment is {alignment!r}, and must be a power of two")
        infos = [self._info(alignment) for _ in range(tensors)]
        begin = -(-self.at // alignment) * alignment
        self._check(infos, begin)
        return metadata, infos, begin

    # ---- pieces

    def _take(self, nbytes: int) -> bytes:
        if not self._first <= self.at <= self.at + nbytes <= self._first + len(self._piece):
            piece = max(nbytes, min(self.PIECE, self.source.size - self.at))
            self._piece, self._first = self.source.read(self.at, piece), self.at
        begin = self.at - self._first
        self.at += nbytes
        return self._piece[begin:begin + nbytes]

    def _number(self, kind: str) -> Any:
        kind = "<" + kind
        return struct.unpack(kind, self._take(struct.calcsize(kind)))[0]

    def _string(self) -> str:
        length, at = self._number("Q"), self.at
        if length > self.source.size:
            raise self.source.error(f"a string of {length} bytes at byte {at}, and the file has {self.source.size}")
        try:
            return self._take(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.source.error(f"the string at byte {at} is no UTF-8: {error.reason}") from None

    def _value(self, kind: int, key: str, depth: int = 0) -> Any:
        if kind in SCALARS:
            return self._number(SCALARS[kind])
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            raise self.source.error(f"the value of {key!r} has type {kind}, which no version of the format has")
        inner, count = self._number("I"), self._number("Q")
        if depth == DEEPEST:
            raise self.source.error(f"the value of {key!r} has arrays in arrays, more than {DEEPEST} deep")
        size = struct.calcsize("<" + SCALARS[inner]) if inner in SCALARS else 8
        if count > self.source.size // size:
            raise self.source.error(f"the array {key!r} has {count} elements, and the file {self.source.size} bytes")
        if inner in SCALARS:
            return np.frombuffer(self._take(count * size), np.dtype(SCALARS[inner]).newbyteorder("<")).copy()
        return [self._value(inner, key, depth + 1) for _ in range(count)]

    def _info(self, alignment: int) -> _Info:
        name, axes = self._string(), self._number("I")
        if axes > MOST_AXES:
            raise self.source.error(f"{name!r} has {axes} axes; the format has up to {MOST_AXES}")
        shape = tuple(reversed([self._number("Q") for _ in range(axes)]))
        kind, offset = self._number("I"), self._number("Q")
        label = TYPES.get(kind)
        if label is None or (label not in PLAIN and label not in BLOCKS):
            known = ", ".join([*PLAIN, *BLOCKS])
            raise self.source.error(f"{name!r} has type {label or kind}, which cannot be unpacked here; known are "
                                    f"{known}")
        if offset % alignment:
            raise self.source.error(f"{name!r} is at {offset}, which is no multiple of the alignment {alignment}")
        if label in BLOCKS and (not shape or shape[-1] % BLOCKS[label][0]):
            raise self.source.error(f"{name!r}: {label} is in blocks of {BLOCKS[label][0]}, and its rows have "
                                    f"{shape[-1] if shape else 'no'} elements")
        return _Info(name, shape, label, offset)

    def _check(self, infos: list[_Info], begin: int) -> None:
        """Names differ, and every tensor lies in the file, beside the others."""
        seen: set[str] = set()
        spans = []
        for info in infos:
            if info.name in seen:
                raise self.source.error(f"the tensor {info.name!r} is there twice")
            seen.add(info.name)
            count = math.prod(info.shape)
            per_block, block_bytes = BLOCKS.get(info.type) or (1, PLAIN[info.type].itemsize)
            nbytes = count // per_block * block_bytes
            if begin + info.offset + nbytes > self.source.size:
                raise self.source.error(f"{info.name!r} takes {nbytes} bytes at {begin + info.offset}, and the file "
                                        f"has {self.source.size}; it is damaged or cut off")
            spans.append((info.offset, info.offset + nbytes, info.name))
        spans.sort()
        for (_, end, one), (first, _, other) in pairwise(spans):
            if first < end:
                raise self.source.error(f"{one!r} and {other!r} overlap")
