"""PyTorch's .pt and .pth files: the zip form (since 1.6) and the older stream of pickles. Nothing in them is executed.

A pickle is a program for a stack machine that may call anything. Here a small machine of our own reads it
(``pickletools`` names the instructions): it makes containers, strings and numbers, and knows by name the few functions
that rebuild tensors. Whatever else a file asks for is an error that names it.

zip: ``NAME/data.pkl``, ``NAME/byteorder``, and each storage's bytes in ``NAME/data/KEY``. Stream: pickles of a magic
number, a version, the sizes of types, the object and the storages' keys, then each storage: a count (int64) and bytes
(PyTorch, torch/serialization.py, _save and _legacy_save).
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.dtypes import DType
from compiler.files.archives import members
from compiler.files.source import File, FileFormatError, Source, SourceFile, open_source
from compiler.tensor import Tensor

__all__ = ["torch_load"]

MAGIC = 0x1950A86A20F9469CFC6C          # torch/serialization.py, MAGIC_NUMBER
PROTOCOL = 1001                         # there, PROTOCOL_VERSION
STORAGES: dict[str, DType] = {
    "FloatStorage": dtypes.float32, "DoubleStorage": dtypes.float64, "HalfStorage": dtypes.float16,
    "BFloat16Storage": dtypes.bfloat16, "LongStorage": dtypes.int64, "IntStorage": dtypes.int32,
    "ShortStorage": dtypes.int16, "CharStorage": dtypes.int8, "ByteStorage": dtypes.uint8, "BoolStorage": dtypes.bool_,
    "UntypedStorage": dtypes.uint8}
DTYPES: dict[str, DType] = {
    "float32": dtypes.float32, "float64": dtypes.float64, "float16": dtypes.float16, "bfloat16": dtypes.bfloat16,
    "int64": dtypes.int64, "int32": dtypes.int32, "int16": dtypes.int16, "int8": dtypes.int8, "uint8": dtypes.uint8,
    "uint16": dtypes.uint16, "uint32": dtypes.uint32, "uint64": dtypes.uint64, "bool": dtypes.bool_,
    "float8_e4m3fn": dtypes.float8_e4m3, "float8_e5m2": dtypes.float8_e5m2}


def torch_load(file: File, device: str | None = None) -> Any:
    """What was saved: usually a dict of tensors, perhaps nested, with numbers and strings beside them.

    Parameters come as tensors, ordered dicts as dicts, and tensors that shared memory as copies.

    :raises FileFormatError: the file is damaged, or asks for something that is not needed to rebuild tensors.
    """
    source = open_source(file)
    head = source.read(0, min(4, source.size))
    try:
        return _load_zip(source, device) if head.startswith(b"PK") else _load_stream(source, device)
    except FileFormatError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, EOFError, UnicodeError,
            RecursionError) as error:
        raise source.error(f"no PyTorch file, or a damaged one: {error!r:.200}") from None


class _Global:
    """A name that the pickle mentions."""

    def __init__(self, module: str, name: str) -> None:
        self.path = module, name

    def __repr__(self) -> str:
        return ".".join(self.path)


class _Storage:
    """Elements of one type. Where they are is known at once (zip) or when the pickles are read (stream)."""

    def __init__(self, key: str, dtype: DType, count: int) -> None:
        self.key, self.dtype, self.count = key, dtype, count
        self.source: Source | None = None
        self.offset = 0

    def place(self, source: Source, offset: int, nbytes: int) -> None:
        if self.count * self.dtype.itemsize > nbytes:
            raise source.error(f"storage {self.key} has {nbytes} bytes, and {self.count} elements of {self.dtype.name} "
                               "are wanted")
        self.source, self.offset = source, offset


class _View:
    """A tensor of a storage, made when the storage's place is known."""

    def __init__(self, storage: _Storage, dtype: DType, offset: int, shape: tuple[int, ...],
                 strides: tuple[int, ...]) -> None:
        self.storage, self.dtype, self.offset, self.shape, self.strides = storage, dtype, offset, shape, strides

    def make(self, device: str | None) -> Tensor:
        storage, dtype = self.storage, self.dtype
        source = storage.source
        assert source is not None
        if 0 in self.shape:
            return Tensor.zeros(*self.shape, dtype=dtype, device=device)
        count = storage.count * storage.dtype.itemsize // dtype.itemsize
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if min((self.offset, *self.strides)) < 0 or last >= count:
            raise source.error(f"a tensor of shape {self.shape} with strides {self.strides} at {self.offset} is not "
                               f"within storage {storage.key} of {count} elements")
        dense = True
        step = 1
        for n, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            dense, step = dense and (n == 1 or stride == step), step * n
        begin = storage.offset + self.offset * dtype.itemsize
        if dense:
            return source.tensor(begin, dtype, self.shape, device)
        if math.prod(self.shape) > max(1 << 30, 16 * count):
            raise source.error(f"a tensor of shape {self.shape} repeats the {count} elements of storage {storage.key}")
        flat = np.frombuffer(source.read(begin, (last - self.offset + 1) * dtype.itemsize), np.uint8)
        codes = np.dtype(f"u{dtype.itemsize}")
        spread = np.lib.stride_tricks.as_strided(flat.view(codes), self.shape,
                                                 [dtype.itemsize * stride for stride in self.strides])
        part = open_source(np.ascontiguousarray(spread).tobytes())
        return part.tensor(0, dtype, self.shape, device)


