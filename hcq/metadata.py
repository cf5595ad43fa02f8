"""What a code object says about its kernels: the 64-byte kernel descriptor and the msgpack metadata.

Layouts: LLVM, "User Guide for AMDGPU Backend", sections "Kernel Descriptor" and "Code Object V3 (V4, V5) Metadata".
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np

from hcq.errors import CodeObjectError

__all__ = ["Argument", "Descriptor", "KernelInfo", "KERNEL_CODE_PROPERTIES", "read_kernels"]

KERNEL_CODE_PROPERTIES = {
    "ENABLE_SGPR_PRIVATE_SEGMENT_BUFFER": 0, "ENABLE_SGPR_DISPATCH_PTR": 1, "ENABLE_SGPR_QUEUE_PTR": 2,
    "ENABLE_SGPR_KERNARG_SEGMENT_PTR": 3, "ENABLE_SGPR_DISPATCH_ID": 4, "ENABLE_SGPR_FLAT_SCRATCH_INIT": 5,
    "ENABLE_SGPR_PRIVATE_SEGMENT_SIZE": 6, "ENABLE_WAVEFRONT_SIZE32": 10, "USES_DYNAMIC_STACK": 11,
}
"""Bit positions in ``kernel_code_properties``; the user SGPRs are set up in this order (table "SGPR Register Set Up
Order")."""

_DESCRIPTOR = struct.Struct("<IIIIq20xIIIHHI")
_EXPLICIT = {"by_value", "global_buffer", "dynamic_shared_pointer"}
_UNSUPPORTED = {"sampler", "image", "pipe", "queue"}
_LARGEST_KERNARG = 1 << 16


@dataclass(frozen=True)
class Argument:
    """One argument of a kernel; hidden ones are filled in by the launch."""

    kind: str                       # ".value_kind": "global_buffer", "by_value", "hidden_block_count_x" ...
    offset: int                     # bytes into the kernarg segment
    size: int
    name: str = ""
    type_name: str = ""             # as in the source, where the compiler said: "float*"
    pointee_align: int = 1          # of dynamic_shared_pointer
    read_only: bool = False         # a pointer that the kernel does not write through, as far as the compiler says

    @property
    def hidden(self) -> bool:
        return self.kind.startswith("hidden_")

    def __str__(self) -> str:
        what = self.type_name or {"global_buffer": "buffer", "dynamic_shared_pointer": "local memory"}.get(
            self.kind, f"{self.size} bytes")
        return f"{self.name} ({what})" if self.name else what


@dataclass(frozen=True)
class Descriptor:
    """The kernel descriptor, ``name.kd``."""

    group_bytes: int
    private_bytes: int
    kernarg_bytes: int
    entry_offset: int               # of the first instruction, from the descriptor
    rsrc3: int
    rsrc1: int
    rsrc2: int
    properties: int                 # kernel_code_properties
    kernarg_preload: int            # dwords to preload into SGPRs; gfx90a and gfx94x only

    @property
    def enabled(self) -> list[str]:
        """Names of the bits set in ``kernel_code_properties``."""
        return [name for name, bit in KERNEL_CODE_PROPERTIES.items() if self.properties >> bit & 1]


@dataclass(frozen=True)
class KernelInfo:
    """A kernel as its code object describes it. Sizes are bytes, offsets are in the image."""

    name: str
    descriptor_offset: int
    entry: int
    descriptor: Descriptor
    arguments: Sequence[Argument]   # the explicit ones, as a caller passes them
    hidden: Sequence[Argument]
    kernarg_bytes: int
    kernarg_align: int
    group_bytes: int
    private_bytes: int
    wave_size: int
    sgprs: int
    vgprs: int
    sgpr_spills: int
    vgpr_spills: int
    max_workgroup: int
    required_workgroup: tuple[int, int, int] | None
    dynamic_stack: bool
    metadata: Mapping[str, Any] = field(repr=False, default_factory=dict)

    @property
    def signature(self) -> str:
        return f"{self.name}({', '.join(map(str, self.arguments))})"


def _get(table: Mapping[str, Any], key: str, kind: type, what: str, default: Any = None) -> Any:
    value = table.get(key, default)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise CodeObjectError(f"metadata of {what}: {key} is {value!r}, expected {kind.__name__}")
    return value


def _size(table: Mapping[str, Any], key: str, what: str, default: int | None = None, *, largest: int = 1 << 32) -> int:
    value = _get(table, key, int, what, default)
    if not 0 <= value <= largest:
        raise CodeObjectError(f"metadata of {what}: {key} is {value}, expected 0 to {largest}")
    return int(value)


def read_kernels(note: bytes, symbols: Mapping[str, int], image: np.ndarray, version: int) -> dict[str, KernelInfo]:
    """Every kernel of a code object.

    :param note: the NT_AMDGPU_METADATA descriptor, msgpack.
    :param symbols: offsets in the image.
    :param image: uint8, relocated for address 0.
    """
    try:
        metadata = msgpack.unpackb(note, raw=False, strict_map_key=False)
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise CodeObjectError(f"metadata is not msgpack: {type(error).__name__}: {error}") from error
    if not isinstance(metadata, dict):
        raise CodeObjectError(f"metadata is a {type(metadata).__name__}, expected a map")
    kernels = {}
    for entry in _get(metadata, "amdhsa.kernels", list, "the code object", []):
        if not isinstance(entry, dict):
            raise CodeObjectError(f"metadata: a kernel is a {type(entry).__name__}, expected a map")
        info = _kernel(entry, symbols, image, version)
        kernels[info.name] = info
    return kernels


def _kernel(entry: Mapping[str, Any], symbols: Mapping[str, int], image: np.ndarray, version: int) -> KernelInfo:
    name = _get(entry, ".name", str, "a kernel")
    what = f"kernel {name!r}"
    symbol = _get(entry, ".symbol", str, what)
    if symbol not in symbols:
        raise CodeObjectError(f"{what}: its descriptor {symbol!r} is not among the symbols")
    offset = symbols[symbol]
    if offset < 0 or offset % 64 or offset + _DESCRIPTOR.size > len(image):
        raise CodeObjectError(f"{what}: its descriptor is at {offset:#x}, not at a multiple of 64 within the image's "
                              f"{len(image):#x} bytes")
    (group, private, kernarg, _, entry_offset, rsrc3, rsrc1, rsrc2, properties, preload, _) = \
        _DESCRIPTOR.unpack(image[offset:offset + _DESCRIPTOR.size].tobytes())
    descriptor = Descriptor(group, private, kernarg, entry_offset, rsrc3, rsrc1, rsrc2, properties, preload)
    code = offset + entry_offset
    if code < 0 or code % 256 or code >= len(image):
        raise CodeObjectError(f"{what}: its code is at {code:#x}, not at a multiple of 256 within the image's "
                              f"{len(image):#x} bytes")
    arguments, hidden = _arguments(_get(entry, ".args", list, what, []), what)
    kernarg_bytes = max(kernarg, _size(entry, ".kernarg_segment_size", what, largest=_LARGEST_KERNARG))
    if kernarg_bytes > _LARGEST_KERNARG:
        raise CodeObjectError(f"{what}: a kernarg segment of {kernarg_bytes} bytes; {_LARGEST_KERNARG} can be")
    for argument in (*arguments, *hidden):
        if argument.offset + argument.size > kernarg_bytes:
            raise CodeObjectError(f"{what}: argument {argument.kind} at {argument.offset} of {argument.size} bytes is "
                                  f"beyond its kernarg segment of {kernarg_bytes}")
    required = None
    if ".reqd_workgroup_size" in entry:
        sizes = _get(entry, ".reqd_workgroup_size", list, what)
        if len(sizes) != 3 or not all(isinstance(size, int) and 0 < size <= 1 << 16 for size in sizes):
            raise CodeObjectError(f"metadata of {what}: .reqd_workgroup_size is {sizes!r}, expected three sizes")
        required = (sizes[0], sizes[1], sizes[2])
    wave_size = _size(entry, ".wavefront_size", what)
    if wave_size not in (32, 64) or (wave_size == 32) != bool(
            properties >> KERNEL_CODE_PROPERTIES["ENABLE_WAVEFRONT_SIZE32"] & 1):
        raise CodeObjectError(f"{what}: .wavefront_size is {wave_size}, its descriptor says "
                              f"{'32' if properties >> 10 & 1 else '64'}")
    return KernelInfo(
        name=name, descriptor_offset=offset, entry=code, descriptor=descriptor, arguments=arguments, hidden=hidden,
        kernarg_bytes=kernarg_bytes, kernarg_align=_size(entry, ".kernarg_segment_align", what, 8, largest=4096),
        group_bytes=max(group, _size(entry, ".group_segment_fixed_size", what, 0)),
        private_bytes=max(private, _size(entry, ".private_segment_fixed_size", what, 0)),
        wave_size=wave_size, sgprs=_size(entry, ".sgpr_count", what, 0), vgprs=_size(entry, ".vgpr_count", what, 0),
        sgpr_spills=_size(entry, ".sgpr_spill_count", what, 0), vgpr_spills=_size(entry, ".vgpr_spill_count", what, 0),
        max_workgroup=_size(entry, ".max_flat_workgroup_size", what, 1024), required_workgroup=required,
        dynamic_stack=version >= 5 and _get(entry, ".uses_dynamic_stack", bool, what, False), metadata=entry)


def _arguments(entries: Sequence[Any], what: str) -> tuple[list[Argument], list[Argument]]:
    explicit: list[Argument] = []
    hidden: list[Argument] = []
    for index, entry in enumerate(entries):
        label = f"{what}, argument {index}"
        if not isinstance(entry, dict):
            raise CodeObjectError(f"metadata of {label} is a {type(entry).__name__}, expected a map")
        kind = _get(entry, ".value_kind", str, label)
        argument = Argument(kind, _size(entry, ".offset", label, largest=_LARGEST_KERNARG),
                            _size(entry, ".size", label, largest=_LARGEST_KERNARG),
                            _get(entry, ".name", str, label, ""), _get(entry, ".type_name", str, label, ""),
                            max(1, _size(entry, ".pointee_align", label, 1, largest=1 << 16)),
                            entry.get(".actual_access", entry.get(".access")) == "read_only"
                            or entry.get(".address_space") == "constant"
                            or (entry.get(".is_const") is True and ".actual_access" not in entry))
        if argument.hidden:
            hidden.append(argument)
        elif kind in _UNSUPPORTED:
            raise CodeObjectError(f"{label} is {kind!r}; kernels may take buffers, local memory and values")
        elif kind not in _EXPLICIT:
            raise CodeObjectError(f"{label} is of the unknown kind {kind!r}")
        else:
            explicit.append(argument)
    explicit.sort(key=lambda argument: argument.offset)
    end = 0
    for argument in explicit:
        if argument.offset < end:
            raise CodeObjectError(f"{what}: arguments overlap at byte {argument.offset} of the kernarg segment")
        expected = {"global_buffer": 8, "dynamic_shared_pointer": 4}.get(argument.kind, argument.size)
        if argument.size != expected:
            raise CodeObjectError(f"{what}: a {argument.kind} argument of {argument.size} bytes, expected {expected}")
        end = argument.offset + argument.size
    if any(argument.offset < end for argument in hidden):
        raise CodeObjectError(f"{what}: a hidden argument lies before an explicit one")
    return explicit, hidden
