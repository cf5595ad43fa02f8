"""Operators on strings, which are arrays of Python's on the host: no device has them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from compiler.onnx.registry import Node, operator
from compiler.onnx.values import from_array, is_strings

__all__: list[str] = []


def _strings(node: Node, value: Any) -> np.ndarray:
    if not is_strings(value):
        raise node.error("its input is a tensor of strings")
    return np.asarray(value, object)


def _each(array: np.ndarray, function: Any) -> np.ndarray:
    out = np.empty(array.shape, object)
    for at in np.ndindex(array.shape):
        out[at] = function(array[at])
    return out


@operator("StringConcat")
def concat(node: Node, left: Any, right: Any) -> Any:
    pair = np.broadcast_arrays(_strings(node, left), _strings(node, right))
    out = np.empty(pair[0].shape, object)
    for at in np.ndindex(out.shape):
        out[at] = pair[0][at] + pair[1][at]
    return out


@operator("StringSplit")
def split(node: Node, value: Any) -> Any:
    array = _strings(node, value)
    most, delimiter = node("maxsplit"), node("delimiter", "") or None
    parts = _each(array, lambda s: s.split(delimiter, -1 if most is None else int(most)))
    counts = np.array([len(p) for p in parts.reshape(-1)], np.int64).reshape(array.shape)
    widest = int(counts.max(initial=0))
    out = np.full((*array.shape, widest), "", object)
    for at in np.ndindex(array.shape):
        out[at][:counts[at]] = parts[at]
    return out, counts


@operator("StringNormalizer")
def normalize(node: Node, value: Any) -> Any:
    array = _strings(node, value)
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[0] != 1):
        raise node.error(f"its input is [n] or [1, n], not {list(array.shape)}")
    exact = bool(node("is_case_sensitive", 0))
    stop = set(node("stopwords", []) if exact else map(str.lower, node("stopwords", [])))
    changes: dict[str, Callable[[str], str]] = {"NONE": str, "LOWER": str.lower, "UPPER": str.upper}
    change = changes[node("case_change_action", "NONE")]
    kept = [change(s) for s in array.reshape(-1) if (s if exact else s.lower()) not in stop] or [""]
    return np.array(kept, object).reshape((1, -1) if array.ndim == 2 else -1)


@operator("RegexFullMatch")
def full_match(node: Node, value: Any) -> Any:
    """By Python's own expressions, of which RE2's are nearly a part."""
    try:
        pattern = re.compile(node("pattern", ""))
    except re.error as error:
        raise node.error(f"the pattern {node('pattern')!r} is none: {error}") from None
    return _each(_strings(node, value), lambda s: pattern.fullmatch(s) is not None).astype(np.bool_)


@operator("LabelEncoder")
def encode(node: Node, value: Any) -> Any:
    """Each element by a table of keys and values; what is no key becomes the default. On the host."""
    def column(prefix: str) -> Any:
        for suffix in ("tensor", "strings", "int64s", "floats"):
            if (found := node(f"{prefix}_{suffix}")) is not None:
                return np.asarray(found, object if suffix == "strings" else
                                  {"int64s": np.int64, "floats": np.float32}.get(suffix)).reshape(-1), suffix
        raise node.error(f"it has no {prefix}")
    (keys, _), (values, kind) = column("keys"), column("values")
    if len(keys) != len(values):
        raise node.error(f"{len(keys)} keys and {len(values)} values")
    fallback = {"strings": node("default_string", "_Unused"), "int64s": node("default_int64", -1),
                "floats": node("default_float", -0.0)}.get(kind)
    if kind == "tensor":
        given = node("default_tensor")
        fallback = np.asarray(given).reshape(-1)[0] if given is not None else \
            "_Unused" if is_strings(values) else -1 if values.dtype.kind == "i" else -0.0
    table = {_key(k): v for k, v in zip(keys, values, strict=True)}
    array = _strings(node, value) if is_strings(value) else _numbers(node, value)
    found = [table.get(_key(x), fallback) for x in array.reshape(-1)]
    if is_strings(values):
        return np.array(found, object).reshape(array.shape)
    return from_array(np.array(found, values.dtype).reshape(array.shape), node.device)


def _key(x: Any) -> Any:
    """NaN is a key like others; numbers compare as numbers."""
    return "NaN" if isinstance(x, float | np.floating) and x != x else x if isinstance(x, str) else float(x)


def _numbers(node: Node, value: Any) -> np.ndarray:
    return np.asarray(node.tensor(value).numpy())


@operator("ImageDecoder")
def decode(node: Node, value: Any) -> Any:
    """The bytes of a picture's file -> (y, x, channels), by Pillow; an empty picture if it cannot be read."""
    try:
        from PIL import Image
    except ImportError as error:
        raise node.error(f"pictures are read by Pillow, which is not installed: {error}") from None
    import io
    wanted = node("pixel_format", "RGB")
    if wanted not in ("RGB", "BGR", "Grayscale"):
        raise node.error(f"pixel_format is RGB, BGR or Grayscale, not {wanted!r}")
    try:
        with Image.open(io.BytesIO(_numbers(node, value).astype(np.uint8).tobytes())) as picture:
            pixels = np.array(picture.convert("L" if wanted == "Grayscale" else "RGB"))
    except (OSError, ValueError, SyntaxError):
        pixels = np.zeros((0, 0, 3), np.uint8)
    if wanted == "Grayscale":
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels[..., :1]
    return from_array(np.ascontiguousarray(pixels[..., ::-1] if wanted == "BGR" else pixels), node.device)
