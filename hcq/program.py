"""Kernels: from a caller's arguments to a kernarg segment, checked against the kernel's metadata.

A launch is made in two steps. ``bind`` checks arguments and sizes and packs what is known (:class:`Launch`);
``Launch.write`` puts the kernarg segment, and the dispatch packet where the kernel asks for one, where the
engine will read it. The layout of the explicit arguments is one ``struct.Struct`` a program; everything that
depends only on grid and block (the hidden arguments) is packed once a shape.

Meaning of the hidden arguments: LLVM, "User Guide for AMDGPU Backend", "AMDHSA Code Object V5 Kernel Argument
Metadata Map". Dispatch packet: HSA Platform System Architecture 1.2, "kernel dispatch packet".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from hcq.backend import Kernel
from hcq.errors import ArgumentTypeError, LaunchError
from hcq.memory import Buffer, Storage
from hcq.metadata import Argument, KernelInfo
from hcq.occupancy import Occupancy, occupancy
from hcq.recording import RECORDING

if TYPE_CHECKING:
    from hcq.device import Device, Image
    from hcq.eager import Prepared

__all__ = ["Launch", "Program", "Shape"]

Size = int | Sequence[int]

DYNAMIC_STACK = 16384
"""Scratch bytes a work-item for kernels whose stack the compiler could not bound (our choice)."""

_DISPATCH_PACKET = struct.Struct("<HHHHHHIIIIIQQQQ")
_PACKET_BYTES = 64
# HSA: type KERNEL_DISPATCH (2) in bits 0..7; acquire and release fence scope (2, system) in bits 9..10 and 11..12.
_PACKET_HEADER = 2 | 2 << 9 | 2 << 11
_GRID_LIMIT = (1 << 32) - 1

# OpenCL C's scalar types: the NumPy kind letters that may be passed, and the struct code for Python numbers.
_SCALARS = {
    "char": ("i", "<b"), "uchar": ("u", "<B"), "short": ("i", "<h"), "ushort": ("u", "<H"), "int": ("i", "<i"),
    "uint": ("u", "<I"), "long": ("i", "<q"), "ulong": ("u", "<Q"), "half": ("f", "<e"), "float": ("f", "<f"),
    "double": ("f", "<d"), "bool": ("b", "<?"), "unsigned char": ("u", "<B"), "signed char": ("i", "<b"),
    "unsigned short": ("u", "<H"), "unsigned int": ("u", "<I"), "unsigned long": ("u", "<Q"),
    "long long": ("i", "<q"), "unsigned long long": ("u", "<Q"), "_Float16": ("f", "<e"), "size_t": ("u", "<Q"),
}
_KINDS = {"i": "iu", "u": "iu", "f": "f", "b": "b"}


class Shape:
    """What depends only on grid, block and local memory: checked sizes, and the packed hidden arguments.

    Its text names the launch in messages; it keeps neither the program nor any buffer alive.
    """

    __slots__ = ("block", "dims", "grid", "lds", "name", "tail")

    def __init__(self, name: str, grid: tuple[int, int, int], block: tuple[int, int, int], dims: int, lds: int,
                 tail: bytes) -> None:
        self.name, self.grid, self.block, self.dims, self.lds, self.tail = name, grid, block, dims, lds, tail

    def __str__(self) -> str:
        return f"kernel {self.name!r} grid {self.grid} block {self.block}"


class Launch:
    """One launch: a program, packed explicit arguments, a shape, and the arguments themselves."""

    __slots__ = ("args", "explicit", "program", "shape")

    def __init__(self, program: Program, explicit: bytes, shape: Shape, args: Sequence[Any]) -> None:
        self.program, self.explicit, self.shape, self.args = program, explicit, shape, args

    @property
    def storages(self) -> list[Storage]:
        """The memory that the launch uses."""
        return [value._storage for value in self.args if isinstance(value, Buffer)]

    def write(self, memory: memoryview, offset: int, address: int) -> int:
        """Write the ``program.block_bytes`` at ``memory[offset]``, which the engines see at ``address``.

        :return: the address of the dispatch packet, 0 when the kernel has none.
        """
        program, shape = self.program, self.shape
        data = self.explicit + shape.tail
        memory[offset:offset + len(data)] = data
        if not program.packet_offset:
            return 0
        place = offset + program.packet_offset
        memory[place:place + _PACKET_BYTES] = program.dispatch_packet(shape, address)
        return address + program.packet_offset

    def __str__(self) -> str:
        return str(self.shape)


class Program:
    """A kernel loaded on a device. Calling it launches it, in the order of the device's other work.

        prog(out, a, b, np.int32(n), grid=(n // 256,), block=(256,))

    Arguments, in the kernel's order:

    - a pointer takes a :class:`Buffer` of the device, or None for null;
    - a value takes a NumPy scalar of its size and kind; a Python int or float where the code object names the
      type (OpenCL C does); ``bytes`` or an array of exactly its size for structures and vectors;
    - an OpenCL ``__local`` pointer takes its size in bytes, an int.

    :ivar info: registers, spills, LDS, scratch, arguments: what the code object says.
    """

    def __init__(self, device: Device, image: Image, info: KernelInfo) -> None:
        self.device = device
        self.name = info.name
        self.info = info
        self.image = image
        descriptor = info.descriptor
        self.descriptor_address = image.address + info.descriptor_offset
        private = max(info.private_bytes, DYNAMIC_STACK) if info.dynamic_stack else info.private_bytes
        self.kernel = Kernel(info.name, image.address + info.entry, descriptor.rsrc1, descriptor.rsrc2,
                             descriptor.rsrc3, descriptor.properties, info.kernarg_bytes, info.group_bytes, private,
                             info.wave_size, self.descriptor_address)
        wants_packet = "ENABLE_SGPR_DISPATCH_PTR" in descriptor.enabled
        self.wants_queue = "ENABLE_SGPR_QUEUE_PTR" in descriptor.enabled
        self.wants_id = "ENABLE_SGPR_DISPATCH_ID" in descriptor.enabled
        kernarg = max(info.kernarg_bytes, 16)
        self.packet_offset: int = kernarg + 63 & -64 if wants_packet else 0
        self.block_bytes: int = self.packet_offset + _PACKET_BYTES if wants_packet else kernarg
        self._count = len(info.arguments)
        self._converters = [_converter(self, index, argument) for index, argument in enumerate(info.arguments)]
        self._locals = [(index, argument) for index, argument in enumerate(info.arguments)
                        if argument.kind == "dynamic_shared_pointer"]
        self.explicit: struct.Struct = _layout(info.arguments)
        self._shapes: dict[tuple[Any, Any, int], Shape] = {}
        self.prepared: dict[tuple[Any, Any, int], Prepared | None] = {}

    def __call__(self, *args: Any, grid: Size = 1, block: Size = 1, lds: int = 0) -> None:
        """Launch ``grid`` workgroups of ``block`` work-items (ints, or up to three of them).

        :param lds: bytes of dynamic local memory beside the kernel's own (``extern __shared__`` of HIP).
        :raises LaunchError: the count or size of arguments, grid, block or local memory is not what the kernel or
            the device allows; :class:`ArgumentTypeError` for a wrong kind.
        """
        device = self.device
        if RECORDING and (graph := device._recording) is not None:
            graph._exec(self, args, grid, block, lds)
            return
        try:
            prepared = self.prepared[grid, block, lds]
        except (KeyError, TypeError):       # TypeError: a list, or an array
            prepared = device._eager.prepare(self, grid, block, lds)
        if prepared is None or len(args) != self._count or device._debug is not None:
            device._launch(self.bind(args, grid, block, lds))
        else:
            values = [convert(value) for convert, value in zip(self._converters, args, strict=True)]
            device._eager.launch(prepared, values)

    def bind(self, args: Sequence[Any], grid: Size, block: Size, lds: int = 0) -> Launch:
        """Check and pack everything but addresses of the launch itself."""
        if len(args) != self._count:
            raise LaunchError(f"kernel {self.info.signature} takes {self._count} arguments, {len(args)} were given")
        if self._locals:
            args, lds = self._place_locals(list(args), lds)
        values = [convert(value) for convert, value in zip(self._converters, args, strict=True)]
        return Launch(self, self.explicit.pack(*values), self.shape(grid, block, lds), args)

    def shape(self, grid: Size, block: Size, lds: int = 0) -> Shape:
        """Sizes, checked, with the hidden arguments that follow from them.

        :raises LaunchError: what the kernel or the device does not allow.
        """
        try:
            return self._shapes[grid, block, lds]
        except (KeyError, TypeError):       # TypeError: a list, or an array
            return self._shape(grid, block, lds)

    def occupancy(self, block: Size, lds: int = 0) -> Occupancy | None:
        """How many waves fit at a time with workgroups of ``block`` work-items and ``lds`` bytes of dynamic memory.

        :raises LaunchError: as a launch with them.
        """
        shape = self.shape(1, block, lds)
        items = shape.block[0] * shape.block[1] * shape.block[2]
        return occupancy(self.info, self.device.properties, items, self.kernel.group_bytes + shape.lds)

    def dispatch_packet(self, shape: Shape, kernarg: int) -> bytes:
        """An HSA kernel dispatch packet, for kernels that read their sizes there."""
        (x, y, z), (bx, by, bz) = shape.grid, shape.block
        return _DISPATCH_PACKET.pack(
            _PACKET_HEADER, shape.dims, bx, by, bz, 0, x * bx, y * by, z * bz, self.kernel.private_bytes,
            self.kernel.group_bytes + shape.lds, self.descriptor_address, kernarg, 0, 0)

    def _place_locals(self, args: list[Any], lds: int) -> tuple[list[Any], int]:
        """Local-memory arguments become offsets in LDS, after the kernel's own and ``lds``."""
        end = self.kernel.group_bytes + lds
        for index, argument in self._locals:
            nbytes = args[index]
            if isinstance(nbytes, bool) or not isinstance(nbytes, (int, np.integer)):
                raise ArgumentTypeError(f"{_label(self, index, argument)} is local memory: pass its size in bytes, "
                                        f"an int, not {_kind_of(nbytes)}")
            if nbytes < 0:
                raise LaunchError(f"{_label(self, index, argument)}: local memory of {nbytes} bytes")
            place = end + argument.pointee_align - 1 & -argument.pointee_align
            args[index] = place
            end = place + int(nbytes)
        return args, end - self.kernel.group_bytes

    def _shape(self, grid: Size, block: Size, lds: int) -> Shape:
        info, properties = self.info, self.device.properties
        grid3, block3 = _size3(self, "grid", grid), _size3(self, "block", block)
        items = block3[0] * block3[1] * block3[2]
        largest = min(info.max_workgroup, properties.max_workgroup)
        if info.required_workgroup is not None and block3 != info.required_workgroup:
            raise LaunchError(f"kernel {self.name!r} was compiled for workgroups of {info.required_workgroup} "
                              f"(reqd_work_group_size), block is {block3}")
        if items > largest:
            raise LaunchError(f"kernel {self.name!r}: a block of {block3} is {items} work-items; the kernel allows "
                              f"{info.max_workgroup} (max_flat_workgroup_size), the device {properties.max_workgroup}")
        for axis, groups, size in zip("xyz", grid3, block3, strict=True):
            if groups * size > _GRID_LIMIT:
                raise LaunchError(f"kernel {self.name!r}: {groups} workgroups of {size} in {axis} are more than "
                                  f"{_GRID_LIMIT} work-items")
        if isinstance(lds, bool) or not isinstance(lds, (int, np.integer)) or lds < 0:
            raise LaunchError(f"kernel {self.name!r}: lds is a number of bytes, not {lds!r}")
        if info.group_bytes + lds > properties.lds_bytes:
            raise LaunchError(f"kernel {self.name!r}: {info.group_bytes} bytes of its own local memory and {lds} "
                              f"dynamic ones; a workgroup of {self.device.name} has {properties.lds_bytes}")
        dims = max(_dims(grid), _dims(block))
        shape = Shape(self.name, grid3, block3, dims, int(lds), self._hidden(grid3, block3, dims, int(lds)))
        if len(self._shapes) >= 256:
            self._shapes.clear()
        with suppress(TypeError):           # unhashable
            self._shapes[grid, block, lds] = shape
        return shape

    def _hidden(self, grid: tuple[int, int, int], block: tuple[int, int, int], dims: int, lds: int) -> bytes:
        """The kernarg segment from the end of the explicit arguments on."""
        properties = self.device.properties
        values = {"hidden_grid_dims": dims, "hidden_dynamic_lds_size": lds,
                  "hidden_private_base": properties.private_aperture >> 32,
                  "hidden_shared_base": properties.shared_aperture >> 32,
                  "hidden_queue_ptr": 0}
        for axis, groups, size in zip("xyz", grid, block, strict=True):
            values[f"hidden_block_count_{axis}"] = groups       # full ones; grid is in workgroups, so all are,
            values[f"hidden_group_size_{axis}"] = size
            values[f"hidden_remainder_{axis}"] = 0              # and no partial one is left over
            values[f"hidden_global_offset_{axis}"] = 0
        if any(argument.kind == "hidden_queue_ptr" for argument in self.info.hidden):
            values["hidden_queue_ptr"] = self.device._queue_block()
        # The rest are services of the HIP and OpenCL runtimes (printf and hostcall buffers, the device heap, device
        # enqueue, multi-grid sync): null says that there is none.
        start = self.explicit.size
        tail = bytearray(max(self.kernel.kernarg_bytes, start) - start)
        for argument in self.info.hidden:
            value = values.get(argument.kind, 0) & (1 << 8 * argument.size) - 1
            place = argument.offset - start
            tail[place:place + argument.size] = value.to_bytes(argument.size, "little")
        return bytes(tail)

    def __repr__(self) -> str:
        info = self.info
        return (f"Program({info.signature} on {self.device.name}: {info.vgprs} VGPRs, {info.sgprs} SGPRs, "
                f"{info.group_bytes} bytes LDS, {self.kernel.private_bytes} scratch, wave{info.wave_size})")


def _dims(size: Size) -> int:
    return 1 if isinstance(size, (int, np.integer)) else len(size)


def _size3(program: Program, what: str, size: Size) -> tuple[int, int, int]:
    sizes = tuple(size) if isinstance(size, Sequence | np.ndarray) else (size,)
    if not 1 <= len(sizes) <= 3 or not all(isinstance(n, (int, np.integer)) and not isinstance(n, bool)
                                           and 1 <= n <= _GRID_LIMIT for n in sizes):
        raise LaunchError(f"kernel {program.name!r}: {what} is one to three sizes of at least 1, not {size!r}")
    x, y, z = (*map(int, sizes), 1, 1)[:3]
    return x, y, z


def _layout(arguments: Sequence[Argument]) -> struct.Struct:
    """The explicit arguments as a struct: each where the metadata says, zeros between."""
    codes, end = "<", 0
    for argument in arguments:
        code = {"global_buffer": "Q", "dynamic_shared_pointer": "I"}.get(argument.kind, f"{argument.size}s")
        codes += f"{argument.offset - end}x{code}"
        end = argument.offset + argument.size
    return struct.Struct(codes)


def _label(program: Program, index: int, argument: Argument) -> str:
    return f"argument {index} of kernel {program.name!r}, {argument},"


def _kind_of(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.dtype}{list(value.shape)}"
    if isinstance(value, np.generic):
        return f"np.{value.dtype}"
    return f"{type(value).__name__} {value!r}"[:80]


def _packer(value: np.number[Any]) -> Callable[[Any], bytes]:
    """The fastest way from NumPy scalars of one type to their bytes (``tobytes`` is slow)."""
    if isinstance(value, np.integer):
        code = {1: "b", 2: "h", 4: "i", 8: "q"}[value.dtype.itemsize]
        return struct.Struct("<" + (code if value.dtype.kind == "i" else code.upper())).pack
    return lambda each: each.data.tobytes()         # floats bit for bit, NaNs too


def _converter(program: Program, index: int, argument: Argument) -> Callable[[Any], Any]:
    """The function that checks one argument and returns what ``struct`` packs."""
    label = _label(program, index, argument)
    device = program.device
    if argument.kind == "dynamic_shared_pointer":
        return lambda value: value          # an offset by now
    if argument.kind == "global_buffer":
        def buffer(value: Any) -> int:
            if isinstance(value, Buffer):
                if value.device is not device:
                    raise LaunchError(f"{label} is a buffer of {value.device.name}; the kernel runs on {device.name}")
                memory = value._storage.memory          # Buffer.address, without its two calls
                return value.address if memory is None else memory.address + value._offset
            if value is None:
                return 0
            raise ArgumentTypeError(f"{label} takes a Buffer, not {_kind_of(value)}"
                                    + ("; copy it to the device first" if isinstance(value, np.ndarray) else ""))
        return buffer
    size = argument.size
    kind, code = _SCALARS.get(argument.type_name, ("", ""))
    if code and struct.calcsize(code) != size:
        kind = code = ""

    plain: dict[type, Callable[[Any], bytes]] = {}      # types of NumPy scalars that were found to fit

    def scalar(value: Any) -> bytes:
        if type(value) in plain:
            return plain[type(value)](value)
        if isinstance(value, np.generic) and not isinstance(value, np.void):
            if kind and value.dtype.kind not in _KINDS[kind]:
                raise ArgumentTypeError(f"{label} is not a {_kind_of(value)}")
            data = value.tobytes()
        elif isinstance(value, (bool, int, float)):
            return _python_number(value)
        elif isinstance(value, (bytes, bytearray, np.ndarray, np.void)):
            data = bytes(value) if isinstance(value, (bytes, bytearray)) else value.tobytes()
        else:
            raise ArgumentTypeError(f"{label} takes a NumPy scalar or {size} bytes, not {_kind_of(value)}")
        if len(data) != size:
            raise LaunchError(f"{label} has {size} bytes; {_kind_of(value)} has {len(data)}")
        if isinstance(value, np.number):
            plain[type(value)] = _packer(value)
        return data

    def _python_number(value: bool | int | float) -> bytes:
        if not code:
            raise ArgumentTypeError(f"{label}: the code object does not say what type it is, so {value!r} is "
                                    f"ambiguous; pass a NumPy scalar of {size} bytes")
        if isinstance(value, float) and kind != "f":
            raise ArgumentTypeError(f"{label} is not a float; {value!r} was given")
        try:
            return struct.pack(code, value)
        except (struct.error, OverflowError) as error:
            raise LaunchError(f"{label} cannot hold {value!r}") from error

    return scalar