# ---- the two forms

def _load_zip(source: Source, device: str | None) -> Any:
    files = members(source)
    pickles = [name for name in files if name.endswith("/data.pkl") or name == "data.pkl"]
    if len(pickles) != 1:
        raise source.error("a zip archive, but not one of PyTorch's: it has no single data.pkl")
    folder = pickles[0].removesuffix("data.pkl")

    def content(name: str) -> tuple[Source, int, int]:
        place = files.get(folder + name)
        if place is None:
            raise source.error(f"{folder + name!r} is not in the archive")
        if isinstance(place, bytes):
            return open_source(place), 0, len(place)
        return source, *place
    if folder + "byteorder" in files:
        where, offset, size = content("byteorder")
        if (order := where.read(offset, size)) != b"little":
            raise source.error(f"its byte order is {order!r:.20}; little-endian files are read here")
    where, offset, size = content("data.pkl")
    machine = _Machine(source, where.read(offset, size))
    found = machine.run()
    for storage in machine.storages.values():
        storage.place(*content(f"data/{storage.key}"))
    return _made(found, device)


def _load_stream(source: Source, device: str | None) -> Any:
    stream = io.BufferedReader(SourceFile(source))
    first = stream.peek(1)[:1]
    if first != b"\x80":
        raise source.error("no PyTorch file: it is neither a zip archive nor a pickle")
    if _Machine(source, stream).run() != MAGIC:
        raise source.error("a pickle, but not one of PyTorch's: its magic number is missing")
    version = _Machine(source, stream).run()
    if version != PROTOCOL:
        raise source.error(f"version {version!r:.20} of the format; {PROTOCOL} is known")
    system = _Machine(source, stream).run()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise source.error("it was written on a big-endian machine; little-endian files are read here")
    machine = _Machine(source, stream)
    found = machine.run()
    keys = _Machine(source, stream).run()
    if not isinstance(keys, list):
        raise source.error("the list of its storages is missing")
    at = stream.tell()
    for key in keys:
        storage = machine.storages.get(key)
        if storage is None:
            raise source.error(f"storage {key!r:.40} belongs to no tensor")
        count = int.from_bytes(source.read(at, 8), "little", signed=True)
        if count != storage.count:
            raise source.error(f"storage {key} has {count} elements, and its tensors say {storage.count}")
        source._check(at + 8, count * storage.dtype.itemsize)
        storage.place(source, at + 8, count * storage.dtype.itemsize)
        at += 8 + count * storage.dtype.itemsize
    missing = [storage.key for storage in machine.storages.values() if storage.source is None]
    if missing:
        raise source.error(f"storage {missing[0]} is missing")
    return _made(found, device)


