"""The Tensor: eager to read, lazy to run.

A tensor is a node of a graph. Operations only build nodes; ``realize`` (or anything that needs values: ``numpy``,
``item``, ``tolist``) schedules and runs what is needed. Names and meanings are PyTorch's.

In-place assignment is functional underneath: a value taken before an assignment never sees it.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from compiler import dtypes, graph, sharding
from compiler.buffer import Buffer
from compiler.dtypes import DType, DTypeLike
from compiler.engine import realize
from compiler.gradient import gradients
from compiler.methods.activations import Activations
from compiler.methods.convolution import Convolution
from compiler.methods.creation import Creation
from compiler.methods.diagonals import Diagonals
from compiler.methods.elementwise import Elementwise
from compiler.methods.exchange import Exchange
from compiler.methods.functions import Functions
from compiler.methods.images import Images
from compiler.methods.indexing import Indexing
from compiler.methods.inplace import InPlace
from compiler.methods.interpolation import Interpolation
from compiler.methods.joining import Joining
from compiler.methods.linalg import Linalg
from compiler.methods.losses import Losses
from compiler.methods.movement import Movement
from compiler.methods.normalization import Normalization
from compiler.methods.ordering import Ordering
from compiler.methods.padding import Padding
from compiler.methods.pooling import Pooling
from compiler.methods.products import Products
from compiler.methods.random import Random
from compiler.methods.rarer import Rarer
from compiler.methods.reduce import Reduce
from compiler.methods.scan import Scan
from compiler.methods.scatter import Scatter
from compiler.methods.spellings import Spellings
from compiler.places import mark
from compiler.runtime import canonical, default_device
from compiler.uop import Ops, UOp
from compiler.variable import Size, number
from compiler.views import Step, Store, settled, written

__all__ = ["Tensor", "is_grad_enabled", "no_grad"]

_grad_enabled = True
_unique = 0


@contextlib.contextmanager
def no_grad() -> Iterator[None]:
    """Operations inside are constants to differentiation. Also a decorator."""
    global _grad_enabled
    before, _grad_enabled = _grad_enabled, False
    try:
        yield
    finally:
        _grad_enabled = before


def is_grad_enabled() -> bool:
    """Whether operations are recorded for gradients: False inside :class:`no_grad`."""
    return _grad_enabled


class _Count(int):
    """The number of a tensor's elements, which may be called."""

    _tensor: Tensor

    def _of(self, tensor: Tensor) -> _Count:
        self._tensor = tensor
        return self

    def __call__(self, dim: int | None = None) -> Any:
        return self._tensor.shape if dim is None else self._tensor.shape[self._tensor._axis(dim)]


