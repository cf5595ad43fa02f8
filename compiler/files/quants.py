"""Quantised blocks of GGUF, unpacked by tensor operations, so that only the packed bytes travel to the device.

Layouts: ggml, ggml-common.h (block_q4_0 and so on); meaning: ggml-quants.c (dequantize_row_*). A block is ``d``, a
float16 scale, small integers, and in the newer kinds a scale of its own for each 16 or 32 elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from compiler import dtypes
from compiler.files.source import from_bytes
from compiler.tensor import Tensor

__all__ = ["BLOCKS", "Quantized", "dequantize", "quantize"]

# kind -> (elements, bytes) of a block
BLOCKS = {"Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34), "Q2_K": (256, 84),
          "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210), "IQ4_NL": (32, 18),
          "IQ4_XS": (256, 136), "TQ1_0": (256, 54), "TQ2_0": (256, 66), "MXFP4": (32, 17)}
# ggml-common.h, kvalues_iq4nl and kvalues_mxfp4 (twice the values of OCP's E2M1)
IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
MXFP4_VALUES = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


@dataclass(frozen=True)
class Quantized:
    """A tensor as a file has it: packed blocks, uint8[n, bytes of a block], of ``shape`` when they are unpacked."""

    blocks: Tensor
    kind: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Of the blocks."""
        return self.blocks.nbytes

    def dequantize(self) -> Tensor:
        """float32, lazily: a kernel that needs the numbers unpacks them."""
        return dequantize(self.blocks, self.kind).reshape(*self.shape)

    def rows(self, index: Tensor) -> Tensor:
        """Some of the rows (by the first axis) unpacked: the shape of ``index``, then that of a row."""
        per_block, nbytes = BLOCKS[self.kind]
        each = math.prod(self.shape[1:]) // per_block
        picked = self.blocks.reshape(self.shape[0], each * nbytes)[index.reshape(-1)]
        return dequantize(picked.reshape(-1, nbytes), self.kind).reshape(*index.shape, *self.shape[1:])


def quantize(array: np.ndarray, kind: str, device: str | None = None) -> Quantized:
    """Pack numbers on the host: Q8_0, or Q4_0 (ggml-quants.c, quantize_row_q8_0_ref and quantize_row_q4_0_ref).

    :raises ValueError: another kind, or rows that are no multiple of 32.
    """
    if kind not in ("Q4_0", "Q8_0"):
        raise ValueError(f"numbers are packed as Q4_0 and Q8_0 here, not as {kind!r}")
    if not array.ndim or array.shape[-1] % 32:
        raise ValueError(f"{kind} is in blocks of 32, and rows have {array.shape[-1] if array.ndim else 'no'} elements")
    x = np.ascontiguousarray(array, np.float32).reshape(-1, 32)
    if kind == "Q8_0":
        d = np.abs(x).max(1, keepdims=True) / np.float32(127)
    else:       # the one farthest from 0 becomes -8
        d = np.take_along_axis(x, np.abs(x).argmax(1)[:, None], 1) / np.float32(-8)
    with np.errstate(divide="ignore"):
        scaled = x * np.where(d == 0, np.float32(0), np.float32(1) / d)
    if kind == "Q8_0":      # halves away from 0
        codes = (np.sign(scaled) * np.floor(np.abs(scaled) + np.float32(0.5))).astype(np.int8).view(np.uint8)
    else:
        codes = np.clip(scaled + np.float32(8.5), 0, 15).astype(np.uint8)
        codes = codes[:, :16] | codes[:, 16:] << 4
    blocks = np.concatenate([d.astype(np.float16).view(np.uint8), codes], 1)
    return Quantized(Tensor(blocks, device=device), kind, array.shape)


def dequantize(blocks: Tensor, kind: str) -> Tensor:
    """uint8[n, bytes of a block] -> float32[n, elements of a block], on the blocks' device.

    :raises ValueError: the kind is not known, or blocks of it have another size.
    """
    if kind not in BLOCKS:
        raise ValueError(f"blocks of kind {kind!r} are not known; there are {', '.join(BLOCKS)}")
    elements, nbytes = BLOCKS[kind]
    if blocks.dtype is not dtypes.uint8 or blocks.ndim != 2 or blocks.shape[1] != nbytes:
        raise ValueError(f"{kind} has blocks of {nbytes} bytes: uint8[n, {nbytes}], not {blocks.dtype.name}"
                         f"{list(blocks.shape)}")
    if not blocks.shape[0]:
        return Tensor.zeros(0, elements, device=blocks.device)
    return _UNPACK[kind](blocks).reshape(blocks.shape[0], elements)