def _made(found: Any, device: str | None) -> Any:
    """The same containers with tensors for views; each container once, however often it is referred to."""
    done: dict[int, Any] = {}
    work: list[Callable[[], None]] = []

    def convert(value: Any) -> Any:
        if id(value) in done:
            return done[id(value)]
        if isinstance(value, _View):
            done[id(value)] = out = value.make(device)
            return out
        if isinstance(value, dict):
            new: Any = {}
            work.append(lambda: new.update({convert(k): convert(v) for k, v in value.items()}))
        elif isinstance(value, list):
            new = []
            work.append(lambda: new.extend(convert(v) for v in value))
        elif isinstance(value, tuple):
            return tuple(convert(v) for v in value)
        elif isinstance(value, _Storage | _Global):
            raise ValueError(f"{value!r:.60} stands where a value is expected")
        else:
            return value
        done[id(value)] = new
        return new
    out = convert(found)
    while work:
        work.pop()()
    return out


# ---- the stack machine

_MARK = object()


class _Machine:
    """One pickle, read to its STOP."""

    def __init__(self, source: Source, pickle: Any) -> None:
        self.source, self._pickle = source, pickle
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, _Storage] = {}

    def run(self) -> Any:
        for opcode, argument, _ in pickletools.genops(self._pickle):
            name = opcode.name
            if name == "STOP":
                return self._pop()
            action = _ACTIONS.get(name)
            if action is not None:
                action(self, argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _LITERALS:
                self.stack.append(argument)
            elif name not in ("PROTO", "FRAME"):
                raise self.source.error(f"the pickle has the instruction {name}, which no file of tensors needs")
        raise self.source.error("the pickle does not end")

    def _pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise self.source.error("the pickle takes from an empty stack")
        return self.stack.pop()

    def _marked(self) -> list[Any]:
        for i in range(len(self.stack) - 1, -1, -1):
            if self.stack[i] is _MARK:
                items = self.stack[i + 1:]
                del self.stack[i:]
                return items
        raise self.source.error("the pickle looks for a mark that is not there")

    def _top(self, kind: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise self.source.error(f"the pickle adds to something that is no {kind.__name__}")
        return self.stack[-1]

    def put(self, index: int | None) -> None:
        if not self.stack:
            raise self.source.error("the pickle remembers the top of an empty stack")
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise self.source.error(f"the pickle recalls {index}, which it has not put by")
        self.stack.append(self.memo[index])

    def tuple_of(self, count: int) -> None:
        self.stack.append(tuple(reversed([self._pop() for _ in range(count)])))

    def set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise self.source.error("the pickle has a key without a value")
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key] = value

    def new_dict(self, items: list[Any]) -> None:
        self.stack.append({})
        self.set_items(items)

    def one_item(self) -> None:
        value, key = self._pop(), self._pop()
        self.set_items([key, value])

    def append(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def named(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise self.source.error("the pickle names a function by something that is no text")
        self.stack.append(_Global(module, name))

    def stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self.named(module, name)

    def build(self) -> None:
        """State of an object: dicts come with attributes that nobody needs (a state_dict's _metadata)."""
        self._pop()
        self._top(dict)

    def reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        self.stack.append(self.call(function, arguments))

    def call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise self.source.error("the pickle calls something that is no function")
        known = _CALLS.get(function.path)
        if known is None:
            raise self.source.error(f"the file asks for {function}, which is not needed for tensors and is not called; "
                                    "save a state_dict of tensors instead")
        return known(self, *arguments)

    def persistent(self) -> None:
        """('storage', type, key, location, count) and, in streams, what the storage is a view of."""
        found = self._pop()
        if not isinstance(found, tuple) or len(found) < 5 or found[0] != "storage":
            raise self.source.error(f"the pickle refers to {found!r:.60}, which is no storage")
        kind, key, count = found[1], found[2], found[4]
        if not isinstance(kind, _Global) or kind.path[0] not in ("torch", "torch.storage") \
                or kind.path[1] not in STORAGES:
            raise self.source.error(f"a storage of type {kind!r:.60}; known are {', '.join(STORAGES)}")
        if not isinstance(key, str) or not isinstance(count, int) or count < 0 or (len(found) > 5 and found[5]):
            raise self.source.error(f"the pickle refers to the storage {found!r:.80}, which makes no sense")
        storage = self.storages.setdefault(key, _Storage(key, STORAGES[kind.path[1]], count))
        if storage.count != count or storage.dtype is not STORAGES[kind.path[1]]:
            raise self.source.error(f"storage {key} has two types or sizes")
        self.stack.append(storage)

    # ---- functions that files may ask for

    def ordered_dict(self, pairs: Any = ()) -> dict[Any, Any]:
        return dict(pairs)

    def view(self, storage: Any, offset: Any, shape: Any, strides: Any, *_rest: Any,
             dtype: DType | None = None) -> _View:
        numbers = (offset, *shape, *strides)
        if not isinstance(storage, _Storage) or not all(isinstance(n, int) for n in numbers) \
                or len(shape) != len(strides) or min(numbers) < 0:
            raise self.source.error(f"a tensor with offset {offset!r:.20}, shape {shape!r:.60} and strides "
                                    f"{strides!r:.60} makes no sense")
        return _View(storage, dtype or storage.dtype, offset, tuple(shape), tuple(strides))

    def typed_view(self, storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, dtype: Any,
                   *_rest: Any) -> _View:
        if not isinstance(dtype, _Global) or dtype.path[0] != "torch" or dtype.path[1] not in DTYPES:
            raise self.source.error(f"a tensor of type {dtype!r:.40}; known are {', '.join(DTYPES)}")
        return self.view(storage, offset, shape, strides, dtype=DTYPES[dtype.path[1]])

    def parameter(self, data: Any, *_rest: Any) -> Any:
        return data

    def of_type(self, function: Any, _type: Any, arguments: Any, _state: Any) -> Any:
        return self.call(function, arguments)

    def size(self, values: Any = ()) -> tuple[Any, ...]:
        return tuple(values)

    def device(self, *parts: Any) -> str:
        return ":".join(str(part) for part in parts)


_CALLS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _Machine.ordered_dict,
    ("torch._utils", "_rebuild_tensor"): _Machine.view,
    ("torch._utils", "_rebuild_tensor_v2"): _Machine.view,
    ("torch._utils", "_rebuild_tensor_v3"): _Machine.typed_view,
    ("torch._utils", "_rebuild_parameter"): _Machine.parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _Machine.parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _Machine.of_type,
    ("torch", "Size"): _Machine.size,
    ("torch", "device"): _Machine.device,
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE",
             "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES",
             "SHORT_BINBYTES", "BINBYTES8"}
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": lambda m, _: m.stack.append(_MARK),
    "POP": lambda m, _: (m.stack.pop(), None)[1],
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "EMPTY_SET": lambda m, _: m.stack.append([]),
    "DICT": lambda m, _: m.new_dict(m._marked()),
    "LIST": lambda m, _: m.stack.append(m._marked()),
    "TUPLE": lambda m, _: m.stack.append(tuple(m._marked())),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "PUT": lambda m, index: m.put(index),
    "BINPUT": lambda m, index: m.put(index),
    "LONG_BINPUT": lambda m, index: m.put(index),
    "MEMOIZE": lambda m, _: m.put(None),
    "GET": lambda m, index: m.get(index),
    "BINGET": lambda m, index: m.get(index),
    "LONG_BINGET": lambda m, index: m.get(index),
    "SETITEM": lambda m, _: m.one_item(),
    "SETITEMS": lambda m, _: m.set_items(m._marked()),
    "APPEND": lambda m, _: m.append([m._pop()]),
    "APPENDS": lambda m, _: m.append(m._marked()),
    "ADDITEMS": lambda m, _: m.append(m._marked()),
    "GLOBAL": lambda m, text: m.named(*text.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.stack_global(),
    "REDUCE": lambda m, _: m.reduce(),
    "NEWOBJ": lambda m, _: m.reduce(),
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.persistent(),
}