class Tensor(Creation, Random, Elementwise, Functions, Activations, Movement, Joining, Padding, Indexing, Scatter,
             Diagonals, Reduce, Scan, Ordering, Products, Convolution, Pooling, Interpolation, Normalization,
             Losses, Linalg, Images, InPlace, Exchange, Spellings, Rarer):
    """An array of one type on one device.

    :param data: a Python number, nested lists of them, a NumPy array, bytes of a buffer, or another tensor.
    :param dtype: default: that of the array; int32 and float32 for Python numbers.
    :param device: "CPU", "AM", "AM:1" ...; default: CPU, or AM with ``AM=1`` in the environment.
    """

    __slots__ = ("uop", "_device", "requires_grad", "grad", "_names", "_store", "_steps", "__weakref__")
    __array_priority__ = 100        # so that NumPy arrays and scalars on the left leave the operation to us

    _live: ClassVar[weakref.WeakSet[Tensor]] = weakref.WeakSet()
    _leaves: ClassVar[weakref.WeakSet[Tensor]] = weakref.WeakSet()
    # by id: to a set's own comparison two tensors are an elementwise question
    _assigned: ClassVar[weakref.WeakValueDictionary[int, Tensor]] = weakref.WeakValueDictionary()

    uop: UOp
    grad: Tensor | None

    def __init__(self, data: Any, dtype: DTypeLike | None = None, device: str | None = None,
                 requires_grad: bool = False) -> None:
        self._device = canonical(device) if device is not None else default_device()
        self.requires_grad = False
        self.grad = None
        self._store: Store | None = None        # of which this is a view, by these steps; the owner's has none
        self._steps: tuple[Step, ...] = ()
        self._names: list[UOp] = []     # a leaf's nodes: what graphs know it by, since it was last assigned
        want = dtypes.of(dtype) if dtype is not None else None
        if isinstance(data, UOp):
            self.uop = data
            if data.device is not None:
                self._device = data.device
        elif isinstance(data, Tensor):
            self.uop = graph.copy(data.uop if want is None else graph.cast(data.uop, want), self._device)
        elif isinstance(data, Size):
            self.uop = graph.cast(UOp(Ops.SIZE, dtypes.default_int, (), data), want or dtypes.default_int)
        elif isinstance(data, bool | int | float | np.bool_ | np.number):
            self.uop = graph.scalar(want or (dtypes.of(data.dtype) if isinstance(data, np.generic) else
                                             dtypes.of_scalar(data)), data)
        else:
            self.uop = _upload(data, want, self._device)
        mark(self.uop)
        Tensor._live.add(self)
        if requires_grad:
            self.requires_grad_()

    def _new(self, uop: UOp, *others: Tensor) -> Tensor:
        """The result of an operation on this tensor and others."""
        out = object.__new__(Tensor)        # __init__ sorts out what data may be; this is a node
        if uop.place is None:
            mark(uop)
        out.uop, out._device = uop, uop.device or self._device
        out.requires_grad, out.grad, out._names, out._store, out._steps = False, None, [], None, ()
        Tensor._live.add(out)
        if _grad_enabled and uop.dtype.is_float and (self.requires_grad or any(t.requires_grad for t in others)):
            out.requires_grad = True
        return out

    def _viewed(self, uop: UOp, step: Step) -> Tensor:
        """A view of this tensor, one step away."""
        out = self._new(uop)
        if self._store is None:
            self._store = Store(self)
        steps = (*self._steps, step)
        if self.requires_grad and not _grad_enabled:
            steps = (*self._steps, ("detach",), step)
        out._store, out._steps = self._store, steps
        self._store.add(out)
        return out

    def _copied(self) -> Tensor:
        """This value as one that is no view, of something that a method must not give away."""
        return self._new(self.uop, self)

    @property
    def _node(self) -> UOp:
        """The node to build on: without history where none is wanted."""
        uop = self.uop
        if self.requires_grad:
            if not _grad_enabled:
                return UOp(Ops.DETACH, uop.dtype, (uop,))
        elif uop.op is not Ops.BUFFER and (leaf := graph.leaf_of(uop)) is not None and leaf is not uop:
            self.uop = uop = leaf
        return uop

    # what it is

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return self.uop.shape

    @property
    def dtype(self) -> DType:
        """The elements' type, one of :mod:`compiler.dtypes`."""
        return self.uop.dtype

    @property
    def device(self) -> str:
        """The device's name, such as "CPU" or "AM:1"."""
        return self._device

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return len(self.uop.shape)

    @property
    def size(self) -> Any:
        """The number of elements, as NumPy has it; called, as PyTorch has it, the shape or one axis of it."""
        return _Count(number(self.numel()))._of(self)

    def numel(self) -> int:
        """How many elements there are."""
        return self.uop.size

    def dim(self) -> int:
        """How many axes there are."""
        return self.ndim

    def element_size(self) -> int:
        """Bytes of an element."""
        return self.dtype.itemsize

    @property
    def itemsize(self) -> int:
        """Bytes an element."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.numel() * self.dtype.itemsize

    def is_floating_point(self) -> bool:
        """Whether the elements are floats."""
        return self.dtype.is_float

    @property
    def data(self) -> Tensor:
        """:meth:`detach`, as PyTorch has it; called, as tinygrad has it, the values' bytes. May be assigned to."""
        out = self.detach()
        out.__class__ = _Data
        return out

    @data.setter
    def data(self, value: Any) -> None:
        with no_grad():
            self.assign(value)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a tensor without axes")
        return self.shape[0]

    def __bool__(self) -> bool:
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.dtype.is_float:
            raise TypeError("only an integer tensor can be an index")
        return int(self.item())

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        if graph.is_stored(self.uop) or sharding.stored(self.uop) is not None:
            body = np.array2string(self.numpy(), separator=", ", prefix="Tensor(", threshold=200)
        else:
            body = f"<{self.shape} not computed yet>"
        extra = f", dtype={self.dtype.name}" if self.dtype not in (dtypes.float32, dtypes.int32, dtypes.bool_) else ""
        extra += f", device={self.device}" if self.device != "CPU" else ""
        return f"Tensor({body}{extra}{', requires_grad=True' if self.requires_grad else ''})"

    # values

    def realize(self, *others: Tensor) -> Tensor:
        """Compute this tensor (and others) now, in one schedule."""
        realize_all([self, *others])
        return self

    def clone(self, memory_format: Any = None) -> Tensor:
        """The same value, to be assigned to on its own. ``memory_format`` means nothing: all is row by row."""
        return self._new(self._node, self)

    def contiguous(self, memory_format: Any = None) -> Tensor:
        """The same value in memory of its own when it is computed, row by row, whatever ``memory_format`` says."""
        if self.uop.op in (Ops.BUFFER, Ops.CONTIGUOUS):
            return self
        return self._new(UOp(Ops.CONTIGUOUS, self.dtype, (self._node,)), self)

    def _buffer(self) -> Buffer:
        """The memory with this tensor's value, row by row."""
        if sharding.JOIN in self._device:
            raise RuntimeError(f"a tensor over {self.device} lies in several memories; .to() one device first")
        if (leaf := graph.leaf_of(self.uop)) is None:
            self.realize()
            leaf = graph.leaf_of(self.uop)
            assert leaf is not None
        while leaf.op is Ops.RESHAPE:
            leaf = leaf.src[0]
        buffer, version, _ = leaf.arg
        if buffer.version != version:
            raise RuntimeError(f"{buffer} was overwritten in place after this value was taken from it")
        return buffer

    def numpy(self) -> np.ndarray:
        """The values as a new NumPy array. bfloat16 and fp8, which NumPy lacks, come as float32."""
        if self.numel() == 0:
            return np.empty([number(n) for n in self.shape], self.dtype.np_values)
        if sharding.JOIN in self._device:
            parts = self._parts()
            axis = sharding.axis_of(self.uop)
            return parts[0].numpy() if axis is None else np.concatenate([p.numpy() for p in parts], axis)
        data = self._buffer().read()
        if not all(isinstance(n, int) for n in self.shape):     # there is room for the greatest size
            data = data[:number(self.numel())]
        return self.dtype.decode(data).reshape([number(n) for n in self.shape])

    def item(self) -> Any:
        """The value of a tensor of one element, as a Python number."""
        if self.numel() != 1:
            raise ValueError(f"item() needs a tensor of one element, this one is {self.shape}")
        return self.numpy().reshape(-1)[0].item()

    def tolist(self) -> Any:
        """Nested lists of Python numbers; without axes, one number. Runs the graph."""
        return self.numpy().tolist()

    # where it is

    def to(self, target: Any = None, dtype: DTypeLike | None = None, non_blocking: bool = False, copy: bool = False,
           *, device: str | None = None, memory_format: Any = None) -> Tensor:
        """On another device ("CPU", "AM", ...), or of another type, or both; or as another tensor is. ``copy``: never
        this tensor itself. ``non_blocking`` and ``memory_format`` are taken and mean nothing: all is lazy, and row by
        row."""
        if isinstance(dtype, bool):     # PyTorch's to(dtype, non_blocking, copy)
            dtype, copy = None, non_blocking
        if copy:
            out = self.to(target, dtype, device=device)
            return out.clone() if out is self else out
        target = device if target is None else target
        if target is None:
            return self if dtype is None else self.cast(dtype)
        if isinstance(target, Tensor):
            target, dtype = target.device, target.dtype
        if dtype is not None:
            return self.to(target).cast(dtype)
        if isinstance(target, str) and target not in dtypes._BY_NAME:
            device = canonical(target)
            if device == self._device:
                return self
            if sharding.JOIN in device:
                sharding.use()
            if self.uop.device is None:
                out = self._new(self._node, self)
                out._device = device
                return out
            return self._new(graph.copy(self._node, device), self)
        return self.cast(target)        # type: ignore[no-any-return]

    def cpu(self) -> Tensor:
        """On "CPU"; see :meth:`to`."""
        return self.to("CPU")

    def shard(self, devices: Sequence[str], axis: int | None = None) -> Tensor:
        """Over several devices: an axis in equal parts (the last may be smaller), or the whole on each.

        Everything works on it as on one tensor; ``to`` brings it to one device. See :mod:`compiler.sharding`.
        """
        return self._new(sharding.shard(self._node, devices, None if axis is None else self._axis(axis)), self)

    def _parts(self) -> list[Tensor]:
        """The parts of a sharded tensor, computed."""
        self.realize()
        stored = sharding.stored(self.uop)
        assert stored is not None
        return [Tensor(s, device=d) for s, d in zip(stored.src, stored.arg[1], strict=True)]

    # differentiation

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Make this a leaf whose ``grad`` :meth:`backward` fills in."""
        global _unique
        if requires_grad and not self.dtype.is_float:
            raise RuntimeError(f"only floating-point tensors have gradients, not {self.dtype.name}")
        if requires_grad and not self.requires_grad:
            if _under(self.uop).op is not Ops.BUFFER:  # a node of its own: equal expressions are one node otherwise
                _unique += 1
                self.uop = UOp(Ops.CONTIGUOUS, self.dtype, (self.uop,), _unique)
            self._names = [_under(self.uop)]
            Tensor._leaves.add(self)
        elif not requires_grad:
            # by identity: to a set's own comparison two tensors are an elementwise question
            Tensor._leaves = weakref.WeakSet([t for t in Tensor._leaves if t is not self])
            self._names = []
        self.requires_grad = requires_grad
        return self

    @property
    def is_leaf(self) -> bool:
        """Whether nobody computed it from what has gradients: ``backward`` fills ``grad`` of such."""
        return not self.requires_grad or bool(self._names)

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        """:mod:`compiler.array_api`."""
        from compiler import array_api
        if api_version is not None and api_version > array_api.__array_api_version__:
            raise ValueError(f"array API {api_version} is asked for, {array_api.__array_api_version__} is here")
        return array_api

    def to_device(self, device: str, /, *, stream: Any = None) -> Tensor:
        """The array API's name of :meth:`to`; ``stream`` is not used."""
        return self.to(device)

    def detach(self) -> Tensor:
        """The same value, constant to differentiation; a view."""
        if not self.requires_grad:
            return self._viewed(self.uop, ("reshape", self.shape))
        out = self._viewed(UOp(Ops.DETACH, self.dtype, (self.uop,)), ("detach",))
        out.requires_grad = False
        return out

    def backward(self, gradient: Tensor | None = None) -> None:
        """Add the derivative of this value to ``grad`` of every leaf that it depends on."""
        if not self.requires_grad:
            raise RuntimeError("backward() of a tensor that depends on nothing with requires_grad=True")
        below = self.uop.toposort()
        leaves = [(t, name) for t in Tensor._leaves for name in t._names if name in below]
        grads = gradients(self.uop, self._seed(gradient), [name for _, name in leaves])
        for tensor, name in leaves:
            if (g := grads.get(name)) is not None:
                g = graph.reshape(g, tensor.shape)
                tensor.grad = Tensor(g if tensor.grad is None else graph.alu(Ops.ADD, tensor.grad._node, g),
                                     device=self._device)

    def gradient(self, *targets: Tensor, gradient: Tensor | None = None) -> list[Tensor]:
        """Derivatives of this value for ``targets``, as tensors that can be differentiated again."""
        names = [t._names or [_under(t.uop) if graph.is_stored(t.uop) else t.uop] for t in targets]
        grads = gradients(self.uop, self._seed(gradient), [n for ns in names for n in ns])
        out = []
        for target, ns in zip(targets, names, strict=True):
            parts = [graph.reshape(grads[n], target.shape) for n in ns if n in grads]
            total = graph.full(target.shape, target.dtype, 0)
            if parts:
                total = parts[0]
                for part in parts[1:]:
                    total = graph.alu(Ops.ADD, total, part)
            out.append(self._new(total, self))
        return out

    def _seed(self, gradient: Tensor | None) -> UOp:
        if gradient is None:
            if self.numel() != 1:
                raise RuntimeError(f"the derivative of a tensor of shape {self.shape} needs a gradient to start from; "
                                   "only a single number starts from 1")
            return graph.full(self.shape, self.dtype, 1)
        if gradient.shape != self.shape:
            raise ValueError(f"gradient of shape {gradient.shape} for a tensor of shape {self.shape}")
        return graph.cast(gradient.uop, self.dtype)

    # assignment

    def assign(self, value: Any) -> Tensor:
        """Take on a new value of the same shape and type, in the same memory. Lazy; earlier readers keep the old, but
        views of this tensor, and what this is a view of, take on the new one, too."""
        value = value if isinstance(value, Tensor) else Tensor(value, self.dtype, self._device)
        if value.shape != self.shape:
            value = value.expand(self.shape)
        if self._steps and self._put(value):
            return self
        self._take(value)
        if self._store is not None:
            self._store.refresh(self.uop, self.requires_grad)
        return self

    def _put(self, value: Tensor) -> bool:
        """Assign to a view: to what it is a view of. False if nobody else sees that."""
        store, steps = self._store, self._steps
        assert store is not None
        if not store.shows(self):
            return False
        owner = store.owner()
        if owner is None:
            if all((v := ref()) is None or v is self for ref in store.views):
                self._store, self._steps = None, ()
                return False
            owner = self._new(store.uop)
            owner.requires_grad = self.requires_grad
        with contextlib.nullcontext() if ("detach",) not in steps else no_grad():
            node = owner._node
            new = graph.copy(graph.cast(value._node, self.dtype), self._device)
            owner._take(owner._new(written(node, steps, new), owner, value))
        store.refresh(owner.uop, owner.requires_grad)
        return True

    def _take(self, value: Tensor) -> None:
        """:meth:`assign` to this tensor alone."""
        new = graph.copy(graph.cast(value._node, self.dtype), self._device)
        if _grad_enabled and self.requires_grad and self._names:
            raise RuntimeError("a leaf that requires grad is assigned to outside of no_grad()")
        old = graph.leaf_of(self.uop)
        if old is None:
            old = self.uop if _under(self.uop).op is Ops.ASSIGN else None
        if old is not None and not _target(old).claim(self):
            old = None      # the memory is another tensor's, which may assign to it: take new memory
            new = UOp(Ops.CONTIGUOUS, new.dtype, (new,))
        global _unique
        if old is not None:
            self.uop = UOp(Ops.ASSIGN, self.dtype, (old, new))
        elif self._names:
            _unique += 1
            self.uop = UOp(Ops.CONTIGUOUS, self.dtype, (new,), _unique)
        else:
            self.uop = new
        mark(self.uop)
        if _grad_enabled and value.requires_grad and self.dtype.is_float:
            self.requires_grad = True
        if self._names:
            self._names = [_under(self.uop)]
        Tensor._assigned[id(self)] = self

    def _axis(self, dim: int, extra: int = 0) -> int:
        """An axis number in range, from one that may be negative."""
        n = self.ndim + extra
        if not -n <= dim < n and not (n == 0 and dim in (0, -1)):
            raise IndexError(f"axis {dim} is out of range for a tensor of {n} axes")
        return dim % n if n else 0

    def _axes(self, dim: int | Sequence[int] | None) -> tuple[int, ...]:
        if dim is None:
            return tuple(range(self.ndim))
        axes = tuple(self._axis(d) for d in ((dim,) if isinstance(dim, int) else dim))
        if len(set(axes)) != len(axes):
            raise ValueError(f"axes {dim} of a tensor of {self.ndim} axes: one is named twice")
        return axes if self.ndim else ()