# ---- pieces: b is uint8[n, bytes]

def _half(b: Tensor, at: int) -> Tensor:
    """The float16 at a byte, as float32[n, 1]."""
    return from_bytes(b[:, at:at + 2], dtypes.float16).cast(dtypes.float32)


def _nibbles(b: Tensor) -> Tensor:
    """uint8[n, k] -> uint8[n, 2, k]: low halves, then high halves."""
    return Tensor.stack([b & 15, b >> 4], dim=1)


def _bits(b: Tensor, width: int) -> Tensor:
    """uint8[n, k] -> uint8[n, 8 / width, k]: the fields of each byte, lowest first."""
    mask = (1 << width) - 1
    return Tensor.stack([b >> shift & mask for shift in range(0, 8, width)], dim=1)


def _float(x: Tensor) -> Tensor:
    return x.cast(dtypes.float32)


def _signed(x: Tensor, zero: int) -> Tensor:
    return _float(x.cast(dtypes.int32) - zero)


def _fifth_bits(b: Tensor, at: int) -> Tensor:
    """The 32 bits at a byte: uint8[n, 2, 16], for the low halves' elements and for the high ones'."""
    return _bits(b[:, at:at + 4], 1).permute(0, 2, 1).reshape(b.shape[0], 2, 16)


def _lookup(codes: Tensor, values: tuple[int, ...]) -> Tensor:
    """``values[codes]`` by selection: tables of 16 stay in registers."""
    out = _float(codes) * 0
    for code, value in enumerate(values):
        out = (codes == code).where(float(value), out)
    return out


# ---- kinds

def _q4_0(b: Tensor) -> Tensor:
    return _half(b, 0).unsqueeze(2) * _signed(_nibbles(b[:, 2:18]), 8)


def _q4_1(b: Tensor) -> Tensor:
    return _half(b, 0).unsqueeze(2) * _float(_nibbles(b[:, 4:20])) + _half(b, 2).unsqueeze(2)


def _q5_0(b: Tensor) -> Tensor:
    return _half(b, 0).unsqueeze(2) * _signed(_nibbles(b[:, 6:22]) | _fifth_bits(b, 2) << 4, 16)


def _q5_1(b: Tensor) -> Tensor:
    five = _float(_nibbles(b[:, 8:24]) | _fifth_bits(b, 4) << 4)
    return _half(b, 0).unsqueeze(2) * five + _half(b, 2).unsqueeze(2)


def _q8_0(b: Tensor) -> Tensor:
    return _half(b, 0) * _float(b[:, 2:34].bitcast(dtypes.int8))


def _q2_k(b: Tensor) -> Tensor:
    n = b.shape[0]
    scales = b[:, 0:16].reshape(n, 16, 1)
    d, dmin = _half(b, 80).unsqueeze(2), _half(b, 82).unsqueeze(2)
    # two halves of 32 bytes, each four fields deep: element = half, field, byte
    q = Tensor.cat(*[_bits(b[:, 16 + 32 * half:48 + 32 * half], 2) for half in range(2)], dim=1).reshape(n, 16, 16)
    return d * _float(scales & 15) * _float(q) - dmin * _float(scales >> 4)


def _q3_k(b: Tensor) -> Tensor:
    n = b.shape[0]
    low, high = _nibbles(b[:, 96:104]).reshape(n, 16), _bits(b[:, 104:108], 2).reshape(n, 16)
    scales = (low | high << 4).cast(dtypes.int32) - 32
    two = Tensor.cat(*[_bits(b[:, 32 + 32 * half:64 + 32 * half], 2) for half in range(2)], dim=1).reshape(n, 256)
    third = _bits(b[:, 0:32], 1).reshape(n, 256)
    q = (two | third << 2).cast(dtypes.int32) - 4
    return (_half(b, 108) * _float(scales)).unsqueeze(2) * _float(q.reshape(n, 16, 16))


