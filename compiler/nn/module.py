"""What a layer is, and a model's state. Names in it are PyTorch's, so that checkpoints load."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any, NamedTuple, Self

import numpy as np

from compiler import dtypes
from compiler.dtypes import DTypeLike
from compiler.tensor import Tensor, no_grad, realize_all

__all__ = ["Module", "ModuleDict", "ModuleList", "Parameter", "Unmatched", "get_parameters", "get_state_dict",
           "load_state_dict"]

_CONTAINERS = (dict, list, tuple)
_AT_ONCE = 32 << 20                 # bytes that are loaded in one schedule
_COUNT = "num_batches_tracked"      # PyTorch writes it since 0.4.1; checkpoints may lack it


class Unmatched(NamedTuple):
    """What :func:`load_state_dict` with ``strict=False`` left alone."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def Parameter(data: Any, requires_grad: bool = True, device: str | None = None) -> Tensor:
    """A tensor that a module trains: a leaf, in memory of its own.

    :param device: where it is made, if ``data`` is not a tensor already.
    """
    out = data.detach().clone() if isinstance(data, Tensor) else Tensor(data, device=device)
    return out.requires_grad_() if requires_grad else out


class Module:
    """A layer: callable, with parameters found among its attributes, in lists, tuples and dicts as well.

    There is no ``super().__init__()`` to remember: an attribute that is a tensor is state, and one that requires a
    gradient is a parameter.
    """

    training = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What calling the module does; a subclass writes it. Shapes are those of the Tensor method that it applies."""
        raise NotImplementedError(f"{type(self).__name__} has no forward()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    # what is in it

    def parameters(self) -> list[Tensor]:
        """All tensors that want gradients, of this module and those in it."""
        return get_parameters(self)

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Each parameter once, by its first name."""
        return ((name, t) for name, t in _once(_walk(self, "", Tensor)) if t.requires_grad)

    def buffers(self) -> list[Tensor]:
        """The tensors of :meth:`named_buffers`."""
        return [t for _, t in self.named_buffers()]

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """State that is not trained: running statistics, tables."""
        return ((name, t) for name, t in _once(_walk(self, "", Tensor, True)) if not t.requires_grad)

    def modules(self) -> Iterator[Module]:
        """This one, then all below."""
        return (m for _, m in self.named_modules())

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """This one first (its name is ""), then all below."""
        return _once(_walk(self, "", Module))

    def children(self) -> Iterator[Module]:
        """The modules right below this one."""
        return (m for _, m in self.named_children())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules right below this one."""
        todo = list(_items(self))
        for name, value in todo:
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, _CONTAINERS):
                todo += [(f"{name}.{inner}", v) for inner, v in _items(value)]

    def get_submodule(self, target: str) -> Module:
        """:raises AttributeError: there is none of that name."""
        for name, module in self.named_modules():
            if name == target:
                return module
        raise AttributeError(f"{type(self).__name__} has no module {target!r}")

    def state_dict(self) -> dict[str, Tensor]:
        """{dotted name: tensor} of this module and those in it."""
        return get_state_dict(self)

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> Unmatched:
        """:func:`load_state_dict`"""
        return load_state_dict(self, state, strict)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """State that is not trained; outside of ``state_dict`` if it is not persistent."""
        setattr(self, name, tensor)
        if not persistent:
            self._passing: set[str] = {*getattr(self, "_passing", ()), name}

    def register_parameter(self, name: str, tensor: Tensor | None) -> None:
        """The same as assigning to the attribute."""
        setattr(self, name, tensor)

    def add_module(self, name: str, module: Module | None) -> None:
        """The same as assigning to the attribute."""
        setattr(self, name, module)

    # what is done to it

    def apply(self, function: Callable[[Module], None]) -> Self:
        """``function`` of each module below, then of this one."""
        for module in self.children():
            module.apply(function)
        function(self)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all parameters' gradients."""
        for p in self.parameters():
            p.grad = None if set_to_none or p.grad is None else p.grad.zeros_like()

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Train every floating-point tensor below that is a parameter now (or, of a frozen model, was one)."""
        for name, p in _once(_walk(self, "", Tensor)):
            if p.requires_grad or (requires_grad and p.is_floating_point() and not name.rpartition(".")[2].startswith(
                    "running_")):
                p.requires_grad_(requires_grad)
        return self

    def train(self, mode: bool = True) -> Self:
        """Training from here on, or not: this module and those in it. Returns self."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Not training any more: dropout lets all through, batch norms use what they have seen. Returns self."""
        return self.train(False)

    def to(self, device: str | DTypeLike | None = None, dtype: DTypeLike | None = None) -> Self:
        """Move every tensor, or convert those of floating-point numbers, in place."""
        if device is not None and (not isinstance(device, str) or device in dtypes._BY_NAME):
            device, dtype = None, device
        for _, p in _once(_walk(self, "", Tensor, True)):
            value = p.detach()
            if device is not None:
                value = value.to(device)
            if dtype is not None and p.is_floating_point():
                value = value.cast(dtype)
            _replace(p, value)
        return self

    def cpu(self) -> Self:
        """Every tensor to "CPU", in place."""
        return self.to("CPU")

    def float(self) -> Self:
        """Floating-point tensors as float32, in place."""
        return self.to(dtype=dtypes.float32)

    def double(self) -> Self:
        """Floating-point tensors as float64, in place."""
        return self.to(dtype=dtypes.float64)

    def half(self) -> Self:
        """Floating-point tensors as float16, in place."""
        return self.to(dtype=dtypes.float16)

    def bfloat16(self) -> Self:
        """Floating-point tensors as bfloat16, in place."""
        return self.to(dtype=dtypes.bfloat16)

    def shard(self, devices: Sequence[str], axis: int | None = None) -> Self:
        """Spread every parameter over devices, in place: the whole on each, or an axis in parts."""
        for _, p in _once(_walk(self, "", Tensor, True)):
            _replace(p, p.detach().shard(devices, axis))
        return self

    def __repr__(self) -> str:
        inner = [f"({name}): {value!r}" for name, value in self.named_children()]
        if not inner:
            shapes = ", ".join(f"{k}={list(v.shape)}" for k, v in _items(self) if isinstance(v, Tensor))
            return f"{type(self).__name__}({shapes})"
        return f"{type(self).__name__}(\n" + "\n".join("  " + line for i in inner for line in i.split("\n")) + "\n)"