class _Data(Tensor):
    """What ``x.data`` is: a tensor that may be called."""

    __slots__ = ()

    def __call__(self) -> memoryview:
        return self.numpy().data


def _upload(data: Any, want: DType | None, device: str) -> UOp:
    if sharding.JOIN in device:
        return graph.copy(_upload(data, want, sharding.devices_of(device)[0]), device)
    if isinstance(data, bytes | bytearray | memoryview):
        array = np.frombuffer(data, np.uint8)
    else:
        try:
            array = np.asarray(data)
        except ValueError:
            raise TypeError(f"a tensor needs numbers in lists of equal length, not {data!r:.80}") from None
        if not isinstance(data, np.ndarray | np.generic) and not hasattr(data, "__array__"):
            if array.dtype == object or array.dtype.kind in "US":
                raise TypeError(f"a tensor needs numbers in lists of equal length, not {data!r:.80}")
            if want is not None and want.is_int and array.dtype.kind == "f":    # NumPy's of 2**63 and more beside less
                whole = np.asarray(data, object)
                if all(isinstance(v, int) for v in whole.flat):
                    array = np.array([want.cast(v) for v in whole.flat], want.np).reshape(whole.shape)
            if array.dtype in (np.int64, np.float64) and want is None:
                want = dtypes.default_int if array.dtype == np.int64 else dtypes.default_float
                if (
                    want is dtypes.int32
                    and array.size
                    and not -1 << 31 <= int(array.min()) <= int(array.max()) < 1 << 31
                ):
                    want = dtypes.int64
    dtype = want or dtypes.of(array.dtype)
    array = dtype.encode(array)
    buffer = Buffer(device, dtype, math.prod(array.shape))
    buffer.write(array)
    return graph.reshape(buffer.uop(), array.shape)