def _scales_and_mins(b: Tensor) -> tuple[Tensor, Tensor]:
    """get_scale_min_k4: eight 6-bit scales and eight minimums in 12 bytes, uint8[n, 8, 1] each."""
    first, second, third = b[:, 0:4], b[:, 4:8], b[:, 8:12]
    scales = Tensor.cat(first & 63, third & 15 | first >> 6 << 4, dim=1)
    mins = Tensor.cat(second & 63, third >> 4 | second >> 6 << 4, dim=1)
    return scales.unsqueeze(2), mins.unsqueeze(2)


def _q4_k(b: Tensor) -> Tensor:
    n = b.shape[0]
    scales, mins = _scales_and_mins(b[:, 4:16])
    q = _nibbles(b[:, 16:144].reshape(4 * n, 32)).reshape(n, 8, 32)
    return _half(b, 0).unsqueeze(2) * _float(scales) * _float(q) - _half(b, 2).unsqueeze(2) * _float(mins)


def _q5_k(b: Tensor) -> Tensor:
    n = b.shape[0]
    scales, mins = _scales_and_mins(b[:, 4:16])
    q = _nibbles(b[:, 48:176].reshape(4 * n, 32)).reshape(n, 8, 32) | _bits(b[:, 16:48], 1) << 4
    return _half(b, 0).unsqueeze(2) * _float(scales) * _float(q) - _half(b, 2).unsqueeze(2) * _float(mins)


def _q6_k(b: Tensor) -> Tensor:
    n = b.shape[0]
    low = _nibbles(b[:, 0:128].reshape(2 * n, 64)).reshape(n, 256)
    high = _bits(b[:, 128:192].reshape(2 * n, 32), 2).reshape(n, 256)
    q = (low | high << 4).cast(dtypes.int32) - 32
    scales = _float(b[:, 192:208].bitcast(dtypes.int8))
    return (_half(b, 208) * scales).unsqueeze(2) * _float(q.reshape(n, 16, 16))


def _iq4_nl(b: Tensor) -> Tensor:
    return _half(b, 0).unsqueeze(2) * _lookup(_nibbles(b[:, 2:18]), IQ4_VALUES)


def _iq4_xs(b: Tensor) -> Tensor:
    n = b.shape[0]
    low = Tensor.stack([b[:, 4:8] & 15, b[:, 4:8] >> 4], dim=2).reshape(n, 8)
    high = _bits(b[:, 2:4], 2).permute(0, 2, 1).reshape(n, 8)
    scales = (low | high << 4).cast(dtypes.int32) - 32
    q = _nibbles(b[:, 8:136].reshape(8 * n, 16)).reshape(n, 8, 32)
    return (_half(b, 0) * _float(scales)).unsqueeze(2) * _lookup(q, IQ4_VALUES)


def _tq1_0(b: Tensor) -> Tensor:
    """Five digits to base 3 a byte (four in the last four bytes), as fixed-point fractions of 256."""
    def digits(piece: Tensor, count: int) -> Tensor:
        shifted = [piece * np.uint8(3 ** k % 256) for k in range(count)]        # modulo 256
        return Tensor.cat(*[(x.cast(dtypes.int32) * 3) >> 8 for x in shifted], dim=1)
    q = Tensor.cat(digits(b[:, 0:32], 5), digits(b[:, 32:48], 5), digits(b[:, 48:52], 4), dim=1)
    return _half(b, 52) * _float(q - 1)


def _tq2_0(b: Tensor) -> Tensor:
    n = b.shape[0]
    q = _bits(b[:, 0:64].reshape(2 * n, 32), 2).reshape(n, 256)
    return _half(b, 64) * _signed(q, 1)


def _mxfp4(b: Tensor) -> Tensor:
    """A power of two, 2^(e - 128) since the values are doubled (ggml-impl.h, ggml_e8m0_to_fp32_half), and E2M1
    codes."""
    e = b[:, 0:1].cast(dtypes.uint32)
    # 2^-127 and 2^-128 are below float32's normal numbers: their one bit is in the fraction.
    bits = (e < 2).where((e + 1) << 21, (e - 1) << 23)
    return bits.cast(dtypes.uint32).bitcast(dtypes.float32).unsqueeze(2) * _lookup(_nibbles(b[:, 1:17]), MXFP4_VALUES)


_UNPACK: dict[str, Callable[[Tensor], Tensor]] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0, "Q2_K": _q2_k, "Q3_K": _q3_k,
    "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k, "IQ4_NL": _iq4_nl, "IQ4_XS": _iq4_xs, "TQ1_0": _tq1_0,
    "TQ2_0": _tq2_0, "MXFP4": _mxfp4}