class ModuleList(Module):
    """Modules by number: a list whose members' names are ``0``, ``1`` ..."""

    def __init__(self, modules: Sequence[Any] = ()) -> None:
        self._list = list(modules)

    def __getitem__(self, n: Any) -> Any:
        return ModuleList(self._list[n]) if isinstance(n, slice) else self._list[n]

    def __setitem__(self, n: int, module: Any) -> None:
        self._list[n] = module

    def __len__(self) -> int:
        return len(self._list)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._list)

    def append(self, module: Any) -> Self:
        """One more at the end. Returns self."""
        self._list.append(module)
        return self

    def extend(self, modules: Sequence[Any]) -> Self:
        """More at the end. Returns self."""
        self._list += modules
        return self

    def insert(self, n: int, module: Any) -> None:
        """One more before number ``n``."""
        self._list.insert(n, module)


class ModuleDict(Module):
    """Modules by name."""

    def __init__(self, modules: Mapping[str, Any] | None = None) -> None:
        self._dict = dict(modules or {})

    def __getitem__(self, name: str) -> Any:
        return self._dict[name]

    def __setitem__(self, name: str, module: Any) -> None:
        self._dict[name] = module

    def __len__(self) -> int:
        return len(self._dict)

    def __iter__(self) -> Iterator[str]:
        return iter(self._dict)

    def __contains__(self, name: object) -> bool:
        return name in self._dict

    def keys(self) -> Any:
        """The names, in the order in which they came."""
        return self._dict.keys()

    def values(self) -> Any:
        """The modules."""
        return self._dict.values()

    def items(self) -> Any:
        """(name, module) pairs."""
        return self._dict.items()

    def update(self, modules: Mapping[str, Any]) -> None:
        """Take over modules by name."""
        self._dict.update(modules)