def realize_all(tensors: Sequence[Tensor]) -> None:
    """Compute tensors in one schedule a device, with every value that an assignment among them would spoil."""
    if sharding.in_use():
        tensors, finish = _undivided(tensors)
        realize_all_plain(tensors)
        finish()
    else:
        realize_all_plain(tensors)


def _undivided(tensors: Sequence[Tensor]) -> tuple[list[Tensor], Callable[[], None]]:
    """Tensors of single devices in place of those that are, or depend on, sharded ones; and what gives these, once
    they are computed, their values."""
    each = {id(t): t for t in tensors}.values()
    wanted = [t for t in each if t.numel() and not graph.is_stored(t.uop) and sharding.stored(t.uop) is None]
    plain: list[Tensor] = []
    made: list[tuple[Tensor, list[Tensor], Any]] = []
    for t, result in zip(wanted, sharding.distributed([t.uop for t in wanted]), strict=True):
        if sharding.JOIN in t.device and not isinstance(result, sharding.Parts):    # a constant, the same everywhere
            result = sharding.Parts((result,) * len(sharding.devices_of(t.device)), None)
        if isinstance(result, sharding.Parts):
            parts = [Tensor(n, device=d) for n, d in zip(result.nodes, sharding.devices_of(t.device), strict=True)]
            made.append((t, parts, result))
            plain += parts
        elif result is t.uop:
            plain.append(t)
        else:
            made.append((t, [Tensor(result, device=t.device)], None))
            plain.append(made[-1][1][0])

    def finish() -> None:
        for t, parts, result in made:
            if result is None:
                value = parts[0].uop
                if t.uop.device is not None:        # a constant belongs to no device, and is another tensor's, too
                    t.uop.realized = _under(value)
            else:
                value = sharding.multi([p.uop for p in parts], result.axis, [p.device for p in parts])
                if t.uop.device is not None:
                    sharding.remember(t.uop, value)
            if t.requires_grad and not t._names and t.uop.device is not None:
                continue        # its history is still wanted
            t.uop = value
            settled(t)
            if t._names:
                t._names.append(_under(value))
    return plain, finish


