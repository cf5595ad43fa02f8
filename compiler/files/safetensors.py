"""safetensors: a JSON header, then the tensors' bytes (the format's own page, "Format", huggingface/safetensors).

    8 bytes: N, uint64 little-endian | N bytes: {"name": {"dtype": "F32", "shape": [..], "data_offsets": [a, b]}, ...}
    | data: every byte belongs to exactly one tensor
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.dtypes import DType
from compiler.files.source import File, Source, open_source
from compiler.tensor import Tensor

__all__ = ["safe_load", "safe_load_metadata", "safe_save"]

LARGEST_HEADER = 100_000_000        # the format's own limit
NAMES: dict[str, DType] = {
    "BOOL": dtypes.bool_, "U8": dtypes.uint8, "I8": dtypes.int8, "U16": dtypes.uint16, "I16": dtypes.int16,
    "U32": dtypes.uint32, "I32": dtypes.int32, "U64": dtypes.uint64, "I64": dtypes.int64, "F16": dtypes.float16,
    "BF16": dtypes.bfloat16, "F32": dtypes.float32, "F64": dtypes.float64, "F8_E4M3": dtypes.float8_e4m3,
    "F8_E5M2": dtypes.float8_e5m2}
METADATA = "__metadata__"


def safe_load(file: File, device: str | None = None) -> dict[str, Tensor]:
    """{name: tensor}, in the file's order.

    :param device: where the tensors go; default: where the bytes are, or the default device.
    :raises FileFormatError: the file breaks a rule of the format; nothing of it is used then.
    """
    source = open_source(file)
    header, begin = _header(source)
    places = _check(source, header, begin)
    return {name: source.tensor(begin + at, dtype, shape, device) for name, (dtype, shape, at) in places.items()}


def safe_load_metadata(file: File) -> dict[str, str]:
    """The file's free text: {} where it has none."""
    source = open_source(file)
    header, _ = _header(source)
    return dict(header.get(METADATA, {}))


def _header(source: Source) -> tuple[dict[str, Any], int]:
    if source.size < 8:
        raise source.error(f"no safetensors file: it has {source.size} bytes, the header's length alone takes 8")
    length = int.from_bytes(source.read(0, 8), "little")
    if length > LARGEST_HEADER:
        raise source.error(f"the header's length is {length}, beyond the format's limit of {LARGEST_HEADER}; this is "
                           "no safetensors file")
    text = source.read(8, length)
    if not text.startswith(b"{"):
        raise source.error("the header does not begin with '{'; this is no safetensors file")
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=lambda pairs: _unique(source, pairs))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise source.error(f"the header is no JSON: {error}") from None
    metadata = header.get(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise source.error(f"{METADATA} must be an object of strings")
    return header, 8 + length


def _unique(source: Source, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise source.error(f"the header names {next(n for n in names if names.count(n) > 1)!r} twice")
    return found


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _check(source: Source, header: dict[str, Any], begin: int) -> dict[str, tuple[DType, tuple[int, ...], int]]:
    """Every tensor's type, shape and offset, when all of them make sense together."""
    places: dict[str, tuple[DType, tuple[int, ...], int]] = {}
    spans = []
    for name, entry in header.items():
        if name == METADATA:
            continue
        if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
            raise source.error(f"{name!r} is no object with dtype, shape and data_offsets")
        shape, offsets = entry["shape"], entry["data_offsets"]
        if not isinstance(entry["dtype"], str) or entry["dtype"] not in NAMES:
            raise source.error(f"{name!r} has dtype {entry['dtype']!r}; known are {', '.join(NAMES)}")
        if not isinstance(shape, list) or not all(map(_whole, shape)):
            raise source.error(f"{name!r}: shape {shape!r:.60} is no list of sizes")
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_whole, offsets)):
            raise source.error(f"{name!r}: data_offsets {offsets!r:.60} are no pair of offsets")
        dtype = NAMES[entry["dtype"]]
        nbytes = math.prod(shape) * dtype.itemsize
        if offsets[1] - offsets[0] != nbytes:
            raise source.error(f"{name!r}: {entry['dtype']} of shape {shape} takes {nbytes} bytes, and data_offsets "
                               f"give {offsets[1] - offsets[0]}")
        places[name] = dtype, tuple(shape), offsets[0]
        spans.append((offsets[0], offsets[1], name))
    at = 0
    for first, last, name in sorted(spans):
        if first != at:
            raise source.error(f"{name!r} begins at byte {first} of the data, and the tensors before it end at {at}")
        at = last
    if begin + at != source.size:
        raise source.error(f"the tensors take {at} bytes, and {source.size - begin} follow the header; the file is "
                           "damaged or cut off")
    return places


def safe_save(tensors: Mapping[str, Tensor], path: str | os.PathLike[str],
              metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors by name. The file appears whole or not at all; it is written in another name and then renamed.

    :raises TypeError, ValueError: names, tensors or metadata that the format has no place for.
    """
    header: dict[str, Any] = {}
    if metadata:
        if not all(isinstance(k, str) and isinstance(v, str) for k, v in metadata.items()):
            raise TypeError("metadata must be strings by strings")
        header[METADATA] = dict(metadata)
    by_type = {dtype: name for name, dtype in NAMES.items()}
    at = 0
    # The widest types first, so that each begins at a multiple of its size.
    order = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    for name in order:
        if not isinstance(name, str) or name == METADATA:
            raise ValueError(f"a tensor cannot be called {name!r}")
        tensor = tensors[name]
        nbytes = tensor.numel() * tensor.dtype.itemsize
        header[name] = {"dtype": by_type[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, at + nbytes]}
        at += nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > LARGEST_HEADER:
        raise ValueError(f"the names and shapes take {len(text)} bytes, beyond the format's limit of {LARGEST_HEADER}")
    target = Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with beside.open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                out.write(codes_of(tensors[name]).tobytes())
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def codes_of(tensor: Tensor) -> np.ndarray:
    """A tensor's bytes as they lie in memory, in ``dtype.np``."""
    if tensor.dtype.coded:
        tensor = tensor.bitcast(dtypes.of(f"uint{tensor.dtype.bits}"))
    return np.ascontiguousarray(tensor.numpy())