def _replace(parameter: Tensor, value: Tensor) -> None:
    """Let a parameter be another value, on whatever device that is."""
    wanted = parameter.requires_grad
    value = value.realize()
    parameter.requires_grad_(False)
    parameter.uop, parameter._device = value.uop, value._device
    parameter.requires_grad_(wanted)


def _items(thing: Any) -> Iterator[tuple[str, Any]]:
    """What lies right below, by name. A sequence of modules gives its members' own names."""
    if isinstance(thing, ModuleList):
        names = getattr(thing, "_names", None) or [str(i) for i in range(len(thing))]
        yield from zip(names, thing._list, strict=True)
        return
    if isinstance(thing, ModuleDict):
        thing = thing._dict
    if isinstance(thing, dict):
        yield from ((str(k), v) for k, v in thing.items())
    elif isinstance(thing, list | tuple):
        yield from ((str(i), v) for i, v in enumerate(thing))
    elif hasattr(thing, "__dict__") and not isinstance(thing, type | FunctionType | ModuleType):
        yield from vars(thing).items()


def _walk(thing: Any, prefix: str, kind: type, passing: bool = False,
          above: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every ``kind`` in attributes, lists, tuples and dicts, with its dotted name; under each of its names.

    :param passing: those that a module keeps out of its state as well.
    """
    if isinstance(thing, kind):
        yield prefix, thing
    if isinstance(thing, Tensor) or id(thing) in above:
        return
    if kind is Tensor and getattr(thing, "_unmade", False):
        where = f" {prefix!r}" if prefix else ""
        raise ValueError(f"{type(thing).__name__}{where} has no parameters yet: it makes them when it is first called")
    hidden = () if passing else getattr(thing, "_passing", ())
    for name, value in _items(thing):
        if isinstance(value, kind | Tensor | Module | dict | list | tuple) or hasattr(value, "__dict__"):
            if name in hidden:
                continue
            yield from _walk(value, f"{prefix}.{name}" if prefix else name, kind, passing, (*above, id(thing)))


def _once(found: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Each thing under the first of its names."""
    seen: set[int] = set()
    for name, thing in found:
        if id(thing) not in seen:
            seen.add(id(thing))
            yield name, thing


def get_state_dict(module: Any) -> dict[str, Tensor]:
    """{dotted name: tensor} of everything below. A tensor that is used in two places has both names."""
    return dict(_walk(module, "", Tensor))


def get_parameters(module: Any) -> list[Tensor]:
    """The tensors that require gradients, each once."""
    return [t for _, t in _once(_walk(module, "", Tensor, True)) if t.requires_grad]


def load_state_dict(module: Any, state: Mapping[str, Any], strict: bool = True) -> Unmatched:
    """Assign tensors or arrays (PyTorch's, too) by name. Values are converted to the type that is there.

    :param strict: names that one side lacks are an error; otherwise they are returned.
    :raises KeyError, ValueError: for names or shapes that do not fit. Nothing is assigned then.
    """
    own = get_state_dict(module)
    missing = [name for name in own if name not in state and name.rpartition(".")[2] != _COUNT]
    unexpected = [name for name in state if name not in own]
    if strict and (missing or unexpected):
        raise KeyError(f"state and module differ in {', '.join(sorted([*missing, *unexpected]))}: "
                       f"{len(missing)} missing from the state, {len(unexpected)} unknown to the module")
    fitting = [(name, tensor) for name, tensor in own.items() if name in state]
    for name, tensor in fitting:
        if tuple(state[name].shape) != tensor.shape:
            raise ValueError(f"{name}: the state has shape {tuple(state[name].shape)}, the module {tensor.shape}")
    waiting: list[Tensor] = []
    with no_grad():
        for name, tensor in fitting:
            value = state[name]
            if isinstance(value, Tensor):
                value = value.detach().to(tensor.device)
            elif hasattr(value, "detach"):
                value = Tensor.from_dlpack(value.detach().cpu().contiguous()).to(tensor.device)
            else:
                value = np.asarray(value)
            waiting.append(tensor.assign(value))
            if sum(t.nbytes for t in waiting) > _AT_ONCE:       # or all would be there twice
                realize_all(waiting)
                waiting.clear()
    realize_all(waiting)
    return Unmatched(missing, unexpected)