def pending() -> list[Tensor]:
    """Tensors that were assigned to, and whose new value is not computed yet: running statistics, counters."""
    found = [t for t in Tensor._assigned.values() if not graph.is_stored(t.uop)]
    Tensor._assigned.clear()
    return found


def realize_all_plain(tensors: Sequence[Tensor]) -> None:
    """:func:`realize_all` of tensors none of which is sharded."""
    todo = {id(t): t for t in tensors if t.numel() and not graph.is_stored(t.uop)}
    if not todo:
        return
    roots = {k: t.uop for k, t in todo.items()}
    overwritten: set[Buffer] = set()
    while more := _overwritten(roots.values()) - overwritten:
        overwritten |= more
        for t in list(Tensor._live):
            if id(t) in roots or not t.numel():
                continue
            if (leaf := graph.leaf_of(t.uop)) is not None:
                if _under(leaf).arg[0] in overwritten:
                    todo[id(t)], roots[id(t)] = t, UOp(Ops.CONTIGUOUS, leaf.dtype, (leaf,))
            elif _reads(t.uop, overwritten):
                todo[id(t)], roots[id(t)] = t, t.uop
    groups: dict[str, list[int]] = {}
    shared = next((t._device for k, t in todo.items() if roots[k].device is not None), None)
    for k, t in todo.items():
        groups.setdefault(t._device if roots[k].device is None else shared or t._device, []).append(k)
    for device, group in groups.items():
        _run([(todo[k], roots[k]) for k in group], device)


def _run(pairs: list[tuple[Tensor, UOp]], device: str) -> None:
    before = {b: b.version for b in _overwritten(r for _, r in pairs)}
    assigned = [n for n in _nodes(r for _, r in pairs) if n.op is Ops.ASSIGN and n.realized is None]
    replaced = {_under(n.src[0]) for n in assigned}
    targets = {n: _target(n) for n in assigned}
    buffers = realize([r for _, r in pairs], device)
    for node, buffer in targets.items():
        version = before[buffer] if node in replaced else buffer.version
        node.realized = UOp(Ops.BUFFER, node.dtype, (), (buffer, version, node.size), buffer.device)
    for (tensor, _), buffer in zip(pairs, buffers, strict=True):
        flat = buffer.uop(tensor.uop.size)
        leaf = graph.reshape(flat, tensor.shape)
        # equal expressions share what one of them computed; not constants, which are cheaper made than loaded and
        # belong to no device
        if tensor.uop.op not in (Ops.BUFFER, Ops.RESHAPE) and tensor.uop.device is not None:
            tensor.uop.realized = flat
        if tensor.requires_grad and not tensor._names and tensor.uop.device is not None:
            if graph.leaf_of(tensor.uop) is not leaf:
                tensor.uop.realized = flat
            continue        # its history is still wanted
        tensor.uop = leaf
        if tensor._store is not None:
            settled(tensor)
        if tensor._names:
            tensor._names.append(flat)


def _under(node: UOp) -> UOp:
    while node.op is Ops.RESHAPE:
        node = node.src[0]
    return node


def _target(node: UOp) -> Buffer:
    """The memory that an ASSIGN writes."""
    while node.op in (Ops.ASSIGN, Ops.RESHAPE) and node.realized is None:
        node = node.src[0]
    return (node.realized or node).arg[0]       # type: ignore[no-any-return]


def _nodes(roots: Iterable[UOp]) -> dict[UOp, None]:
    """Everything that is not computed yet, below ``roots``."""
    seen: dict[UOp, None] = {}
    for root in roots:
        for n in root.toposort(lambda n: n.realized is None and n not in seen):
            seen[n] = None
    return seen


def _overwritten(roots: Iterable[UOp]) -> set[Buffer]:
    return {_target(n) for n in _nodes(roots) if n.op is Ops.ASSIGN and n.realized is None}


def _reads(uop: UOp, buffers: set[Buffer]) -> bool:
    return any((n.realized or n).arg[0] in buffers for n in uop.toposort(lambda n: n.realized is None)
               if n.realized is not None or n.op is Ops.BUFFER)


def reads(uop: UOp, buffers: set[Buffer]) -> bool:
    """Does a value that is not computed yet need what one of ``buffers`` holds?"""
    return _reads(uop, buffers)


def shares(tensor: Tensor) -> Buffer | None:
    """The memory in which the tensor's value lies, if it lies in memory."""
    leaf = graph.leaf_of(tensor.uop)
    return None if leaf is None else _under(leaf).arg[0]
